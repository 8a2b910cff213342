//! The runners: the real session on a clock of its own, with a durable outbox and a network that loses words.
//!
//! Law: nothing reaches a session but time and words; nothing of its outputs is carried out in another order.
//! A runner that crashes takes its work with it; one that stands still does so with its work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::{Batch, Mail};
use super::schedule::{Event, Request};
use super::work::Work;
use super::world::World;
use crate::model::{
    ArtifactId, AttemptOutcome, ClassId, Held, IntentId, LastSeen, Offer, Report, Reported, Resources,
    RunnerId,
};
use crate::runner::session::{Input as Word, Output, Restored, Session, SessionConfig};

/// Reports nobody has taken are sent again this often, in milliseconds.
const REPORT_AGAIN: u64 = 1_500;

/// One runner: what survives its restarts, and the session it has now.
#[derive(Debug)]
pub(super) struct RunnerSide {
    /// What the machine has when all of it is there, and what it has since its last start.
    pub offer: Arc<Offer>,
    offers: Arc<Offer>,
    pub cost: f64,
    /// The class and the intent it was started for, if a provisioner did.
    pub started_for: Option<(ClassId, IntentId)>,
    /// Its provisioner ended it: it never starts again.
    pub retired: bool,
    pub incarnation: u64,
    pub session: Option<Session>,
    outbox: Vec<(u64, Report)>,
    last_seen: Option<LastSeen>,
    pub work: BTreeMap<Held, Work>,
    /// When it was last seen to have no lease.
    leaseless_at: u64,
    /// How fast its clock goes, of 1,000.
    rate: u64,
    wakes_at: Option<u64>,
    sends_at: Option<u64>,
    /// Stands still until then.
    pub still_until: u64,
    /// What it says, and what it is told, is lost until then.
    pub mute_until: u64,
    pub deaf_until: u64,
}

impl RunnerSide {
    pub fn new(offer: Offer, cost: f64, rate: u64) -> Self {
        let offer = Arc::new(offer);
        Self {
            offers: offer.clone(),
            offer,
            cost,
            started_for: None,
            retired: false,
            incarnation: 0,
            session: None,
            outbox: Vec::new(),
            last_seen: None,
            work: BTreeMap::new(),
            leaseless_at: 0,
            rate,
            wakes_at: None,
            sends_at: None,
            still_until: 0,
            mute_until: 0,
            deaf_until: 0,
        }
    }

    /// Its monotonic clock, which began at another time than the world's.
    fn clock(&self, now: u64) -> Duration {
        Duration::from_micros(7_000_000 + now * self.rate)
    }

    /// When its clock shows `local`, in the world's time.
    fn when(&self, local: Duration) -> u64 {
        let micros = u64::try_from(local.as_micros()).unwrap_or(u64::MAX);
        micros.saturating_sub(7_000_000).div_ceil(self.rate)
    }

    /// Whether its session may still have work, by its own clock.
    pub fn has_lease(&self, now: u64) -> bool {
        let until = self.session.as_ref().and_then(Session::lease_until);
        until.is_some_and(|until| until > self.clock(now))
    }

    /// Whether all of the machine is there.
    pub fn is_whole(&self) -> bool {
        self.offer == self.offers
    }

    /// What was said and is still to be taken.
    pub fn unsaid(&self) -> impl Iterator<Item = &Report> {
        self.outbox.iter().map(|(_, report)| report)
    }

    /// Whether everything it had to say was taken, and nothing runs on it. What one had to say that its provisioner
    /// ended is gone with it.
    pub fn is_quiet(&self) -> bool {
        let gone = self.retired && self.session.is_none();
        gone || (self.outbox.is_empty() && self.work.is_empty())
    }
}

impl World {
    pub(super) fn start_runner(&mut self, id: &RunnerId) {
        let now = self.now;
        let safeguards = self.options.safeguards.clone();
        let shrinks = !self.calm && self.random.chance(self.faults.shrinks);
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        if runner.session.is_some() || runner.retired {
            return;
        }
        runner.incarnation += 1;
        runner.offers = if shrinks { Arc::new(half(&runner.offer)) } else { runner.offer.clone() };
        self.checkers.has_runner(id, &runner.offers);
        let incarnation: Arc<str> = format!("{id}-{:04}", runner.incarnation).into();
        let mut config = SessionConfig::new(id.clone(), incarnation, runner.offers.clone());
        config.cost = runner.cost;
        config.artifacts = given(id, runner.incarnation);
        for artifact in &config.artifacts {
            self.checkers.holds(id, artifact);
        }
        (config.class, config.intent) = runner.started_for.clone().unzip();
        config.stop_grace = Duration::from_secs(3);
        config.answer_within = self.options.answer_within;
        config.safeguards = safeguards;
        let reports = std::mem::take(&mut runner.outbox);
        let restored = Restored { reports, last_seen: runner.last_seen, ..Restored::default() };
        runner.session = Some(Session::new(config, restored, runner.clock(now)));
        runner.wakes_at = None;
        runner.sends_at = None;
        self.tell(|| format!("{id} starts"));
        self.hear(id, Word::Tick);
    }

