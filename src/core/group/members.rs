//! Members: which tasks each group has, which runners it is bound to, and whose turn it is.
//!
//! Law: derived from the rows of tasks and groups alone, through `State::put`. A group is bound to the runners
//! that hold a task of it, and to no other. In an ordered group it is the turn of the task that a runner holds, or
//! else of the live task with the lowest index: the next one's comes when that has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::model::{Group, GroupId, Kind, RunnerId, StopCause, Task, TaskId};

/// A task's place among those of its group: its index, then the order of admission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    index: Option<u32>,
    sequence: u64,
    task: TaskId,
}

/// What one runner holds of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Binding {
    tasks: u32,
    builds: u32,
    /// A program bound it, and asks for its tasks one by one.
    by_hand: bool,
}

/// The tasks and the runners of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    row: Option<Arc<Group>>,
    ordered: bool,
    /// The most runners it may be bound to.
    most: usize,
    /// Tasks that have not ended.
    live: BTreeSet<Place>,
    /// Live tasks that a runner holds.
    held: BTreeSet<Place>,
    /// Live tasks that were not asked to end yet.
    unasked: BTreeSet<Place>,
    /// How many of its tasks are known, also ended ones.
    known: usize,
    /// Who has which index, also of ended tasks.
    indexes: BTreeMap<u32, TaskId>,
    bound: BTreeMap<RunnerId, Binding>,
    /// How many of these a program bound.
    by_hand: usize,
}

/// All groups.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    groups: BTreeMap<GroupId, Members>,
    /// Groups that have stopped and have tasks that were not asked to end yet.
    to_work_off: BTreeSet<GroupId>,
    /// Groups of which something changed that their row does not say yet.
    pub(super) changed: BTreeSet<GroupId>,
    /// Guards are switched off: orders, and bounds, are not kept.
    unordered: bool,
    unbounded: bool,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            row: None,
            ordered: false,
            most: usize::MAX,
            live: BTreeSet::new(),
            held: BTreeSet::new(),
            unasked: BTreeSet::new(),
            known: 0,
            indexes: BTreeMap::new(),
            bound: BTreeMap::new(),
            by_hand: 0,
        }
    }
}

impl Members {
    /// Its row.
    pub fn row(&self) -> Option<&Arc<Group>> {
        self.row.as_ref()
    }

    /// Its tasks that have not ended, by index, then by the order of admission.
    pub fn live(&self) -> impl ExactSizeIterator<Item = &TaskId> {
        self.live.iter().map(|place| &place.task)
    }

    /// The runners it is bound to.
    pub fn runners(&self) -> impl ExactSizeIterator<Item = &RunnerId> {
        self.bound.keys()
    }

    /// How many of its tasks are known, also ended ones.
    pub fn known(&self) -> usize {
        self.known
    }

    /// The task that has this index, or had it.
    pub fn at(&self, index: u32) -> Option<&TaskId> {
        self.indexes.get(&index)
    }

    /// The runners that a program bound it to.
    pub fn by_hand(&self) -> impl Iterator<Item = &RunnerId> {
        self.bound.iter().filter(|(_, held)| held.by_hand).map(|(runner, _)| runner)
    }

    /// Whether its tasks are asked for one by one, and none is pushed.
    pub fn is_pulled(&self) -> bool {
        self.by_hand > 0
    }

    /// Whether a program bound `runner` to it.
    pub fn is_bound_by_hand(&self, runner: &RunnerId) -> bool {
        self.bound.get(runner).is_some_and(|held| held.by_hand)
    }

    /// The runners it is bound to, if it may be bound to no other besides.
    pub fn closed_to(&self) -> Option<impl Iterator<Item = &RunnerId>> {
        (self.bound.len() >= self.most).then(|| self.bound.keys())
    }

    /// Whether a task of it may be placed on `runner`.
    pub fn admits(&self, runner: &RunnerId) -> bool {
        self.bound.len() < self.most || self.bound.contains_key(runner)
    }

