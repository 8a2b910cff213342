//! Groups: tasks that share a bound on their runners, an order, or a fate.
//!
//! Laws: a group is bound to at most `max_runners` runners. The tasks of an ordered group start in the order of
//! their index, one at a time, each once every known task before it has ended; so a task that comes back starts
//! again before any later one. A task that ends other than `succeeded` stops a group with `stop_on_failure`: in an ordered
//! group what comes after it, else all of it, ends `cancelled`, over as many turns as that takes. A runner
//! dedicated to a group that can have nothing more of it is told to leave.

mod members;

use std::sync::Arc;

pub use members::{Groups, Members};

use super::commands::ask_to_cancel;
use super::draft::Draft;
use super::fit::{self, Misfit};
use super::fleet::Seat;
use super::state::State;
use crate::model::{
    Fact, Group, GroupId, Key, NewTask, Outcome, Row, Runner, RunnerId, Standing, Stopped, Task, Terms,
};

/// The most runners an explanation names.
const MOST_NAMED: usize = 8;

/// Why a submission contradicts its group, which it then does not join.
pub(super) fn contradiction(state: &State, new: &NewTask) -> Option<Arc<str>> {
    let id = new.shape.group.as_ref()?;
    let group = state.groups().get(id)?;
    let row = group.row()?;
    let remedy = "send the same, or use another group id: this one is forgotten with its last task";
    if let Some((field, said, known)) = other_term(new.grouping.terms, row.terms) {
        return Some(format!("group.{field}: is {said}; group {id} has {known}; {remedy}").into());
    }
    if !row.terms.ordered {
        return None;
    }
    if new.build != row.build {
        let shown = |build: &Option<_>| build.as_ref().map_or("none".to_owned(), |build| format!("{build}"));
        return Some(
            format!(
                "group.ordered: the task belongs to build {}, the tasks of ordered group {id} belong to build {}; a \
                 build must not wait for tasks outside it, use a group of its own",
                shown(&new.build),
                shown(&row.build)
            )
            .into(),
        );
    }
    let index = new.grouping.index?;
    let holder = group.at(index)?;
    Some(
        format!(
            "group.index: is {index}, which task {holder} of group {id} has already; give each task of an ordered \
             group an index of its own"
        )
        .into(),
    )
}

fn other_term(said: Terms, known: Terms) -> Option<(&'static str, String, String)> {
    let most = |terms: Terms| terms.max_runners.map_or("no limit".to_owned(), |most| most.to_string());
    if said.max_runners != known.max_runners {
        return Some(("max_runners", most(said), most(known)));
    }
    if said.ordered != known.ordered {
        return Some(("ordered", said.ordered.to_string(), known.ordered.to_string()));
    }
    (said.stop_on_failure != known.stop_on_failure)
        .then(|| ("stop_on_failure", said.stop_on_failure.to_string(), known.stop_on_failure.to_string()))
}

/// Writes the row of a group whose first task this is. It counts its first change when the turn ends.
pub(super) fn found(draft: &mut Draft, new: &NewTask) {
    let Some(id) = &new.shape.group else { return };
    if draft.state.groups().get(id).and_then(Members::row).is_some() {
        return;
    }
    let terms = new.grouping.terms;
    draft.put(Row::Group(Arc::new(Group {
        id: id.clone(),
        terms,
        build: new.build.clone().filter(|_| terms.ordered),
        stopped: None,
        wanted: 0,
        modification_count: 0,
        last_modified: draft.now,
        extra: Default::default(),
    })));
}

/// Why a task that is submitted to a group ends at once.
pub(super) fn is_over(state: &State, task: &Task) -> Option<String> {
    let row = state.groups().of(task)?.row()?;
    row.has_stopped(task.index).then(|| stopped_reason(row))
}

/// Why tasks of a stopped group end.
pub(super) fn stopped_reason(row: &Group) -> String {
    let reason = row.stopped.as_ref().map_or("", |stopped| &stopped.reason);
    format!("its group {} was stopped: {reason}", row.id)
}

/// A task has ended. One that did not succeed stops a group with `stop_on_failure`.
pub(super) fn ended(draft: &mut Draft, task: &Task, outcome: Outcome) {
    if outcome == Outcome::Succeeded || !draft.state.settings.guards.group_stops {
        return;
    }
    let Some(row) = draft.state.groups().of(task).and_then(Members::row).cloned() else { return };
    // What was cancelled because the group has stopped, and what comes later still, says nothing new.
    if !row.terms.stop_on_failure || row.has_stopped(task.index) {
        return;
    }
    let after = task.index.filter(|_| row.terms.ordered);
    if row.stopped.as_ref().is_some_and(|stopped| stopped.after == after) {
        return;
    }
    let reason: Arc<str> = format!("{} ended {outcome}", task.id).into();
    let mut stopped = Group::clone(&row);
    stopped.stopped = Some(Stopped { after, reason: reason.clone() });
    draft.put(Row::Group(Arc::new(stopped)));
    draft.fact(Fact::GroupStopped { group: row.id.clone(), task: task.id.clone(), reason });
}

