//! What is said to runners, read from committed rows.
//!
//! Law: carries no memory of its own. An unconfirmed assignment and an unanswered stop are said again and again,
//! so a lost message costs time and never a task.

use std::time::Duration;

use crate::core::{State, stop_orders};
use crate::model::{AssignmentMessage, Delivery, RunnerId, TaskState};

/// Everything the rows hold for `runner`: unconfirmed assignments, and attempts to stop.
pub(super) fn delivery(state: &State, runner: &RunnerId) -> Delivery {
    let Some(seat) = state.fleet().get(runner) else { return Delivery::default() };
    let tasks = seat.tasks.values();
    let assignments = tasks.filter_map(|task| {
        let TaskState::Assigned(held) = &task.state else { return None };
        if held.confirmed || held.stop.is_some() || held.incarnation != seat.runner.incarnation {
            return None;
        }
        Some(AssignmentMessage {
            id: task.id.clone(),
            kind: task.kind(),
            queue: task.shape.queue.clone(),
            attempt: task.attempt,
            token: held.token,
            deadline: held.deadline.since(state.now()).max(Duration::from_secs(1)),
            task: state.body(task.id.as_str())?.clone(),
        })
    });
    Delivery { assignments: assignments.collect(), stop: stop_orders(state, runner) }
}
