//! Builds with everything on: whatever trees of builds and jobs stand in whatever fleet, and whatever becomes of it
//! meanwhile, once it is whole again everything ends and no build waits for its jobs for ever.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use longshore::core::Settings;
use longshore::core::input::{Command, Commanded, Submitted};
use longshore::core::settings::{Locality, Order, Strategy as Placing};
use longshore::model::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::forests::{Forest, Machine, forest};
use super::world::*;

/// When nothing has ended for so long though the fleet is whole, nothing ever will.
const IN_VAIN: Duration = Duration::from_secs(900);

#[derive(Debug, Clone)]
enum Step {
    Submit(usize),
    Work { which: usize, outcome: u8 },
    Stand { which: usize, how: u8 },
    Lose(usize),
    Leave(usize),
    Restart { which: usize, shrunk: bool, keeps: bool },
    News { which: usize, artifact: u8, held: bool },
    Cancel(usize),
    Provide,
    Pass(u64),
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..4usize).prop_map(Step::Submit),
        8 => (any::<usize>(), 0..24u8).prop_map(|(which, outcome)| Step::Work { which, outcome }),
        1 => (0..6usize, 0..3u8).prop_map(|(which, how)| Step::Stand { which, how }),
        1 => (0..6usize).prop_map(Step::Lose),
        1 => (0..6usize).prop_map(Step::Leave),
        2 => (0..6usize, any::<bool>(), any::<bool>())
            .prop_map(|(which, shrunk, keeps)| Step::Restart { which, shrunk, keeps }),
        1 => (0..6usize, 0..4u8, any::<bool>())
            .prop_map(|(which, artifact, held)| Step::News { which, artifact, held }),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => Just(Step::Provide),
        2 => (1..60u64).prop_map(Step::Pass),
        1 => Just(Step::TakeOver),
    ]
}

/// A world in which a forest grows, and those who work there: producers that ask until they are taken, and builds
/// that submit their jobs from inside and end after them.
struct Yard {
    world: World,
    forest: Forest,
    /// What waits in each of the three streams.
    streams: [VecDeque<TaskBuilder>; 3],
    jobs: BTreeMap<TaskId, Vec<TaskBuilder>>,
    starts: u32,
}

impl Yard {
    fn of(forest: Forest, change: impl FnOnce(&mut Settings)) -> Self {
        let (cache_wait, deps_wait) = (secs(forest.waits.0), secs(forest.waits.1));
        let locality = [(id("fast"), Locality { cache_wait, deps_wait })];
        let locality = locality.into_iter().filter(|_| forest.waits != (0, 0)).collect();
        let mut settings = Settings {
            heartbeat: secs(20),
            lease: secs(60),
            window: forest.window,
            reserve_after: secs(forest.reserve_after),
            order: if forest.fifo { Order::Fifo } else { Order::Priority },
            strategy: if forest.spread { Placing::Spread } else { Placing::Pack },
            class_memory: secs(120),
            unsafe_grace: secs(30),
            keep_ended: secs(1_000_000),
            locality,
            classes: forest.class.iter().map(declared).collect(),
            ..Settings::default()
        };
        change(&mut settings);
        let world = World::empty(settings);
        let mut yard = Self { world, streams: Default::default(), jobs: BTreeMap::new(), starts: 0, forest };
        yard.plant();
        for which in 0..yard.forest.fleet.len() {
            yard.arrive(which, false, false);
        }
        yard
    }

    fn plant(&mut self) {
        for (place, tree) in self.forest.trees.iter().enumerate() {
            let (build, jobs) = tree.tasks(&format!("b{place}"));
            if tree.is_early() {
                self.streams[2].extend(jobs.iter().cloned());
            }
            self.jobs.insert(build.0.id.clone(), jobs);
            self.streams[0].push_back(build);
        }
        self.streams[1].extend(self.forest.jobs_alone());
    }

    fn name(&self, which: usize) -> String {
        format!("r{}", which % self.forest.fleet.len())
    }

    fn is_here(&self, which: usize) -> bool {
        let row = self.world.state.runner(&id(&self.name(which)));
        row.is_some_and(|row| row.lost.is_none())
    }

    /// A runner starts, and keeps what it had or knows nothing of it.
    fn arrive(&mut self, which: usize, shrunk: bool, keeps: bool) {
        self.starts += 1;
        let name = self.name(which);
        let machine = &self.forest.fleet[which % self.forest.fleet.len()];
        let made = machine.runner(&name, shrunk).incarnation(&format!("{:05}", self.starts));
        let known = self.world.state.fleet().get(&id(&name)).is_some();
        let held = if keeps && known { self.world.held_by(&name) } else { Vec::new() };
        self.world.register(made.running(&held));
    }

