//! Wake-ups: what changed since the last planning that could make a waiting task runnable.
//!
//! Law: whatever can make a task runnable is one of the named wake-ups, raised where the rows change. The sweep
//! is the net under them: what only the sweep finds is counted and should stay 0.

use std::collections::BTreeMap;

use super::backlog::LineKey;
use crate::model::{RunnerId, TaskId};

/// The name of a wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// A task became pending, or its priority changed.
    Pending,
    /// The time a task waited for came.
    TimeCame,
    /// A step of a task's wait for artifacts is over: more runners may have it.
    WaitOver,
    /// A runner holds an artifact that a pending task wants.
    Artifact,
    /// A task left its runner.
    End,
    /// A runner registered, grew, was resumed or drains.
    Runner,
    /// Somebody asks for a task.
    Request,
    /// A queue got its first subscription, or lost its last.
    Subscribed,
    /// A queue or the pool was unpaused.
    Unpaused,
    /// A runner that refused a task may be asked again.
    RefusalOver,
    /// The first task of a line has waited long enough to have a runner kept for it.
    ReservationDue,
    /// A runner is kept for nobody any more.
    ReservationOver,
    /// A build started: its jobs go before others.
    BuildStarted,
    /// A build ended or the fleet changed: the rule for builds may hold again.
    BuildRule,
    /// A group may be bound to one more runner.
    GroupSlot,
    /// It became a task's turn in its ordered group.
    GroupTurn,
    /// A leader took over, or planning stopped at its budget.
    Everything,
}

/// What is to be looked at in the next planning.
#[derive(Debug, Clone, Default)]
pub struct Wakes {
    pub all: Option<Wake>,
    pub lines: BTreeMap<LineKey, Wake>,
    pub runners: BTreeMap<RunnerId, Wake>,
    /// Tasks that want artifacts, against the runners that hold one.
    pub tasks: BTreeMap<TaskId, Wake>,
    /// Builds among such tasks.
    pub builds: Option<Wake>,
    /// Every runner, against the tasks that want what it holds.
    pub holders: Option<Wake>,
}

impl Wakes {
    /// Every line, every runner and every task that wants artifacts.
    pub fn everything(&mut self, wake: Wake) {
        self.all.get_or_insert(wake);
        self.holders.get_or_insert(wake);
        // They are among everything.
        self.tasks.clear();
    }

    /// What was left of `wakes` when planning stopped at its budget.
    pub fn left_over(&mut self, wakes: Self) {
        self.all.get_or_insert(Wake::Everything);
        self.holders = self.holders.or(wakes.holders);
        self.builds = self.builds.or(wakes.builds);
        self.runners.extend(wakes.runners);
        self.tasks.extend(wakes.tasks);
    }

    /// One task, against the runners that hold something it wants.
    pub fn task(&mut self, id: &TaskId, wake: Wake) {
        if self.holders.is_none() && !self.tasks.contains_key(id) {
            self.tasks.insert(id.clone(), wake);
        }
    }

    /// One line, against every runner.
    pub fn line(&mut self, key: &LineKey, wake: Wake) {
        if self.all.is_none() && !self.lines.contains_key(key) {
            self.lines.insert(key.clone(), wake);
        }
    }

    /// One runner, against every line.
    pub fn runner(&mut self, id: &RunnerId, wake: Wake) {
        if self.holders.is_none() && !self.runners.contains_key(id) {
            self.runners.insert(id.clone(), wake);
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.all.is_none()
            && self.holders.is_none()
            && self.builds.is_none()
            && self.lines.is_empty()
            && self.runners.is_empty()
            && self.tasks.is_empty()
    }

    /// Forgets everything: a follower plans nothing.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
