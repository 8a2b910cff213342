//! Shelves: all tasks in the order of their admission, by where they stand, and how many stand where.
//!
//! Law: derived from the tasks' rows alone. A task stands on exactly one shelf, under its place in the order of
//! admission, which never changes; so a page of a list ends where the next one begins, whatever happens between.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{Kind, QueueId, Task, TaskState};

/// Where a task stands, as coarse as a list needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shelf {
    PendingJobs,
    PendingBuilds,
    /// Assigned and running.
    Held,
    Ended,
}

impl Shelf {
    /// All of them.
    pub const ALL: [Shelf; 4] = [Shelf::PendingJobs, Shelf::PendingBuilds, Shelf::Held, Shelf::Ended];

    /// The shelf of the pending tasks of one kind.
    pub fn pending(kind: Kind) -> Self {
        match kind {
            Kind::Job => Shelf::PendingJobs,
            Kind::Build => Shelf::PendingBuilds,
        }
    }

    /// The shelf a task stands on.
    pub fn of(task: &Task) -> Self {
        match &task.state {
            TaskState::Pending { .. } => Self::pending(task.kind()),
            TaskState::Assigned(_) | TaskState::Running(_) => Shelf::Held,
            TaskState::Ended(_) => Shelf::Ended,
        }
    }
}

/// Numbers of tasks that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    pub pending: usize,
    pub assigned: usize,
    pub running: usize,
}

/// The same for each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveKinds {
    pub jobs: Live,
    pub builds: Live,
}

/// The tasks of a pool by place, and the numbers of each queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shelves {
    /// The tasks of each shelf, in the order of `Shelf::ALL`.
    places: [BTreeMap<u64, Arc<Task>>; 4],
    queues: FxHashMap<QueueId, LiveKinds>,
}

impl Shelves {
    /// Takes in that the row `old` gave way to the row `new` of the same task.
    pub(super) fn change(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) {
        if let Some(task) = old {
            self.count(task, -1);
            let place = |task: &Task| (Shelf::of(task), task.sequence);
            if new.is_none_or(|new| place(new) != place(task)) {
                self.places[Shelf::of(task) as usize].remove(&task.sequence);
            }
        }
        if let Some(task) = new {
            self.count(task, 1);
            self.places[Shelf::of(task) as usize].insert(task.sequence, task.clone());
        }
    }

    /// How many tasks are pending.
    pub(super) fn pending(&self) -> usize {
        self.places[Shelf::PendingJobs as usize].len() + self.places[Shelf::PendingBuilds as usize].len()
    }

    /// The tasks of a shelf with a place below `before`, the newest first.
    pub fn newest(&self, shelf: Shelf, before: Option<u64>) -> impl Iterator<Item = &Arc<Task>> {
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        self.places[shelf as usize].range((Bound::Unbounded, end)).rev().map(|(_, task)| task)
    }

    /// The task of a shelf that was admitted first.
    pub fn oldest(&self, shelf: Shelf) -> Option<&Arc<Task>> {
        self.places[shelf as usize].first_key_value().map(|(_, task)| task)
    }

    /// The task of a shelf with this place in the order of admission.
    pub fn at(&self, shelf: Shelf, sequence: u64) -> Option<&Arc<Task>> {
        self.places[shelf as usize].get(&sequence)
    }

    /// The task with this place in the order of admission that has not ended.
    pub(super) fn live(&self, sequence: u64) -> Option<&Arc<Task>> {
        let shelves = [Shelf::Held, Shelf::PendingJobs, Shelf::PendingBuilds];
        shelves.into_iter().find_map(|shelf| self.at(shelf, sequence))
    }

    /// The queues that have tasks which have not ended, with their numbers, in no order.
    pub fn queues(&self) -> impl Iterator<Item = (&QueueId, &LiveKinds)> {
        self.queues.iter()
    }

    /// The numbers of one queue.
    pub fn queue(&self, queue: &QueueId) -> LiveKinds {
        self.queues.get(queue).copied().unwrap_or_default()
    }

    fn count(&mut self, task: &Task, by: isize) {
        if task.is_ended() {
            return;
        }
        let kinds = self.queues.entry(task.shape.queue.clone()).or_default();
        let live = match task.kind() {
            Kind::Job => &mut kinds.jobs,
            Kind::Build => &mut kinds.builds,
        };
        let number = match &task.state {
            TaskState::Pending { .. } => &mut live.pending,
            TaskState::Assigned(_) => &mut live.assigned,
            TaskState::Running(_) => &mut live.running,
            TaskState::Ended(_) => return,
        };
        *number = number.saturating_add_signed(by);
        if *kinds == LiveKinds::default() {
            self.queues.remove(&task.shape.queue);
        }
    }
}
