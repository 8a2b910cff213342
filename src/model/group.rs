//! A group's row: what its tasks agreed on, and whether it goes on.
//!
//! Law: which tasks a group has and which runners it is bound to follow from the tasks' rows and stand nowhere
//! else, so no binding can leak. The row is written in the very turn in which one of them changed, and its
//! `modification_count` says so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BuildId, GroupId, Time};

/// The row of a group. It is there as long as a row of one of its tasks is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub id: GroupId,
    #[serde(flatten)]
    pub terms: Terms,
    /// The build that all tasks of an ordered group belong to; none if they belong to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// How many runners a program has asked for on its behalf; 0 for none.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub wanted: u32,
    /// Counts the turns in which its tasks, its runners or anything in this row changed.
    pub modification_count: u64,
    /// Log time of the last of them.
    pub last_modified: Time,
    /// Fields a newer version wrote; kept as they are.
    #[serde(flatten)]
    pub extra: super::row::Extra,
}

/// What every task of a group says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The most runners that may hold tasks of it at the same time; no bound if it says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runners: Option<u32>,
    /// Its tasks start in the order of their index, each when the ones before it have ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
    /// Once a task has ended other than `succeeded`, the rest ends `cancelled`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_on_failure: bool,
}

/// A group, or the rest of one, that does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// In an ordered group, the index of the task that stopped it: only what comes after it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u32>,
    pub reason: Arc<str>,
}

/// What a submission says of the group named by its shape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grouping {
    pub terms: Terms,
    /// Its place in an ordered group.
    pub index: Option<u32>,
}

impl Group {
    /// Whether a task with this index is not to start any more.
    pub fn has_stopped(&self, index: Option<u32>) -> bool {
        self.stopped.as_ref().is_some_and(|stopped| stopped.after.is_none_or(|after| index > Some(after)))
    }
}

fn is_none_yet(count: &u32) -> bool {
    *count == 0
}