    /// Starts all the runners that are asked for.
    fn provide(&mut self) {
        let Some(class) = self.forest.class.clone() else { return };
        let open: Vec<Intent> =
            self.world.state.intents().iter().map(|intent| Intent::clone(intent)).collect();
        for intent in open.into_iter().filter(|intent| intent.closed.is_none() && intent.asked > 0) {
            let ack = Command::AcknowledgeIntent { intent: intent.id.clone(), count: None };
            if self.world.command(ack) != Commanded::Done {
                continue;
            }
            for _ in 0..intent.asked {
                self.starts += 1;
                let mut started = class.runner(&format!("m{}", self.starts), false);
                started.0.class = Some(intent.class.clone());
                started.0.intent = Some(intent.id.clone());
                self.world.register(started);
            }
        }
    }

    /// Each stream goes on as long as what comes next is taken.
    fn submit(&mut self, most: usize) -> bool {
        let mut taken = false;
        for stream in 0..3 {
            for _ in 0..most {
                let Some(next) = self.streams[stream].pop_front() else { break };
                match self.world.submit(next.clone()) {
                    Submitted::Full { .. } => {
                        self.streams[stream].push_front(next);
                        break;
                    }
                    Submitted::Conflict { reason } => panic!("{reason}"),
                    _ => taken = true,
                }
            }
        }
        taken
    }

    fn held(&self) -> Vec<TaskId> {
        let seats = self.world.state.fleet().seats().filter(|seat| seat.runner.lost.is_none());
        seats.flat_map(|seat| seat.tasks.values().map(|task| task.id.clone())).collect()
    }

    fn is_asked_to_stop(&self, task: &TaskId) -> bool {
        self.world.assignment(task.as_str()).stop.is_some()
    }

    /// Builds that have a runner start, and submit their jobs.
    fn builds_go_on(&mut self) {
        for build in self.held() {
            let Some(jobs) = self.jobs.get(&build).cloned() else { continue };
            if self.world.row(build.as_str()).state_word() == "assigned" {
                self.world.start(build.as_str());
            }
            for job in jobs {
                let known = self.world.state.task(job.0.id.as_str()).is_some();
                if known || self.world.row(build.as_str()).is_ended() || self.is_asked_to_stop(&build) {
                    continue;
                }
                let answer = self.world.submit(job);
                assert!(!matches!(answer, Submitted::Full { .. }), "a job of a running build always passes");
            }
        }
    }

    /// Whether the task can end now: a build only when each of its jobs has, or when it is to stop.
    fn may_end(&self, task: &TaskId) -> bool {
        let has_ended =
            |job: &TaskBuilder| self.world.state.task(job.0.id.as_str()).is_some_and(|job| job.is_ended());
        self.is_asked_to_stop(task) || self.jobs.get(task).is_none_or(|jobs| jobs.iter().all(has_ended))
    }

    fn end(&mut self, task: &TaskId, outcome: AttemptOutcome) {
        let stop = self.world.assignment(task.as_str()).stop.map(|stop| stop.cause);
        let outcome = match stop {
            Some(StopCause::Cancelled) => AttemptOutcome::Cancelled,
            Some(_) => AttemptOutcome::Handback,
            None => outcome,
        };
        if self.world.row(task.as_str()).state_word() == "assigned" && outcome != AttemptOutcome::Refused {
            self.world.start(task.as_str());
        }
        self.world.end(task.as_str(), outcome);
    }

