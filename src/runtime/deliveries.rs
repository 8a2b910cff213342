//! What waits for a runner, read from the committed rows.
//!
//! Law: a delivery holds only what the rows say at that moment. What was sent is not sent again for a second;
//! then it is, until it is confirmed. This memory is a leader's own: losing it costs a repetition, never a task.

use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::core::State;
use crate::core::fleet::Seat;
use crate::model::{AssignmentMessage, Delivery, StopOrder, Task, TaskId, TaskState, Token};

/// How long what was sent is not sent again.
pub const SEND_AGAIN: Duration = Duration::from_secs(1);

/// What one delivery takes; one task always goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    pub assignments: usize,
    /// Bytes of task bodies.
    pub bytes: usize,
}

/// When which attempt was last sent: its assignment, and the request to stop it.
#[derive(Debug, Default)]
pub struct Sent {
    assignments: FxHashMap<Token, Instant>,
    stops: FxHashMap<Token, Instant>,
}

/// What one look at the rows found.
#[derive(Debug)]
pub enum Look {
    /// What is due now. At this moment there may be more: at once if it was full, else what is due again.
    Found {
        delivery: Delivery,
        again: Instant,
    },
    /// Nothing now; at this moment something sent before is due again.
    Nothing {
        again: Option<Instant>,
    },
    UnknownRunner,
}

impl Sent {
    /// Takes out what is due of all that a runner has, and remembers only what the rows still hold.
    pub fn look(&mut self, state: &State, seat: &Seat, now: Instant, most: Most) -> Look {
        let before = std::mem::take(self);
        let mut looking = Looking::begin(state, seat, now, most);
        for task in seat.tasks.values() {
            let Some((token, stops)) = looking.news(task) else { continue };
            let last = before.times(stops).get(&token).copied();
            if let Some(at) = looking.take(task, last) {
                self.times_mut(stops).insert(token, at);
            }
        }
        looking.found()
    }

    /// Takes out what is due of these tasks alone.
    pub fn look_at(
        &mut self,
        tasks: &[TaskId],
        state: &State,
        seat: &Seat,
        now: Instant,
        most: Most,
    ) -> Look {
        let mut looking = Looking::begin(state, seat, now, most);
        for task in tasks.iter().filter_map(|id| state.task(id.as_str())) {
            let Some((token, stops)) = looking.news(task) else { continue };
            let last = self.times(stops).get(&token).copied();
            if let Some(at) = looking.take(task, last) {
                self.times_mut(stops).insert(token, at);
            }
        }
        looking.found()
    }

    fn times(&self, stops: bool) -> &FxHashMap<Token, Instant> {
        if stops { &self.stops } else { &self.assignments }
    }

    fn times_mut(&mut self, stops: bool) -> &mut FxHashMap<Token, Instant> {
        if stops { &mut self.stops } else { &mut self.assignments }
    }
}

/// A look that is being taken.
struct Looking<'a> {
    state: &'a State,
    seat: &'a Seat,
    now: Instant,
    most: Most,
    delivery: Delivery,
    bytes: usize,
    again: Option<Instant>,
}

impl<'a> Looking<'a> {
    fn begin(state: &'a State, seat: &'a Seat, now: Instant, most: Most) -> Self {
        Self { state, seat, now, most, delivery: Delivery::default(), bytes: 0, again: None }
    }

    /// The attempt of which the runner is to hear, and whether that it is to stop.
    fn news(&self, task: &Task) -> Option<(Token, bool)> {
        let runner = &self.seat.runner;
        // What was pulled is in the answer to whoever asked.
        let held = task.assignment().filter(|held| held.pulled.is_none() && held.runner == runner.id)?;
        let stops = held.stop.is_some();
        let unheard = !held.confirmed && held.incarnation == runner.incarnation;
        (stops || unheard).then_some((held.token, stops))
    }

    /// Takes what is to be said of a task that has news, said last at `last`. When it was said, if it was.
    fn take(&mut self, task: &Task, last: Option<Instant>) -> Option<Instant> {
        if let Some(due) = last.map(|at| at + SEND_AGAIN).filter(|due| *due > self.now) {
            self.look_again(due);
            return last;
        }
        let taken = match task.assignment().and_then(|held| Some((held.token, held.stop.as_ref()?))) {
            Some((token, stop)) => {
                let (id, reason) = (task.id.clone(), stop.reason.clone());
                self.delivery.stop.push(StopOrder { id, token, reason });
                true
            }
            None => self.add(task)?,
        };
        self.look_again(if taken { self.now + SEND_AGAIN } else { self.now });
        taken.then_some(self.now)
    }

    /// Adds an assignment unless the delivery is full: what is left is due at once for whoever asks next. Nothing where
    /// there is nothing to add.
    fn add(&mut self, task: &Task) -> Option<bool> {
        let TaskState::Assigned(held) = &task.state else { return None };
        // The body of a live task stands beside its row.
        let body = self.state.body(task.id.as_str())?;
        let full = self.bytes + body.len() > self.most.bytes && !self.delivery.assignments.is_empty();
        if full || self.delivery.assignments.len() == self.most.assignments {
            return Some(false);
        }
        self.bytes += body.len();
        self.delivery.assignments.push(AssignmentMessage {
            id: task.id.clone(),
            kind: task.kind(),
            queue: task.shape.queue.clone(),
            attempt: task.attempt,
            token: held.token,
            deadline: held.deadline.since(self.state.now()),
            task: body.clone(),
        });
        Some(true)
    }

    fn look_again(&mut self, due: Instant) {
        self.again = Some(self.again.map_or(due, |at| at.min(due)));
    }

    fn found(self) -> Look {
        match self.again {
            Some(again) if !self.delivery.is_empty() => Look::Found { delivery: self.delivery, again },
            again => Look::Nothing { again },
        }
    }
}
