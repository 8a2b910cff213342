//! Builds never wait for ever for their jobs.
//!
//! The rule: a build starts on a runner only if afterwards, for every running build and each of its job shapes,
//! some runner could run one such job once all jobs have ended — on its capacity minus what builds hold there.
//! Judged with the planner's own `fit` on whole shapes.
//!
//! When the fleet shrinks and the rule becomes false, no build starts; after `unsafe_grace` the youngest build is
//! handed back with its jobs until the rule holds again.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::draft::Draft;
use super::fit;
use super::fleet::Seat;
use super::pull;
use super::state::State;
use crate::model::{Fact, Kind, RunnerId, RunnerState, Shape, Stop, StopCause, Task, TaskState};

/// Runners known to have room for a job of a shape, so that most questions need one look.
#[derive(Debug, Default)]
pub(super) struct Witnesses(FxHashMap<Arc<Shape>, RunnerId>);

/// A build that is to start, and where.
#[derive(Clone, Copy)]
struct Start<'a> {
    build: &'a Shape,
    host: &'a RunnerId,
}

/// Whether one job of `shape` could run on `seat` once all jobs have ended, with `start` there besides.
fn has_room(state: &State, seat: &Seat, shape: &Shape, start: Option<Start<'_>>) -> bool {
    if !matches!(seat.runner.state(), RunnerState::Ready | RunnerState::Draining) || seat.is_dismissed() {
        return false;
    }
    if fit::never(shape, &seat.runner.offer).or_else(|| pull::misfit(state, shape, seat)).is_some() {
        return false;
    }
    if let Some(group) = shape.group.as_ref().and_then(|group| state.groups().get(group)) {
        let host = start.filter(|start| start.build.group == shape.group).map(|start| start.host);
        if !group.admits_beside_builds(&seat.runner.id, host) {
            return false;
        }
    }
    match start.filter(|start| *start.host == seat.runner.id) {
        None => fit::room(shape, &seat.runner.offer, &seat.held_by_builds).is_none(),
        Some(Start { build, .. }) => {
            let mut used = seat.held_by_builds.clone();
            used.add(build);
            fit::room(shape, &seat.runner.offer, &used).is_none()
        }
    }
}

/// The first job shape that would have no room any more if `build` started on `host`.
pub(super) fn blocked_by(
    state: &State,
    witnesses: &mut Witnesses,
    build: &Shape,
    jobs: &[Arc<Shape>],
    host: &Seat,
) -> Option<Arc<Shape>> {
    state.job_shapes().chain(jobs).find(|shape| !keeps_room(state, witnesses, shape, build, host)).cloned()
}

fn keeps_room(
    state: &State,
    witnesses: &mut Witnesses,
    shape: &Arc<Shape>,
    build: &Shape,
    host: &Seat,
) -> bool {
    let start = Start { build, host: &host.runner.id };
    let has = |seat: &Seat| has_room(state, seat, shape, Some(start));
    if witnesses.0.get(shape).and_then(|id| state.fleet().get(id)).is_some_and(has) {
        return true;
    }
    match state.fleet().seats().find(|seat| has(seat)) {
        Some(seat) => {
            witnesses.0.insert(shape.clone(), seat.runner.id.clone());
            true
        }
        None => false,
    }
}

/// Whether one job of `shape` could run beside `build` on `host` once all jobs have ended.
pub(super) fn has_room_beside(state: &State, shape: &Shape, build: &Shape, host: &Seat) -> bool {
    has_room(state, host, shape, Some(Start { build, host: &host.runner.id }))
}

/// Whether one job of `shape` could run on another runner than `host` once all jobs have ended.
pub(super) fn has_room_elsewhere(state: &State, shape: &Shape, host: &Seat) -> bool {
    state.fleet().seats().any(|seat| seat.runner.id != host.runner.id && has_room(state, seat, shape, None))
}

/// A job shape of a running build that no runner has room for, even once all jobs have ended.
pub fn stranded_shape(state: &State) -> Option<Arc<Shape>> {
    state
        .job_shapes()
        .find(|shape| !state.fleet().seats().any(|seat| has_room(state, seat, shape, None)))
        .cloned()
}

/// Notes when the rule stops or begins to hold, and hands the youngest build back once the grace is over.
pub(super) fn watch_rule(draft: &mut Draft) {
    let since = draft.state.pool().unsafe_since;
    let changed = std::mem::take(&mut draft.state.watch.rule_changed);
    let grace_over = since.is_some_and(|since| since + draft.state.settings.unsafe_grace <= draft.now);
    if !changed && !grace_over {
        return;
    }
    let Some(shape) = stranded_shape(draft.state) else {
        if since.is_some() {
            let mut pool = draft.state.pool().clone();
            pool.unsafe_since = None;
            draft.put_pool(pool);
            draft.fact(Fact::BuildsSafe);
        }
        return;
    };
    match since {
        None => {
            let mut pool = draft.state.pool().clone();
            pool.unsafe_since = Some(draft.now);
            draft.put_pool(pool);
            if let Some(build) = youngest_with(draft.state, &shape) {
                draft.fact(Fact::BuildsUnsafe { build: build.id.clone() });
            }
        }
        Some(_) if grace_over => hand_back_youngest(draft),
        Some(_) => {}
    }
}

/// Asks the youngest running build back, with its jobs. One at a time: the next only when it has gone.
fn hand_back_youngest(draft: &mut Draft) {
    let running = running_builds(draft.state);
    let stopping = |task: &&Arc<Task>| task.assignment().is_some_and(|held| held.stop.is_some());
    if running.iter().any(|build| stopping(&build)) {
        return;
    }
    let Some(build) = running.into_iter().max_by_key(|build| (started_at(build), build.sequence)) else {
        return;
    };
    let reason = "the fleet shrank: no runner has room for a job of a running build";
    let jobs: Vec<_> = draft.state.jobs_of(&build.id).cloned().collect();
    for id in jobs {
        if draft.is_full() {
            return draft.more();
        }
        if let Some(job) = draft.task(&id) {
            ask_back(draft, &job, "its build is handed back");
        }
    }
    // The build last: as long as it is not asked back, a fuller turn goes on with its jobs.
    ask_back(draft, &build, reason);
}

fn ask_back(draft: &mut Draft, task: &Task, reason: &str) {
    let mut asked = task.clone();
    let (TaskState::Assigned(held) | TaskState::Running(held)) = &mut asked.state else { return };
    if held.stop.is_some() {
        return;
    }
    held.stop = Some(Box::new(Stop { cause: StopCause::HandBack, reason: reason.into(), at: draft.now }));
    let (runner, token) = (held.runner.clone(), held.token);
    draft.fact(Fact::StopAsked { id: task.id.clone(), runner: runner.clone(), token, reason: reason.into() });
    draft.put_task_quietly(asked);
    draft.deliver(&runner);
}

fn running_builds(state: &State) -> Vec<Arc<Task>> {
    let held = state.fleet().seats().flat_map(|seat| seat.tasks.values());
    held.filter(|task| task.kind() == Kind::Build).cloned().collect()
}

fn youngest_with(state: &State, shape: &Arc<Shape>) -> Option<Arc<Task>> {
    let builds = running_builds(state).into_iter();
    builds.filter(|build| build.jobs.contains(shape)).max_by_key(|build| (started_at(build), build.sequence))
}

fn started_at(build: &Task) -> Option<crate::model::Time> {
    build.assignment().map(|held| held.assigned)
}
