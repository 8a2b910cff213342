//! Reservations: a task that has waited too long keeps the runner on which it will fit soonest.
//!
//! Story: the first task of a line finds no room and has waited `reserve_after`. Of the ready runners that could
//! ever run it and are kept for nobody, the one where it fits soonest by the timeouts of what is there is kept for
//! it. Others that come after it in the order start there only if their own timeout ends before, or if they leave
//! room for it. It is placed as soon as it fits, there or elsewhere, and the runner is free for all again.
//!
//! Law: at most a quarter of the ready runners, and at least one, are kept. A reservation ends in the turn in which
//! its task is no longer to be placed, or its runner no longer able to take it. Jobs of running builds start on
//! kept runners all the same. What a reservation lets pass only ever becomes less while it stands, so that time
//! wakes nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::backlog::LineKey;
use super::builds::{self, Witnesses};
use super::draft::Draft;
use super::fit::{self, Misfit, Usage};
use super::fleet::Seat;
use super::state::State;
use super::wake::Wake;
use crate::model::{
    Fact, Key, Kind, Reservation, Row, RunnerId, RunnerState, Shape, Task, TaskId, TaskState, Time,
};

/// One in so many ready runners may be kept.
const SHARE: usize = 4;

/// The reservations of a pool by runner and by task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reservations {
    by_task: BTreeMap<TaskId, Arc<Reservation>>,
    by_runner: BTreeMap<RunnerId, Arc<Reservation>>,
}

impl Reservations {
    /// Puts one in.
    pub(super) fn put(&mut self, reservation: Reservation) {
        self.remove(&reservation.task);
        let reservation = Arc::new(reservation);
        self.by_runner.insert(reservation.runner.clone(), reservation.clone());
        self.by_task.insert(reservation.task.clone(), reservation);
    }

    /// Takes the one of `task` out.
    pub(super) fn remove(&mut self, task: &TaskId) -> Option<Arc<Reservation>> {
        let gone = self.by_task.remove(task)?;
        self.by_runner.remove(&gone.runner);
        Some(gone)
    }

    /// What the runner is kept for.
    pub fn on(&self, runner: &RunnerId) -> Option<&Arc<Reservation>> {
        self.by_runner.get(runner)
    }

    /// What is kept for the task.
    pub fn of(&self, task: &TaskId) -> Option<&Arc<Reservation>> {
        self.by_task.get(task)
    }

    /// All of them, in the order of their tasks' ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.by_task.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_task.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_task.is_empty()
    }
}

/// What the leader remembers of them beside the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Considered {
    /// From when on the first task of a line may have a runner kept; lines past that wait until one more may be.
    due: BTreeMap<LineKey, Time>,
    /// Reservations whose task left its place, or whose runner's row changed.
    pub changed: BTreeSet<TaskId>,
}

impl Considered {
    /// When time alone next makes one due.
    pub fn next_due(&self, now: Time) -> Option<Time> {
        self.due.values().copied().filter(|at| *at > now).min()
    }
}

/// The reservation that keeps `task` from starting on `seat`.
pub(super) fn against<'a>(state: &'a State, task: &Task, seat: &Seat) -> Option<&'a Arc<Reservation>> {
    let kept = state.reservations().on(&seat.runner.id)?;
    let keeper = state.task(kept.task.as_str())?;
    if keeper.id == task.id || state.is_of_running_build(task) || !state.settings.guards.kept_holds {
        return None;
    }
    if state.place_of(task).1 < state.place_of(keeper).1 {
        return None;
    }
    let passes = kept.fits_by.is_some_and(|fits_by| {
        let ends_before = task.limits.timeout.is_some_and(|timeout| state.now() + timeout <= fits_by);
        ends_before || leaves_room(seat, &keeper.shape, &task.shape, fits_by)
    });
    (!passes).then_some(kept)
}

/// The same as a misfit.
pub(super) fn misfit(state: &State, task: &Task, seat: &Seat) -> Option<Misfit> {
    against(state, task, seat).map(|kept| Misfit::Reserved { task: kept.task.clone(), fits_by: kept.fits_by })
}

