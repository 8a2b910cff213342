//! The world: one table, some dispatchers, runners and producers, and a clock that only events move.
//!
//! Law: a run follows from its seed and options alone. First things go wrong for a while, then everything is
//! mended, and by a bound everything must have ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use super::checkers::Checkers;
use super::inbox::Inbox;
use super::options::{Faults, Options};
use super::producers::{Plan, could_run, named};
use super::provisioner::Provisioner;
use super::pullers::PullerSide;
use super::random::Random;
use super::replicas::Dispatcher;
use super::runners::RunnerSide;
use super::schedule::{Event, Schedule};
use super::{Statistics, Verdict};
use crate::adapters::faulty::FaultyTable;
use crate::adapters::memory::MemoryTable;
use crate::core::Settings;
use crate::model::{Kind, Offer, Resources, RunnerId, TaskId};

/// How often checkers look at the whole world, in milliseconds.
const LOOK_EVERY: u64 = 2_000;

#[derive(Debug)]
pub(super) struct World {
    pub now: u64,
    pub random: Random,
    pub schedule: Schedule,
    pub options: Options,
    pub settings: Arc<Settings>,
    pub faults: Faults,
    pub table: FaultyTable,
    pub table_refuses_until: u64,
    pub dispatchers: Vec<Dispatcher>,
    pub runners: BTreeMap<RunnerId, RunnerSide>,
    pub provisioner: Provisioner,
    pub pullers: Vec<PullerSide>,
    pub inbox: Inbox,
    pub plans: BTreeMap<TaskId, Plan>,
    pub checkers: Checkers,
    pub statistics: Statistics,
    pub calm: bool,
    /// A machine that stood still wakes: what it stops, it stops at once.
    pub thawing: bool,
    transcript: VecDeque<String>,
}

impl World {
    pub fn new(seed: u64, options: Options) -> Self {
        let settings = Arc::new(options.settings.clone());
        let id = Uuid::from_u64_pair(seed, 0x7461_626c_6500_0001);
        let table = MemoryTable::with(id, options.budget);
        let mut world = Self {
            now: 0,
            random: Random::new(seed),
            schedule: Schedule::default(),
            settings: settings.clone(),
            faults: options.faults.clone(),
            table: FaultyTable::over(table),
            table_refuses_until: 0,
            dispatchers: Vec::new(),
            runners: BTreeMap::new(),
            provisioner: Provisioner::default(),
            pullers: Vec::new(),
            inbox: Inbox::default(),
            plans: BTreeMap::new(),
            checkers: Checkers::new(settings, id),
            statistics: Statistics::default(),
            calm: false,
            thawing: false,
            transcript: VecDeque::new(),
            options,
        };
        world.furnish();
        world
    }

    fn furnish(&mut self) {
        let drift = self.faults.drift;
        for number in 0..self.options.replicas {
            let skew = self.random.below(60_000);
            let rate = 995_000 + self.random.below(10_000);
            self.dispatchers.push(Dispatcher::new(skew, rate));
            let at = self.random.below(800);
            self.schedule.put(at, Event::ReplicaStarts { replica: number });
        }
        for number in 0..self.options.runners {
            let id = named(&format!("r{number}"));
            let rate = 1_000 - drift + self.random.below(2 * drift + 1);
            let offer = self.draw_offer(number);
            self.checkers.has_runner(&id, &offer);
            let cost = *self.random.pick(&[1.0, 1.0, 2.5]);
            self.runners.insert(id.clone(), RunnerSide::new(offer, cost, rate));
            let at = self.random.below(3_000);
            self.schedule.put(at, Event::RunnerStarts { runner: id });
        }
        self.plan_everything();
        self.furnish_pullers();
        self.await_troubles();
        self.schedule.put(self.options.faulty_for, Event::Calm);
        self.schedule.put(LOOK_EVERY, Event::Look);
        if !self.settings.classes.is_empty() {
            self.schedule.put(0, Event::ProvisionerLooks);
        }
        self.look_at_pace();
    }

