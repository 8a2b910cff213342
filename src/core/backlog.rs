//! The backlog: pending tasks in the order we would place them, in one line per shape.
//!
//! Law: a waiting task only ever holds back tasks of its own line. Tasks of one line fit on the same runners and
//! follow the same rules, so when its first task cannot be placed, none of the line can. A task that waits for
//! its time stands in no line. A line holds ranks alone; `State::waiting` says which task has one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::numbered::{Number, Numbered};
use super::settings::Order;
use crate::model::{GroupId, Shape, Task};

/// What the tasks of one line have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineKey {
    /// Jobs whose build holds a runner at the moment come first and may go to draining runners.
    pub of_running_build: bool,
    pub shape: Arc<Shape>,
    /// The shapes of the jobs of a build.
    pub jobs: Arc<[Arc<Shape>]>,
}

/// A task's place in the order of the whole pool; the smallest is placed first. No two tasks have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    priority: Reverse<i32>,
    after_running_builds: bool,
    sequence: u64,
}

impl Rank {
    /// The rank of a pending task.
    pub fn of(task: &Task, of_running_build: bool, order: Order) -> Self {
        let priority = match order {
            Order::Priority => task.priority,
            Order::Fifo => 0,
        };
        Self { priority: Reverse(priority), after_running_builds: !of_running_build, sequence: task.sequence }
    }

    /// Before every other.
    pub(super) const FIRST: Rank =
        Rank { priority: Reverse(i32::MAX), after_running_builds: false, sequence: 0 };
    /// Behind every other.
    pub(super) const LAST: Rank =
        Rank { priority: Reverse(i32::MIN), after_running_builds: true, sequence: u64::MAX };

    /// The rank on a runner of this nearness.
    pub fn at(self, tier: Tier) -> Place {
        let Self { priority, after_running_builds, sequence } = self;
        Place { priority, after_running_builds, tier, sequence }
    }

    /// The task's place in the order of admission.
    pub fn sequence(self) -> u64 {
        self.sequence
    }
}

/// How near to a task a runner is; on one runner the nearer task goes first, within equal priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The runner holds the task's output.
    Cached,
    /// It holds one of its inputs.
    Dependency,
    /// It holds nothing of it.
    Rest,
}

/// A rank as it is on a runner that is so near to the task. The smallest is placed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    priority: Reverse<i32>,
    after_running_builds: bool,
    tier: Tier,
    sequence: u64,
}

impl Place {
    /// How near the runner is.
    pub fn tier(self) -> Tier {
        self.tier
    }

    /// The task's place in the order of admission.
    pub fn sequence(self) -> u64 {
        self.sequence
    }
}

/// Pending tasks whose time has come.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    /// A line that has become empty is kept until the next sweep, so that its number stands for no other while something
    /// is planned.
    lines: Numbered<LineKey, BTreeSet<Rank>>,
    /// Those that are not empty.
    order: BTreeMap<LineKey, Number>,
    /// Those that have become empty.
    emptied: Vec<Number>,
    /// The lines of each group that has one.
    groups: BTreeMap<GroupId, BTreeSet<LineKey>>,
}

impl Backlog {
    /// Puts a task into its line.
    pub fn insert(&mut self, key: &LineKey, rank: Rank) {
        let number = self.lines.number(key, BTreeSet::new);
        let line = self.lines.get_mut(number);
        line.insert(rank);
        if line.len() == 1 {
            self.order.insert(key.clone(), number);
            if let Some(group) = &key.shape.group {
                self.groups.entry(group.clone()).or_default().insert(key.clone());
            }
        }
    }

    /// Takes a task out of its line.
    pub fn remove(&mut self, key: &LineKey, rank: Rank) {
        let Some(number) = self.lines.find(key) else { return };
        let line = self.lines.get_mut(number);
        if line.remove(&rank) && line.is_empty() {
            self.emptied.push(number);
            self.order.remove(key);
            self.forget_line(key);
        }
    }

    fn forget_line(&mut self, key: &LineKey) {
        let Some(group) = &key.shape.group else { return };
        if let Some(lines) = self.groups.get_mut(group) {
            lines.remove(key);
            if lines.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Forgets lines in which nobody stands any more. Not while something is planned.
    pub(super) fn sweep(&mut self) {
        for number in std::mem::take(&mut self.emptied) {
            self.lines.keep_if(number, |line| !line.is_empty());
        }
    }

    /// The lines of a group.
    pub fn lines_of(&self, group: &GroupId) -> impl Iterator<Item = &LineKey> {
        self.groups.get(group).into_iter().flatten()
    }

    /// Whether a task stands in this line.
    pub fn has(&self, key: &LineKey, rank: Rank) -> bool {
        self.lines.of(key).is_some_and(|line| line.contains(&rank))
    }

    /// All lines that are not empty.
    pub fn lines(&self) -> impl Iterator<Item = (&LineKey, &BTreeSet<Rank>)> {
        self.order.iter().map(|(key, number)| (key, self.lines.get(*number)))
    }

    /// The number of a line, which may be empty by now.
    pub(super) fn number(&self, key: &LineKey) -> Option<Number> {
        self.lines.find(key)
    }

    /// The first task of a line, or the first after `after`.
    pub fn first(&self, key: &LineKey, after: Option<Rank>) -> Option<Rank> {
        self.first_in(self.lines.find(key)?, after)
    }

    /// The same by the line's number.
    pub(super) fn first_in(&self, line: Number, after: Option<Rank>) -> Option<Rank> {
        let line = self.lines.get(line);
        match after {
            None => line.first(),
            Some(after) => line.range((Bound::Excluded(after), Bound::Unbounded)).next(),
        }
        .copied()
    }

    /// How many tasks would be placed before this one, and how many of them are of its own line.
    pub fn ahead_of(&self, key: &LineKey, rank: Rank) -> (usize, usize) {
        let before = |line: &BTreeSet<Rank>| line.range(..rank).count();
        let all = self.lines().map(|(_, line)| before(line)).sum();
        (all, self.lines.of(key).map_or(0, before))
    }

    /// Whether any line holds builds.
    pub fn build_lines(&self) -> impl Iterator<Item = &LineKey> {
        self.order.keys().filter(|key| !key.jobs.is_empty())
    }

    /// How many tasks stand in the lines.
    pub fn len(&self) -> usize {
        self.lines().map(|(_, line)| line.len()).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Two are the same when the same tasks stand in the same lines; numbers are free.
impl PartialEq for Backlog {
    fn eq(&self, other: &Self) -> bool {
        self.lines().eq(other.lines()) && self.groups == other.groups
    }
}
