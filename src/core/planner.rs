//! The planner: which waiting task goes to which runner, now.
//!
//! Story: every line that something woke enters with its first task; the first of all in the order of the pool is
//! placed on the cheapest runner that fits, in the strategy's order; its line enters again with its next task. A
//! task that finds no runner takes its own line out of this turn and nobody else's. Beside the lines enter the
//! prospects of runners that hold something a task wants, which go before the rest within equal priority. Planning
//! again at once would place nothing.
//!
//! Law: deterministic; a placement is only ever made where `fit` sees no misfit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use super::backlog::{LineKey, Place, Rank, Tier};
use super::builds::{self, Witnesses};
use super::draft::Draft;
use super::fleet::Seat;
use super::locality;
use super::numbered::Number;
use super::prospects::Prospects;
use super::pull;
use super::reservation;
use super::state::State;
use super::wake::{Wake, Wakes};
use crate::model::{Assignment, Fact, Kind, RunnerId, RunnerState, Task, TaskState};

/// Beyond so many woken runners, all are looked at.
const FEW_RUNNERS: usize = 64;

/// Which runners a line is held against.
enum Scope {
    All,
    Woken,
}

struct Line {
    key: LineKey,
    number: Number,
    scope: Scope,
    /// Profiles that could ever run it, cheapest first; found when first needed.
    profiles: Option<Vec<usize>>,
    /// The last task that was passed over because a runner had refused it.
    passed: Option<Rank>,
}

/// Who enters the order of one planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entrant {
    Line(usize),
    Prospect(usize),
}

type Heads = BinaryHeap<Reverse<(Place, Entrant)>>;

/// Places what the wake-ups since the last planning made placeable. Returns how many tasks were placed.
pub(super) fn plan(draft: &mut Draft) -> u64 {
    let mut placed = 0;
    while !draft.state.wakes.is_empty() {
        let wakes = std::mem::take(&mut draft.state.wakes);
        placed += plan_once(draft, wakes);
        if draft.is_full() && !draft.state.wakes.is_empty() {
            draft.more();
            break;
        }
    }
    placed
}

/// Plans against everything, to find what no wake-up named.
pub(super) fn sweep(draft: &mut Draft) {
    plan(draft);
    if draft.is_full() {
        return;
    }
    draft.state.wakes.everything(Wake::Everything);
    let found = plan(draft);
    if found > 0 {
        draft.fact(Fact::SweepFound { tasks: found });
    }
}

fn plan_once(draft: &mut Draft, wakes: Wakes) -> u64 {
    let all = wakes.all.is_some() || wakes.runners.len() > FEW_RUNNERS;
    let mut lines = woken_lines(draft.state, &wakes, all);
    let mut prospects = Prospects::of(draft.state, &wakes);
    let mut heads: Heads = BinaryHeap::with_capacity(lines.len() + prospects.entering.len());
    for (number, line) in lines.iter().enumerate() {
        enter_line(draft.state, &mut heads, line, number);
    }
    let mut witnesses = Witnesses::default();
    let mut placed = 0;
    loop {
        heads.extend(
            prospects.entering.drain(..).map(|(place, number)| Reverse((place, Entrant::Prospect(number)))),
        );
        let Some(Reverse((place, entrant))) = heads.pop() else { break };
        if draft.is_full() {
            draft.state.wakes.left_over(wakes);
            draft.more();
            break;
        }
        let found = match entrant {
            Entrant::Line(number) => {
                let found = plan_line(draft, &mut lines[number], place, &wakes.runners, &mut witnesses);
                if found.goes_on() {
                    enter_line(draft.state, &mut heads, &lines[number], number);
                }
                found
            }
            Entrant::Prospect(number) => plan_prospect(draft, &mut prospects, place, number, &mut witnesses),
        };
        if found == Found::Placed {
            if placed == 0 && wakes.all.is_some() {
                // Where one found room, many may.
                draft.expect(draft.state.shelves().pending());
            }
            placed += 1;
        }
    }
    placed
}

/// What became of the first task of a line or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Placed,
    /// It is passed over for a reason of its own.
    Passed,
    /// Nothing has room for it, nor for others like it.
    NoRoom,
}

impl Found {
    fn goes_on(self) -> bool {
        self != Found::NoRoom
    }
}

fn enter_line(state: &State, heads: &mut Heads, line: &Line, number: usize) {
    if let Some(next) = state.backlog().first_in(line.number, line.passed) {
        heads.push(Reverse((next.at(Tier::Rest), Entrant::Line(number))));
    }
}

fn plan_line(
    draft: &mut Draft,
    line: &mut Line,
    place: Place,
    woken: &BTreeMap<RunnerId, Wake>,
    witnesses: &mut Witnesses,
) -> Found {
    let Some(rank) = draft.state.backlog().first_in(line.number, line.passed) else { return Found::NoRoom };
    if rank.at(Tier::Rest) != place {
        // Its first task was placed on a runner that holds something of it.
        return Found::Passed;
    }
    // Lines may have been merged or moved by what was placed before.
    let Some(task) = draft.state.waiting(&line.key, rank).cloned() else { return Found::NoRoom };
    match find_runner(draft.state, line, &task, woken, witnesses) {
        Some(runner) => {
            assign(draft, &task, &runner, Tier::Rest);
            Found::Placed
        }
        None if draft.state.watch.refusals.contains_key(&task.id) => {
            line.passed = Some(rank);
            Found::Passed
        }
        None => {
            reservation::consider(draft, &line.key, &task);
            Found::NoRoom
        }
    }
}

