//! What must be true of every state after every turn.
//!
//! Law: everything derived equals what a fresh state derives from the same rows, and no runner is given more
//! than it has. Tests and the simulation ask after every turn; `longshore table check` asks of a stored table.

use std::collections::BTreeSet;

use super::draft::{Draft, TurnBudget};
use super::planner;
use super::state::State;
use super::wake::Wake;
use crate::model::{Head, Key, Kind, RunnerId, TaskState};

/// How many tasks planning again at once would place: what no wake-up named. 0 after every turn that left
/// nothing for the next.
pub fn missed(state: &State) -> u64 {
    if state.pool().frozen.is_some() {
        return 0;
    }
    let mut again = state.clone();
    again.wakes.everything(Wake::Everything);
    let now = again.now();
    let budget = TurnBudget { rows: usize::MAX, bytes: usize::MAX };
    planner::plan(&mut Draft::new(&mut again, now, budget, 0))
}

/// Every rule that does not hold, in words. Empty means the state is sound.
pub fn check(state: &State) -> Vec<String> {
    let mut broken = Vec::new();
    rebuild(state, &mut broken);
    tasks(state, &mut broken);
    runners(state, &mut broken);
    groups(state, &mut broken);
    broken.extend(state.intents().check());
    broken
}

fn rebuild(state: &State, broken: &mut Vec<String>) {
    let head =
        Head { number: state.turn, id: state.last_id, epoch: state.epoch, at: state.now, released: false };
    let fresh = State::load(state.settings.clone(), state.table, head, state.rows());
    let mut differs = |what: &str, same: bool| {
        if !same {
            broken.push(format!("{what} differs from what the rows say"));
        }
    };
    differs("the fleet", fresh.fleet == state.fleet);
    differs("the subscriptions", fresh.pullers == state.pullers);
    differs("the backlog", fresh.backlog == state.backlog);
    differs("the groups", fresh.groups == state.groups);
    differs("the families of builds", fresh.families == state.families);
    differs("the delayed tasks", fresh.delayed == state.delayed);
    differs("the deadlines", fresh.deadlines == state.deadlines);
    differs("the ended tasks", fresh.ended == state.ended);
    differs("the lost runners", fresh.lost == state.lost);
    differs("the artifacts", fresh.artifacts == state.artifacts);
    let same_ladder = state.ladder.same(&state.artifacts, &fresh.ladder, &fresh.artifacts);
    differs("the ladder", same_ladder);
    let sits = |(runner, seat): (&RunnerId, Option<_>)| seat == state.fleet.number(runner);
    differs("where those who hold artifacts sit", state.artifacts.seated().all(sits));
    differs("the runners that are away with artifacts", fresh.absent_holders == state.absent_holders);
    differs("the reservations", fresh.reservations == state.reservations);
    differs("the intents", fresh.intents == state.intents);
    differs("the shelves", fresh.shelves == state.shelves);
    let counts = |state: &State| {
        let mut counts = state.counts.clone();
        counts.pending.retain(|_, count| *count > 0);
        counts
    };
    differs("what holds for the pool", fresh.pool == state.pool);
    differs("the counts", counts(&fresh) == counts(state));
}

fn tasks(state: &State, broken: &mut Vec<String>) {
    let (mut tokens, mut sequences) = (BTreeSet::new(), BTreeSet::new());
    for task in state.tasks() {
        if !sequences.insert(task.sequence) {
            broken.push(format!("{} shares its place {} in the order of admission", task.id, task.sequence));
        }
        if let Some(held) = task.assignment() {
            if !tokens.insert(held.token) {
                broken.push(format!("token {} of {} is live twice", held.token, task.id));
            }
            if state.runner(&held.runner).is_none() {
                broken.push(format!(
                    "{} is {} on {}, which has no row",
                    task.id,
                    task.state_word(),
                    held.runner
                ));
            }
            if held.token.turn > state.turn {
                broken.push(format!("token {} of {} is of a turn to come", held.token, task.id));
            }
        }
        if !task.is_ended() && state.body(task.id.as_str()).is_none() {
            broken.push(format!("{} is {} and has no body", task.id, task.state_word()));
        }
        if (task.kind() == Kind::Build) == task.jobs.is_empty() {
            broken.push(format!("{} is a {} with {} job shapes", task.id, task.kind(), task.jobs.len()));
        }
        if let TaskState::Running(held) = &task.state
            && (held.started.is_none() || !held.confirmed)
        {
            broken.push(format!("{} runs and was never reported to have started", task.id));
        }
    }
    for (id, entry) in &state.entries {
        match (&entry.task, &entry.body) {
            (None, Some(_)) => {
                broken.push(format!("{} stands there without its task", Key::Spec(id.clone())))
            }
            (None, None) => broken.push(format!("{id} has an entry and no row")),
            (Some(_), _) => {}
        }
    }
}

fn runners(state: &State, broken: &mut Vec<String>) {
    for seat in state.fleet().seats() {
        let offer = &seat.runner.offer;
        let fewer_slots = seat.held.slots > offer.slots;
        let shortage = offer.resources.as_ref().and_then(|has| seat.held.resources.shortage(has));
        // A runner may register with less than it holds; it gets nothing more until that has ended.
        let shrank = seat
            .tasks
            .values()
            .any(|task| task.assignment().is_some_and(|held| held.assigned <= seat.runner.registered));
        if (fewer_slots || shortage.is_some()) && !shrank {
            broken.push(format!("{} holds {} of {:?}", seat.runner.id, seat.held.resources, offer.resources));
        }
    }
}

fn groups(state: &State, broken: &mut Vec<String>) {
    for (id, group) in state.groups().after(None) {
        let Some(row) = group.row() else {
            // Runners may still be bound to one that was just forgotten.
            if group.known() > 0 {
                broken.push(format!("group {id} has {} tasks and no row", group.known()));
            }
            continue;
        };
        if group.known() == 0 {
            broken.push(format!("group {id} has a row and no task"));
        }
        let bound = group.runners().count();
        if state.settings.guards.group_bound
            && row.terms.max_runners.is_some_and(|most| bound > most as usize)
        {
            broken.push(format!("group {id} is bound to {bound} runners of {:?}", row.terms.max_runners));
        }
        for index in group
            .live()
            .filter_map(|task| state.task(task.as_str()))
            .filter(|task| row.terms.ordered != task.index.is_some())
        {
            broken.push(format!("{} of group {id} has index {:?}", index.id, index.index));
        }
    }
}
