//! Everything that can happen to the dispatcher, and every answer it gives.
//!
//! Law: both enums are closed. What is not here cannot change a row.

use std::sync::Arc;

use std::time::Duration;

use crate::model::{
    Binding, GroupId, Heartbeat, HeartbeatAnswer, IntentId, LeaseId, LeaseWord, Leave, NewTask, Outcome,
    PullRequest, Pulled, QueueId, Registered, Registration, Report, RunnerId, Subscription, TaskId, Time,
};

/// One input with the ticket under which its answer goes back.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub ticket: Ticket,
    pub input: Input,
}

/// Names an input until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Something that happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    Report(Report),
    /// All reports that had arrived when this mark was asked for have been put in.
    ReportsRead {
        mark: u64,
    },
    Register(Registration),
    Heartbeat(Heartbeat),
    Leave(Leave),
    Command(Command),
    /// Somebody asks for one task. Answered once there is one, or it is withdrawn.
    Pull(PullRequest),
    /// Whoever asked waits no longer; if it is `gone`, it cannot have heard what it was given either.
    Withdraw {
        asked: PullRequest,
        gone: bool,
    },
    /// `sequence` is its place in the inbox, shared with cancels.
    Submit {
        task: Arc<NewTask>,
        sequence: u64,
    },
}

/// What an operator or a producer asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `sequence` is its place in the inbox, shared with submissions.
    Cancel {
        id: TaskId,
        reason: Arc<str>,
        sequence: u64,
    },
    HoldRunner {
        runner: RunnerId,
        reason: Arc<str>,
    },
    DrainRunner {
        runner: RunnerId,
    },
    ResumeRunner {
        runner: RunnerId,
    },
    PauseQueue {
        queue: QueueId,
    },
    UnpauseQueue {
        queue: QueueId,
    },
    /// Nothing new is pulled or placed in the whole pool until [`Command::UnpausePool`].
    PausePool,
    UnpausePool,
    /// Somebody starts `count` of the runners an intent asks for; without it, all of them.
    AcknowledgeIntent {
        intent: IntentId,
        count: Option<u32>,
    },
    DeclineIntent {
        intent: IntentId,
        reason: Arc<str>,
    },
    Subscribe(Subscription),
    Unsubscribe {
        subscription: RunnerId,
    },
    /// A program will ask for the tasks of a group by way of this runner.
    BindRunner(Binding),
    /// It does so no longer.
    UnbindRunner(Binding),
    /// One more runner is asked for, for a task of the group.
    AskForRunner {
        group: GroupId,
    },
    /// What a puller says of the task it has.
    Lease {
        lease: LeaseId,
        word: LeaseWord,
    },
    Unfreeze,
}

/// The answer to an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To a report or a mark: it was taken in.
    Taken,
    Submitted(Submitted),
    Registered(Registered),
    /// The registration contradicts what this table knows.
    RegistrationRefused {
        reason: Arc<str>,
    },
    Heartbeat(HeartbeatAnswer),
    Commanded(Commanded),
    Pulled(Pulled),
    /// The pool is frozen; nothing was decided.
    Frozen {
        reason: Arc<str>,
    },
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    Admitted,
    /// The same task is known already.
    Duplicate,
    /// The task ended `rejected`.
    Rejected {
        reason: Arc<str>,
    },
    /// It contradicts what is known: another task under this id, or its group.
    Conflict {
        reason: Arc<str>,
    },
    /// The window for tasks of this sort is full.
    Full {
        reason: Arc<str>,
    },
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commanded {
    Done,
    /// It is so already.
    Unchanged,
    UnknownRunner,
    UnknownIntent,
    /// The intent does not stand as the command takes it to.
    IntentRefused {
        reason: Arc<str>,
    },
    /// The lease goes on until `deadline`, for as long as it `runs` from when this was asked. `stop` says why the work
    /// is to be stopped, if it is.
    Leased {
        deadline: Time,
        runs: Duration,
        stop: Option<Arc<str>>,
    },
    /// The task is somebody else's, or nobody's.
    LeaseOver {
        reason: Arc<str>,
    },
    UnknownGroup,
    /// The group is not as whoever asked has seen it.
    GroupChanged {
        modification_count: u64,
    },
    /// What is pulled does not stand as the command takes it to.
    PullRefused {
        reason: Arc<str>,
    },
    /// A cancel of a task that has ended.
    AlreadyEnded {
        outcome: Outcome,
    },
}
