//! What waits for a runner, read from the committed rows.
//!
//! Law: a delivery holds only what the rows say at that moment. What was sent is not sent again for a second;
//! then it is, until it is confirmed. This memory is a leader's own: losing it costs a repetition, never a task.

use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::core::State;
use crate::core::fleet::Seat;
use crate::model::{AssignmentMessage, Delivery, StopOrder, Task, TaskState, Token};

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
    /// There may be more.
    Found(Delivery),
    /// Nothing now; at this moment something sent before is due again.
    Nothing {
        again: Option<Instant>,
    },
    UnknownRunner,
}

impl Sent {
    /// Takes out what is due, and remembers only what the rows still hold.
    pub fn look(&mut self, state: &State, seat: &Seat, now: Instant, most: Most) -> Look {
        let mut delivery = Delivery::default();
        let mut kept = Sent::default();
        let (mut bytes, mut again) = (0, None::<Instant>);
        for task in seat.tasks.iter().filter_map(|id| state.task(id.as_str())) {
            // What was pulled is in the answer to whoever asked.
            let Some(held) = task.assignment().filter(|held| held.pulled.is_none()) else { continue };
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
                None => add(&mut delivery, &mut bytes, state, task, most),
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
fn add(delivery: &mut Delivery, bytes: &mut usize, state: &State, task: &Task, most: Most) -> bool {
    let TaskState::Assigned(held) = &task.state else { return false };
    // The body of a live task stands beside its row.
    let Some(body) = state.body(task.id.as_str()) else { return false };
    let full = *bytes + body.len() > most.bytes && !delivery.assignments.is_empty();
    if full || delivery.assignments.len() == most.assignments {
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
