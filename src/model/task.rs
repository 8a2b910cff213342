//! A task's row: what it asks for, where it stands, and what became of it.
//!
//! Law: a task is in exactly one of four states, and only an assigned or running task holds anything of a
//! runner. "Retrying" is `pending` with a not-before time. An ended row is the tombstone that answers a
//! repeated submission.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Artifacts, BuildId, Grouping, Kind, Puller, RunnerId, Shape, TaskId, TenantId, Time, Token, Traceparent,
    Wait, time::span,
};

/// The small row of a task. The body it was submitted with stands in a row of its own beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub shape: Arc<Shape>,
    pub tenant: TenantId,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// The build this job belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildId>,
    /// The shapes of the jobs this build may submit; empty for a job.
    #[serde(default, skip_serializing_if = "no_shapes")]
    pub jobs: Arc<[Arc<Shape>]>,
    /// Its place in an ordered group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    pub limits: Arc<Limits>,
    /// What it reads and makes; not kept once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Arc<Artifacts>>,
    /// Its wait for runners that hold something of its own, once that has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Arc<Wait>>,
    /// Hash of the submission's content: tells a repeated submission from a conflicting one.
    pub content: Uuid,
    /// Place in the order of admission.
    pub sequence: u64,
    pub submitted: Time,
    /// Assignments made so far; the number of the current or last attempt.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub attempt: u32,
    /// How many of `max_attempts` are spent.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub spent: u32,
    /// How many of `retries` are spent.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub retried: u32,
    /// The trace it belongs to, if its producer said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Arc<Traceparent>>,
    pub state: TaskState,
    /// Fields a newer version wrote; kept as they are.
    #[serde(flatten)]
    pub extra: super::row::Extra,
}

/// The bounds a producer set on a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Runner losses and start failures it may see before it ends `exhausted`.
    pub max_attempts: u32,
    /// How often its own failure is repeated.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub retries: u32,
    /// How long one attempt may run.
    #[serde(default, with = "span::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Calendar time before which it does not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Time from submission after which a pending task ends `expired`.
    #[serde(default, with = "span::option", skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Duration>,
    #[serde(default, skip_serializing_if = "IfUnplaceable::is_fail")]
    pub if_unplaceable: IfUnplaceable,
}

/// What becomes of a task that no known runner or class could ever run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfUnplaceable {
    /// It ends `rejected` at once.
    #[default]
    Fail,
    /// It stays pending.
    Hold,
    /// It ends `rejected` once this long has passed since its submission.
    FailAfter(#[serde(with = "span")] Duration),
}

impl IfUnplaceable {
    fn is_fail(&self) -> bool {
        *self == IfUnplaceable::Fail
    }
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Pending {
        /// Since when it has been pending this time.
        since: Time,
        /// Back-off or calendar time before which it is not placed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Time>,
        /// Why it came back, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Arc<str>>,
    },
    Assigned(Box<Assignment>),
    Running(Box<Assignment>),
    Ended(Box<Ending>),
}

/// A task given to a runner: who, under which token, since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub runner: RunnerId,
    pub incarnation: Arc<str>,
    pub token: Token,
    pub assigned: Time,
    /// When an unconfirmed assignment is asked back.
    pub deadline: Time,
    /// Whether the runner has said that it has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
    /// When its start was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// Set while the runner is asked to stop it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Box<Stop>>,
    /// Set if it was pulled: it is its puller's until its lease is over, and `deadline` counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<Box<Puller>>,
}

/// A request to stop an attempt, repeated until the runner answers or its lease is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub cause: StopCause,
    pub reason: Arc<str>,
    pub at: Time,
}

/// Why an attempt is to stop, which decides what becomes of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// The task ends `cancelled`.
    Cancelled,
    /// The assignment was not confirmed in time: the task is pending again.
    AskedBack,
    /// The dispatcher needs the runner for something else: the task is pending again.
    HandBack,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    pub ended: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The last lines of the work's output, as its runner reported them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Arc<str>>,
}

/// The six ways a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Succeeded,
    Failed,
    Cancelled,
    Exhausted,
    Rejected,
    Expired,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 6] = [
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::Cancelled,
        Outcome::Exhausted,
        Outcome::Rejected,
        Outcome::Expired,
    ];

    /// The word in payloads and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Exhausted => "exhausted",
            Outcome::Rejected => "rejected",
            Outcome::Expired => "expired",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Task {
    /// Job or build.
    pub fn kind(&self) -> Kind {
        self.shape.kind
    }

    /// The assignment of an assigned or running task.
    pub fn assignment(&self) -> Option<&Assignment> {
        match &self.state {
            TaskState::Assigned(assignment) | TaskState::Running(assignment) => Some(assignment),
            TaskState::Pending { .. } | TaskState::Ended(_) => None,
        }
    }

    /// How it ended, if it did.
    pub fn ending(&self) -> Option<&Ending> {
        match &self.state {
            TaskState::Ended(ending) => Some(ending),
            _ => None,
        }
    }

    /// Whether it waits to be placed.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, TaskState::Pending { .. })
    }

    /// Whether nothing can change it any more.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, TaskState::Ended(_))
    }

    /// The word for its state: `pending`, `assigned`, `running` or `ended`.
    pub fn state_word(&self) -> &'static str {
        match self.state {
            TaskState::Pending { .. } => "pending",
            TaskState::Assigned(_) => "assigned",
            TaskState::Running(_) => "running",
            TaskState::Ended(_) => "ended",
        }
    }
}

/// A submission that was read and found well-formed: what admission decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    pub id: TaskId,
    pub shape: Arc<Shape>,
    pub tenant: TenantId,
    pub priority: i32,
    pub build: Option<BuildId>,
    /// For a build, the shapes of its jobs (never empty); for a job, empty.
    pub jobs: Arc<[Arc<Shape>]>,
    /// What it says of the group that its shape names.
    pub grouping: Grouping,
    pub limits: Arc<Limits>,
    pub artifacts: Option<Arc<Artifacts>>,
    pub content: Uuid,
    pub traceparent: Option<Arc<Traceparent>>,
    /// The task as submitted, as JSON: what its runner gets.
    pub body: Arc<str>,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn is_none_yet(count: &u32) -> bool {
    *count == 0
}

fn no_shapes(shapes: &Arc<[Arc<Shape>]>) -> bool {
    shapes.is_empty()
}