    fn draw_offer(&mut self, number: usize) -> Offer {
        let word = &mut self.random;
        let general = number == 0 || word.chance(400);
        let arch = if number == 0 || word.chance(600) { "amd64" } else { "arm64" };
        let cpu = 1_000 * word.between(2, 6);
        let opaque = self.options.slots.is_some() || word.chance(200);
        let zone = BTreeMap::from([("zone".into(), "eu".into())]);
        let jobs_only = !general && word.chance(500);
        Offer {
            kinds: if jobs_only { [Kind::Job].into() } else { [Kind::Job, Kind::Build].into() },
            queues: if general || word.chance(700) { BTreeSet::new() } else { [named("fast")].into() },
            arch: arch.into(),
            os: "linux".into(),
            labels: if general || word.chance(500) { zone } else { BTreeMap::new() },
            taints: if general || word.chance(700) { BTreeSet::new() } else { ["spot".into()].into() },
            group: self
                .options
                .groups
                .checked_sub(1)
                .filter(|_| number > 0 && word.chance(200))
                .map(|_| named("g0")),
            resources: (!opaque).then(|| Resources::new(cpu, 1 << 30)),
            slots: self.options.slots.unwrap_or(u32::try_from(word.between(2, 8)).expect("a small number")),
            open: false,
        }
    }

    /// Lets everything happen, and judges it.
    pub fn run(mut self) -> Verdict {
        let end = self.options.faulty_for + self.options.drained_within;
        while let Some((at, event)) = self.schedule.next() {
            self.now = self.now.max(at);
            self.happen(event);
            if self.checkers.is_broken() || (self.calm && self.is_drained()) {
                break;
            }
            if self.now > end {
                self.say_what_is_left();
                break;
            }
        }
        self.judge()
    }

    fn is_drained(&self) -> bool {
        self.checkers.all_ended()
            && self.inbox.is_empty()
            && !self.producers_ask()
            && self.runners.values().all(RunnerSide::is_quiet)
            && self.pullers.iter().all(PullerSide::is_quiet)
    }

    fn judge(mut self) -> Verdict {
        if !self.checkers.is_broken() {
            self.checkers.at_the_end(self.now, &self.table.read());
        }
        self.statistics.tasks = self.plans.len() as u64;
        self.statistics.ended = self.checkers.ended();
        self.statistics.virtual_seconds = self.now / 1_000;
        Verdict {
            violations: self.checkers.into_violations(),
            statistics: self.statistics,
            transcript: self.transcript.into(),
        }
    }

    fn say_what_is_left(&mut self) {
        let left = self.checkers.unended();
        let runners: Vec<String> = self
            .runners
            .iter()
            .filter(|(_, runner)| !runner.is_quiet())
            .map(|(id, runner)| format!("{id} has {:?}", runner.work.keys().collect::<Vec<_>>()))
            .collect();
        let asked = if self.producers_ask() { "; producers wait for answers" } else { "" };
        let inbox = if self.inbox.is_empty() { "" } else { "; the inbox is not empty" };
        let what = format!("not all ended in time: {left}; {}{asked}{inbox}", runners.join(", "));
        self.checkers.broken(self.now, "liveness", what);
    }

