//! Telemetry: facts become log lines and metrics.
//!
//! Law: only facts of a committed turn are told, each once. Nothing decides here, and no label or name grows
//! without bound: task ids, runner ids, images and error texts stand in log lines, never in metrics.

pub mod catalogue;
pub mod logs;
pub mod metrics;

pub use metrics::{Gauges, Metrics};