/// Whether both fit beside what will still be there at `fits_by`.
fn leaves_room(seat: &Seat, keeper: &Shape, task: &Shape, fits_by: Time) -> bool {
    let mut used = Usage::default();
    for held in seat.tasks.values().filter(|held| ends_by(held).is_none_or(|end| end > fits_by)) {
        used.add(&held.shape);
    }
    used.add(task);
    fit::room(keeper, &seat.runner.offer, &used).is_none()
}

/// When an assigned or running task ends at the latest, if its timeout says so.
fn ends_by(task: &Task) -> Option<Time> {
    Some(task.assignment()?.assigned + task.limits.timeout?)
}

/// Since when a pending task could have been placed.
fn waits_since(task: &Task) -> Option<Time> {
    let TaskState::Pending { since, not_before, .. } = &task.state else { return None };
    let opened = task.wait.as_ref().map(|wait| wait.deps_until);
    Some([Some(*since), *not_before, opened].into_iter().flatten().max().expect("since is there"))
}

/// The first task of a line found no room: keeps a runner for it if it has waited long enough.
pub(super) fn consider(draft: &mut Draft, key: &LineKey, task: &Task) {
    let state = &*draft.state;
    if !state.settings.guards.reservations
        || state.is_pulled(&key.shape)
        || state.reservations().of(&task.id).is_some()
    {
        return;
    }
    let Some(since) = waits_since(task) else { return };
    let due = since + state.settings.reserve_after;
    if due > draft.now || !may_keep_more(state) {
        draft.state.watch.considered.due.insert(key.clone(), due);
        return;
    }
    if line_has_one(state, key) {
        return;
    }
    let Some((runner, fits_by)) = soonest(state, task) else { return };
    let reservation =
        Reservation { task: task.id.clone(), runner: runner.clone(), since: draft.now, fits_by };
    draft.put(Row::Reservation(reservation));
    draft.fact(Fact::Reserved { task: task.id.clone(), runner, fits_by });
}

/// One task of a line at a time: those behind it wait for it in any case.
fn line_has_one(state: &State, key: &LineKey) -> bool {
    state.reservations().iter().any(|kept| {
        state.task(kept.task.as_str()).is_some_and(|task| {
            task.shape == key.shape && task.jobs == key.jobs && state.place_of(task).0 == *key
        })
    })
}

fn may_keep_more(state: &State) -> bool {
    let most = (state.fleet().ready() / SHARE).max(1);
    state.reservations().len() < most || !state.settings.guards.kept_share
}

/// The runner on which a task fits soonest, and by when at the latest if that can be told: of those equally soon
/// the one with the fewest tasks, then the cheapest.
fn soonest(state: &State, task: &Task) -> Option<(RunnerId, Option<Time>)> {
    let mut witnesses = Witnesses::default();
    let is_build = task.kind() == Kind::Build && state.settings.guards.safe_builds;
    let able = |seat: &&Seat| able(state, task, seat) && state.reservations().on(&seat.runner.id).is_none();
    let mut safe = |seat: &&Seat| {
        !is_build || builds::blocked_by(state, &mut witnesses, &task.shape, &task.jobs, seat).is_none()
    };
    let profiles = state.fleet().profiles_for(&task.shape);
    let found = state.fleet().ready_in(&profiles).filter(able).filter(|seat| safe(seat)).map(|seat| {
        let fits_by = fits_by(&task.shape, seat);
        ((fits_by.is_none(), fits_by, seat.held.slots), seat)
    });
    let (_, best) = found.min_by(|(soon, seat), (other_soon, other)| {
        let cost = || seat.runner.cost.total_cmp(&other.runner.cost);
        soon.cmp(other_soon).then_with(cost).then_with(|| seat.runner.id.cmp(&other.runner.id))
    })?;
    Some((best.runner.id.clone(), fits_by(&task.shape, best)))
}

