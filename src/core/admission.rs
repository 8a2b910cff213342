//! Admission: may this submission become a pending task?
//!
//! Admitted, duplicate, rejected; besides, a conflict with another task of the same id, and a full window. A
//! rejection is final, carries its reason and leaves a tombstone, so it is only given when *no* runner or class
//! could ever run the task, or when it breaks a rule of its build. "Not now" is never a rejection; it is the
//! backlog.
//!
//! Comes before: `backlog`. Never looks at free capacity.

use std::sync::Arc;

use super::draft::Draft;
use super::group;
use super::input::Submitted;
use super::state::Window;
use super::{locality, timers, verdict};
use crate::model::{Fact, Kind, NewTask, Outcome, Row, Task, TaskState};

/// Decides about one submission. `sequence` is its place in the inbox.
pub(super) fn submit(draft: &mut Draft, new: &NewTask, sequence: u64) -> Submitted {
    let tombstones = draft.state.settings.guards.tombstones;
    if let Some(known) = draft.task(&new.id).filter(|known| tombstones || !known.is_ended()) {
        return repeated(draft, new, &known);
    }
    if let Some(reason) = group::contradiction(draft.state, new) {
        refuse(draft, new, "conflict", &reason);
        return Submitted::Conflict { reason };
    }
    if let Some(reason) = no_room(draft, new) {
        refuse(draft, new, "full", &reason);
        return Submitted::Full { reason };
    }
    let task = pending(draft, new);
    group::found(draft, new);
    if let Some(cancel) = draft.state.early_cancels.get(&new.id).filter(|cancel| cancel.sequence > sequence) {
        let reason = cancel.reason.clone();
        return end_at_once(draft, new, task, Outcome::Cancelled, &reason);
    }
    if let Some(reason) = broken_build_rule(draft, new) {
        return end_at_once(draft, new, task, Outcome::Rejected, &reason);
    }
    if let Some(reason) = build_is_over(draft, new) {
        return end_at_once(draft, new, task, Outcome::Cancelled, &reason);
    }
    if let Some(reason) = group::is_over(draft.state, &task) {
        return end_at_once(draft, new, task, Outcome::Cancelled, &reason);
    }
    if let Some(reason) = hopeless(draft, new, &task) {
        return end_at_once(draft, new, task, Outcome::Rejected, &reason);
    }
    draft.put(Row::Spec { id: new.id.clone(), body: new.body.clone() });
    draft.put_task(task);
    if new.shape.kind == Kind::Build && draft.state.families.has_live(&new.id) {
        draft.state.watch.beyond.insert(new.id.clone());
    }
    Submitted::Admitted
}

fn pending(draft: &mut Draft, new: &NewTask) -> Task {
    let sequence = draft.next_sequence();
    let mut task = Task {
        id: new.id.clone(),
        shape: new.shape.clone(),
        tenant: new.tenant.clone(),
        priority: new.priority,
        build: new.build.clone(),
        jobs: new.jobs.clone(),
        index: new.grouping.index,
        limits: new.limits.clone(),
        artifacts: new.artifacts.clone(),
        wait: None,
        content: new.content,
        sequence,
        submitted: draft.now,
        attempt: 0,
        spent: 0,
        retried: 0,
        traceparent: new.traceparent.clone(),
        state: TaskState::Pending { since: draft.now, not_before: new.limits.not_before, reason: None },
        extra: Default::default(),
    };
    // Whose turn it is in a group is known once the task is in it.
    if timers::waits_until(draft.state, &task).is_none() && task.shape.group.is_none() {
        task.wait = locality::wait_of(draft.state, &task);
    }
    draft.state.intern.share(&mut task);
    task
}

fn repeated(draft: &mut Draft, new: &NewTask, known: &Task) -> Submitted {
    if known.content == new.content {
        return Submitted::Duplicate;
    }
    let reason: Arc<str> = format!(
        "another task is known as {}: it was submitted at {} and is {}; choose another id",
        new.id,
        known.submitted,
        known.state_word()
    )
    .into();
    refuse(draft, new, "conflict", &reason);
    Submitted::Conflict { reason }
}

fn refuse(draft: &mut Draft, new: &NewTask, answer: &str, reason: &Arc<str>) {
    draft.fact(Fact::SubmissionRefused { id: new.id.clone(), answer: answer.into(), reason: reason.clone() });
}

