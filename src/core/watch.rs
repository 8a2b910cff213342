//! The leader's own watch: leases, suspicions, refusals. None of it is in the rows.
//!
//! Law: a new leader starts with every lease in full, so forgetting all of this never takes work from a runner
//! early; it can only wait longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::backlog::LineKey;
use super::pull::{OpenRequests, TaskLeases};
use super::reservation::Considered;
use crate::model::{ArtifactId, Heartbeat, RunnerId, TaskId, Time};

/// Why something is to be taken from a runner once its reports were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    LeaseOver,
    Left {
        handback: BTreeSet<TaskId>,
    },
    /// A new incarnation did not list these: its predecessor crashed.
    Restarted {
        unlisted: BTreeSet<TaskId>,
        handback: BTreeSet<TaskId>,
        /// The crash was counted.
        blamed: bool,
    },
}

/// Something that is to be taken from a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub cause: Cause,
    /// The reports are read past when this mark comes back.
    pub mark: u64,
}

/// A started task that heartbeats left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Omission {
    pub beats: u32,
    pub mark: u64,
}

/// A runner that refused a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub until: Time,
    pub backoff: Duration,
}

/// A loss that may yet turn out to coincide with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loss {
    pub at: Time,
    pub runner: RunnerId,
    pub counted: bool,
}

/// Lines to be judged again: could any runner ever take them?
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Judge {
    pub all: bool,
    pub lines: BTreeSet<LineKey>,
}

/// When what waits was last looked through for runners to ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Looked {
    pub looked: Option<Time>,
    /// Something changed since.
    pub changed: bool,
}

/// What the leader knows besides the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    pub(super) leading: bool,
    pub(super) took_over: Time,
    /// While set, nothing is judged `never_fits`.
    pub(super) settle_until: Option<Time>,
    /// Runners known at the start that have said nothing yet.
    pub(super) unheard: BTreeSet<RunnerId>,
    pub(super) leases: BTreeMap<RunnerId, Time>,
    pub(super) lease_ends: BTreeSet<(Time, RunnerId)>,
    /// The newest heartbeat of each runner: its incarnation and number.
    pub(super) newest_beats: BTreeMap<RunnerId, (Arc<str>, u64)>,
    pub(super) suspicions: BTreeMap<RunnerId, Suspicion>,
    pub(super) omissions: BTreeMap<(RunnerId, TaskId), Omission>,
    pub(super) marks: u64,
    pub(super) marks_read: u64,
    pub(super) refusals: BTreeMap<TaskId, BTreeMap<RunnerId, Refusal>>,
    pub(super) refusal_ends: BTreeSet<(Time, TaskId, RunnerId)>,
    pub(super) losses: Vec<Loss>,
    pub(super) judge: Judge,
    /// Tasks that nothing known could run and that wait all the same: `hold`, `fail_after`.
    pub(super) unplaceable: BTreeSet<(Time, TaskId)>,
    /// Builds whose jobs came before them and were not held against their shapes yet.
    pub(super) beyond: BTreeSet<TaskId>,
    /// Artifacts that fewer runners can be waited for with than before.
    pub(super) fewer_holders: BTreeSet<ArtifactId>,
    /// News of artifacts that turns were too full for: whose, of what, and whether it is held.
    pub(super) untold: VecDeque<(RunnerId, ArtifactId, bool)>,
    /// The newest artifact news of each runner: its incarnation and number.
    pub(super) newest_news: BTreeMap<RunnerId, (Arc<str>, u64)>,
    /// Requests for tasks that wait for one.
    pub(super) requests: OpenRequests,
    /// When pulled tasks are taken from their pullers.
    pub(super) task_leases: TaskLeases,
    /// A group is gone that runners may still be bound to.
    pub(super) groups_forgotten: bool,
    pub(super) considered: Considered,
    pub(super) rule_changed: bool,
    pub(super) demand: Looked,
    pub(super) sweep_at: Time,
    /// Runners whose tasks are being worked off, and why.
    pub(super) losing: BTreeMap<RunnerId, Arc<str>>,
    /// An operator accepted that this table is new.
    pub(super) accepts_foreign: bool,
}

impl Watch {
    /// Whether the leader still waits for the fleet to show itself.
    pub fn is_settling(&self) -> bool {
        self.settle_until.is_some()
    }

    pub(super) fn arm(&mut self, runner: &RunnerId, until: Time) {
        self.disarm(runner);
        self.leases.insert(runner.clone(), until);
        self.lease_ends.insert((until, runner.clone()));
    }

    pub(super) fn disarm(&mut self, runner: &RunnerId) {
        if let Some(until) = self.leases.remove(runner) {
            self.lease_ends.remove(&(until, runner.clone()));
        }
    }

    /// Whether no heartbeat as new as this one was seen before: what is doubled or late says nothing new.
    pub(super) fn is_news(&mut self, beat: &Heartbeat) -> bool {
        let newest = self.newest_beats.entry(beat.runner.clone()).or_default();
        if newest.0 == beat.incarnation && newest.1 >= beat.number {
            return false;
        }
        *newest = (beat.incarnation.clone(), beat.number);
        true
    }

    pub(super) fn next_mark(&mut self) -> u64 {
        self.marks += 1;
        self.marks
    }

    /// Whether `runner` refused `task` and is not to be asked again yet.
    pub(super) fn refused(&self, task: &TaskId, runner: &RunnerId, now: Time) -> bool {
        self.refusals.get(task).is_some_and(|by| by.get(runner).is_some_and(|refusal| refusal.until > now))
    }

    pub(super) fn refuse(&mut self, task: &TaskId, runner: &RunnerId, now: Time, first: Duration) {
        let by = self.refusals.entry(task.clone()).or_default();
        let backoff = by.get(runner).map_or(first, |before| before.backoff * 2);
        let until = now + backoff;
        by.insert(runner.clone(), Refusal { until, backoff });
        self.refusal_ends.insert((until, task.clone(), runner.clone()));
    }

    pub(super) fn forget_task(&mut self, task: &TaskId) {
        self.task_leases.disarm(task);
        if let Some(by) = self.refusals.remove(task) {
            for (runner, refusal) in by {
                self.refusal_ends.remove(&(refusal.until, task.clone(), runner));
            }
        }
    }
}
