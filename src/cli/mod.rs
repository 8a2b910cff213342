//! The composition root: the one place that sees every layer.

pub mod embedded;
