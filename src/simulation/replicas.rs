//! The dispatcher's replicas: `runtime::Replica` on one table, with the steps around a turn taken one by one.
//!
//! Law: between any two steps — decide, commit, send effects, report facts, acknowledge — a replica may end,
//! stand still or be deposed. Nothing here decides: it carries out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use super::inbox::{Batch, OUT_FOR};
use super::outbox::delivery;
use super::schedule::{Event, Request};
use super::world::World;
use crate::core::input::{Answer, Arrived, Input, Submitted, Ticket};
use crate::core::{Effect, State};
use crate::model::{Delivery, RunnerId, Time, TurnRecord};
use crate::ports::{Clock, Commit};
use crate::runner::session::Input as Word;
use crate::runtime::LogTime;
use crate::runtime::replica::{Replica, Settled};

/// A follower that has seen no write for so long leads, in milliseconds.
const TAKE_OVER: u64 = 3_000;
/// A leader with nothing to do commits an empty turn this often, in milliseconds.
const PULSE: u64 = 1_000;
/// What is unconfirmed is said again this often, in milliseconds.
const SAY_AGAIN: u64 = 2_000;
/// Calendar time at the beginning of every world.
pub(super) const BEGINNING: u64 = 1_800_000_000_000;

/// One dispatcher, whether its process is up or not.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub life: u64,
    pub process: Option<Process>,
    /// Stands still until then.
    pub still_until: u64,
    /// Cannot reach the table until then.
    pub cut_until: u64,
    /// How far its calendar is off, in milliseconds.
    skew: u64,
    /// How fast its clocks go, of 1,000,000.
    rate: u64,
}

/// A running dispatcher process.
#[derive(Debug)]
pub(super) struct Process {
    pub replica: Replica,
    /// The committed state a leader reads.
    view: Option<State>,
    time: Option<LogTime>,
    /// When it last saw a turn, by its own monotonic clock.
    last_write: Duration,
    saw_a_write: bool,
    released: bool,
    /// Who gets the answer under a ticket.
    origins: BTreeMap<u64, Origin>,
    tickets: u64,
    steps: VecDeque<Effect>,
    marks: Vec<(u64, u64)>,
    last_turn: u64,
    said_again: u64,
    pulled: u64,
    /// Takes what has arrived, writes a last turn, and ends.
    pub stopping: bool,
}

#[derive(Debug, Clone)]
enum Origin {
    Letter(u64),
    Asked { from: Option<(RunnerId, u64)>, request: Request },
    Mark,
}

struct SimulatedClock {
    wall: Time,
    monotonic: Duration,
}

impl Clock for SimulatedClock {
    fn wall(&self) -> Time {
        self.wall
    }

    fn monotonic(&self) -> Duration {
        self.monotonic
    }
}

impl Dispatcher {
    pub fn new(skew: u64, rate: u64) -> Self {
        Self { life: 0, process: None, still_until: 0, cut_until: 0, skew, rate }
    }

    fn clock(&self, now: u64) -> SimulatedClock {
        let passed = now * self.rate / 1_000_000;
        SimulatedClock {
            wall: Time(BEGINNING + self.skew + passed),
            monotonic: Duration::from_millis(500 + passed),
        }
    }

    pub fn leads(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.replica.is_leading())
    }

    /// Log time, if it leads.
    pub fn log_now(&self, now: u64) -> Option<Time> {
        let process = self.process.as_ref().filter(|process| process.replica.is_leading())?;
        process.time.as_ref().map(|time| time.now(&self.clock(now)))
    }

    /// The committed state this replica shows.
    pub fn shows(&self) -> Option<&State> {
        let process = self.process.as_ref()?;
        Some(process.view.as_ref().unwrap_or_else(|| process.replica.state()))
    }
}

impl World {
    fn process(&mut self, replica: usize) -> &mut Process {
        self.dispatchers[replica].process.as_mut().expect("events of an ended life are dropped")
    }

