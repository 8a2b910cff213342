//! Log time: what the turns carry as `at`.
//!
//! Law: never goes backwards; within one leadership it moves with the monotonic clock alone, so setting the wall
//! clock can neither end a lease early nor stop one from ending.

use std::time::Duration;

use crate::model::Time;
use crate::ports::Clock;

/// The log time of one leadership.
#[derive(Debug, Clone, Copy)]
pub struct LogTime {
    began: Time,
    began_monotonic: Duration,
}

impl LogTime {
    /// Begins a leadership after a turn at `last`. A follower that watched the silence passes how long it was, and
    /// time moves by no more than that; a process that saw no turn being written knows only the wall clock, and so
    /// does the first leader of an empty table.
    pub fn begin(clock: &dyn Clock, last: Time, silence: Option<Duration>) -> Self {
        let wall = clock.wall().max(last);
        let began = match silence {
            Some(silence) if last > Time(0) => wall.min(last + silence),
            _ => wall,
        };
        Self { began, began_monotonic: clock.monotonic() }
    }

    /// Log time now.
    pub fn now(&self, clock: &dyn Clock) -> Time {
        self.began + clock.monotonic().saturating_sub(self.began_monotonic)
    }

    /// How long until log time is `at`; zero if it has passed.
    pub fn until(&self, clock: &dyn Clock, at: Time) -> Duration {
        at.since(self.now(clock))
    }
}
