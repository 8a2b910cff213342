//! Attempts: what a runner's report makes of a task.
//!
//! Law: a report counts only if id, token, incarnation and runner match a live attempt; any other is stale: it is
//! taken in, counted, and changes nothing. Runner losses and start failures spend `max_attempts`; a task's own
//! failure spends `retries`; whatever the dispatcher or the runner undid spends nothing.

use std::sync::Arc;
use std::time::Duration;

use super::blame;
use super::draft::Draft;
use super::locality;
use crate::model::{
    Assignment, AttemptOutcome, End, Ending, Fact, Outcome, Report, Reported, StopCause, Task, TaskState,
    Time,
};

/// Takes in one report.
pub(super) fn report(draft: &mut Draft, report: &Report) {
    let Some((task, held)) = live_attempt(draft, report) else {
        draft.fact(Fact::StaleReport {
            id: report.id.clone(),
            runner: report.runner.clone(),
            token: report.token,
            report: match &report.what {
                Reported::Start => "start".into(),
                Reported::End(end) => end.outcome.as_str().into(),
            },
        });
        return;
    };
    match &report.what {
        Reported::Start => start(draft, &task, held),
        Reported::End(reported) => end(draft, &task, &held, reported),
    }
}

fn live_attempt(draft: &Draft, report: &Report) -> Option<(Arc<Task>, Assignment)> {
    let task = draft.task(&report.id)?;
    let held = task.assignment()?.clone();
    let matches =
        held.token == report.token && held.runner == report.runner && held.incarnation == report.incarnation;
    (matches || !draft.state.settings.guards.token_match).then_some((task, held))
}

/// The work of an attempt has begun.
pub(super) fn start(draft: &mut Draft, task: &Task, mut held: Assignment) {
    if held.started.is_some() {
        return;
    }
    held.confirmed = true;
    held.started = Some(draft.now);
    let mut running = task.clone();
    running.state = TaskState::Running(Box::new(held));
    draft.put_task(running);
}

/// An attempt has ended, as its runner or its puller says.
pub(super) fn end(draft: &mut Draft, task: &Arc<Task>, held: &Assignment, end: &End) {
    forget_omission(draft, task, held);
    let asked = held.stop.as_ref().map(|stop| (stop.cause, stop.reason.clone()));
    match (end.outcome, asked) {
        (AttemptOutcome::Succeeded, _) => {
            blame::did_well(draft, &held.runner);
            finish(draft, task, Outcome::Succeeded, None, end);
            // Where a subscription's tasks run, nobody knows: nothing can be waited for there.
            if held.pulled.is_none() {
                locality::made(draft, task, &held.runner, &end.artifacts);
            }
        }
        (AttemptOutcome::Failed, asked) => {
            blame::did_well(draft, &held.runner);
            let cancelled = asked.is_some_and(|(cause, _)| cause == StopCause::Cancelled);
            if task.retried < task.limits.retries && !cancelled {
                repeat(draft, task, end);
            } else {
                finish(draft, task, Outcome::Failed, failure(end), end);
            }
        }
        (_, Some((StopCause::Cancelled, reason))) => {
            finish(draft, task, Outcome::Cancelled, Some(reason), end);
        }
        (AttemptOutcome::StartFailed, _) => {
            // A task that has failed before says more about itself than about one more runner.
            if task.spent == 0 && held.pulled.is_none() {
                blame::start_failed(draft, held);
            }
            let how = if held.started.is_some() { "was lost" } else { "could not be started" };
            let reason = format!("{how} on {}: {}", held.runner, said(end));
            let not_before = draft.now + backoff(draft, task.spent + 1);
            spend(draft, task, &reason, Some(not_before));
        }
        (_, Some((StopCause::AskedBack, reason))) => {
            // What did not reach it once may not reach it again: others go first.
            draft.state.watch.refuse(&task.id, &held.runner, draft.now, draft.state.settings.refusal_backoff);
            draft.return_task(task, &reason, None);
        }
        (_, Some((StopCause::HandBack, reason))) => draft.return_task(task, &reason, None),
        (AttemptOutcome::Cancelled, None) => {
            let reason = format!("cancelled by its runner {}", held.runner);
            finish(draft, task, Outcome::Cancelled, Some(reason.into()), end);
        }
        (AttemptOutcome::Refused, None) => {
            let first = draft.state.settings.refusal_backoff;
            let now = draft.now;
            draft.state.watch.refuse(&task.id, &held.runner, now, first);
            blame::refused(draft, &held.runner, said(end));
            draft.return_task(task, &format!("refused by {}: {}", held.runner, said(end)), None);
        }
        (AttemptOutcome::Handback, None) => {
            draft.return_task(task, &format!("handed back by {}: {}", held.runner, said(end)), None);
        }
    }
}

fn said(end: &End) -> &str {
    end.message.as_deref().unwrap_or("no reason was given")
}

fn failure(end: &End) -> Option<Arc<str>> {
    match end.exit_code {
        Some(code) => Some(format!("exit code {code}").into()),
        None => end.message.as_deref().and_then(|message| message.lines().next()).map(Arc::from),
    }
}

fn finish(draft: &mut Draft, task: &Task, outcome: Outcome, reason: Option<Arc<str>>, end: &End) {
    let ending = Ending {
        exit_code: end.exit_code,
        message: end.message.clone(),
        ..draft.ending(task, outcome, reason)
    };
    draft.end_task(task, ending);
}

/// Repeats a task that failed on its own account.
fn repeat(draft: &mut Draft, task: &Task, end: &End) {
    let mut again = task.clone();
    again.retried += 1;
    let not_before = draft.now + backoff(draft, again.retried);
    let why = failure(end).unwrap_or_else(|| "failed".into());
    let reason = format!("failed ({why}); repeat {} of {}", again.retried, task.limits.retries);
    draft.return_task(&again, &reason, Some(not_before));
}

/// Spends one of the task's attempts and makes it pending again, or ends it as `exhausted`.
fn spend(draft: &mut Draft, task: &Task, reason: &str, not_before: Option<Time>) {
    let mut spent = task.clone();
    spent.spent += 1;
    let limit = task.limits.max_attempts;
    if spent.spent >= limit {
        let reason = format!("all {limit} attempts are spent; the last: {reason}");
        draft.end_undone(&spent, Outcome::Exhausted, &reason);
    } else {
        draft.return_task(&spent, reason, not_before);
    }
}

fn backoff(draft: &Draft, times: u32) -> Duration {
    let settings = &draft.state.settings;
    let doubled = settings.retry_backoff.saturating_mul(1 << (times.clamp(1, 17) - 1));
    doubled.min(settings.retry_backoff_max)
}

/// Takes a task from a runner that is lost, or that lost the task.
pub(super) fn lose(draft: &mut Draft, task: &Arc<Task>, reason: &str) {
    let Some(held) = task.assignment().cloned() else { return };
    forget_omission(draft, task, &held);
    match held.stop.as_ref().map(|stop| stop.cause) {
        Some(StopCause::Cancelled) => {
            let said = held.stop.as_ref().map(|stop| stop.reason.to_string()).unwrap_or_default();
            draft.end_undone(task, Outcome::Cancelled, &said);
        }
        Some(StopCause::AskedBack | StopCause::HandBack) => draft.return_task(task, reason, None),
        None if !held.confirmed => draft.return_task(task, reason, None),
        None => spend(draft, task, reason, None),
    }
}

fn forget_omission(draft: &mut Draft, task: &Task, held: &Assignment) {
    if !draft.state.watch.omissions.is_empty() {
        draft.state.watch.omissions.remove(&(held.runner.clone(), task.id.clone()));
    }
}
