//! Two readings of time: the wall, which may jump, and the monotonic one, which only counts.
//!
//! Law: `monotonic` never goes backwards and goes on while the wall clock is set. Safety never rests on `wall`.

use std::time::Duration;

use crate::model::Time;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Calendar time.
    fn wall(&self) -> Time;

    /// Time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;
}
