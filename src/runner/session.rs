//! The session: which work this runner may have, decided without IO and without a clock.
//!
//! Laws: work runs only under a lease, which counts from when the answered request was *sent*; what is not
//! renewed has ended by the lease's end, and after that the runner registers before it takes anything. One
//! assignment is started once; a token that is over stays over; two attempts of a task never run side by side.
//! What ended is listed as held until the dispatcher has its report, so that finished work is never lost work.
//! What an earlier start began runs under that start's lease until the dispatcher has answered the registration that
//! lists it.
//!
//! Inputs in, ordered outputs out; `now` is monotonic and counts suspension. Between inputs the driver calls
//! with [`Input::Tick`] no later than [`Session::next_wake`] says.

mod attempts;
mod misfit;
mod renewal;
mod spent;
mod stock;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    AssignmentMessage, AttemptOutcome, End, Held, Kind, LastSeen, Registration, Report, Reported, Resources,
    TaskId, WorkOrder,
};

use spent::Spent;
use stock::Stock;
pub use words::{Inherited, Input, Output, Restored, Safeguards, SessionConfig};

/// With so many reports on their way a runner asks for no more work: each heartbeat lists what they are about.
const MOST_UNSAID: usize = 40_000;

/// The state of one runner's session.
#[derive(Debug, Clone)]
pub struct Session {
    config: SessionConfig,
    now: Duration,
    out: Vec<Output>,
    // Under which lease, and what is asked of the dispatcher.
    lease: Option<Lease>,
    /// Until when inherited work may run while there is no lease.
    inherited_until: Option<Duration>,
    /// Whether the dispatcher knows this incarnation: before that it would take no report under it.
    known: bool,
    registering: Option<Registering>,
    /// When to register next, if that is due and nothing is on its way.
    register_at: Option<Duration>,
    registrations: u64,
    failures: u32,
    heartbeats: u64,
    /// Heartbeats on their way and when they were sent.
    beating: BTreeMap<u64, Duration>,
    last_seen: Option<LastSeen>,
    // What is had, and what was.
    attempts: BTreeMap<Held, Attempt>,
    used: Resources,
    spent: Spent,
    stock: Stock,
    /// Attempts that are not started yet.
    waiting: BTreeSet<Held>,
    /// When tasks last ended here, for as long as `min_retry` looks back; and the same, oldest first.
    last_ends: BTreeMap<TaskId, Duration>,
    ended: VecDeque<(Duration, TaskId)>,
    // What is still to be said.
    reports: BTreeMap<u64, Unsaid>,
    /// Ends nobody has taken yet.
    unsaid_ends: BTreeMap<Held, UnsaidEnd>,
    next_report: u64,
    /// Reports of an earlier start go out before the first registration.
    restored_through: Option<u64>,
    leaving: Option<Leaving>,
}

#[derive(Debug, Clone)]
struct Lease {
    until: Duration,
    length: Duration,
    heartbeat: Duration,
    next_heartbeat: Duration,
}

#[derive(Debug, Clone)]
struct Registering {
    number: u64,
    sent: Duration,
}

#[derive(Debug, Clone)]
struct Unsaid {
    held: Held,
    is_end: bool,
}

#[derive(Debug, Clone, Copy)]
struct UnsaidEnd {
    /// The dispatcher is to hear the attempt as held until it has the end.
    listed: bool,
    handback: bool,
}

#[derive(Debug, Clone)]
struct Leaving {
    /// When running work is stopped.
    stop_at: Duration,
    /// When it leaves, whatever is still unsaid.
    leave_at: Duration,
    stopped: bool,
    left: bool,
}

/// An attempt this runner has.
#[derive(Debug, Clone)]
struct Attempt {
    order: Arc<WorkOrder>,
    kind: Kind,
    stage: Stage,
    stop: Option<Stopping>,
}