/// Ends what is left of stopped groups, as far as the budget goes.
pub(super) fn work_off(draft: &mut Draft) {
    while let Some((group, task)) = draft.state.groups().next_to_work_off() {
        let row = draft.state.groups().get(group).and_then(Members::row).expect("a stopped group has a row");
        let reason = stopped_reason(row);
        let task = draft.task(task).expect("a group names only tasks that are there");
        if draft.is_full() {
            return draft.more();
        }
        if task.is_pending() {
            draft.end_undone(&task, Outcome::Cancelled, &reason);
        } else {
            ask_to_cancel(draft, &task, &reason.into());
        }
    }
}

/// Writes the rows of the groups that this turn changed: the last thing a turn does.
pub(super) fn write_changed(draft: &mut Draft) {
    for id in std::mem::take(&mut draft.state.groups.changed) {
        let Some(group) = draft.state.groups().get(&id) else { continue };
        match (group.known(), group.row()) {
            (0, Some(_)) => {
                if group.is_pulled() {
                    draft.state.watch.groups_forgotten = true;
                    draft.more();
                }
                draft.delete(Key::Group(id));
            }
            (_, Some(row)) => {
                let mut row = Group::clone(row);
                row.modification_count += 1;
                row.last_modified = draft.now;
                draft.put(Row::Group(Arc::new(row)));
            }
            (_, None) => {}
        }
    }
}

/// Whether a runner is dedicated to a group that can have nothing more for it: all its tasks have ended, or none
/// of them could ever run there. A group nobody has submitted to yet may still have everything.
fn is_done(state: &State, seat: &Seat) -> Option<GroupId> {
    let offer = &seat.runner.offer;
    let id = offer.group.as_ref()?;
    let group = state.groups().get(id)?;
    let could = |shape| fit::never(shape, offer).is_none();
    let left = group.live().filter_map(|task| state.task(task.as_str())).any(|task| could(&task.shape));
    // A running build may still submit a job for it.
    let expected = state.job_shapes().any(|shape| could(shape));
    (!left && !expected && seat.tasks.is_empty()).then(|| id.clone())
}

/// Whether `runner` is to leave because its group has nothing left for it; from then on it gets nothing more.
pub(super) fn dismiss(draft: &mut Draft, runner: &Runner) -> bool {
    match runner.standing {
        Standing::Dismissed => return true,
        // What an operator holds stays.
        Standing::Held { .. } => return false,
        Standing::Ready | Standing::Draining => {}
    }
    let seat = draft.state.fleet().get(&runner.id);
    let Some(group) = seat.and_then(|seat| is_done(draft.state, seat)) else { return false };
    let mut dismissed = runner.clone();
    dismissed.standing = Standing::Dismissed;
    draft.put_runner(dismissed);
    draft.fact(Fact::RunnerDismissed { runner: runner.id.clone(), group });
    true
}

/// What of its group keeps a pending task from `runner`: another goes first, or the group is bound elsewhere.
pub(super) fn misfit(state: &State, task: &Task, runner: &RunnerId) -> Option<Misfit> {
    let group = task.shape.group.clone()?;
    let members = state.groups().get(&group)?;
    if let Some(first) = members.before(task) {
        return Some(Misfit::NotItsTurn { group, first: first.clone() });
    }
    (!members.admits(runner)).then(|| Misfit::GroupFull { group, runners: members.runners().len() })
}

/// What a pending task waits for in its group, if for anything.
pub(super) fn waiting_reason(state: &State, task: &Task) -> Option<String> {
    let group = task.shape.group.as_ref()?;
    let members = state.groups().get(group)?;
    if let Some(row) = members.row().filter(|row| row.has_stopped(task.index)) {
        return Some(stopped_reason(row));
    }
    if let Some(first) = members.before(task).and_then(|first| state.task(first.as_str())) {
        let (index, stands) = (first.index.unwrap_or_default(), first.state_word());
        return Some(format!(
            "it waits for its turn in group {group}: {} (index {index}, {stands}) goes first",
            first.id
        ));
    }
    let bound: Vec<&str> = members.closed_to()?.map(|runner| runner.as_str()).take(MOST_NAMED).collect();
    let more = members.runners().len().saturating_sub(bound.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!("its group {group} is bound to {}{more} and may have no other runner", bound.join(", ")))
}
