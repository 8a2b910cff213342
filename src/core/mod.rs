//! The decisions.

pub mod input;
pub mod settings;
