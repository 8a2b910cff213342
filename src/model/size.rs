//! How many bytes a change or a fact takes in a turn as it is written: what a table takes as one message is bounded.
//!
//! Law: never less than what is written, for tasks and their bodies, whatever names and texts they carry; and little
//! more, since what is reserved and not used makes turns small. Other rows are few, and estimated by their texts.

use super::text::written;
use super::{
    Artifacts, Assignment, Fact, Key, Lifecycle, LifecycleState, Limits, Offer, Row, Shape, Task, TaskState,
};

/// A row of a task besides its names and what only some tasks have.
pub const TASK: usize = 360;
/// An attempt, or an end, besides its names.
const ATTEMPT: usize = 250;
/// Limits besides the number of attempts, and places within a group or among priorities.
const LIMITS: usize = 200;
/// The end of a locality wait.
const WAIT: usize = 100;
/// Around the reason of a stop, and who pulled.
const STOP: usize = 120;
/// A row of another kind besides its texts.
const OTHER_ROW: usize = 700;
/// What is around a body, and around the key of a deleted row.
const AROUND_KEY: usize = 60;
/// The event of a task besides its names.
const EVENT: usize = 200;
/// What the event of an attempt, or of an end, says more.
const ATTEMPTED: usize = 160;
/// Another fact besides its texts, names of full length included.
const OTHER_FACT: usize = 400;
/// What JSON writes around a text in a list or a map.
const AROUND: usize = 8;
/// A whole number of any length.
const NUMBER: usize = 20;
/// A `traceparent` with its name.
const TRACE: usize = 80;

/// A row that is put.
pub fn of_row(row: &Row) -> usize {
    match row {
        Row::Task(task) => of_task(task),
        Row::Spec { id, body } => AROUND_KEY + id.as_str().len() + written(body),
        Row::Holding(holding) => {
            2 * AROUND_KEY + holding.runner.as_str().len() + written(holding.artifact.as_str())
        }
        Row::Runner(runner) => OTHER_ROW + of_offer(&runner.offer),
        Row::Intent(intent) => OTHER_ROW + of_shape(&intent.shape) + 132 * intent.tasks.len(),
        _ => OTHER_ROW,
    }
}

/// A row that is deleted.
pub fn of_delete(key: &Key) -> usize {
    let names = match key {
        Key::Holding(runner, artifact) => runner.as_str().len() + written(artifact.as_str()),
        _ => key.id().map_or(0, |id| id.as_str().len()),
    };
    AROUND_KEY + names
}

/// A fact.
pub fn of_fact(fact: &Fact) -> usize {
    match fact {
        Fact::Task(event) => of_event(event),
        Fact::Intent { reason, .. } => OTHER_FACT + reason.as_deref().map_or(0, written),
        Fact::SubmissionRefused { reason, .. }
        | Fact::StopAsked { reason, .. }
        | Fact::RunnerLost { reason, .. }
        | Fact::RunnerHeld { reason, .. }
        | Fact::Frozen { reason } => OTHER_FACT + written(reason),
        _ => OTHER_FACT,
    }
}

/// A group's row, of which it is not known yet what it will say.
pub const fn of_unwritten_group() -> usize {
    OTHER_ROW
}

fn of_event(event: &Lifecycle) -> usize {
    let names = [&event.id, &event.queue, &event.tenant].map(|name| name.as_str().len());
    let runner = event.runner.as_ref().map_or(0, |runner| runner.as_str().len());
    let pending = event.state == LifecycleState::Pending;
    let attempted = if pending { 0 } else { ATTEMPTED };
    EVENT + names.iter().sum::<usize>() + attempted + runner + event.reason.as_deref().map_or(0, written)
}

fn of_task(task: &Task) -> usize {
    let name = |name: Option<&super::Id>| name.map_or(0, |name| name.as_str().len() + 2 * AROUND);
    let grouping = task.index.is_some() || task.priority != 0;
    TASK + task.id.as_str().len()
        + task.tenant.as_str().len()
        + name(task.build.as_ref())
        + of_shape(&task.shape)
        + task.jobs.iter().map(|shape| of_shape(shape)).sum::<usize>()
        + if grouping || !is_plain(&task.limits) { LIMITS } else { 0 }
        + task.artifacts.as_deref().map_or(0, of_artifacts)
        + if task.wait.is_some() { WAIT } else { 0 }
        + if task.traceparent.is_some() { TRACE } else { 0 }
        + task.extra.written()
        + of_state(&task.state)
}

fn is_plain(limits: &Limits) -> bool {
    *limits
        == Limits {
            max_attempts: limits.max_attempts,
            retries: 0,
            timeout: None,
            not_before: None,
            expires_in: None,
            if_unplaceable: Default::default(),
        }
}

fn of_state(state: &TaskState) -> usize {
    match state {
        TaskState::Pending { reason, .. } => 2 * AROUND_KEY + reason.as_deref().map_or(0, written),
        TaskState::Assigned(held) | TaskState::Running(held) => of_assignment(held),
        TaskState::Ended(ending) => {
            ATTEMPT
                + ending.runner.as_ref().map_or(0, |runner| runner.as_str().len())
                + ending.reason.as_deref().map_or(0, written)
                + ending.message.as_deref().map_or(0, written)
        }
    }
}

fn of_assignment(held: &Assignment) -> usize {
    let name = |puller: &super::Puller| puller.name.as_ref().map_or(0, |name| name.as_str().len());
    ATTEMPT
        + held.runner.as_str().len()
        + written(&held.incarnation)
        + held.stop.as_ref().map_or(0, |stop| STOP + written(&stop.reason))
        + held.pulled.as_ref().map_or(0, |puller| STOP + name(puller))
}

fn of_artifacts(artifacts: &Artifacts) -> usize {
    let names = artifacts.inputs.len() + usize::from(artifacts.output.is_some());
    2 * AROUND_KEY + artifacts.written + names * AROUND
}

fn of_shape(shape: &Shape) -> usize {
    let labels = shape.labels.iter().map(|(name, value)| written(name) + written(value) + AROUND);
    let tolerations = shape.tolerations.iter().map(|word| written(word) + AROUND);
    let others = shape.resources.other.keys().map(|name| written(name) + AROUND + NUMBER);
    let group = shape.group.as_ref().map_or(0, |group| group.as_str().len() + 2 * AROUND);
    let lists = 3 * 2 * AROUND;
    let own = 2 * AROUND_KEY + lists + 2 * NUMBER + shape.queue.as_str().len() + group;
    own + written(&shape.arch) + written(&shape.os) + labels.chain(tolerations).chain(others).sum::<usize>()
}

fn of_offer(offer: &Offer) -> usize {
    let labels = offer.labels.iter().map(|(name, value)| written(name) + written(value) + AROUND);
    let taints = offer.taints.iter().map(|word| written(word) + AROUND);
    let queues = offer.queues.iter().map(|queue| queue.as_str().len() + AROUND);
    labels.chain(taints).chain(queues).sum()
}
