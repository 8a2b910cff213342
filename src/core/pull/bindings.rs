//! Groups whose runners a program binds, and asks for their tasks one by one.
//!
//! Law: a group is bound to no more runners than it may be, whoever binds them; a change that was made on another
//! state of the group than it has is refused and changes nothing. Removing a runner gives back what it has not
//! started. Removing the last one takes everything back: whoever removes it vouches that nothing of it runs on.

use std::sync::Arc;

use super::super::attempt;
use super::super::draft::Draft;
use super::super::input::Commanded;
use super::super::wishes;
use super::give_back;
use super::requests::close_all;
use crate::model::{
    Binding, Fact, GroupId, Kind, Offer, Pull, Pulled, Runner, RunnerId, Standing, Task, TaskState,
};

/// Binds a runner to a group. One that is not known is taken to be a program that never registers.
pub fn bind(draft: &mut Draft, asked: &Binding) -> Commanded {
    if let Some(refused) = not_as_seen(draft, asked) {
        return refused;
    }
    let (group, id) = (&asked.group, &asked.runner);
    let members = draft.state.groups().get(group).expect("it was just seen");
    if members.is_bound_by_hand(id) {
        return Commanded::Unchanged;
    }
    let known = draft.runner(id);
    let elsewhere = known.as_ref().and_then(|row| match row.pull.as_ref()?.group.as_ref() {
        None => Some(format!("{id} is a subscription: choose another id")),
        Some(_) if row.standing == Standing::Dismissed => {
            Some(format!("{id} was removed and still has a task: end that first"))
        }
        Some(other) => Some(format!("{id} is bound to group {other}: remove it there first")),
    });
    if let Some(reason) = elsewhere {
        return Commanded::PullRefused { reason: reason.into() };
    }
    if !members.admits(id) {
        let (bound, most) = (members.runners().len(), members.row().and_then(|row| row.terms.max_runners));
        let reason = format!(
            "group {group} is bound to {bound} runners of at most {} (max_runners): remove one first",
            most.unwrap_or_default()
        );
        return Commanded::PullRefused { reason: reason.into() };
    }
    let mut row = known.map_or_else(|| program(draft, group, id), |row| Runner::clone(&row));
    row.pull = Some(Pull { lease: asked.lease, group: Some(group.clone()) });
    draft.put_runner(row);
    draft.state.remember_puller(id);
    draft.fact(Fact::RunnerBound { runner: id.clone(), group: group.clone() });
    Commanded::Done
}

/// A program that pulls without having registered: one task at a time, of any arch and size.
fn program(draft: &Draft, group: &GroupId, id: &RunnerId) -> Runner {
    let offer = Offer {
        kinds: [Kind::Job, Kind::Build].into(),
        queues: Default::default(),
        arch: "".into(),
        os: "".into(),
        labels: Default::default(),
        taints: Default::default(),
        group: Some(group.clone()),
        resources: None,
        slots: 1,
        open: true,
    };
    Runner::new(id.clone(), "".into(), Arc::new(offer), draft.now)
}

/// Removes a runner from a group. With the last one the group's tasks are released.
pub fn unbind(draft: &mut Draft, asked: &Binding) -> Commanded {
    if let Some(refused) = not_as_seen(draft, asked) {
        return refused;
    }
    let members = draft.state.groups().get(&asked.group).expect("it was just seen");
    if !members.is_bound_by_hand(&asked.runner) {
        return Commanded::UnknownRunner;
    }
    let last = members.by_hand().nth(1).is_none();
    let held: Vec<Arc<Task>> =
        members.live().filter_map(|id| draft.task(id)).filter(|task| is_pulled(task)).collect();
    part(draft, &asked.group, &asked.runner);
    wishes::fewer(draft, &asked.group);
    for task in held {
        let its = task.assignment().is_some_and(|held| held.runner == asked.runner);
        match &task.state {
            TaskState::Assigned(_) if its || last => {
                give_back(draft, &task, "its runner was removed from the group")
            }
            TaskState::Running(_) if last => {
                attempt::lose(draft, &task, &format!("the last runner of group {} was removed", asked.group));
            }
            _ => {}
        }
    }
    Commanded::Done
}

fn is_pulled(task: &Task) -> bool {
    task.assignment().is_some_and(|held| held.pulled.is_some())
}

/// Takes the mark from a runner's row; a program that never registered goes with the last task it has.
fn part(draft: &mut Draft, group: &GroupId, id: &RunnerId) {
    let Some(row) = draft.runner(id) else { return };
    let mut parted = Runner::clone(&row);
    if row.is_unregistered() {
        parted.standing = Standing::Dismissed;
    } else {
        parted.pull = None;
    }
    draft.put_runner(parted);
    draft.fact(Fact::RunnerUnbound { runner: id.clone(), group: group.clone() });
    close_all(draft, id, &Pulled::Unknown);
}

/// Parts the runners from groups that are known no longer.
pub fn release_forgotten(draft: &mut Draft) {
    if !std::mem::take(&mut draft.state.watch.groups_forgotten) {
        return;
    }
    let gone = draft.state.groups().after(None).filter(|(_, group)| group.row().is_none());
    let bound: Vec<(GroupId, RunnerId)> =
        gone.flat_map(|(id, group)| group.by_hand().map(|runner| (id.clone(), runner.clone()))).collect();
    for (group, runner) in bound {
        if draft.is_full() {
            draft.state.watch.groups_forgotten = true;
            return draft.more();
        }
        part(draft, &group, &runner);
    }
}

/// Why a change to a group is refused: there is none, or it is not as it was seen.
fn not_as_seen(draft: &Draft, asked: &Binding) -> Option<Commanded> {
    let groups = draft.state.groups();
    let Some(row) = groups.get(&asked.group).and_then(|group| group.row()) else {
        return Some(Commanded::UnknownGroup);
    };
    // What this turn changed before is not written yet.
    let modification_count = row.modification_count + u64::from(groups.is_changed(&asked.group));
    let seen = asked.seen.is_none_or(|seen| seen == modification_count);
    (!seen).then_some(Commanded::GroupChanged { modification_count })
}