/// Whether a runner is one that a task may wait for.
fn able(state: &State, task: &Task, seat: &Seat) -> bool {
    seat.runner.state() == RunnerState::Ready
        && seat.runner.pull.is_none()
        && !state.is_pulled(&task.shape)
        && fit::never(&task.shape, &seat.runner.offer).is_none()
        && !state.watch.refused(&task.id, &seat.runner.id, state.now())
        && state.groups().of(task).is_none_or(|group| group.admits(&seat.runner.id))
}

/// When a task of `shape` fits on a runner at the latest, if the timeouts of what is there say so.
fn fits_by(shape: &Shape, seat: &Seat) -> Option<Time> {
    let held = seat.tasks.values();
    let mut ends: Vec<(Time, &Arc<Task>)> = held.filter_map(|task| Some((ends_by(task)?, task))).collect();
    ends.sort_by_key(|(end, _)| *end);
    let mut used = seat.held.clone();
    ends.into_iter().find_map(|(end, task)| {
        used.subtract(&task.shape);
        fit::room(shape, &seat.runner.offer, &used).is_none().then_some(end)
    })
}

/// Lets go of what is no longer to be kept, and looks again at lines that may now have a runner kept.
pub(super) fn review(draft: &mut Draft) {
    while let Some(task) = draft.state.watch.considered.changed.first().cloned() {
        if draft.is_full() {
            return draft.more();
        }
        draft.state.watch.considered.changed.remove(&task);
        let kept = draft.state.reservations().of(&task).cloned();
        if let Some(kept) = kept.filter(|kept| !is_wanted(draft.state, kept)) {
            let_go(draft, &kept);
        }
    }
    if may_keep_more(draft.state) {
        let now = draft.now;
        let State { watch, wakes, .. } = &mut *draft.state;
        watch.considered.due.retain(|key, at| {
            let waits = *at > now;
            if !waits {
                wakes.line(key, Wake::ReservationDue);
            }
            waits
        });
    }
}

fn is_wanted(state: &State, kept: &Reservation) -> bool {
    let Some(task) = state.task(kept.task.as_str()).filter(|task| task.is_pending()) else { return false };
    let (key, rank) = state.place_of(task);
    state.backlog().has(&key, rank)
        && state.is_open(&key)
        && state.fleet().get(&kept.runner).is_some_and(|seat| able(state, task, seat))
}

/// A task was placed: its runner is kept no longer, nor is any that its group may not be bound to any more.
pub(super) fn placed(draft: &mut Draft, task: &Task) {
    let state = &*draft.state;
    let mut over: Vec<Arc<Reservation>> = state.reservations().of(&task.id).cloned().into_iter().collect();
    if let Some(group) = &task.shape.group {
        let of_group = |kept: &&Arc<Reservation>| {
            state.task(kept.task.as_str()).is_some_and(|keeper| keeper.shape.group.as_ref() == Some(group))
        };
        let others = state.reservations().iter().filter(|kept| kept.task != task.id).filter(of_group);
        over.extend(others.filter(|kept| !is_wanted(state, kept)).cloned());
    }
    for kept in over {
        let_go(draft, &kept);
    }
}

fn let_go(draft: &mut Draft, kept: &Reservation) {
    draft.delete(Key::Reservation(kept.task.clone()));
    draft.fact(Fact::ReservationOver { task: kept.task.clone(), runner: kept.runner.clone() });
    draft.state.wakes.runner(&kept.runner, Wake::ReservationOver);
}

impl State {
    /// Runners that are kept for a task.
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    /// Notes that a pending task leaves its place.
    pub(super) fn note_leaving(&mut self, task: &TaskId) {
        if self.reservations.by_task.contains_key(task) {
            self.watch.considered.changed.insert(task.clone());
        }
    }

    /// Notes that the row of a runner changed.
    pub(super) fn note_runner_change(&mut self, runner: &RunnerId) {
        if let Some(kept) = self.reservations.by_runner.get(runner) {
            self.watch.considered.changed.insert(kept.task.clone());
        }
    }

    /// Notes that all are to be looked at again.
    pub(super) fn review_reservations(&mut self) {
        self.watch.considered.changed = self.reservations.by_task.keys().cloned().collect();
    }
}
