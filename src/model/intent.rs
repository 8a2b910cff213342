//! Runner classes as they are declared, and intents: requests that somebody provide a runner.
//!
//! Law: one intent per class and shape. Runners that were acknowledged and have not registered are future capacity:
//! they are `starting`, and nobody is asked for them twice.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ClassId, IntentId, Offer, Shape, TaskId, Time};

/// A kind of runner that may be asked for, also when none of it is here.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredClass {
    pub id: ClassId,
    /// What a runner of it offers at least.
    pub offer: Arc<Offer>,
    /// Price of one runner; the cheapest class that fits is asked for first.
    pub cost: f64,
    /// The most runners of it at once; 0 asks for none ever.
    pub max: u32,
}

/// The row of an intent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub id: IntentId,
    pub class: ClassId,
    /// What the tasks behind it ask of a runner.
    pub shape: Arc<Shape>,
    /// Runners asked for that nobody has answered for yet.
    pub asked: u32,
    /// Runners that were acknowledged and have not registered yet.
    pub starting: u32,
    /// Runners that registered with it.
    pub arrived: u32,
    pub reason: Arc<str>,
    /// The first tasks behind it.
    pub tasks: Vec<TaskId>,
    /// How many tasks were behind it when it last changed.
    pub waiting: u64,
    pub made: Time,
    /// When what is asked expires unanswered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_by: Option<Time>,
    /// When runners that were acknowledged stop counting as coming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Time>,
    /// Why it is not asked any more, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// Fields a newer version wrote; kept as they are.
    #[serde(flatten)]
    pub extra: super::row::Extra,
}

/// An intent that came to nothing: another class goes first until `until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub reason: Arc<str>,
    /// Somebody said no. If not, nobody answered, or the runners never came.
    pub declined: bool,
    pub until: Time,
}

/// The state of an intent as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentState {
    Asked,
    Acknowledged,
    Declined,
    Expired,
}

impl IntentState {
    /// All of them.
    pub const ALL: [IntentState; 4] =
        [IntentState::Asked, IntentState::Acknowledged, IntentState::Declined, IntentState::Expired];

    /// The word in payloads and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            IntentState::Asked => "asked",
            IntentState::Acknowledged => "acknowledged",
            IntentState::Declined => "declined",
            IntentState::Expired => "expired",
        }
    }
}

/// What happened to an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentChange {
    /// It was made, or asks for more or fewer runners than before.
    Asked,
    Acknowledged,
    Declined,
    /// Nobody answered, or the acknowledged runners never came.
    Expired,
    /// A runner registered with it.
    Arrived,
    /// Nothing that it was made for waits any more.
    Withdrawn,
}

impl IntentChange {
    /// The word in labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            IntentChange::Asked => "asked",
            IntentChange::Acknowledged => "acknowledged",
            IntentChange::Declined => "declined",
            IntentChange::Expired => "expired",
            IntentChange::Arrived => "arrived",
            IntentChange::Withdrawn => "withdrawn",
        }
    }
}

impl Intent {
    /// The state it shows.
    pub fn state(&self) -> IntentState {
        match &self.closed {
            Some(closed) if closed.declined => IntentState::Declined,
            Some(_) => IntentState::Expired,
            None if self.asked > 0 => IntentState::Asked,
            None => IntentState::Acknowledged,
        }
    }

    /// Runners it stands for that are not here yet.
    pub fn count(&self) -> u32 {
        self.asked + self.starting
    }

    /// When time alone changes it next.
    pub fn due(&self) -> Option<Time> {
        match &self.closed {
            Some(closed) => Some(closed.until),
            None => [self.answer_by, self.start_by].into_iter().flatten().min(),
        }
    }
}