fn end_at_once(draft: &mut Draft, new: &NewTask, task: Task, outcome: Outcome, reason: &str) -> Submitted {
    if new.body.len() <= draft.state.settings.keep_ended_body {
        draft.put(Row::Spec { id: new.id.clone(), body: new.body.clone() });
    }
    draft.end_undone(&task, outcome, reason);
    match outcome {
        Outcome::Rejected => Submitted::Rejected { reason: reason.into() },
        _ => Submitted::Admitted,
    }
}

/// Windows bound what waits in the table. Jobs of a running build always pass: their build waits for them.
fn no_room(draft: &Draft, new: &NewTask) -> Option<Arc<str>> {
    if new.build.as_ref().is_some_and(|build| draft.state.is_running_build(build)) {
        return None;
    }
    let (counts, settings) = (draft.state.counts(), &draft.state.settings);
    let window = Window::of(new.shape.kind, new.build.is_some());
    let waiting = counts.pending.get(&window).copied().unwrap_or(0);
    if waiting >= settings.window {
        let word = window.as_str().replace('_', " ");
        let limit = settings.window;
        return Some(
            format!("{waiting} {word} wait already; the window takes {limit} (table.window)").into(),
        );
    }
    let (queue, share) = (&new.shape.queue, settings.window_share);
    let queued = counts.queued.get(&(window, queue.clone())).copied().unwrap_or(0);
    if queued >= share {
        return Some(
            format!("{queued} tasks of queue {queue} wait already; one queue takes at most {share}").into(),
        );
    }
    let bytes = counts.body_bytes + new.body.len();
    (bytes > settings.window_bytes).then(|| {
        let limit = settings.window_bytes;
        format!("waiting tasks would take {bytes} bytes; the window takes {limit} (table.window_bytes)")
            .into()
    })
}

/// Why the task ends at once because nothing known could ever run it. One with patience is watched instead.
fn hopeless(draft: &mut Draft, new: &NewTask, task: &Task) -> Option<String> {
    if draft.state.watch.is_settling() {
        return None;
    }
    let until = verdict::patience(task)?;
    let misfits = verdict::never_fits(draft.state, &new.shape, &new.jobs)?;
    if until > draft.now {
        draft.state.watch.unplaceable.insert((until, task.id.clone()));
        return None;
    }
    Some(verdict::rejection(&misfits))
}

fn broken_build_rule(draft: &Draft, new: &NewTask) -> Option<String> {
    let id = new.build.as_ref()?;
    let build = draft.state.task(id.as_str())?;
    if build.kind() != Kind::Build {
        return Some(format!("not_a_build: {id} is a job; only a build can have jobs"));
    }
    let fits_within = build.jobs.iter().any(|shape| new.shape.within(shape));
    (!fits_within).then(|| exceeds(new, id.as_str(), &build.jobs))
}

fn exceeds(new: &NewTask, build: &str, declared: &[Arc<crate::model::Shape>]) -> String {
    let declared: Vec<String> = declared.iter().map(|shape| format!("[{shape}]")).collect();
    format!(
        "exceeds_build: {} fits within none of the job shapes that build {build} declared: {}; declare it in the build's \"jobs\"",
        new.shape,
        declared.join(", ")
    )
}

fn build_is_over(draft: &Draft, new: &NewTask) -> Option<String> {
    let id = new.build.as_ref()?;
    let build = draft.state.task(id.as_str())?;
    build.is_ended().then(|| format!("its build {id} has ended"))
}

/// Ends the jobs that came before their build and fit within none of its shapes, as far as the budget goes.
pub(super) fn end_jobs_beyond(draft: &mut Draft) {
    while let Some(id) = draft.state.watch.beyond.first().cloned() {
        let Some(build) = draft.task(&id) else {
            draft.state.watch.beyond.remove(&id);
            continue;
        };
        let waiting: Vec<_> = draft.state.jobs_of(&id).cloned().collect();
        for job in waiting {
            let Some(job) = draft.task(&job).filter(|job| job.is_pending()) else { continue };
            if build.jobs.iter().any(|shape| job.shape.within(shape)) {
                continue;
            }
            if draft.is_full() {
                return draft.more();
            }
            let reason = format!("exceeds_build: {} fits within none of the job shapes of {id}", job.shape);
            draft.end_undone(&job, Outcome::Rejected, &reason);
        }
        draft.state.watch.beyond.remove(&id);
    }
}
