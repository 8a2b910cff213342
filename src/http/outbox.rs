//! The outbox of one process: what waits for a runner is read from the committed rows when the runner asks.
//!
//! Law: what was sent is not sent again for a second, so that a runner that asks in a loop does not spin.
//!
//! A wake-up carries nothing. Whoever waits has subscribed before it looked, so none is missed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{Delivery, RunnerId, TurnRecord};
use crate::ports::Outbox;
use crate::runtime::View;
use crate::runtime::deliveries::{Look, Most, Sent};

/// What one answer to a long poll takes.
pub const MOST: Most = Most { assignments: 1_000, bytes: 4 << 20 };

/// The outbox that long polls read from.
#[derive(Debug)]
pub struct LocalOutbox {
    view: View,
    lines: Mutex<FxHashMap<RunnerId, Arc<Line>>>,
}

/// What is kept for one runner that asks.
#[derive(Debug)]
struct Line {
    wake: watch::Sender<()>,
    sent: Mutex<Sent>,
}

impl LocalOutbox {
    /// An outbox over the committed rows.
    pub fn new(view: &View) -> Self {
        Self { view: view.clone(), lines: Mutex::default() }
    }

    /// What waits for `runner`: at once if there is something new or something to be sent again, else as soon as
    /// there is, else nothing after `wait`. An unknown runner gets nothing at once.
    pub async fn next(&self, runner: &RunnerId, wait: Duration) -> Delivery {
        let give_up = now() + wait;
        loop {
            let line = self.line(runner);
            let mut wake = line.wake.subscribe();
            let again = match self.look(runner, &line) {
                Look::Found { delivery, .. } => return delivery,
                Look::UnknownRunner => {
                    self.forget(runner);
                    return Delivery::default();
                }
                Look::Nothing { again } => again,
            };
            let until = again.map_or(give_up, |again| again.min(give_up));
            // Time running out is one of the two ways to go on.
            let _ = tokio::time::timeout_at(until, wake.changed()).await;
            if now() >= give_up {
                return Delivery::default();
            }
        }
    }

    /// How many runners something is kept for.
    pub fn len(&self) -> usize {
        self.lines().len()
    }

    /// Whether nothing is kept for anyone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn look(&self, runner: &RunnerId, line: &Line) -> Look {
        let mut sent = line.sent.lock().unwrap_or_else(PoisonError::into_inner);
        self.view.read(|state| match state.fleet().get(runner) {
            Some(seat) => sent.look(state, seat, now(), MOST),
            None => Look::UnknownRunner,
        })
    }

    fn line(&self, runner: &RunnerId) -> Arc<Line> {
        let mut lines = self.lines();
        if let Some(line) = lines.get(runner) {
            return line.clone();
        }
        let line = Arc::new(Line { wake: watch::Sender::new(()), sent: Mutex::default() });
        lines.insert(runner.clone(), line.clone());
        // Runners come and go under new names: those that are gone are forgotten as others come.
        let (kept, known) = (lines.len(), self.view.read(|state| state.fleet().len()));
        if kept > 2 * known + 64 {
            self.view.read(|state| lines.retain(|id, _| id == runner || state.runner(id).is_some()));
        }
        line
    }

    fn forget(&self, runner: &RunnerId) {
        let line = self.lines().remove(runner);
        // Whoever else waits there looks again, and stands in a new line if the runner is back.
        if let Some(line) = line {
            line.wake.send_replace(());
        }
    }

    fn lines(&self) -> MutexGuard<'_, FxHashMap<RunnerId, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox for LocalOutbox {
    fn deliver(&self, runner: &RunnerId, _: &Arc<TurnRecord>) {
        // Nobody asking is fine: whoever asks next looks first.
        let line = self.lines().get(runner).cloned();
        if let Some(line) = line {
            line.wake.send_replace(());
        }
    }
}

/// Never stands in a row: it only spaces repetitions, and follows a paused clock in tests.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Settings, State};
    use crate::model::Head;
    use crate::model::turn::FORMAT;

    #[tokio::test]
    async fn an_unknown_runner_gets_nothing_at_once_and_is_not_remembered() {
        let state = State::new(Arc::new(Settings::default()), uuid::Uuid::nil());
        let outbox = LocalOutbox::new(&View::new(state));
        let nobody = RunnerId::parse("nobody").expect("a name");
        assert!(outbox.next(&nobody, Duration::from_secs(3600)).await.is_empty());
        let Head { number, id, epoch, at, released } = Head::empty();
        let (changes, facts) = (Vec::new(), Vec::new());
        let turn = TurnRecord { format: FORMAT, number, id, epoch, at, released, changes, facts };
        outbox.deliver(&nobody, &Arc::new(turn));
        assert!(outbox.is_empty());
    }
}
