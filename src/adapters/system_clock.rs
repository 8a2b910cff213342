//! The clock of this machine.
//!
//! Law: `monotonic` stands still while the machine sleeps. A dispatcher that believes too little time has passed
//! gives work away late, which is safe; one that counted the sleep of a laptop would end the leases of runners
//! beside it, whose own clocks slept as well.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Time;
use crate::ports::Clock;

/// Wall and monotonic time of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    began: Instant,
}

impl SystemClock {
    /// A clock whose monotonic reading begins now.
    #[expect(clippy::disallowed_methods, reason = "this is the port's one real source of time")]
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the port's one real source of time")]
    fn wall(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
}
