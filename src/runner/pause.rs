//! Pauses between attempts to reach a dispatcher: doubling, with jitter, so that a fleet does not return as one.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Pauses that grow until something succeeded.
#[derive(Debug)]
pub(super) struct Pause {
    shape: ExponentialBuilder,
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Pause {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        let shape = ExponentialBuilder::default()
            .with_min_delay(first)
            .with_max_delay(longest)
            .without_max_times()
            .with_jitter();
        Self { shape, pauses: shape.build(), longest }
    }

    /// The next pause; never shorter than what the dispatcher asked for, if that is reasonable.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let pause = self.pauses.next().unwrap_or(self.longest);
        pause.max(asked.unwrap_or_default().min(self.longest))
    }

    /// Starts over with the first pause.
    pub(super) fn reset(&mut self) {
        self.pauses = self.shape.build();
    }
}
