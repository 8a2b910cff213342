//! What runners and the dispatcher say to each other, as plain data. `wire` gives it its JSON shape.
//!
//! Law: everything said about a task names its token, so both sides can tell an old word from a new one.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{ArtifactId, ArtifactNews, ClassId, IntentId, Kind, Offer, QueueId, RunnerId, TaskId, Token};

/// A task under the token it was given with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    pub id: TaskId,
    pub token: Token,
}

/// The table and turn a runner last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSeen {
    pub table: Uuid,
    pub turn: u64,
}

/// A runner says what it offers and what it is running.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub runner: RunnerId,
    /// Greater than that of every earlier start, compared as text: a UUID of version 7, or a padded count.
    pub incarnation: Arc<str>,
    pub offer: Arc<Offer>,
    pub cost: f64,
    pub class: Option<ClassId>,
    /// The intent it was started for.
    pub intent: Option<IntentId>,
    pub running: Vec<Held>,
    /// Everything it holds; nothing said about it where this is `None`.
    pub artifacts: Option<Vec<ArtifactId>>,
    pub last_seen: Option<LastSeen>,
    pub version: Arc<str>,
}

/// The answer to a registration: from which turn on tokens are new, and what the runner is known to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub table: Uuid,
    /// Tokens of an older turn that `assignments` does not list are refused for ever.
    pub turn: u64,
    pub lease: Duration,
    pub heartbeat: Duration,
    pub assignments: Vec<Held>,
}

/// A runner says that it is alive and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub runner: RunnerId,
    pub incarnation: Arc<str>,
    pub number: u64,
    pub running: Vec<Held>,
    pub artifacts: Option<ArtifactNews>,
}

/// The answer to a heartbeat, given after a turn that began after it arrived was committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeartbeatAnswer {
    pub number: u64,
    /// The number of the newest artifact news taken in, in answer to news.
    pub artifacts: Option<u64>,
    pub stop: Vec<StopOrder>,
    /// The runner is to register again.
    pub register: bool,
    /// The runner is to leave: the group it is dedicated to has nothing left for it.
    pub leave: bool,
}

/// A runner is asked to stop an attempt and to report its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOrder {
    pub id: TaskId,
    pub token: Token,
    pub reason: Arc<str>,
}

/// A runner goes away of its own accord.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    pub runner: RunnerId,
    pub incarnation: Arc<str>,
    /// Tasks it gives back without an attempt spent. What it had besides is lost.
    pub handback: Vec<TaskId>,
}

/// What a runner says of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub runner: RunnerId,
    pub incarnation: Arc<str>,
    /// Says where the report goes, and nothing else: the token says which attempt it is about. A runner that
    /// answers for an attempt it never had says `job`.
    pub kind: Kind,
    pub id: TaskId,
    pub token: Token,
    pub what: Reported,
}

/// The two things a runner reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    Start,
    End(End),
}

impl Reported {
    /// The word in payloads and subjects.
    pub fn as_str(&self) -> &'static str {
        match self {
            Reported::Start => "start",
            Reported::End(_) => "end",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub outcome: AttemptOutcome,
    pub exit_code: Option<i32>,
    /// A reason or the last lines of output; at most 4 KiB are kept.
    pub message: Option<Arc<str>>,
    /// What the runner holds since; counts only if the attempt succeeded. The task's output counts unsaid.
    pub artifacts: Vec<ArtifactId>,
}

impl End {
    /// It did what was asked.
    pub fn succeeded() -> Self {
        Self::of(AttemptOutcome::Succeeded, None)
    }

    /// It failed on its own account, and why.
    pub fn failed(why: impl Into<Arc<str>>) -> Self {
        Self::of(AttemptOutcome::Failed, Some(why.into()))
    }

    /// It ended early because it was asked to stop.
    pub fn stopped() -> Self {
        Self::of(AttemptOutcome::Cancelled, None)
    }

    /// Its runner gives it back, and why: it is placed again, and no attempt is spent.
    pub fn handed_back(why: impl Into<Arc<str>>) -> Self {
        Self::of(AttemptOutcome::Handback, Some(why.into()))
    }

    /// It does not fit here, and why: it is placed again, on other runners first, and no attempt is spent.
    pub fn refused(why: impl Into<Arc<str>>) -> Self {
        Self::of(AttemptOutcome::Refused, Some(why.into()))
    }

    /// The same with an exit code.
    #[must_use]
    pub fn with_exit_code(self, code: i32) -> Self {
        Self { exit_code: Some(code), ..self }
    }

    /// The same with a message, of which the last 4 KiB are kept.
    #[must_use]
    pub fn with_message(self, message: impl Into<Arc<str>>) -> Self {
        Self { message: Some(message.into()), ..self }
    }

    /// The same with what the runner holds since.
    #[must_use]
    pub fn with_artifacts(self, artifacts: impl IntoIterator<Item = ArtifactId>) -> Self {
        Self { artifacts: artifacts.into_iter().collect(), ..self }
    }

    fn of(outcome: AttemptOutcome, message: Option<Arc<str>>) -> Self {
        Self { outcome, exit_code: None, message, artifacts: Vec::new() }
    }
}

/// Work that says nothing has succeeded.
impl From<()> for End {
    fn from((): ()) -> Self {
        Self::succeeded()
    }
}

/// Work that broke off with an error has failed, and the error says why.
impl<T: Into<End>, E: std::fmt::Display> From<Result<T, E>> for End {
    fn from(done: Result<T, E>) -> Self {
        done.map_or_else(|why| Self::failed(why.to_string()), Into::into)
    }
}

/// How an attempt ended, as its runner saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttemptOutcome {
    Succeeded,
    Failed,
    Cancelled,
    /// It did not fit on the runner, or the runner knows the token as given away.
    Refused,
    /// The back end could not start it.
    StartFailed,
    /// The runner gives it back.
    Handback,
}

impl AttemptOutcome {
    /// All of them.
    pub const ALL: [AttemptOutcome; 6] = [
        AttemptOutcome::Succeeded,
        AttemptOutcome::Failed,
        AttemptOutcome::Cancelled,
        AttemptOutcome::Refused,
        AttemptOutcome::StartFailed,
        AttemptOutcome::Handback,
    ];

    /// The word in payloads and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Cancelled => "cancelled",
            AttemptOutcome::Refused => "refused",
            AttemptOutcome::StartFailed => "start_failed",
            AttemptOutcome::Handback => "handback",
        }
    }
}

/// A task on its way to its runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentMessage {
    pub id: TaskId,
    pub kind: Kind,
    pub queue: QueueId,
    pub attempt: u32,
    pub token: Token,
    /// How long the runner may take to confirm it.
    pub deadline: Duration,
    /// The task as it was submitted, as JSON.
    pub task: Arc<str>,
}

impl AssignmentMessage {
    /// The attempt it is about.
    pub fn held(&self) -> Held {
        Held { id: self.id.clone(), token: self.token }
    }
}

/// What waits for a runner: new or unconfirmed assignments, and attempts to stop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    pub assignments: Vec<AssignmentMessage>,
    pub stop: Vec<StopOrder>,
}

impl Delivery {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.assignments.is_empty() && self.stop.is_empty()
    }
}
