//! Virtual time: what happens next.
//!
//! Law: events happen in the order of their times, and those of one time in the order in which they were put in.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::input::{Answer, Command, Input, Submitted};
use crate::model::{Heartbeat, Held, Leave, Registration, Report, RunnerId, TaskId, TurnRecord};
use crate::ports::Commit;
use crate::runner::session::Input as Word;

/// What a runner asks of whoever leads.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Register { number: u64, registration: Registration },
    Heartbeat(Heartbeat),
    Leave(Leave),
    Operator(Command),
    OfPuller { puller: usize, number: u64, input: Box<Input> },
}

/// One thing that will happen.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A replica looks at what is due.
    ReplicaLooks {
        replica: usize,
        life: u64,
    },
    /// A turn that was offered reaches the table.
    CommitArrives {
        replica: usize,
        life: u64,
        record: Arc<TurnRecord>,
    },
    /// A turn whose answer nobody waits for any more reaches the table.
    StrayCommit {
        record: Arc<TurnRecord>,
    },
    CommitAnswered {
        replica: usize,
        life: u64,
        answer: Commit,
    },
    /// The next step around a committed turn.
    Carry {
        replica: usize,
        life: u64,
    },
    ReplicaStarts {
        replica: usize,
    },
    RequestArrives {
        replica: usize,
        life: u64,
        from: Option<(RunnerId, u64)>,
        request: Request,
    },
    /// Reports of a runner reach the inbox, the last of them under number `through`.
    ReportsArrive {
        runner: RunnerId,
        incarnation: u64,
        reports: Vec<Report>,
        through: u64,
    },
    SubmissionArrives {
        id: TaskId,
    },
    CancelArrives {
        id: TaskId,
    },
    Told {
        id: TaskId,
        answer: Submitted,
    },
    CancelTold {
        id: TaskId,
    },
    /// Something reaches a runner; words to another incarnation are lost, deliveries are not.
    RunnerHears {
        runner: RunnerId,
        incarnation: Option<u64>,
        word: Word,
    },
    RunnerWakes {
        runner: RunnerId,
        incarnation: u64,
    },
    RunnerSendsReports {
        runner: RunnerId,
        incarnation: u64,
    },
    RunnerStarts {
        runner: RunnerId,
    },
    RunnerThaws {
        runner: RunnerId,
    },
    WorkBegins {
        runner: RunnerId,
        incarnation: u64,
        held: Held,
    },
    WorkEnds {
        runner: RunnerId,
        incarnation: u64,
        held: Held,
        order: u64,
    },
    BuildLooks {
        runner: RunnerId,
        incarnation: u64,
        held: Held,
    },
    Submit {
        id: TaskId,
    },
    Repeat {
        id: TaskId,
    },
    Cancel {
        id: TaskId,
    },
    PullerLooks {
        puller: usize,
    },
    /// The answer to what it said under a number.
    PullerHears {
        puller: usize,
        number: u64,
        answer: Answer,
    },
    Trouble(Trouble),
    /// Everything that goes wrong has ceased to.
    Calm,
    ProvisionerLooks,
    /// Checkers look at the whole world.
    Look,
    /// A checker looks which steps are due.
    LookAtPace,
}

/// Something that goes wrong every now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    TableRefuses,
    ReplicaDown,
    RunnerCrash,
    RunnerCut,
    RunnerFreeze,
    RunnerLeave,
    Operator,
}

/// What is to happen, by time.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
}

impl Schedule {
    /// Puts in what will happen at `at`.
    pub fn put(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    /// Takes out what happens next, with its time.
    pub fn next(&mut self) -> Option<(u64, Event)> {
        let ((at, _), event) = self.events.pop_first()?;
        Some((at, event))
    }
}
