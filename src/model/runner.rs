//! A runner's row: what it offers, and whether work may be given to it.
//!
//! Law: an operator's or the dispatcher's decision (`standing`) and the runner's absence (`lost`) are two
//! things; the state shown is derived from both. What a runner holds is never stored here: it follows from the
//! tasks' rows.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ClassId, GroupId, IntentId, Offer, Pull, RunnerId, TaskId, Time};

/// The row of a runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Runner {
    pub id: RunnerId,
    /// New with every start of the runner's process.
    pub incarnation: Arc<str>,
    pub offer: Arc<Offer>,
    /// Price of one placement here; the lowest is taken first. Never negative.
    pub cost: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassId>,
    /// The intent it was started for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentId>,
    pub standing: Standing,
    /// Set if its tasks are asked for one by one and never sent to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<Pull>,
    /// Since when it has been lost, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Time>,
    pub registered: Time,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub version: Arc<str>,
    /// Start failures and losses in a row, counted as incidents.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub incidents: u32,
    /// When the last incident was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_incident: Option<Time>,
    /// Refusals in a row of what fits by our rows.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub refusals: u32,
    /// What was running when it last came back from a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<Box<Crash>>,
    /// Fields a newer version wrote; kept as they are.
    #[serde(flatten)]
    pub extra: super::row::Extra,
}

impl Runner {
    /// A ready runner with no past, at a cost of 1.
    pub fn new(id: RunnerId, incarnation: Arc<str>, offer: Arc<Offer>, registered: Time) -> Self {
        Self {
            id,
            incarnation,
            offer,
            cost: 1.0,
            class: None,
            intent: None,
            standing: Standing::Ready,
            pull: None,
            lost: None,
            registered,
            version: "".into(),
            incidents: 0,
            last_incident: None,
            refusals: 0,
            crash: None,
            extra: Default::default(),
        }
    }
}

/// What was lost with a runner that crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    pub at: Time,
    pub tasks: Vec<TaskId>,
}

/// What an operator, or the dispatcher on its own account, decided about a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It may be given work.
    Ready,
    /// It gets nothing until it is resumed; what it has runs on.
    Held { reason: Arc<str> },
    /// It gets nothing more, except jobs of running builds that fit nowhere else.
    Draining,
    /// Its group has nothing left for it: it gets nothing more and is told to leave.
    Dismissed,
}

/// The state of a runner as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunnerState {
    Ready,
    Held,
    Draining,
    Lost,
}

impl RunnerState {
    /// All of them.
    pub const ALL: [RunnerState; 4] =
        [RunnerState::Ready, RunnerState::Held, RunnerState::Draining, RunnerState::Lost];

    /// The word in payloads and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            RunnerState::Ready => "ready",
            RunnerState::Held => "held",
            RunnerState::Draining => "draining",
            RunnerState::Lost => "lost",
        }
    }
}

impl fmt::Display for RunnerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Runner {
    /// The group that a program bound it to.
    pub fn bound_to(&self) -> Option<&GroupId> {
        let pull =
            self.pull.as_ref().filter(|_| self.lost.is_none() && self.standing != Standing::Dismissed)?;
        pull.group.as_ref()
    }

    /// Whether it never registered: it stands for a program that pulls, and nobody hears its heartbeats.
    pub fn is_unregistered(&self) -> bool {
        self.pull.is_some() && self.incarnation.is_empty()
    }

    /// Whether it is a subscription: it never registered, and stands for whoever asks on its queue.
    pub fn is_subscription(&self) -> bool {
        self.pull.as_ref().is_some_and(|pull| pull.group.is_none())
    }

    /// The state it shows.
    pub fn state(&self) -> RunnerState {
        match (&self.lost, &self.standing) {
            (Some(_), _) => RunnerState::Lost,
            (None, Standing::Ready) => RunnerState::Ready,
            (None, Standing::Held { .. }) => RunnerState::Held,
            (None, Standing::Draining | Standing::Dismissed) => RunnerState::Draining,
        }
    }
}

fn is_none_yet(count: &u32) -> bool {
    *count == 0
}
