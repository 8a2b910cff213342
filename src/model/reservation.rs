//! A reservation's row: a runner that is kept for a task which waited too long.

use serde::{Deserialize, Serialize};

use super::{RunnerId, TaskId, Time};

/// A runner kept for a pending task. It stands under the task's id; a task has one at most, and so has a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    pub task: TaskId,
    pub runner: RunnerId,
    pub since: Time,
    /// When the task fits there at the latest, by the timeouts of what ran there when it was made; nothing if they
    /// do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits_by: Option<Time>,
}
