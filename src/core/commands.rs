//! Commands: what operators and producers ask for.
//!
//! Law: a command is decided from the rows as they are and is safe to repeat; repeated, it changes nothing and
//! says so. A hold, a drain and a pause stand in the rows and survive every restart.

use std::sync::Arc;

use super::draft::Draft;
use super::input::{Command, Commanded};
use super::intent;
use super::pull;
use super::wishes;
use crate::model::{
    EarlyCancel, Fact, Outcome, Queue, QueueId, Row, Runner, RunnerId, Standing, Stop, StopCause, Task,
    TaskId, TaskState,
};

/// Carries out one command.
pub(super) fn command(draft: &mut Draft, command: &Command) -> Commanded {
    match command {
        Command::Cancel { id, reason, sequence } => cancel(draft, id, reason, *sequence),
        Command::HoldRunner { runner, reason } => {
            stand(draft, runner, Standing::Held { reason: reason.clone() })
        }
        Command::DrainRunner { runner } => stand(draft, runner, Standing::Draining),
        Command::ResumeRunner { runner } => stand(draft, runner, Standing::Ready),
        Command::PauseQueue { queue } => pause(draft, queue, true),
        Command::UnpauseQueue { queue } => pause(draft, queue, false),
        Command::PausePool => pause_pool(draft, true),
        Command::UnpausePool => pause_pool(draft, false),
        Command::AcknowledgeIntent { intent, count } => intent::acknowledge(draft, intent, *count),
        Command::DeclineIntent { intent, reason } => intent::decline(draft, intent, reason),
        Command::Subscribe(new) => pull::subscribe(draft, new),
        Command::Unsubscribe { subscription } => pull::unsubscribe(draft, subscription),
        Command::BindRunner(binding) => pull::bind(draft, binding),
        Command::UnbindRunner(binding) => pull::unbind(draft, binding),
        Command::AskForRunner { group } => wishes::ask_for(draft, group),
        Command::Lease { lease, word } => pull::say(draft, lease, word),
        Command::Unfreeze => unfreeze(draft),
    }
}

fn cancel(draft: &mut Draft, id: &TaskId, reason: &Arc<str>, sequence: u64) -> Commanded {
    let Some(task) = draft.task(id) else {
        let cancel = EarlyCancel { id: id.clone(), reason: reason.clone(), sequence, at: draft.now };
        draft.put(Row::EarlyCancel(cancel));
        draft.fact(Fact::CancelRemembered { id: id.clone() });
        return Commanded::Done;
    };
    match &task.state {
        TaskState::Ended(ending) => Commanded::AlreadyEnded { outcome: ending.outcome },
        TaskState::Pending { .. } => {
            draft.end_undone(&task, Outcome::Cancelled, reason);
            Commanded::Done
        }
        TaskState::Assigned(_) | TaskState::Running(_) => ask_to_cancel(draft, &task, reason),
    }
}

/// Asks the runner to stop a task, which then ends `cancelled`.
pub(super) fn ask_to_cancel(draft: &mut Draft, task: &Arc<Task>, reason: &Arc<str>) -> Commanded {
    let mut asked = Task::clone(task);
    let (TaskState::Assigned(held) | TaskState::Running(held)) = &mut asked.state else {
        return Commanded::Unchanged;
    };
    if held.stop.as_ref().is_some_and(|stop| stop.cause == StopCause::Cancelled) {
        return Commanded::Unchanged;
    }
    held.stop = Some(Box::new(Stop { cause: StopCause::Cancelled, reason: reason.clone(), at: draft.now }));
    let (runner, token) = (held.runner.clone(), held.token);
    let said = Fact::StopAsked { id: task.id.clone(), runner: runner.clone(), token, reason: reason.clone() };
    draft.fact(said);
    draft.put_task_quietly(asked);
    draft.deliver(&runner);
    Commanded::Done
}

fn stand(draft: &mut Draft, runner: &RunnerId, standing: Standing) -> Commanded {
    let Some(row) = draft.runner(runner) else { return Commanded::UnknownRunner };
    if row.standing == standing {
        return Commanded::Unchanged;
    }
    let mut changed = Runner::clone(&row);
    changed.incidents = 0;
    changed.refusals = 0;
    changed.standing = standing;
    let id = runner.clone();
    draft.fact(match &changed.standing {
        Standing::Ready => Fact::RunnerResumed { runner: id },
        Standing::Held { reason } => Fact::RunnerHeld { runner: id, reason: reason.clone() },
        Standing::Draining | Standing::Dismissed => Fact::RunnerDraining { runner: id },
    });
    draft.put_runner(changed);
    Commanded::Done
}

fn pause(draft: &mut Draft, queue: &QueueId, paused: bool) -> Commanded {
    if draft.state.is_paused(queue) == paused {
        return Commanded::Unchanged;
    }
    draft.put(Row::Queue(Queue { id: queue.clone(), paused, since: draft.now }));
    let queue = queue.clone();
    draft.fact(if paused { Fact::QueuePaused { queue } } else { Fact::QueueUnpaused { queue } });
    Commanded::Done
}

fn pause_pool(draft: &mut Draft, paused: bool) -> Commanded {
    if draft.state.pool().is_paused() == paused {
        return Commanded::Unchanged;
    }
    let mut pool = draft.state.pool().clone();
    pool.paused_since = paused.then_some(draft.now);
    draft.put_pool(pool);
    draft.fact(if paused { Fact::PoolPaused } else { Fact::PoolUnpaused });
    Commanded::Done
}

fn unfreeze(draft: &mut Draft) -> Commanded {
    if draft.state.pool().frozen.is_none() {
        return Commanded::Unchanged;
    }
    let mut pool = draft.state.pool().clone();
    pool.frozen = None;
    draft.put_pool(pool);
    draft.state.watch.accepts_foreign = true;
    // Tokens of the table before must be older than every token from now on.
    draft.state.epoch += 1;
    draft.fact(Fact::Unfrozen);
    Commanded::Done
}
