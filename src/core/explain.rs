//! Why: the verdict on a task, its position, what it waits for; and why a runner is idle.
//!
//! Law: asks the same `fit`, `backlog`, `locality` and `builds` as the planner does, so an explanation can never disagree
//! with a placement.

use std::sync::Arc;

use super::builds::{self, Witnesses};
use super::fit::{self, Misfit};
use super::fleet::Seat;
use super::group;
use super::intent;
use super::ladder::Step;
use super::locality;
use super::pull;
use super::reservation;
use super::state::State;
use super::timers::waits_until;
use super::verdict::{self, Verdict};
use crate::model::{ClassId, Kind, RunnerId, Standing, Task, TaskState};

/// Why a task stands where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// For a pending task.
    pub verdict: Option<Verdict>,
    /// For a pending task whose time has come: how many would be placed before it.
    pub position: Option<usize>,
    /// In sentences, the most important first.
    pub reasons: Vec<String>,
    /// Each runner with what is in the way there, if anything.
    pub runners: Vec<(RunnerId, Option<Misfit>)>,
    /// Each declared or remembered class with what is in the way there, if anything.
    pub classes: Vec<(ClassId, Option<Misfit>)>,
}

/// Explains the task called `id`.
pub fn why(state: &State, id: &str) -> Option<Why> {
    let task = state.task(id)?;
    if !task.is_pending() {
        return Some(Why {
            verdict: None,
            position: None,
            reasons: settled_reasons(task),
            runners: Vec::new(),
            classes: Vec::new(),
        });
    }
    let runners: Vec<(RunnerId, Option<Misfit>)> =
        state.fleet().seats().map(|seat| (seat.runner.id.clone(), misfit(state, task, seat))).collect();
    let declared = state.settings.classes.iter().map(|class| (&class.id, &class.offer));
    let classes = declared
        .chain(state.classes().map(|class| (&class.id, &class.offer)))
        .map(|(id, offer)| (id.clone(), fit::never(&task.shape, offer)))
        .collect();
    let never = verdict::never_fits(state, &task.shape, &task.jobs);
    let verdict = match &never {
        Some(_) => Verdict::NeverFits,
        None if runners.iter().any(|(_, misfit)| misfit.is_none()) => Verdict::FitsNow,
        None => Verdict::FitsLater,
    };
    let has_turn = state.groups().has_turn(task);
    let mut reasons = waiting_reasons(state, task);
    match never {
        Some(misfits) if state.watch.leading && state.watch.is_settling() => {
            reasons.push(format!("the fleet is still settling; so far, {}", verdict::rejection(&misfits)));
        }
        Some(misfits) => reasons.push(verdict::rejection(&misfits)),
        // Until its turn comes, no runner is what it waits for.
        None if !has_turn => {}
        None => reasons.extend(fleet_reason(verdict, &runners)),
    }
    reasons.extend(intent::reasons(state, task));
    let waits = waits_until(state, task).is_some() || waiting_step(state, task).is_some();
    let position = (has_turn && !waits).then(|| {
        let (key, rank) = state.place_of(task);
        state.backlog().ahead_of(&key, rank).0
    });
    Some(Why { verdict: Some(verdict), position, reasons, runners, classes })
}

/// What keeps a pending task from being placed on a runner now.
pub fn misfit(state: &State, task: &Task, seat: &Seat) -> Option<Misfit> {
    if let Some(misfit) = seat.misfit(&task.shape, state.is_of_running_build(task)) {
        return Some(misfit);
    }
    if let Some(misfit) = pull::misfit(state, &task.shape, seat) {
        return Some(misfit);
    }
    if let Some(misfit) = group::misfit(state, task, &seat.runner.id) {
        return Some(misfit);
    }
    if !locality::may_have(state, task, &seat.runner.id) {
        return Some(Misfit::HoldsNothingOfIt);
    }
    if state.watch.refused(&task.id, &seat.runner.id, state.now()) {
        return Some(Misfit::RefusedBefore);
    }
    let first = first_of_its_line(state, task);
    if let Some(reserved) = first.iter().find_map(|first| reservation::misfit(state, first, seat)) {
        return Some(reserved);
    }
    if let Some(reserved) = reservation::misfit(state, task, seat) {
        return Some(reserved);
    }
    if task.kind() != Kind::Build {
        return None;
    }
    let mut witnesses = Witnesses::default();
    builds::blocked_by(state, &mut witnesses, &task.shape, &task.jobs, seat)
        .map(|shape| Misfit::NoRoomForJobs { shape })
}

/// The task that the planner tries before `task`, of the same line: where that has to pass, so does `task`.
fn first_of_its_line(state: &State, task: &Task) -> Option<Arc<Task>> {
    let (key, rank) = state.place_of(task);
    let mut first = state.backlog().first(&key, None);
    while let Some(before) = first.filter(|before| *before < rank) {
        let ahead = state.waiting(&key, before)?;
        if !state.watch.refusals.contains_key(&ahead.id) {
            return Some(ahead.clone());
        }
        first = state.backlog().first(&key, Some(before));
    }
    None
}

fn settled_reasons(task: &Task) -> Vec<String> {
    match &task.state {
        TaskState::Pending { .. } => Vec::new(),
        TaskState::Assigned(held) | TaskState::Running(held) => {
            let mut reasons =
                vec![format!("{} on {} under token {}", task.state_word(), held.runner, held.token)];
            if let Some(stop) = &held.stop {
                reasons.push(format!("{} was asked to stop it: {}", held.runner, stop.reason));
            }
            reasons
        }
        TaskState::Ended(ending) => {
            let why = ending.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            vec![format!("ended {}{why}", ending.outcome)]
        }
    }
}