    pub(super) fn start_replica(&mut self, number: usize) {
        if self.dispatchers[number].process.is_some() {
            return;
        }
        self.dispatchers[number].life += 1;
        let replica = self.fresh_replica(number);
        let released = self.table.inner().head().released;
        let last_write = self.dispatchers[number].clock(self.now).monotonic;
        self.dispatchers[number].process = Some(Process {
            replica,
            view: None,
            time: None,
            last_write,
            saw_a_write: false,
            released,
            origins: BTreeMap::new(),
            tickets: 0,
            steps: VecDeque::new(),
            marks: Vec::new(),
            last_turn: self.now,
            said_again: self.now,
            pulled: 0,
            stopping: false,
        });
        let life = self.dispatchers[number].life;
        self.tell(|| format!("replica {number} starts life {life}"));
        self.schedule.put(self.now + 1, Event::ReplicaLooks { replica: number, life });
    }

    fn fresh_replica(&mut self, number: usize) -> Replica {
        let id = Uuid::from_u64_pair(self.random.next(), number as u64);
        Replica::new(id, self.settings.clone(), self.table.read())
    }

    pub(super) fn end_replica(&mut self, number: usize, restart_after: u64) {
        if self.dispatchers[number].process.take().is_none() {
            return;
        }
        self.dispatchers[number].life += 1;
        self.tell(|| format!("replica {number} ends"));
        self.schedule.put(self.now + restart_after, Event::ReplicaStarts { replica: number });
    }

    /// What a replica that lives on wrongly believed is thrown away.
    fn follow_again(&mut self, number: usize) {
        let replica = self.fresh_replica(number);
        let last_write = self.dispatchers[number].clock(self.now).monotonic;
        let released = self.table.inner().head().released;
        let life = self.dispatchers[number].life;
        self.inbox.give_back_all((number, life), self.now + OUT_FOR);
        let process = self.process(number);
        process.replica = replica;
        process.view = None;
        process.time = None;
        process.last_write = last_write;
        process.saw_a_write = false;
        process.released = released;
        process.origins.clear();
        process.steps.clear();
        process.marks.clear();
    }

    /// The process may end or stand still here. Returns whether it ended.
    fn between_steps(&mut self, number: usize) -> bool {
        if self.random.chance(self.faults.crash_at_step) {
            self.statistics.replicas_ended += 1;
            let after = self.random.between(100, 6_000);
            self.end_replica(number, after);
            return true;
        }
        if self.random.chance(self.faults.pause_at_step) {
            self.statistics.replicas_paused += 1;
            let still = *self.random.pick(&[500, 2_000, 8_000, 30_000]);
            self.dispatchers[number].still_until = self.now + still;
            self.tell(|| format!("replica {number} stands still for {still} ms"));
        }
        false
    }

    pub(super) fn replica_looks(&mut self, number: usize) {
        if self.dispatchers[number].leads() {
            self.take_letters(number);
            self.take_a_turn(number);
            self.say_again(number);
        } else {
            self.follow(number);
        }
        if let Some(process) = &self.dispatchers[number].process {
            let pause = if process.replica.is_leading() { 40 } else { 150 };
            let life = self.dispatchers[number].life;
            self.schedule.put(self.now + pause, Event::ReplicaLooks { replica: number, life });
        }
    }

    fn follow(&mut self, number: usize) {
        let clock = self.dispatchers[number].clock(self.now);
        let cut = self.dispatchers[number].cut_until > self.now;
        let alone = self.dispatchers.len() == 1;
        let after = self.process(number).replica.state().turn();
        let turns = if cut { Some(Vec::new()) } else { self.table.turns_after(after) };
        let Some(turns) = turns else { return self.follow_again(number) };
        let process = self.dispatchers[number].process.as_mut().expect("it was just there");
        for turn in &turns {
            process.replica.follow(turn);
            process.last_write = clock.monotonic;
            process.saw_a_write = true;
            process.released = turn.released;
        }
        let silence = clock.monotonic.saturating_sub(process.last_write);
        let long = silence >= Duration::from_millis(TAKE_OVER);
        if process.stopping || !(long || process.released || alone) {
            return;
        }
        let last = process.replica.state().now();
        // Who saw no turn being written does not know how long nothing was.
        let time = LogTime::begin(&clock, last, process.saw_a_write.then_some(silence));
        process.view = Some(process.replica.state().clone());
        process.replica.lead(time.now(&clock));
        process.time = Some(time);
        process.last_turn = self.now;
        let turn = process.replica.state().turn();
        self.statistics.take_overs += 1;
        self.tell(|| format!("replica {number} leads after turn {turn}"));
    }

