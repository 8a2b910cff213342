//! Blame: which runner, or which task, is at fault when attempts keep failing to begin or get lost?
//!
//! Law: counts incidents, not tasks. Three start failures or losses in a row hold a runner with the reason; a
//! loss that coincides, within a lease, with another runner's or with a take-over is nobody's fault. A task that
//! was the only one common to two runners' crashes is ended and named.

use std::sync::Arc;

use super::draft::Draft;
use super::watch::Loss;
use crate::model::{Assignment, Crash, Fact, Outcome, Runner, RunnerId, Standing, TaskId};

/// Incidents, or refusals, in a row that hold a runner.
const IN_A_ROW: u32 = 3;
/// Tasks of a crash that are remembered.
const CRASH_TASKS: usize = 256;

/// A task ran to an end of its own on `runner`.
pub(super) fn did_well(draft: &mut Draft, runner: &RunnerId) {
    let Some(row) = draft.runner(runner).filter(|row| row.incidents + row.refusals > 0) else { return };
    let mut row = Runner::clone(&row);
    row.incidents = 0;
    row.refusals = 0;
    draft.put_runner(row);
}

/// A back end could not start a task. Assignments made before the last incident belong to that incident.
pub(super) fn start_failed(draft: &mut Draft, held: &Assignment) {
    let Some(row) = draft.runner(&held.runner) else { return };
    if row.last_incident.is_some_and(|last| held.assigned <= last) {
        return;
    }
    let reason = format!("{IN_A_ROW} start failures or losses in a row");
    incident(draft, &row, &reason);
}

/// A runner was lost with work on it.
pub(super) fn lost(draft: &mut Draft, runner: &RunnerId) {
    let (now, lease) = (draft.now, draft.state.settings.lease);
    draft.state.watch.losses.retain(|loss| now.since(loss.at) <= lease);
    let others: Vec<Loss> =
        draft.state.watch.losses.iter().filter(|loss| loss.runner != *runner).cloned().collect();
    let after_take_over =
        now.since(draft.state.watch.took_over) <= lease + draft.state.settings.lease_margin + lease;
    let counted = others.is_empty() && !after_take_over;
    for other in others.iter().filter(|loss| loss.counted) {
        if let Some(row) = draft.runner(&other.runner) {
            let mut row = Runner::clone(&row);
            row.incidents = row.incidents.saturating_sub(1);
            draft.put_runner(row);
        }
    }
    for loss in &mut draft.state.watch.losses {
        loss.counted = false;
    }
    draft.state.watch.losses.push(Loss { at: now, runner: runner.clone(), counted });
    if counted && let Some(row) = draft.runner(runner) {
        let reason = format!("{IN_A_ROW} start failures or losses in a row");
        incident(draft, &row, &reason);
    }
}

/// A runner refused what fits on it by our rows.
pub(super) fn refused(draft: &mut Draft, runner: &RunnerId, said: &str) {
    let Some(row) = draft.runner(runner) else { return };
    let mut row = Runner::clone(&row);
    row.refusals += 1;
    if row.refusals >= IN_A_ROW {
        row.refusals = 0;
        hold(draft, row, &format!("refused {IN_A_ROW} times what fits on it; the last: {said}"));
    } else {
        draft.put_runner(row);
    }
}

fn incident(draft: &mut Draft, row: &Arc<Runner>, reason: &str) {
    let mut row = Runner::clone(row);
    row.incidents += 1;
    row.last_incident = Some(draft.now);
    if row.incidents >= IN_A_ROW {
        row.incidents = 0;
        hold(draft, row, reason);
    } else {
        draft.put_runner(row);
    }
}

fn hold(draft: &mut Draft, mut row: Runner, reason: &str) {
    if row.standing == Standing::Ready {
        row.standing = Standing::Held { reason: reason.into() };
        draft.fact(Fact::RunnerHeld { runner: row.id.clone(), reason: reason.into() });
    }
    draft.put_runner(row);
}

/// A runner came back from a crash with `tasks` gone. Ends the task that two crashes have in common, if it is
/// the only one.
pub(super) fn crashed(draft: &mut Draft, runner: &RunnerId, tasks: &[TaskId]) {
    let common: Vec<TaskId> = draft
        .state
        .fleet()
        .seats()
        .filter(|seat| seat.runner.id != *runner)
        .filter_map(|seat| only_common(seat.runner.crash.as_deref()?, tasks))
        .collect();
    if let Some(row) = draft.runner(runner) {
        let mut row = Runner::clone(&row);
        let tasks = tasks.iter().take(CRASH_TASKS).cloned().collect();
        row.crash = Some(Box::new(Crash { at: draft.now, tasks }));
        draft.put_runner(row);
    }
    for id in common {
        if let Some(task) = draft.task(&id).filter(|task| !task.is_ended()) {
            let reason = "two runners crashed while it ran, and it is all their work had in common";
            draft.end_undone(&task, Outcome::Exhausted, reason);
        }
    }
}

fn only_common(crash: &Crash, tasks: &[TaskId]) -> Option<TaskId> {
    let mut both = tasks.iter().filter(|id| crash.tasks.contains(id));
    let first = both.next()?;
    both.next().is_none().then(|| first.clone())
}