fn plan_prospect(
    draft: &mut Draft,
    prospects: &mut Prospects,
    place: Place,
    number: usize,
    witnesses: &mut Witnesses,
) -> Found {
    let Some(task) = prospects.take(draft.state, number, place) else { return Found::NoRoom };
    let runner = {
        let mut may = may_take(draft.state, &task, witnesses);
        prospects.best_holder(draft.state, place, &mut may)
    };
    let (found, passed) = match runner {
        Some(runner) => {
            assign(draft, &task, &runner, place.tier());
            (Found::Placed, None)
        }
        None if draft.state.watch.refusals.contains_key(&task.id) => {
            (Found::Passed, Some(draft.state.place_of(&task).1))
        }
        None => (Found::NoRoom, None),
    };
    prospects.go_on(draft.state, number, found == Found::Placed, passed);
    found
}

fn woken_lines(state: &State, wakes: &Wakes, all: bool) -> Vec<Line> {
    // One that is woken may have become empty, and may have been forgotten.
    let line = |key: &LineKey, scope| {
        let number = state.backlog().number(key)?;
        Some(Line { key: key.clone(), number, scope, profiles: None, passed: None })
    };
    if all || !wakes.runners.is_empty() {
        let scope = |key| if all || wakes.lines.contains_key(key) { Scope::All } else { Scope::Woken };
        let keys = state.backlog().lines().map(|(key, _)| key).filter(|key| state.is_open(key));
        return keys.filter_map(|key| line(key, scope(key))).collect();
    }
    wakes.lines.keys().filter(|key| state.is_open(key)).filter_map(|key| line(key, Scope::All)).collect()
}

fn find_runner(
    state: &State,
    line: &mut Line,
    task: &Task,
    woken: &BTreeMap<RunnerId, Wake>,
    witnesses: &mut Witnesses,
) -> Option<RunnerId> {
    let strategy = state.settings.strategy;
    let group = state.groups().of(task);
    let mut may = may_take(state, task, witnesses);
    let fleet = state.fleet();
    // A group that may be bound to no other runner is held against its own alone.
    let bound: Option<Vec<&RunnerId>> = group.and_then(|group| group.closed_to()).map(Iterator::collect);
    let few: Option<Vec<&RunnerId>> = match (&line.scope, bound) {
        (Scope::All, None) if state.is_pulled(&task.shape) => Some(state.pullers_of(&task.shape)),
        (Scope::All, bound) => bound,
        (Scope::Woken, _) => Some(woken.keys().collect()),
    };
    let mut best = |line: &mut Line, wanted| match &few {
        Some(few) => fleet.best_of(few.iter().copied(), &task.shape, wanted, strategy, &mut may),
        None => {
            let profiles = line.profiles.get_or_insert_with(|| fleet.profiles_for(&task.shape));
            fleet.best(&task.shape, profiles, wanted == RunnerState::Draining, strategy, &mut may)
        }
    };
    let found = best(line, RunnerState::Ready).or_else(|| {
        // A draining runner only where no other has room.
        if line.key.of_running_build { best(line, RunnerState::Draining) } else { None }
    });
    found.map(|seat| seat.runner.id.clone())
}

/// What excludes a runner for reasons of the task's own: that it refused it, or the rule for builds.
fn may_take<'a>(
    state: &'a State,
    task: &'a Task,
    witnesses: &'a mut Witnesses,
) -> impl FnMut(&Seat) -> bool + 'a {
    let refused = state.watch.refusals.contains_key(&task.id);
    let reserving = !state.reservations().is_empty();
    let is_build = task.kind() == Kind::Build && state.settings.guards.safe_builds;
    let group = state.groups().of(task);
    let pulled = state.is_pulled(&task.shape);
    move |seat| {
        let asked_for = pulled || seat.runner.pull.is_some();
        (!asked_for || pull::misfit(state, &task.shape, seat).is_none())
            && group.is_none_or(|group| group.admits(&seat.runner.id))
            && (!refused || !state.watch.refused(&task.id, &seat.runner.id, state.now()))
            && (!reserving || reservation::against(state, task, seat).is_none())
            && (!is_build || builds::blocked_by(state, witnesses, &task.shape, &task.jobs, seat).is_none())
    }
}

fn assign(draft: &mut Draft, task: &Arc<Task>, runner: &RunnerId, near: Tier) {
    if let Some(found) = locality::found(draft.state, task, runner, near) {
        draft.fact(found);
    }
    let row = draft.state.runner(runner).expect("the planner places on known runners");
    let incarnation = row.incarnation.clone();
    let request = draft.state.serve_request(runner);
    let token = draft.next_token();
    let mut assigned = Task::clone(task);
    assigned.attempt += 1;
    assigned.state = TaskState::Assigned(Box::new(Assignment {
        runner: runner.clone(),
        incarnation,
        token,
        assigned: draft.now,
        deadline: draft.now + draft.state.settings.assignment_deadline,
        confirmed: false,
        started: None,
        stop: None,
        pulled: request.as_ref().map(|open| Box::new(open.puller.clone())),
    }));
    let given = request.map(|open| (open, Task::clone(&assigned)));
    draft.put_task(assigned);
    reservation::placed(draft, task);
    match given {
        Some((open, task)) => pull::give(draft, &open, &task),
        None => draft.deliver(runner),
    }
}
