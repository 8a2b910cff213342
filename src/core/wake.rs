//! Wake-ups: what changed since the last planning that could make a waiting task runnable.
//!
//! Law: whatever can make a task runnable is one of the named wake-ups, raised where the rows change. The sweep
//! is the net under them: what only the sweep finds is counted and should stay 0.

use std::collections::BTreeMap;

use super::backlog::LineKey;
use crate::model::RunnerId;

/// The name of a wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// A task became pending, or its priority changed.
    Pending,
    /// The time a task waited for came.
    TimeCame,
    /// A task left its runner.
    End,
    /// A runner registered, grew, was resumed or drains.
    Runner,
    /// A queue was unpaused.
    Queue,
    /// A runner that refused a task may be asked again.
    RefusalOver,
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
}

impl Wakes {
    /// Every line and every runner.
    pub fn everything(&mut self, wake: Wake) {
        self.all.get_or_insert(wake);
    }

    /// One line, against every runner.
    pub fn line(&mut self, key: &LineKey, wake: Wake) {
        if self.all.is_none() && !self.lines.contains_key(key) {
            self.lines.insert(key.clone(), wake);
        }
    }

    /// One runner, against every line.
    pub fn runner(&mut self, id: &RunnerId, wake: Wake) {
        if self.all.is_none() && !self.runners.contains_key(id) {
            self.runners.insert(id.clone(), wake);
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.lines.is_empty() && self.runners.is_empty()
    }

    /// Forgets everything: a follower plans nothing.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