    /// The same once all jobs have ended, when only builds bind it, with one more of them on `host`.
    pub fn admits_beside_builds(&self, runner: &RunnerId, host: Option<&RunnerId>) -> bool {
        let stays = |held: &Binding| held.builds > 0 || held.by_hand;
        let builds = || self.bound.iter().filter(|(_, held)| stays(held)).map(|(runner, _)| runner);
        let further = host.filter(|host| !builds().any(|bound| bound == *host));
        builds().chain(further).any(|bound| bound == runner)
            || builds().count() + usize::from(further.is_some()) < self.most
    }

    /// Whether tasks of it may be held by two runners at the same time.
    pub fn admits_several(&self) -> bool {
        self.most > 1
    }

    /// The live task that goes before this one.
    pub fn before(&self, task: &Task) -> Option<&TaskId> {
        let first = self.head()?;
        (*first != task.id).then_some(first)
    }

    /// In an ordered group, the task whose turn it is.
    fn head(&self) -> Option<&TaskId> {
        self.held.first().or(self.live.first()).filter(|_| self.ordered).map(|place| &place.task)
    }

    /// A task that is to end because its group has stopped, and was not asked to yet.
    fn next_to_work_off(&self) -> Option<&TaskId> {
        let stopped = self.row.as_ref()?.stopped.as_ref()?;
        let place = match stopped.after {
            None => self.unasked.first(),
            Some(after) => {
                let next = Place { index: Some(after.checked_add(1)?), sequence: 0, task: smallest() };
                self.unasked.range(next..).next()
            }
        };
        place.map(|place| &place.task)
    }
}

impl Groups {
    /// No groups. Order and bound are only not kept to show what they are for.
    pub fn new(ordered: bool, bounded: bool) -> Self {
        Self { unordered: !ordered, unbounded: !bounded, ..Self::default() }
    }

    /// The group called `id`.
    pub fn get(&self, id: &GroupId) -> Option<&Members> {
        self.groups.get(id)
    }

    /// The group of a task.
    pub fn of(&self, task: &Task) -> Option<&Members> {
        self.groups.get(task.shape.group.as_ref()?)
    }

    /// The groups that come after `after`, in the order of their ids; all of them after nothing.
    pub fn after(&self, after: Option<&GroupId>) -> impl Iterator<Item = (&GroupId, &Members)> {
        let from = after.map_or(Unbounded, Excluded);
        self.groups.range::<GroupId, _>((from, Unbounded))
    }

    /// How many groups are known.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether nothing of its group keeps a task from starting: it has not stopped, and it is the task's turn.
    pub fn has_turn(&self, task: &Task) -> bool {
        self.of(task).is_none_or(|group| {
            let stopped = group.row.as_ref().is_some_and(|row| row.has_stopped(task.index));
            !stopped && group.before(task).is_none()
        })
    }

    /// In an ordered group, the task whose turn it is.
    pub(in crate::core) fn head(&self, group: Option<&GroupId>) -> Option<TaskId> {
        self.groups.get(group?)?.head().cloned()
    }

    /// A task that is to end because its group has stopped, and was not asked to yet.
    pub(in crate::core) fn next_to_work_off(&self) -> Option<(&GroupId, &TaskId)> {
        let group = self.to_work_off.first()?;
        Some((group, self.groups.get(group)?.next_to_work_off()?))
    }

    /// Notes that its row changes in this turn.
    pub(in crate::core) fn touch(&mut self, id: &GroupId) {
        self.changed.insert(id.clone());
    }

    /// Whether its row is still to be written in this turn.
    pub(in crate::core) fn is_changed(&self, id: &GroupId) -> bool {
        self.changed.contains(id)
    }

    /// How many rows are still to be written in this turn.
    pub(in crate::core) fn unwritten(&self) -> usize {
        self.changed.len()
    }

    /// Forgets what is still to be written: who applies a turn writes none.
    pub(in crate::core) fn clear_changed(&mut self) {
        self.changed.clear();
    }