fn waiting_reasons(state: &State, task: &Task) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(frozen) = &state.pool().frozen {
        reasons.push(format!("the pool is frozen: {frozen}"));
    }
    if state.pool().is_paused() && !state.is_of_running_build(task) {
        reasons.push("the pool is paused".to_owned());
    }
    if state.is_paused(&task.shape.queue) {
        reasons.push(format!("queue {} is paused", task.shape.queue));
    }
    if let TaskState::Pending { reason: Some(reason), .. } = &task.state {
        reasons.push(format!("it is pending again: {reason}"));
    }
    reasons.extend(pull::waiting_reason(state, &task.shape));
    let has_turn = state.groups().has_turn(task);
    reasons.extend(group::waiting_reason(state, task));
    match waits_until(state, task) {
        Some(at) => reasons.push(format!("it waits until {at}")),
        None if !has_turn => {}
        None if waiting_step(state, task).is_some() => reasons.extend(locality_reason(state, task)),
        None => {
            let (key, rank) = state.place_of(task);
            let (all, own) = state.backlog().ahead_of(&key, rank);
            if own > 0 {
                reasons.push(format!("{own} tasks of the same shape are placed before it ({all} in all)"));
            }
        }
    }
    if let Some(kept) = state.reservations().of(&task.id) {
        let fits_by = kept.fits_by.map(|at| format!(", where it fits by {at}")).unwrap_or_default();
        reasons.push(format!("{} is kept for it since {}{fits_by}", kept.runner, kept.since));
    }
    if let Some(shape) = builds::stranded_shape(state).filter(|_| task.kind() == Kind::Build) {
        reasons.push(format!("no build starts: no runner has room for a {shape} of a running build"));
    }
    reasons
}

/// The step of its queue's locality a task waits on, if it does.
fn waiting_step(state: &State, task: &Task) -> Option<Step> {
    state.ladder().step(task).filter(|step| *step != Step::Open)
}

fn locality_reason(state: &State, task: &Task) -> Option<String> {
    let (step, wait) = (waiting_step(state, task)?, task.wait.as_deref()?);
    let output = task.artifacts.as_ref().and_then(|own| own.output.as_ref());
    let inputs = task.artifacts.as_ref().map_or(&[][..], |own| &own.inputs);
    let of_inputs = match inputs {
        [] => "it names no inputs that a runner could hold".to_owned(),
        [one] => format!("it waits for a runner that holds {one}"),
        [one, more @ ..] => {
            format!("it waits for a runner that holds one of its inputs: {one} or {} more", more.len())
        }
    };
    Some(match (step, output) {
        (Step::Cache, Some(output)) => format!(
            "it waits for a runner that holds {output} until {}, then for one that holds an input until {}",
            wait.cache_until, wait.deps_until
        ),
        _ => format!("{of_inputs}; from {} on any runner may have it", wait.deps_until),
    })
}

fn fleet_reason(verdict: Verdict, runners: &[(RunnerId, Option<Misfit>)]) -> Option<String> {
    match verdict {
        Verdict::FitsNow => {
            let (runner, _) = runners.iter().find(|(_, misfit)| misfit.is_none())?;
            Some(format!("it fits on {runner} now"))
        }
        _ if runners.is_empty() => {
            Some("no runner is here; it waits for one of a kind that was here or is declared".to_owned())
        }
        _ => {
            let (runner, misfit) = runners
                .iter()
                .filter_map(|(runner, misfit)| Some((runner, misfit.as_ref()?)))
                .max_by_key(|(_, misfit)| misfit.closeness())?;
            Some(format!("no runner has room for it now; the closest is {runner}: {misfit}"))
        }
    }
}

/// Why a runner has room for more and gets nothing, or that it is full.
pub fn idle(state: &State, seat: &Seat) -> String {
    if seat.runner.lost.is_some() {
        return "it is lost: not heard of for longer than its lease".to_owned();
    }
    match &seat.runner.standing {
        Standing::Held { reason } => return format!("it is held: {reason}"),
        Standing::Draining => return format!("it is draining; {} tasks are left", seat.tasks.len()),
        Standing::Dismissed if seat.runner.is_subscription() => {
            return format!("it was ended; {} tasks are left", seat.tasks.len());
        }
        Standing::Dismissed => return "its group has nothing left for it: it is told to leave".to_owned(),
        Standing::Ready => {}
    }
    if seat.runner.pull.is_some() && seat.asking == 0 {
        return "it gets a task when one is asked for".to_owned();
    }
    if let Some(kept) = state.reservations().on(&seat.runner.id) {
        let fits_by = kept.fits_by.map(|at| format!(", which fits by {at}")).unwrap_or_default();
        return format!("it is kept for {}{fits_by}", kept.task);
    }
    if state.backlog().is_empty() {
        return "nothing waits".to_owned();
    }
    let mut first: Option<(String, Misfit)> = None;
    for (key, line) in state.backlog().lines() {
        let Some(task) = line.first().and_then(|rank| state.waiting(key, *rank)) else { continue };
        if !state.is_open(key) {
            continue;
        }
        match misfit(state, task, seat) {
            None => return format!("{} can start here in the next turn", task.id),
            Some(misfit) if first.as_ref().is_none_or(|(_, best)| misfit.closeness() > best.closeness()) => {
                first = Some((task.id.to_string(), misfit));
            }
            Some(_) => {}
        }
    }
    match first {
        Some((task, misfit)) => format!("nothing that waits fits; the closest is {task}: {misfit}"),
        None if state.pool().is_paused() => "the pool is paused".to_owned(),
        None => "every queue with waiting tasks is paused".to_owned(),
    }
}