    /// Whoever is told that his group has nothing left for him leaves.
    fn beat(&mut self) {
        let seats = self.world.state.fleet().seats().filter(|seat| seat.runner.lost.is_none());
        let here: Vec<String> = seats.map(|seat| seat.runner.id.to_string()).collect();
        for name in here {
            let held = self.world.held_by(&name);
            if self.world.beat(&name, &held).leave {
                self.world.leave(&name, &[]);
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let mut left = span;
        while !left.is_zero() {
            let now = left.min(self.world.state.settings.heartbeat);
            self.world.pass(now);
            self.beat();
            left -= now;
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Submit(count) => {
                self.submit(count);
            }
            Step::Work { which, outcome } => {
                let able: Vec<TaskId> = self.held().into_iter().filter(|task| self.may_end(task)).collect();
                if !able.is_empty() {
                    let outcome = AttemptOutcome::ALL.get(usize::from(outcome)).copied();
                    self.end(&able[which % able.len()], outcome.unwrap_or(AttemptOutcome::Succeeded));
                }
            }
            Step::Stand { which, how } => {
                let name = self.name(which);
                match how {
                    0 => self.world.hold(&name),
                    1 => self.world.drain(&name),
                    _ => self.world.resume(&name),
                }
            }
            Step::Lose(which) => {
                if self.is_here(which) {
                    self.world.silence(&self.name(which));
                }
            }
            Step::Leave(which) => {
                if self.is_here(which) {
                    self.world.leave(&self.name(which), &[]);
                }
            }
            Step::Restart { which, shrunk, keeps } => self.arrive(which, shrunk, keeps),
            Step::News { which, artifact, held } => {
                if self.is_here(which) {
                    let name = format!("a{artifact}");
                    let (added, removed) = if held { (vec![&*name], vec![]) } else { (vec![], vec![&*name]) };
                    let number = self.world.facts.len() as u64 + 1;
                    self.world.news(&self.name(which), number, &added, &removed);
                }
            }
            Step::Cancel(which) => {
                let known: Vec<String> = self.world.state.tasks().map(|task| task.id.to_string()).collect();
                if let Some(name) = (!known.is_empty()).then(|| &known[which % known.len()]) {
                    self.world.cancel(name);
                }
            }
            Step::Provide => self.provide(),
            Step::Pass(span) => self.pass(secs(span)),
            Step::TakeOver => self.world.take_over(),
        }
        self.builds_go_on();
    }

    /// Every runner is here again, with all it has, and ready.
    fn make_whole(&mut self) {
        for which in 0..self.forest.fleet.len() {
            if !self.is_here(which) {
                self.arrive(which, false, false);
            }
            let name = self.name(which);
            let row = self.world.state.runner(&id(&name)).expect("it is here").clone();
            let whole = self.forest.fleet[which].runner(&name, false);
            if row.offer != whole.0.offer {
                self.world.register(whole.incarnation(&row.incarnation));
            }
        }
        let away = self
            .world
            .state
            .fleet()
            .seats()
            .filter(|seat| matches!(seat.runner.standing, Standing::Held { .. } | Standing::Draining));
        for name in away.map(|seat| seat.runner.id.to_string()).collect::<Vec<_>>() {
            self.world.resume(&name);
        }
    }

    /// Lets everything end, and says what never does. Where nobody leaves meanwhile, the rule for builds holds.
    fn drain(&mut self) -> Result<(), String> {
        self.make_whole();
        let before = self.world.facts.len();
        self.end_everything()?;
        let said = |wanted: fn(&Fact) -> bool| self.world.facts[before..].iter().any(wanted);
        let (broken, left) = (
            said(|fact| matches!(fact, Fact::BuildsUnsafe { .. })),
            said(|fact| matches!(fact, Fact::RunnerLeft { .. })),
        );
        if broken && !left {
            Err("the rule for builds was broken in a whole fleet".to_owned())
        } else {
            Ok(())
        }
    }

    fn end_everything(&mut self) -> Result<(), String> {
        let mut moved = self.world.now;
        while moved + IN_VAIN > self.world.now {
            self.make_whole();
            self.provide();
            let mut moves = self.submit(usize::MAX);
            self.builds_go_on();
            for task in self.held() {
                if self.world.row(task.as_str()).assignment().is_some() && self.may_end(&task) {
                    self.end(&task, AttemptOutcome::Succeeded);
                    moves = true;
                }
            }
            if self.streams.iter().all(VecDeque::is_empty)
                && self.world.state.tasks().all(|task| task.is_ended())
            {
                return Ok(());
            }
            if moves {
                moved = self.world.now;
            } else {
                self.pass(secs(20));
            }
        }
        let waiting = self.world.state.tasks().filter(|task| !task.is_ended());
        let told = waiting.map(|task| {
            format!("{} {}: {:?}", task.id, task.state_word(), self.world.why(task.id.as_str()).reasons)
        });
        Err(told.collect::<Vec<_>>().join("\n"))
    }
}

/// As many as are asked for may come.
fn declared(class: &Machine) -> DeclaredClass {
    DeclaredClass { id: id("more"), offer: class.runner("any", false).0.offer, cost: 1.0, max: 100 }
}

/// Plays what happens in a forest.
fn grown(forest: Forest, steps: &[Step], change: impl FnOnce(&mut Settings)) -> Yard {
    let mut yard = Yard::of(forest, change);
    for step in steps {
        yard.apply(step);
    }
    yard
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 512, ..ProptestConfig::default() })]

    #[test]
    fn once_the_fleet_is_whole_again_every_forest_drains(forest in forest(), steps in steps()) {
        let drained = grown(forest, &steps, |_| ()).drain();
        prop_assert_eq!(drained, Ok(()));
    }
}

/// Forests drawn from a seed, the same on every run.
fn seeded(count: usize) -> impl Iterator<Item = (Forest, Vec<Step>)> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(move |_| (forest(), steps()).new_tree(&mut runner).expect("a forest").current())
}

#[test]
fn without_the_rule_some_builds_wait_for_their_jobs_for_ever() {
    // Nobody is handed back: the rule alone keeps builds from it.
    let patient = |settings: &mut Settings| settings.unsafe_grace = secs(1_000_000);
    let lawless = |settings: &mut Settings| {
        patient(settings);
        settings.guards.safe_builds = false;
    };
    let is_stuck = |(forest, steps): &(Forest, Vec<Step>)| {
        grown(forest.clone(), steps, lawless).end_everything().is_err()
    };
    let (forest, steps) = seeded(200).find(is_stuck).expect("some forest never drains");
    assert_eq!(grown(forest, &steps, patient).drain(), Ok(()));
}