    /// Notes an event for the transcript, if one is wanted.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.options.transcript == 0 {
            return;
        }
        if self.transcript.len() >= self.options.transcript {
            self.transcript.pop_front();
        }
        self.transcript.push_back(format!("{:>8} {}", self.now, what()));
    }

    fn happen(&mut self, event: Event) {
        self.statistics.events += 1;
        match &event {
            Event::ReplicaLooks { replica, life }
            | Event::CommitAnswered { replica, life, .. }
            | Event::Carry { replica, life }
            | Event::RequestArrives { replica, life, .. } => {
                let dispatcher = &self.dispatchers[*replica];
                if dispatcher.life != *life || dispatcher.process.is_none() {
                    return;
                }
                if dispatcher.still_until > self.now {
                    let at = dispatcher.still_until;
                    return self.schedule.put(at, event);
                }
                self.replica_event(event);
            }
            Event::RunnerHears { runner, .. }
            | Event::RunnerWakes { runner, .. }
            | Event::RunnerSendsReports { runner, .. }
            | Event::WorkBegins { runner, .. }
            | Event::WorkEnds { runner, .. }
            | Event::BuildLooks { runner, .. } => {
                let side = &self.runners[runner];
                if side.still_until > self.now {
                    let at = side.still_until;
                    return self.schedule.put(at, event);
                }
                self.runner_event(event);
            }
            _ => self.world_event(event),
        }
    }

    fn replica_event(&mut self, event: Event) {
        match event {
            Event::ReplicaLooks { replica, .. } => self.replica_looks(replica),
            Event::CommitAnswered { replica, answer, .. } => self.commit_answered(replica, answer),
            Event::Carry { replica, .. } => self.carry(replica),
            Event::RequestArrives { replica, from, request, .. } => {
                self.request_arrives(replica, from, request);
            }
            _ => unreachable!("the caller sorted them"),
        }
    }

    fn runner_event(&mut self, event: Event) {
        let now_is = |world: &World, runner: &RunnerId, incarnation: u64| {
            let side = &world.runners[runner];
            side.incarnation == incarnation && side.session.is_some()
        };
        match event {
            Event::RunnerHears { runner, incarnation, word }
                if incarnation.is_none_or(|one| now_is(self, &runner, one)) =>
            {
                self.hear(&runner, word);
            }
            Event::RunnerWakes { runner, incarnation } if now_is(self, &runner, incarnation) => {
                self.runner_wakes(&runner);
            }
            Event::RunnerSendsReports { runner, incarnation } if now_is(self, &runner, incarnation) => {
                self.send_reports(&runner);
            }
            Event::WorkBegins { runner, incarnation, held } if now_is(self, &runner, incarnation) => {
                self.work_begins(&runner, &held);
            }
            Event::WorkEnds { runner, incarnation, held, order } if now_is(self, &runner, incarnation) => {
                self.work_ends(&runner, &held, order);
            }
            Event::BuildLooks { runner, incarnation, held } if now_is(self, &runner, incarnation) => {
                self.build_looks(&runner, &held);
            }
            _ => {}
        }
    }

    fn world_event(&mut self, event: Event) {
        match event {
            Event::CommitArrives { replica, life, record } => self.commit_arrives(replica, life, &record),
            Event::StrayCommit { record } => self.stray_commit(&record),
            Event::ReplicaStarts { replica } => self.start_replica(replica),
            Event::ReportsArrive { runner, incarnation, reports, through } => {
                self.reports_arrive(&runner, incarnation, reports, through);
            }
            Event::SubmissionArrives { id } => self.submission_arrives(&id),
            Event::CancelArrives { id } => self.cancel_arrives(&id),
            Event::Told { id, answer } => self.told(&id, &answer),
            Event::CancelTold { id } => self.cancel_told(&id),
            Event::RunnerStarts { runner } => self.start_runner(&runner),
            Event::RunnerThaws { runner } => self.thaw_runner(&runner),
            Event::Submit { id } => self.submit(&id),
            Event::Repeat { id } => self.post(Event::SubmissionArrives { id }),
            Event::Cancel { id } => self.cancel(&id),
            Event::PullerLooks { puller } => self.puller_looks(puller),
            Event::PullerHears { puller, number, answer } => self.puller_hears(puller, number, answer),
            Event::Trouble(trouble) => self.trouble(trouble),
            Event::Calm => self.calm_down(),
            Event::ProvisionerLooks => self.provisioner_looks(),
            Event::Look => self.look(),
            Event::LookAtPace => self.look_at_pace(),
            _ => unreachable!("the caller sorted them"),
        }
    }

    /// Jobs that some machine has room for at this moment, whatever the dispatcher believes.
    fn could_start(&self) -> BTreeSet<TaskId> {
        let waits = |id: &TaskId| !self.checkers.has_ended(id) && !self.checkers.executes(id);
        let has_room = |plan: &Plan| {
            self.runners.iter().any(|(id, runner)| {
                runner.has_lease(self.now)
                    && could_run(&runner.offer, &plan.task)
                    && self.checkers.has_room(id, plan.task.shape.resources.cpu)
            })
        };
        let told = self.plans.iter().filter(|(_, plan)| plan.is_told_job() && !plan.waits_for_others());
        told.filter(|(id, plan)| waits(id) && has_room(plan)).map(|(id, _)| id.clone()).collect()
    }

    fn look(&mut self) {
        self.schedule.put(self.now + LOOK_EVERY, Event::Look);
        if self.calm {
            self.lift_holds();
            let waiting = self.could_start();
            self.checkers.could_start(self.now, waiting);
        }
        let load = self.table.read();
        self.checkers.table_is(self.now, &load);
        for dispatcher in &self.dispatchers {
            if let Some(state) = dispatcher.shows().filter(|state| state.turn() == load.head.number) {
                self.checkers.replica_is(self.now, state, &load);
            }
        }
    }
}