    pub(super) fn crash_runner(&mut self, id: &RunnerId, restart_after: u64) {
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        if runner.session.take().is_none() {
            return;
        }
        let work = std::mem::take(&mut runner.work);
        for (held, work) in work {
            if work.executes {
                self.checkers.work_stopped(self.now, id, &held, None);
            }
        }
        self.tell(|| format!("{id} crashes"));
        self.schedule.put(self.now + restart_after, Event::RunnerStarts { runner: id.clone() });
    }

    /// The whole machine stands still: session, work and all.
    pub(super) fn freeze_runner(&mut self, id: &RunnerId, span: u64) {
        let now = self.now;
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        if runner.session.is_none() || runner.still_until > now {
            return;
        }
        runner.still_until = now + span;
        let executing: Vec<Held> = runner.executing().collect();
        for held in executing {
            self.checkers.work_stopped(now, id, &held, None);
        }
        self.tell(|| format!("{id} stands still for {span} ms"));
        self.schedule.put(now + span, Event::RunnerThaws { runner: id.clone() });
    }

    /// It goes on. Its session hears the time first, so what may not run any more is gone before it goes on.
    pub(super) fn thaw_runner(&mut self, id: &RunnerId) {
        let now = self.now;
        self.thawing = true;
        self.hear(id, Word::Tick);
        self.thawing = false;
        self.stop_what_is_over(id);
        let runner = &self.runners[id];
        let executing: Vec<(Held, Work)> = runner
            .work
            .iter()
            .filter(|(_, work)| work.executes)
            .map(|(held, work)| (held.clone(), work.clone()))
            .collect();
        for (held, work) in executing {
            self.checkers.work_goes_on(now, id, &held, &work);
        }
    }

    /// The session takes one word, and what it asks for is carried out.
    pub(super) fn hear(&mut self, id: &RunnerId, word: Word) {
        let now = self.now;
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        let local = runner.clock(now);
        let Some(session) = &mut runner.session else { return };
        let outputs = session.on(local, word);
        if session.lease_until().is_none_or(|until| until <= local) {
            runner.leaseless_at = now;
        }
        for output in outputs {
            self.carry_out(id, output);
        }
        self.wake_runner(id);
    }

    fn wake_runner(&mut self, id: &RunnerId) {
        let late =
            if self.random.chance(20) { self.random.between(1, 800) } else { self.random.between(1, 20) };
        let now = self.now;
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        let Some(next) = runner.session.as_ref().and_then(Session::next_wake) else { return };
        let at = runner.when(next).max(now) + late;
        if runner.wakes_at.is_none_or(|before| at < before) {
            runner.wakes_at = Some(at);
            let event = Event::RunnerWakes { runner: id.clone(), incarnation: runner.incarnation };
            self.schedule.put(at, event);
        }
    }

    pub(super) fn runner_wakes(&mut self, id: &RunnerId) {
        self.runners.get_mut(id).expect("a runner of this world").wakes_at = None;
        self.hear(id, Word::Tick);
    }

    fn carry_out(&mut self, id: &RunnerId, output: Output) {
        let now = self.now;
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        match output {
            Output::Register { number, registration } => {
                self.ask(id, Request::Register { number, registration });
            }
            Output::Heartbeat(beat) => self.ask(id, Request::Heartbeat(beat)),
            Output::Report { number, report } => {
                if !runner.outbox.iter().any(|(known, _)| *known == number) {
                    runner.outbox.push((number, report.clone()));
                }
                self.note_said(id, &report);
                self.send_reports_at(id, now);
            }
            Output::Forget { through } => runner.outbox.retain(|(number, _)| *number > through),
            Output::Seen(seen) => runner.last_seen = Some(seen),
            Output::Start { assignment, order } => self.start_work(id, &assignment, &order),
            Output::Stop { held, grace, .. } => self.stop_work(id, &held, grace),
            Output::Leave(leave) => {
                self.ask(id, Request::Leave(leave));
                let runner = self.runners.get_mut(id).expect("a runner of this world");
                let work = std::mem::take(&mut runner.work);
                runner.session = None;
                if let Some((held, _)) = work.first_key_value() {
                    self.checkers.broken(now, "leave", format!("{id} left while {} ran there", held.id));
                }
                self.tell(|| format!("{id} leaves"));
                let away = self.random.between(500, 40_000);
                self.schedule.put(now + away, Event::RunnerStarts { runner: id.clone() });
            }
        }
    }

