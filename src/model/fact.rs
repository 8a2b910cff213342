//! Facts: each thing that happened, said once, for logs, metrics, history and the event stream.
//!
//! Law: a fact is only reported after the turn that contains it is committed. Facts never change a row.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    ClassId, GroupId, IntentChange, IntentId, Kind, Outcome, QueueId, RunnerId, TaskId, TenantId, Time, Token,
};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A task entered a state.
    Task(Lifecycle),
    /// A submission was refused without becoming a task.
    SubmissionRefused {
        id: TaskId,
        answer: Arc<str>,
        reason: Arc<str>,
    },
    /// A task is to be stopped where it runs.
    StopAsked {
        id: TaskId,
        runner: RunnerId,
        token: Token,
        reason: Arc<str>,
    },
    /// A report that matched no live attempt; it changed nothing.
    StaleReport {
        id: TaskId,
        runner: RunnerId,
        token: Token,
        report: Arc<str>,
    },
    /// Whether a task that wants artifacts, of a queue with locality, went to a runner that holds them. `None`
    /// where it names none.
    Locality {
        id: TaskId,
        runner: RunnerId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Found>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inputs: Option<Found>,
    },
    RunnerRegistered {
        runner: RunnerId,
        incarnation: Arc<str>,
        again: bool,
    },
    RunnerLeft {
        runner: RunnerId,
    },
    RunnerLost {
        runner: RunnerId,
        reason: Arc<str>,
        tasks: u64,
    },
    RunnerHeld {
        runner: RunnerId,
        reason: Arc<str>,
    },
    RunnerDraining {
        runner: RunnerId,
    },
    RunnerResumed {
        runner: RunnerId,
    },
    RunnerForgotten {
        runner: RunnerId,
    },
    ClassForgotten {
        class: ClassId,
    },
    /// Somebody asks for the tasks of a queue one by one.
    Subscribed {
        subscription: RunnerId,
        queue: QueueId,
    },
    /// A subscription was ended, or nobody asked on it for so long that it is `forgotten`.
    Unsubscribed {
        subscription: RunnerId,
        forgotten: bool,
    },
    /// A program asks for the tasks of a group by way of this runner.
    RunnerBound {
        runner: RunnerId,
        group: GroupId,
    },
    /// It does so no longer.
    RunnerUnbound {
        runner: RunnerId,
        group: GroupId,
    },
    /// The lease of a pulled task ended without a word of its puller.
    LeaseOver {
        id: TaskId,
        runner: RunnerId,
        token: Token,
    },
    /// Something happened to an intent.
    Intent {
        intent: IntentId,
        class: ClassId,
        change: IntentChange,
        /// How many runners it is about.
        runners: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Arc<str>>,
    },
    QueuePaused {
        queue: QueueId,
    },
    QueueUnpaused {
        queue: QueueId,
    },
    PoolPaused,
    PoolUnpaused,
    CancelRemembered {
        id: TaskId,
    },
    /// A task of a group with `stop_on_failure` did not succeed: what comes after it ends.
    GroupStopped {
        group: GroupId,
        task: TaskId,
        reason: Arc<str>,
    },
    /// A runner dedicated to a group has nothing left to do there and is told to leave.
    RunnerDismissed {
        runner: RunnerId,
        group: GroupId,
    },
    /// Some running build has no room for a job of its own: no build starts until the rule holds again.
    BuildsUnsafe {
        build: TaskId,
    },
    BuildsSafe,
    /// A runner is kept for a task that waited too long; it fits there by `fits_by` if that can be told.
    Reserved {
        task: TaskId,
        runner: RunnerId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fits_by: Option<Time>,
    },
    /// The runner is kept for the task no longer: it was placed, or is not to be placed there.
    ReservationOver {
        task: TaskId,
        runner: RunnerId,
    },
    /// Tasks that only the sweep found placeable: a wake-up is missing somewhere.
    SweepFound {
        tasks: u64,
    },
    /// This leader took over.
    TookOver {
        turn: u64,
    },
    Frozen {
        reason: Arc<str>,
    },
    Unfrozen,
}

/// What became of the wish for a runner that holds an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// The task went to one.
    Hit,
    /// No ready runner that could ever run it held one.
    Miss,
    /// One did, but had no room for it before the wait was over.
    Timeout,
}

impl Found {
    /// All of them.
    pub const ALL: [Found; 3] = [Found::Hit, Found::Miss, Found::Timeout];

    /// The word in payloads and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Found::Hit => "hit",
            Found::Miss => "miss",
            Found::Timeout => "timeout",
        }
    }
}

/// A task entered a state: the lifecycle event of the protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lifecycle {
    pub id: TaskId,
    pub kind: Kind,
    pub queue: QueueId,
    pub tenant: TenantId,
    pub state: LifecycleState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerId>,
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    pub at: Time,
    /// From submission to this attempt's assignment, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// From this attempt's start to its end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// The four states a task can enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LifecycleState {
    Pending,
    Assigned,
    Running,
    Ended,
}

impl LifecycleState {
    /// The word in payloads and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            LifecycleState::Pending => "pending",
            LifecycleState::Assigned => "assigned",
            LifecycleState::Running => "running",
            LifecycleState::Ended => "ended",
        }
    }
}

fn is_none_yet(count: &u32) -> bool {
    *count == 0
}