    fn take_letters(&mut self, number: usize) {
        let life = self.dispatchers[number].life;
        let process = self.dispatchers[number].process.as_mut().expect("it leads");
        if process.stopping || self.now < process.pulled + self.options.pull_every {
            return;
        }
        process.pulled = self.now;
        for (letter, input) in self.inbox.pull((number, life), self.now, 24, &mut self.random) {
            process.push(Origin::Letter(letter), input);
        }
        let inbox = &self.inbox;
        let (read, unread) = std::mem::take(&mut process.marks)
            .into_iter()
            .partition(|(_, upto)| inbox.has_all_reports((number, life), *upto));
        process.marks = unread;
        let read: Vec<(u64, u64)> = read;
        for (mark, _) in read {
            process.push(Origin::Mark, Input::ReportsRead { mark });
        }
    }

    fn take_a_turn(&mut self, number: usize) {
        let clock = self.dispatchers[number].clock(self.now);
        let budget = self.options.budget;
        let now_ms = self.now;
        let process = self.process(number);
        if process.replica.is_committing() || !process.steps.is_empty() {
            return;
        }
        let now = process.time.as_ref().expect("a leader has log time").now(&clock);
        let record = if process.stopping && process.replica.waiting() == 0 {
            process.replica.release(now, budget)
        } else if process.last_turn + PULSE <= now_ms {
            process.replica.pulse(now, budget)
        } else {
            process.replica.decide(now, budget)
        };
        let Some(record) = record else { return };
        process.last_turn = now_ms;
        self.check_decided(number, &record);
        if !self.between_steps(number) {
            self.offer(number, record, 0);
        }
    }

    fn check_decided(&mut self, number: usize, record: &TurnRecord) {
        self.statistics.turns += 1;
        let process = self.dispatchers[number].process.as_ref().expect("it just decided");
        let state = process.replica.state();
        let large = state.tasks().count() > 60 && !state.turn().is_multiple_of(7);
        if !large {
            self.checkers.decided(self.now, number, state);
        }
        if process.replica.is_done_for_now() && state.turn().is_multiple_of(5) {
            self.checkers.planned(self.now, state);
        }
        if !record.changes.is_empty() {
            let (turn, changes) = (record.number, record.changes.len());
            self.tell(|| format!("replica {number} decides turn {turn}: {changes} changes"));
        }
    }

    pub(super) fn commit_answered(&mut self, number: usize, answer: Commit) {
        let process = self.process(number);
        if !process.replica.is_committing() {
            return;
        }
        match process.replica.settle(answer) {
            Settled::Committed { record, effects } => {
                process.view.as_mut().expect("a leader has a view").apply(&record);
                process.steps = effects.into();
                let ends = process.stopping && record.released;
                // Effects go out before the inputs are acknowledged.
                let is_answer = |effect: &Effect| matches!(effect, Effect::Answer { .. });
                process.steps.make_contiguous().sort_by_key(is_answer);
                if ends {
                    let after = self.random.between(500, 10_000);
                    return self.end_replica(number, after);
                }
                if !self.between_steps(number) {
                    self.carry_soon(number);
                }
            }
            Settled::Again { .. } | Settled::Refused { .. } => {
                let record = process.replica.on_its_way().expect("it is offered again");
                let after = self.random.between(20, 400);
                if !self.between_steps(number) {
                    self.offer(number, record, after);
                }
            }
            Settled::Deposed { unanswered } => {
                self.statistics.deposed += 1;
                self.tell(|| format!("replica {number} is deposed"));
                for Ticket(ticket) in unanswered {
                    if let Some(Origin::Letter(letter)) = self.process(number).origins.remove(&ticket) {
                        self.inbox.give_back(letter, self.now);
                    }
                }
                let stopping = self.process(number).stopping;
                self.follow_again(number);
                if stopping {
                    self.end_replica(number, 1_000);
                }
            }
        }
    }

    fn carry_soon(&mut self, replica: usize) {
        let life = self.dispatchers[replica].life;
        self.schedule.put(self.now, Event::Carry { replica, life });
    }

    /// Takes the next few steps after a commit.
    pub(super) fn carry(&mut self, number: usize) {
        for _ in 0..4 {
            let Some(effect) = self.process(number).steps.pop_front() else { return };
            match effect {
                Effect::Deliver { runner } => self.deliver(number, &runner),
                Effect::ReadReports { mark } => {
                    let upto = self.inbox.last();
                    self.process(number).marks.push((mark, upto));
                }
                Effect::Answer { to: Ticket(ticket), answer } => {
                    if let Some(origin) = self.process(number).origins.remove(&ticket) {
                        self.answer(origin, answer);
                    }
                }
            }
        }
        if !self.between_steps(number) {
            self.carry_soon(number);
        }
    }

