//! Everything that can happen to a session, and everything it asks for.
//!
//! Law: both enums are closed, and outputs are carried out in the order they were given.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    ArtifactId, AssignmentMessage, ClassId, Delivery, End, Heartbeat, HeartbeatAnswer, Held, IntentId, Kind,
    LastSeen, Leave, Offer, Registered, Registration, Report, RunnerId, WorkOrder,
};

/// What a session is given once.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    pub runner: RunnerId,
    /// New with every start of the runner's process.
    pub incarnation: Arc<str>,
    pub offer: Arc<Offer>,
    pub cost: f64,
    pub class: Option<ClassId>,
    /// The intent it was started for.
    pub intent: Option<IntentId>,
    pub version: Arc<str>,
    /// What it holds from the start.
    pub artifacts: Vec<ArtifactId>,
    /// How long before the end of its lease it begins to end its work, so that all is dead by then. Never
    /// more than half a lease.
    pub stop_by: Duration,
    /// Between TERM and KILL of work that is asked to stop.
    pub stop_grace: Duration,
    /// How long after an attempt ended here the same task is started again at the earliest.
    pub min_retry: Duration,
    /// After how long an unanswered registration is sent again.
    pub answer_within: Duration,
    /// How many ended or asked-back tokens are remembered one by one; older ones are refused by their turn.
    pub tokens_remembered: usize,
    #[doc(hidden)]
    pub safeguards: Safeguards,
}

/// The safety rules of a session, each of which a knock-out test switches off to see a checker fail.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Safeguards {
    /// Work ends with its runner's lease.
    pub lease_ends_work: bool,
    /// A token that is over is refused.
    pub spent_tokens: bool,
}

impl Default for Safeguards {
    fn default() -> Self {
        Self { lease_ends_work: true, spent_tokens: true }
    }
}

impl SessionConfig {
    /// The settings of a runner that names nothing but itself.
    pub fn new(runner: RunnerId, incarnation: Arc<str>, offer: Arc<Offer>) -> Self {
        Self {
            runner,
            incarnation,
            offer,
            cost: 1.0,
            class: None,
            intent: None,
            version: env!("CARGO_PKG_VERSION").into(),
            artifacts: Vec::new(),
            stop_by: Duration::from_secs(1),
            stop_grace: Duration::from_secs(10),
            min_retry: Duration::from_secs(1),
            answer_within: Duration::from_secs(5),
            tokens_remembered: 100_000,
            safeguards: Safeguards::default(),
        }
    }
}

/// What an earlier start of this runner left.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Restored {
    /// Reports nobody has taken yet, by number.
    pub reports: Vec<(u64, Report)>,
    pub last_seen: Option<LastSeen>,
    /// What it began and this start goes on with; one attempt for each task at most.
    pub running: Vec<Inherited>,
    /// Until when that may run without a lease of this start.
    pub running_until: Duration,
}

/// An attempt that an earlier start of this runner began and this one goes on with.
#[derive(Debug, Clone, PartialEq)]
pub struct Inherited {
    pub held: Held,
    pub kind: Kind,
    pub order: Arc<WorkOrder>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Nothing but time.
    Tick,
    /// The answer to the registration of this number.
    Registered { number: u64, registered: Registered },
    /// The registration of this number failed or was refused.
    RegistrationFailed { number: u64 },
    /// The answer to the heartbeat whose number it names.
    HeartbeatAnswered(HeartbeatAnswer),
    /// The dispatcher does not know this runner or incarnation.
    Unknown,
    /// New or unconfirmed assignments, and attempts to stop.
    Delivered(Delivery),
    /// The back end has started it.
    Started(Held),
    /// The back end knows that nothing of it runs any more.
    Ended { held: Held, end: End },
    /// The dispatcher has taken every report up to this number.
    ReportsTaken { through: u64 },
    /// Take nothing more; let running work end by itself for `wait`, then stop it and leave.
    Leave { wait: Duration },
}

/// Something to carry out.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send it; answer with `Registered` or `RegistrationFailed` under this number.
    Register { number: u64, registration: Registration },
    /// Send it, beside whatever else is on its way.
    Heartbeat(Heartbeat),
    /// Make it durable, then send it: in order, again until it was taken.
    Report { number: u64, report: Report },
    /// Drop reports up to this number from the outbox.
    Forget { through: u64 },
    /// Make the table and turn durable.
    Seen(LastSeen),
    /// Start it, once. `Started` and then `Ended` answer it, or `Ended` alone.
    Start { assignment: AssignmentMessage, order: Arc<WorkOrder> },
    /// End it: after `grace`, or at once if that is zero. A shorter grace overrides the one before.
    Stop { held: Held, grace: Duration, reason: Arc<str> },
    /// Say farewell. It is the last output: nothing runs here, and nothing will.
    Leave(Leave),
}