#[derive(Debug, Clone)]
enum Stage {
    /// Not started: an earlier attempt of the task has yet to end, or ended too recently.
    Waiting(Box<AssignmentMessage>),
    Starting,
    Running,
    /// Nothing of it runs any more. That is said once the dispatcher knows this incarnation.
    Ended(Box<End>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stopping {
    /// The dispatcher asked.
    Asked,
    Leaving,
    /// The lease, or the right to it, is over: without grace.
    Over,
    /// It is another table's: it ends without grace, and nobody hears of it.
    Disowned,
}

impl Session {
    /// A session that will register as soon as what an earlier start left behind has been said.
    pub fn new(config: SessionConfig, restored: Restored, now: Duration) -> Self {
        let mut stock = Stock::default();
        config.artifacts.iter().for_each(|artifact| stock.add(artifact));
        let mut session = Self {
            config,
            now,
            out: Vec::new(),
            lease: None,
            inherited_until: (!restored.running.is_empty()).then_some(restored.running_until),
            known: false,
            registering: None,
            register_at: Some(now),
            registrations: 0,
            failures: 0,
            heartbeats: 0,
            beating: BTreeMap::new(),
            last_seen: restored.last_seen,
            attempts: BTreeMap::new(),
            used: Resources::default(),
            spent: Spent::default(),
            stock,
            waiting: BTreeSet::new(),
            last_ends: BTreeMap::new(),
            ended: VecDeque::new(),
            reports: BTreeMap::new(),
            unsaid_ends: BTreeMap::new(),
            next_report: 1,
            restored_through: restored.reports.iter().map(|(number, _)| *number).max(),
            leaving: None,
        };
        for (number, report) in restored.reports {
            session.next_report = session.next_report.max(number + 1);
            session.keep_report(number, &report, false);
            session.out.push(Output::Report { number, report });
        }
        restored.running.into_iter().for_each(|inherited| session.inherit(inherited));
        session
    }

    /// Takes one input and says what is to be done, in order.
    pub fn on(&mut self, now: Duration, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        // Time first: an answer that comes after the lease's end finds the work ended already.
        self.pass_time();
        match input {
            Input::Tick => {}
            Input::Registered { number, registered } => self.on_registered(number, registered),
            Input::RegistrationFailed { number } => self.on_registration_failed(number),
            Input::HeartbeatAnswered(answer) => self.on_heartbeat_answered(answer),
            Input::Unknown => self.register_soon(),
            Input::Delivered(delivery) => self.on_delivered(delivery),
            Input::Started(held) => self.on_started(held),
            Input::Ended { held, end } => self.on_ended(held, end),
            Input::ReportsTaken { through } => self.on_reports_taken(through),
            Input::Leave { wait } => self.on_leave(wait),
        }
        self.pass_time();
        std::mem::take(&mut self.out)
    }

    /// When time alone will next change something.
    pub fn next_wake(&self) -> Option<Duration> {
        if self.has_left() {
            return None;
        }
        let lease = self.lease.as_ref();
        let leaving = self.leaving.as_ref();
        [
            lease.map(|lease| self.lapse_at(lease)),
            lease.map(|lease| lease.next_heartbeat),
            self.inherited_until,
            self.registering.as_ref().map(|registering| registering.sent + self.config.answer_within),
            self.register_at.filter(|_| self.may_register()),
            self.next_waiting_start(),
            leaving.filter(|leaving| !leaving.stopped).map(|leaving| leaving.stop_at),
            leaving.filter(|_| self.nothing_runs()).map(|leaving| leaving.leave_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The table and turn it last heard of.
    pub fn last_seen(&self) -> Option<LastSeen> {
        self.last_seen
    }

    /// Until when its lease runs, if it has one. By then nothing runs that was not renewed.
    pub fn lease_until(&self) -> Option<Duration> {
        self.lease.as_ref().map(|lease| lease.until)
    }

    /// Until when its work may run if this session is never asked again: later than it would end it itself, and earlier
    /// than its lease is over.
    pub fn work_until(&self) -> Option<Duration> {
        let lease = self.lease.as_ref().map(|lease| (lease.until + self.lapse_at(lease)) / 2);
        lease.or(self.inherited_until)
    }

    /// Whether it is to ask for work now: not while more is unsaid than the dispatcher can be told at once.
    pub fn takes_work(&self) -> bool {
        self.lease.is_some() && self.leaving.is_none() && self.reports.len() < MOST_UNSAID
    }

    /// The attempts it has: waiting, starting, running or being stopped.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.attempts.keys()
    }

    /// Whether it has said farewell.
    pub fn has_left(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.left)
    }

    fn registration(&self) -> Registration {
        Registration {
            runner: self.config.runner.clone(),
            incarnation: self.config.incarnation.clone(),
            offer: self.config.offer.clone(),
            cost: self.config.cost,
            class: self.config.class.clone(),
            intent: self.config.intent.clone(),
            running: self.listed(),
            artifacts: self.stock.told(),
            last_seen: self.last_seen,
            version: self.config.version.clone(),
        }
    }

    /// What the dispatcher is to regard as held here.
    fn listed(&self) -> Vec<Held> {
        let unsaid = self.unsaid_ends.iter().filter(|(_, end)| end.listed).map(|(held, _)| held);
        let mut listed: Vec<Held> = self.attempts.keys().chain(unsaid).cloned().collect();
        listed.sort_unstable();
        listed.dedup();
        listed
    }

    /// Everything that depends on time alone, in the order of its urgency.
    fn pass_time(&mut self) {
        if self.has_left() {
            return;
        }
        self.lapse_if_due();
        self.forget_old_ends();
        self.start_waiting();
        self.go_on_leaving();
        self.register_if_due();
        self.beat_if_due();
    }

    fn say(&mut self, held: &Held, kind: Kind, what: Reported, listed: bool) {
        let number = self.next_report;
        self.next_report += 1;
        let report = Report {
            runner: self.config.runner.clone(),
            incarnation: self.config.incarnation.clone(),
            kind,
            id: held.id.clone(),
            token: held.token,
            what,
        };
        self.keep_report(number, &report, listed);
        self.out.push(Output::Report { number, report });
    }

    fn keep_report(&mut self, number: u64, report: &Report, listed: bool) {
        let held = Held { id: report.id.clone(), token: report.token };
        let mut is_end = false;
        if let Reported::End(end) = &report.what {
            is_end = true;
            let handback = end.outcome == AttemptOutcome::Handback;
            self.unsaid_ends.insert(held.clone(), UnsaidEnd { listed, handback });
        }
        self.reports.insert(number, Unsaid { held, is_end });
    }

    fn on_reports_taken(&mut self, through: u64) {
        let left = self.reports.split_off(&(through + 1));
        let taken = std::mem::replace(&mut self.reports, left);
        if taken.is_empty() {
            return;
        }
        for unsaid in taken.into_values().filter(|unsaid| unsaid.is_end) {
            self.unsaid_ends.remove(&unsaid.held);
        }
        self.out.push(Output::Forget { through });
    }
}