    fn deliver(&mut self, number: usize, runner: &RunnerId) {
        let Some(state) = self.dispatchers[number].shows() else { return };
        let words = delivery(state, runner);
        self.send_delivery(runner, words);
    }

    fn send_delivery(&mut self, runner: &RunnerId, words: Delivery) {
        if !words.is_empty() {
            self.statistics.deliveries += 1;
            self.send_to_runner(runner, None, Word::Delivered(words));
        }
    }

    fn say_again(&mut self, number: usize) {
        let now = self.now;
        let Some(process) = self.dispatchers[number].process.as_mut() else { return };
        if !self.options.says_again || process.said_again + SAY_AGAIN > now {
            return;
        }
        process.said_again = now;
        let runners: Vec<RunnerId> = self.runners.keys().cloned().collect();
        for runner in runners {
            self.deliver(number, &runner);
        }
    }

    fn answer(&mut self, origin: Origin, answer: Answer) {
        match (origin, answer) {
            (Origin::Mark, _) => {}
            (_, Answer::Frozen { reason }) => self.checkers.broken(self.now, "frozen", reason.to_string()),
            (Origin::Letter(letter), answer) => self.acknowledge(letter, &answer),
            (Origin::Asked { request: Request::OfPuller { puller, number, .. }, .. }, answer) => {
                self.answer_puller(puller, number, &answer);
            }
            (Origin::Asked { from: Some((runner, incarnation)), request }, answer) => {
                let word = match (request, answer) {
                    (Request::Register { number, .. }, Answer::Registered(registered)) => {
                        let side = &self.runners[&runner];
                        if side.incarnation == incarnation && side.is_whole() {
                            self.checkers.registered(&runner);
                        }
                        Word::Registered { number, registered }
                    }
                    (Request::Register { number, .. }, _) => Word::RegistrationFailed { number },
                    (_, Answer::Heartbeat(answer)) => Word::HeartbeatAnswered(answer),
                    _ => return,
                };
                self.send_to_runner(&runner, Some(incarnation), word);
            }
            (Origin::Asked { from: None, .. }, _) => {}
        }
    }

    fn acknowledge(&mut self, letter: u64, answer: &Answer) {
        if let Answer::Submitted(Submitted::Full { .. }) = answer
            && self.options.told_when_stored
        {
            return self.inbox.give_back(letter, self.now + 1_500);
        }
        if self.random.chance(self.faults.message_lost / 2) {
            // The acknowledgement is lost: the letter is handed out again.
            return self.inbox.give_back(letter, self.now + OUT_FOR);
        }
        let Some((mail, batch)) = self.inbox.acknowledge(letter) else { return };
        if self.options.told_when_stored {
            return;
        }
        match answer {
            Answer::Submitted(submitted) => self.tell_producer(&mail, submitted.clone()),
            Answer::Commanded(_) => self.tell_canceller(&mail),
            _ => {}
        }
        if let Some(Batch { runner, incarnation, through, .. }) = batch {
            self.send_to_runner(&runner, Some(incarnation), Word::ReportsTaken { through });
        }
    }

    pub(super) fn request_arrives(&mut self, number: usize, from: Option<(RunnerId, u64)>, request: Request) {
        let process = self.process(number);
        if !process.replica.is_leading() || process.stopping {
            return;
        }
        self.pull_ends_at(number, &request);
        let process = self.process(number);
        let input = match request.clone() {
            Request::Register { registration, .. } => Input::Register(registration),
            Request::Heartbeat(beat) => Input::Heartbeat(beat),
            Request::Leave(leave) => Input::Leave(leave),
            Request::Operator(command) => Input::Command(command),
            Request::OfPuller { input, .. } => *input,
        };
        process.push(Origin::Asked { from, request }, input);
    }
}

impl Process {
    fn push(&mut self, origin: Origin, input: Input) {
        self.tickets += 1;
        self.origins.insert(self.tickets, origin);
        self.replica.push(Arrived { ticket: Ticket(self.tickets), input });
    }
}
