//! Wishes: runners that a program asks for on behalf of a group it pulls.
//!
//! Law: a group wishes for no more runners than it may be bound to or has tasks left for, and what is bound or coming
//! counts. A wish stands in the group's row until that many are bound; it is turned into intents with everything else
//! that is asked for (`intent`), and a runner that registers with such an intent is bound to the group.

use std::sync::Arc;

use super::draft::Draft;
use super::fit;
use super::group::Members;
use super::input::Commanded;
use super::state::State;
use super::watch::Looked;
use crate::model::{
    ClassId, DeclaredClass, Fact, Group, GroupId, IntentId, LEASE, Pull, Row, Runner, RunnerId, Shape, TaskId,
};

/// How many tasks an intent names.
const NAMED: usize = 5;

/// Runners of a class that a group wishes for.
pub(super) struct Wish {
    pub class: ClassId,
    pub shape: Arc<Shape>,
    pub runners: u64,
    /// Its tasks that are left, and the first of them.
    pub tasks: u64,
    pub named: Vec<TaskId>,
}

/// One more runner is asked for, unless enough are bound or coming.
pub(super) fn ask_for(draft: &mut Draft, id: &GroupId) -> Commanded {
    let Some(group) = draft.state.groups().get(id).filter(|group| group.row().is_some()) else {
        return Commanded::UnknownGroup;
    };
    let row = group.row().expect("it was just seen").clone();
    let most = row.terms.max_runners.unwrap_or(u32::MAX).min(count(group.live().len()));
    let there = count(group.runners().len()) + coming(draft.state, id, |intent| intent.count());
    if there >= most {
        return Commanded::Unchanged;
    }
    if first_waiting(draft.state, group).is_some_and(|shape| class_for(draft.state, &shape).is_none()) {
        let reason = format!(
            "no declared class could run a task of group {id}, or none may have more runners: see [[class]]"
        );
        return Commanded::PullRefused { reason: reason.into() };
    }
    wish(draft, &row, there + 1);
    Commanded::Done
}

/// A runner was removed from the group: it wishes for no other in its place.
pub(super) fn fewer(draft: &mut Draft, id: &GroupId) {
    let Some(group) = draft.state.groups().get(id) else { return };
    let Some(row) = group.row().filter(|row| row.wanted > 0).cloned() else { return };
    let wanted = if group.is_pulled() { row.wanted - 1 } else { 0 };
    wish(draft, &row, wanted);
}

fn wish(draft: &mut Draft, row: &Group, wanted: u32) {
    draft.put(Row::Group(Arc::new(Group { wanted, ..row.clone() })));
    draft.state.groups.touch(&row.id);
    draft.state.watch.demand = Looked { looked: None, changed: true };
}

/// What all groups wish for and is neither bound nor starting.
pub(super) fn all(state: &State) -> Vec<Wish> {
    let wishing = state.groups().after(None).filter_map(|(id, group)| {
        let wanted = group.row()?.wanted;
        let there = count(group.runners().len()) + coming(state, id, |intent| intent.starting);
        let runners = wanted.checked_sub(there).filter(|short| *short > 0)?;
        let shape = first_waiting(state, group)?;
        let class = class_for(state, &shape)?.id.clone();
        let named = group.live().take(NAMED).cloned().collect();
        Some(Wish { class, shape, runners: runners.into(), tasks: group.live().len() as u64, named })
    });
    wishing.collect()
}

fn coming(state: &State, group: &GroupId, count: impl Fn(&crate::model::Intent) -> u32) -> u32 {
    let of_group = state.intents().iter().filter(|intent| intent.shape.group.as_ref() == Some(group));
    of_group.map(|intent| count(intent)).sum()
}

fn first_waiting(state: &State, group: &Members) -> Option<Arc<Shape>> {
    let live = group.live().filter_map(|id| state.task(id.as_str()));
    live.filter(|task| task.is_pending()).map(|task| task.shape.clone()).next()
}

/// The cheapest class that could run the shape, may have one more runner, and has not said that none will come.
fn class_for<'a>(state: &'a State, shape: &Arc<Shape>) -> Option<&'a DeclaredClass> {
    let intents = state.intents();
    let able = state.settings.classes.iter().filter(|class| {
        let closed = intents.of(&class.id, shape).is_some_and(|intent| intent.closed.is_some());
        let there = intents.members(&class.id) + intents.starting(&class.id);
        !closed && there < class.max && fit::never(shape, &class.offer).is_none()
    });
    able.min_by(|a, b| a.cost.total_cmp(&b.cost))
}

/// The group that an intent asks a runner for, if a program pulls it.
pub(super) fn group_of(state: &State, intent: &IntentId) -> Option<GroupId> {
    let group = state.intents().get(intent)?.shape.group.clone()?;
    state.groups().get(&group)?.is_pulled().then_some(group)
}

/// Binds a runner that came for a group.
pub(super) fn bind_arrived(draft: &mut Draft, id: &RunnerId, group: &GroupId) {
    let admits = draft.state.groups().get(group).is_some_and(|members| members.admits(id));
    let Some(row) = draft.runner(id).filter(|row| admits && row.pull.is_none()) else { return };
    let mut bound = Runner::clone(&row);
    bound.pull = Some(Pull { lease: LEASE, group: Some(group.clone()) });
    draft.put_runner(bound);
    draft.fact(Fact::RunnerBound { runner: id.clone(), group: group.clone() });
}

/// A count of runners or tasks, which a table holds far fewer of than this can say.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
