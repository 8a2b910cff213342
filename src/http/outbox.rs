//! The outbox of one process: what waits for a runner is read from the committed rows when the runner asks.
//!
//! Law: a delivery holds only what the rows say at that moment. What was sent is not sent again for a second, so
//! that a runner that asks in a loop does not spin; then it is, until it is confirmed. This memory is the
//! leader's own: losing it costs a repetition, never a task.
//!
//! A wake-up carries nothing. Whoever waits has subscribed before it looked, so none is missed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::State;
use crate::core::fleet::Seat;
use crate::model::{AssignmentMessage, Delivery, RunnerId, StopOrder, Task, TaskState, Token};
use crate::ports::Outbox;
use crate::runtime::View;

/// The most assignments of one delivery.
pub const MOST_ASSIGNMENTS: usize = 1_000;
/// The most bytes of task bodies in one delivery; one task always goes.
pub const MOST_BYTES: usize = 4 << 20;
/// How long what was sent is not sent again.
pub const SEND_AGAIN: Duration = Duration::from_secs(1);

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

/// When which attempt was last sent: its assignment, and the request to stop it.
#[derive(Debug, Default)]
struct Sent {
    assignments: FxHashMap<Token, Instant>,
    stops: FxHashMap<Token, Instant>,
}

/// What one look at the rows found.
enum Look {
    Found(Delivery),
    /// Nothing now; at this moment something sent before is due again.
    Nothing {
        again: Option<Instant>,
    },
    UnknownRunner,
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
                Look::Found(delivery) => return delivery,
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
            Some(seat) => sent.look(state, seat, now()),
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
    fn deliver(&self, runner: &RunnerId) {
        // Nobody asking is fine: whoever asks next looks first.
        let line = self.lines().get(runner).cloned();
        if let Some(line) = line {
            line.wake.send_replace(());
        }
    }
}

impl Sent {
    /// Takes out what is due, and remembers only what the rows still hold.
    fn look(&mut self, state: &State, seat: &Seat, now: Instant) -> Look {
        let mut delivery = Delivery::default();
        let mut kept = Sent::default();
        let (mut bytes, mut again) = (0, None::<Instant>);
        for task in seat.tasks.iter().filter_map(|id| state.task(id.as_str())) {
            let Some(held) = task.assignment() else { continue };
            let stopping = held.stop.is_some();
            let news = stopping || (!held.confirmed && held.incarnation == seat.runner.incarnation);
            if !news {
                continue;
            }
            let (before, after) = match stopping {
                true => (&self.stops, &mut kept.stops),
                false => (&self.assignments, &mut kept.assignments),
            };
            let due = before.get(&held.token).map(|at| *at + SEND_AGAIN);
            if let Some(due) = due.filter(|due| *due > now) {
                after.insert(held.token, due - SEND_AGAIN);
                again = Some(again.map_or(due, |earlier| earlier.min(due)));
                continue;
            }
            let taken = match &held.stop {
                Some(stop) => {
                    let (id, token, reason) = (task.id.clone(), held.token, stop.reason.clone());
                    delivery.stop.push(StopOrder { id, token, reason });
                    true
                }
                None => add(&mut delivery, &mut bytes, state, task),
            };
            if taken {
                after.insert(held.token, now);
            }
        }
        *self = kept;
        if delivery.is_empty() { Look::Nothing { again } } else { Look::Found(delivery) }
    }
}

/// Adds an assignment unless the delivery is full: what is left is due at once for whoever asks next.
fn add(delivery: &mut Delivery, bytes: &mut usize, state: &State, task: &Task) -> bool {
    let TaskState::Assigned(held) = &task.state else { return false };
    // The body of a live task stands beside its row.
    let Some(body) = state.body(task.id.as_str()) else { return false };
    let full = *bytes + body.len() > MOST_BYTES && !delivery.assignments.is_empty();
    if full || delivery.assignments.len() == MOST_ASSIGNMENTS {
        return false;
    }
    *bytes += body.len();
    delivery.assignments.push(AssignmentMessage {
        id: task.id.clone(),
        kind: task.kind(),
        queue: task.shape.queue.clone(),
        attempt: task.attempt,
        token: held.token,
        deadline: held.deadline.since(state.now()),
        task: body.clone(),
    });
    true
}

/// Never stands in a row: it only spaces repetitions, and follows a paused clock in tests.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Settings;

    #[tokio::test]
    async fn an_unknown_runner_gets_nothing_at_once_and_is_not_remembered() {
        let state = State::new(Arc::new(Settings::default()), uuid::Uuid::nil());
        let outbox = LocalOutbox::new(&View::new(state));
        let nobody = RunnerId::parse("nobody").expect("a name");
        assert!(outbox.next(&nobody, Duration::from_secs(3600)).await.is_empty());
        outbox.deliver(&nobody);
        assert!(outbox.is_empty());
    }
}