    /// Takes in a group's row, or that it has none any more.
    pub(in crate::core) fn put(&mut self, id: &GroupId, row: Option<Arc<Group>>) {
        let terms = row.as_ref().map(|row| row.terms).unwrap_or_default();
        let group = self.groups.entry(id.clone()).or_default();
        group.row = row;
        group.ordered = terms.ordered && !self.unordered;
        group.most = match terms.max_runners.filter(|_| !self.unbounded) {
            Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        self.note(id);
    }

    /// Takes in that the row `old` of one task gave way to `new`. Says whether its group let a runner go.
    pub(in crate::core) fn change(&mut self, old: Option<&Task>, new: Option<&Task>) -> bool {
        let Some(id) = old.or(new).and_then(|task| task.shape.group.clone()) else { return false };
        let group = self.groups.entry(id.clone()).or_default();
        let bound = group.bound.len();
        if let Some(task) = old {
            group.take_out(task);
        }
        if let Some(task) = new {
            group.bring_in(task);
        }
        let freed = group.bound.len() < bound;
        let runner = |task: Option<&Task>| task.and_then(Task::assignment).map(|held| held.runner.clone());
        let is_live = |task: Option<&Task>| task.is_some_and(|task| !task.is_ended());
        if is_live(old) != is_live(new) || runner(old) != runner(new) || group.known == 0 {
            self.changed.insert(id.clone());
        }
        self.note(&id);
        freed
    }

    /// Takes in that a program bound a runner to a group, or does so no longer.
    pub(in crate::core) fn bind(&mut self, id: &GroupId, runner: &RunnerId, by_hand: bool) {
        let group = self.groups.entry(id.clone()).or_default();
        let binding = group.bound.entry(runner.clone()).or_default();
        if binding.by_hand != by_hand {
            self.changed.insert(id.clone());
            group.by_hand = if by_hand { group.by_hand + 1 } else { group.by_hand - 1 };
        }
        binding.by_hand = by_hand;
        if binding.is_over() {
            group.bound.remove(runner);
        }
        self.note(id);
    }

    fn note(&mut self, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        if group.next_to_work_off().is_some() {
            self.to_work_off.insert(id.clone());
        } else {
            self.to_work_off.remove(id);
        }
        if group.known == 0 && group.row.is_none() && group.bound.is_empty() {
            self.groups.remove(id);
        }
    }
}

impl Binding {
    fn is_over(&self) -> bool {
        self.tasks == 0 && !self.by_hand
    }
}

impl Members {
    fn bring_in(&mut self, task: &Task) {
        let place = Place { index: task.index, sequence: task.sequence, task: task.id.clone() };
        self.known += 1;
        if let Some(index) = task.index {
            self.indexes.insert(index, task.id.clone());
        }
        if let Some(held) = task.assignment() {
            let binding = self.bound.entry(held.runner.clone()).or_default();
            binding.tasks += 1;
            binding.builds += u32::from(task.kind() == Kind::Build);
            self.held.insert(place.clone());
        }
        if task.is_ended() {
            return;
        }
        let stop = task.assignment().and_then(|held| held.stop.as_ref());
        if stop.is_none_or(|stop| stop.cause != StopCause::Cancelled) {
            self.unasked.insert(place.clone());
        }
        self.live.insert(place);
    }

    fn take_out(&mut self, task: &Task) {
        let place = Place { index: task.index, sequence: task.sequence, task: task.id.clone() };
        self.known -= 1;
        if let Some(index) = task.index.filter(|index| self.indexes.get(index) == Some(&task.id)) {
            self.indexes.remove(&index);
        }
        if let Some(held) = task.assignment()
            && let Some(binding) = self.bound.get_mut(&held.runner)
        {
            binding.tasks -= 1;
            binding.builds -= u32::from(task.kind() == Kind::Build);
            if binding.is_over() {
                self.bound.remove(&held.runner);
            }
        }
        self.held.remove(&place);
        self.unasked.remove(&place);
        self.live.remove(&place);
    }
}

/// Groups are the same when their tasks, runners and rows are; what is still to be written is the turn's own.
impl PartialEq for Groups {
    fn eq(&self, other: &Self) -> bool {
        self.groups == other.groups && self.to_work_off == other.to_work_off
    }
}

fn smallest() -> TaskId {
    TaskId::parse("-").expect("a legal name")
}
