//! Groups keep their bound, their order and their word to stop.
//!
//! Reads what was planned, the facts of committed turns, and the marks the work wrote down. Besides what the log
//! says, no two tasks of an ordered group execute at once, and no more machines than allowed execute at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{GroupId, Grouping, Held, Lifecycle, LifecycleState, NewTask, Outcome, RunnerId, TaskId};

/// A task of a group, and how it stands in the log.
#[derive(Debug)]
struct Member {
    group: GroupId,
    grouping: Grouping,
    admitted: bool,
    ended: bool,
    /// Who has it by the log.
    runner: Option<RunnerId>,
}

/// How far a group has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    All,
    After(u32),
}

/// All groups of a world.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: BTreeMap<TaskId, Member>,
    stopped: BTreeMap<GroupId, Stop>,
    executing: BTreeMap<Held, RunnerId>,
}

impl Groups {
    pub fn planned(&mut self, task: &NewTask) {
        let Some(group) = task.shape.group.clone() else { return };
        let member = Member { group, grouping: task.grouping, admitted: false, ended: false, runner: None };
        self.members.insert(task.id.clone(), member);
    }

    fn others<'a>(
        &'a self,
        id: &'a TaskId,
        group: &'a GroupId,
    ) -> impl Iterator<Item = (&'a TaskId, &'a Member)> {
        self.members.iter().filter(move |(other, member)| *other != id && member.group == *group)
    }

    /// A task entered a state, as a committed turn says.
    pub fn entered(&mut self, fact: &Lifecycle) -> Option<String> {
        let id = &fact.id;
        let member = self.members.get_mut(id)?;
        member.admitted = true;
        member.ended = fact.state == LifecycleState::Ended;
        let holds = matches!(fact.state, LifecycleState::Assigned | LifecycleState::Running);
        member.runner = fact.runner.clone().filter(|_| holds);
        if member.ended && member.grouping.terms.stop_on_failure && fact.outcome != Some(Outcome::Succeeded) {
            let (group, index) = (member.group.clone(), member.grouping.index);
            self.stop(group, index);
        }
        if fact.state == LifecycleState::Assigned { self.assigned(id) } else { None }
    }

    fn stop(&mut self, group: GroupId, index: Option<u32>) {
        let before = self.stopped.get(&group).copied();
        let now = match (before, index) {
            (Some(Stop::All), _) | (_, None) => Stop::All,
            (Some(Stop::After(before)), Some(index)) => Stop::After(before.min(index)),
            (None, Some(index)) => Stop::After(index),
        };
        self.stopped.insert(group, now);
    }

    fn assigned(&self, id: &TaskId) -> Option<String> {
        let member = &self.members[id];
        let (group, index) = (&member.group, member.grouping.index);
        let over = match self.stopped.get(group) {
            None => false,
            Some(Stop::All) => true,
            Some(Stop::After(after)) => index > Some(*after),
        };
        if over {
            return Some(format!("{id} is assigned though group {group} was stopped"));
        }
        if member.grouping.terms.ordered {
            let mut live = self.others(id, group).filter(|(_, other)| other.admitted && !other.ended);
            if let Some((first, _)) =
                live.find(|(_, other)| other.grouping.index < index || other.runner.is_some())
            {
                return Some(format!("{id} is assigned before {first} of group {group} has ended"));
            }
        }
        let runners: BTreeSet<&RunnerId> = self
            .members
            .values()
            .filter(|one| one.group == *group)
            .filter_map(|one| one.runner.as_ref())
            .collect();
        self.too_many(member, runners.len())
    }

    fn too_many(&self, member: &Member, runners: usize) -> Option<String> {
        let most = member.grouping.terms.max_runners.filter(|most| runners > *most as usize)?;
        Some(format!("group {} has {runners} runners; it may have {most}", member.group))
    }

    pub fn began(&mut self, runner: &RunnerId, held: &Held) -> Option<String> {
        let member = self.members.get(&held.id)?;
        self.executing.insert(held.clone(), runner.clone());
        let of_group = |held: &Held| self.members.get(&held.id).filter(|other| other.group == member.group);
        let beside: Vec<(&Held, &RunnerId, &Member)> = self
            .executing
            .iter()
            .filter_map(|(held, runner)| Some((held, runner, of_group(held)?)))
            .collect();
        if let Some((other, ..)) = beside.iter().find(|(other, ..)| **other != *held)
            && member.grouping.terms.ordered
        {
            return Some(format!("{} begins beside {} of the same ordered group", held.id, other.id));
        }
        let runners: BTreeSet<&RunnerId> = beside.iter().map(|(_, runner, _)| *runner).collect();
        self.too_many(member, runners.len())
    }

    pub fn stopped(&mut self, held: &Held) {
        self.executing.remove(held);
    }
}