    fn note_said(&mut self, id: &RunnerId, report: &Report) {
        let Reported::End(end) = &report.what else { return };
        let message = end.message.as_deref().unwrap_or_default();
        if end.outcome == AttemptOutcome::Refused && message.starts_with("needs ") {
            self.checkers.had_no_room(self.now, id, &report.id, message);
        }
    }

    fn ask(&mut self, id: &RunnerId, request: Request) {
        let runner = &self.runners[id];
        let from = Some((id.clone(), runner.incarnation));
        if runner.mute_until > self.now {
            return;
        }
        self.send_to_leaders(from, &request);
    }

    /// Sends a request to every replica: whoever believes it leads answers.
    pub(super) fn send_to_leaders(&mut self, from: Option<(RunnerId, u64)>, request: &Request) {
        for replica in 0..self.dispatchers.len() {
            let life = self.dispatchers[replica].life;
            for delay in self.delays() {
                let (from, request) = (from.clone(), request.clone());
                let event = Event::RequestArrives { replica, life, from, request };
                self.schedule.put(self.now + delay, event);
            }
        }
    }

    /// After how long each copy of a message arrives; none if it is lost.
    pub(super) fn delays(&mut self) -> Vec<u64> {
        let copies = match () {
            () if self.random.chance(self.faults.message_lost) => 0,
            () if self.random.chance(self.faults.message_doubled) => 2,
            () => 1,
        };
        (0..copies)
            .map(|_| {
                if self.random.chance(self.faults.message_late) {
                    self.statistics.messages_late += 1;
                    self.random.below(self.faults.latest)
                } else {
                    self.random.between(1, 30)
                }
            })
            .collect()
    }

    pub(super) fn send_to_runner(&mut self, id: &RunnerId, incarnation: Option<u64>, word: Word) {
        if self.runners.get(id).is_none_or(|runner| runner.deaf_until > self.now) {
            return;
        }
        for delay in self.delays() {
            let event = Event::RunnerHears { runner: id.clone(), incarnation, word: word.clone() };
            self.schedule.put(self.now + delay, event);
        }
    }

    fn send_reports_at(&mut self, id: &RunnerId, at: u64) {
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        if runner.sends_at.is_none_or(|before| at < before) {
            runner.sends_at = Some(at);
            let event = Event::RunnerSendsReports { runner: id.clone(), incarnation: runner.incarnation };
            self.schedule.put(at, event);
        }
    }

    pub(super) fn send_reports(&mut self, id: &RunnerId) {
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        runner.sends_at = None;
        if runner.session.is_none() {
            return;
        }
        let Some((through, _)) = runner.outbox.last() else { return };
        let through = *through;
        let incarnation = runner.incarnation;
        let reports: Vec<Report> = runner.outbox.iter().map(|(_, report)| report.clone()).collect();
        let mute = runner.mute_until > self.now;
        for delay in if mute { Vec::new() } else { self.delays() } {
            let (runner, reports) = (id.clone(), reports.clone());
            let event = Event::ReportsArrive { runner, incarnation, reports, through };
            self.schedule.put(self.now + delay, event);
        }
        self.send_reports_at(id, self.now + REPORT_AGAIN);
    }

    pub(super) fn reports_arrive(
        &mut self,
        id: &RunnerId,
        incarnation: u64,
        reports: Vec<Report>,
        through: u64,
    ) {
        let runner = &self.runners[id];
        let has_lease = runner.incarnation == incarnation && runner.has_lease(self.now);
        let leaseless_at = runner.leaseless_at;
        let waits = !self.options.told_when_stored;
        let batch = waits.then(|| {
            let (runner, left) = (id.clone(), reports.len());
            self.inbox.put_batch(Batch { runner, incarnation, through, left })
        });
        for report in reports {
            if has_lease {
                self.checkers.stored(leaseless_at, &report);
            }
            self.inbox.put(Mail::Report(report), batch, self.now);
        }
        if !waits {
            self.send_to_runner(id, Some(incarnation), Word::ReportsTaken { through });
        }
    }
}

/// What a runner holds when it starts: it remembers nothing of what it made before.
fn given(id: &RunnerId, incarnation: u64) -> Vec<ArtifactId> {
    let number = incarnation + id.as_str().bytes().map(u64::from).sum::<u64>();
    (0..number % 3).map(|place| artifact(number + place)).collect()
}

/// One of the few artifacts there are.
pub(super) fn artifact(number: u64) -> ArtifactId {
    ArtifactId::parse(&format!("a{}", number % 7)).expect("a legal name")
}

fn half(offer: &Offer) -> Offer {
    let resources = offer.resources.as_ref().map(|has| Resources::new(has.cpu / 2, has.memory));
    Offer { slots: offer.slots.div_ceil(2), resources, ..offer.clone() }
}
