//! Whatever becomes of the fleet and of what is declared: nothing is failed that a known class could still run, and
//! nothing waits for ever that nobody ever could.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore::core::Settings;
use longshore::model::*;
use proptest::prelude::*;

use super::world::*;

const MEMORY: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_secs(30);

/// A kind of machine, or what a task wants of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    cpu: u64,
    arch: &'static str,
}

impl Kind {
    fn can_run(self, wanted: Kind) -> bool {
        wanted.cpu <= self.cpu && (wanted.arch.is_empty() || wanted.arch == self.arch)
    }

    fn runner(self, name: &str) -> RunnerBuilder {
        runner(name).cpu(self.cpu).arch(self.arch)
    }
}

/// What a task wants; a build also what a job of it wants.
#[derive(Debug, Clone, Copy)]
struct Wants {
    itself: Kind,
    job: Option<Kind>,
}

impl Wants {
    fn task(self, name: &str) -> TaskBuilder {
        let like = |task: TaskBuilder, kind: Kind| task.cpu(kind.cpu).arch(kind.arch);
        match self.job {
            None => like(task(name), self.itself),
            Some(job) => like(build(name), self.itself).jobs([like(task("any"), job).shape()]),
        }
    }

    /// Whether it could run where `runners` are, each once, and as many of `kinds` as may be.
    fn could_run(self, runners: &[Kind], kinds: &[Kind]) -> bool {
        let takes_job = |kind: &Kind| self.job.is_none_or(|job| kind.can_run(job));
        let beside = |host: &Kind| {
            let both = self.itself.cpu + self.job.map_or(0, |job| job.cpu);
            takes_job(host) && both <= host.cpu
        };
        let of_kinds = kinds.iter().any(takes_job);
        let on = |host: &Kind, another: bool| host.can_run(self.itself) && (another || beside(host));
        kinds.iter().any(|host| on(host, of_kinds || runners.iter().any(takes_job)))
            || runners.iter().enumerate().any(|(place, host)| {
                let others = runners.iter().enumerate().filter(|(other, _)| *other != place);
                on(host, of_kinds || others.into_iter().any(|(_, other)| takes_job(other)))
            })
    }
}

#[derive(Debug, Clone)]
enum Step {
    Submit { wants: Wants, patience: Option<u64>, fails: bool, later: Option<u64> },
    Register { which: u8, is: Kind, anew: bool },
    Leave(u8),
    Lose(u8),
    Stand { which: u8, how: u8 },
    End { which: usize, succeeded: bool },
    Pass(u64),
    TakeOver,
    Declare(Vec<Kind>),
}

fn kind(arch: impl Strategy<Value = &'static str>) -> impl Strategy<Value = Kind> {
    (1..9u64, arch).prop_map(|(cpu, arch)| Kind { cpu, arch })
}

fn machine() -> impl Strategy<Value = Kind> {
    kind(prop_oneof![3 => Just("amd64"), 1 => Just("arm64")])
}

fn wanted() -> impl Strategy<Value = Kind> {
    kind(prop_oneof![3 => Just(""), 2 => Just("amd64"), 1 => Just("arm64")])
}

fn wants() -> impl Strategy<Value = Wants> {
    (wanted(), proptest::option::weighted(0.25, wanted())).prop_map(|(itself, job)| Wants { itself, job })
}

fn option(of: std::ops::Range<u64>) -> impl Strategy<Value = Option<u64>> {
    proptest::option::weighted(0.3, of)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (wants(), option(0..200), any::<bool>(), option(1..200))
            .prop_map(|(wants, patience, fails, later)| Step::Submit { wants, patience, fails, later }),
        4 => (0..3u8, machine(), any::<bool>()).prop_map(|(which, is, anew)| Step::Register { which, is, anew }),
        2 => (0..3u8).prop_map(Step::Leave),
        1 => (0..3u8).prop_map(Step::Lose),
        1 => (0..3u8, 0..3u8).prop_map(|(which, how)| Step::Stand { which, how }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, succeeded)| Step::End { which, succeeded }),
        4 => (1..150u64).prop_map(Step::Pass),
        1 => Just(Step::TakeOver),
        1 => proptest::collection::vec(machine(), 0..3).prop_map(Step::Declare),
    ]
}

/// A world, and what somebody who watched it knows.
struct Watched {
    world: World,
    here: BTreeMap<String, Kind>,
    /// What was there, and until when.
    gone: Vec<(Kind, Time)>,
    declared: Vec<Kind>,
    wants: BTreeMap<TaskId, Wants>,
    took_over: Time,
    facts: usize,
    starts: u32,
}

impl Watched {
    fn new(declared: Vec<Kind>, classes_complete: bool) -> Self {
        let classes = classes(&declared);
        let settings = Settings {
            class_memory: MEMORY,
            settle: SETTLE,
            heartbeat: secs(30),
            lease: secs(90),
            classes,
            classes_complete,
            ..Settings::default()
        };
        let world = World::empty(settings);
        let took_over = world.now;
        Self {
            world,
            here: BTreeMap::new(),
            gone: Vec::new(),
            declared,
            wants: BTreeMap::new(),
            took_over,
            facts: 0,
            starts: 0,
        }
    }

    /// When a runner was lost that is here by its row.
    fn lost(&self, name: &str) -> Option<Time> {
        self.world.state.runner(&id(name)).and_then(|row| row.lost)
    }

    fn is_here(&self, name: &str) -> bool {
        self.world.state.runner(&id(name)).is_some_and(|row| row.lost.is_none())
    }

    /// Whether something that is there, was there not too long ago, or is declared could run the task.
    fn could_run(&self, task: &TaskId, at: Time) -> bool {
        let here = self.here.iter().filter(|(name, _)| {
            self.world.state.runner(&id(name)).is_some()
                && self.lost(name).is_none_or(|lost| lost + MEMORY > at)
        });
        let gone = self.gone.iter().filter(|(_, until)| *until + MEMORY > at);
        let here: Vec<Kind> = here.map(|(_, kind)| *kind).collect();
        let kinds: Vec<Kind> = gone.map(|(kind, _)| *kind).chain(self.declared.iter().copied()).collect();
        self.wants[task].could_run(&here, &kinds)
    }

    fn forget(&mut self, name: &str) {
        if let Some(was) = self.here.remove(name) {
            self.gone.push((was, self.world.now));
        }
    }

    fn apply(&mut self, step: Step, number: usize) {
        match step {
            Step::Submit { wants, patience, fails, later } => {
                let name = format!("t{number}");
                let task = wants.task(&name).attempts(100).if_unplaceable(match patience {
                    None if fails => IfUnplaceable::Fail,
                    None => IfUnplaceable::Hold,
                    Some(span) => IfUnplaceable::FailAfter(secs(span)),
                });
                let now = self.world.now;
                let task = if let Some(span) = later { task.not_before(now + secs(span)) } else { task };
                self.wants.insert(id(&name), wants);
                self.world.submit(task);
            }
            Step::Register { which, is, anew } => {
                let name = format!("r{which}");
                let known = self.world.state.runner(&id(&name)).cloned();
                if known.is_some() && self.here.get(&name) != Some(&is) {
                    self.forget(&name);
                }
                self.starts += u32::from(anew || known.is_none());
                let incarnation = known.filter(|_| !anew).map(|row| row.incarnation.to_string());
                let incarnation = incarnation.unwrap_or_else(|| format!("{:05}", self.starts));
                self.world.register(is.runner(&name).incarnation(&incarnation));
                self.here.insert(name, is);
            }
            Step::Leave(which) => {
                let name = format!("r{which}");
                if self.is_here(&name) {
                    self.world.leave(&name, &[]);
                    // One that is held stays known by its row.
                    if self.world.state.runner(&id(&name)).is_none() {
                        self.forget(&name);
                    }
                }
            }
            Step::Lose(which) => {
                if self.is_here(&format!("r{which}")) {
                    self.world.silence(&format!("r{which}"));
                }
            }
            Step::Stand { which, how } => match how {
                0 => self.world.hold(&format!("r{which}")),
                1 => self.world.drain(&format!("r{which}")),
                _ => self.world.resume(&format!("r{which}")),
            },
            Step::End { which, succeeded } => {
                let seats = self.world.state.fleet().seats();
                let held: Vec<TaskId> =
                    seats.flat_map(|seat| seat.tasks.values().map(|task| task.id.clone())).collect();
                if !held.is_empty() {
                    let task = held[which % held.len()].to_string();
                    let outcome =
                        if succeeded { AttemptOutcome::Succeeded } else { AttemptOutcome::Handback };
                    self.world.end(&task, outcome);
                }
            }
            Step::Pass(span) => self.world.pass_alive(secs(span), &[]),
            Step::TakeOver => self.take_over(),
            Step::Declare(kinds) => {
                let settings =
                    Settings { classes: classes(&kinds), ..Settings::clone(&self.world.state.settings) };
                self.world.state.settings = Arc::new(settings);
                self.declared = kinds;
                self.take_over();
            }
        }
    }

    fn take_over(&mut self) {
        self.took_over = self.world.now;
        self.world.take_over();
    }

    /// Every rejection since the last look was right.
    fn look_at_rejections(&mut self) -> Result<(), TestCaseError> {
        for fact in &self.world.facts[self.facts..] {
            let Fact::Task(event) = fact else { continue };
            if event.outcome != Some(Outcome::Rejected) {
                continue;
            }
            let could = self.could_run(&event.id, event.at);
            prop_assert!(!could, "{} was rejected: {:?}", event.id, event.reason);
            let task = self.world.row(event.id.as_str());
            match task.limits.if_unplaceable {
                IfUnplaceable::Fail => {}
                IfUnplaceable::Hold => prop_assert!(false, "{} was to be held", event.id),
                IfUnplaceable::FailAfter(span) => {
                    prop_assert!(task.submitted + span <= event.at, "{} was rejected too early", event.id);
                }
            }
        }
        self.facts = self.world.facts.len();
        Ok(())
    }

    /// Once the fleet has had time to show itself, nothing waits in vain, and nothing patient for longer than it is.
    fn look_at_what_waits(&self) -> Result<(), TestCaseError> {
        let now = self.world.now;
        if now < self.took_over + SETTLE {
            return Ok(());
        }
        for task in self.world.state.tasks().filter(|task| task.is_pending()) {
            let over = match task.limits.if_unplaceable {
                IfUnplaceable::Fail => true,
                IfUnplaceable::Hold => false,
                IfUnplaceable::FailAfter(span) => task.submitted + span <= now,
            };
            let its_time = task.limits.not_before.is_none_or(|at| at <= now);
            let in_vain = over && its_time && !self.could_run(&task.id, now);
            prop_assert!(
                !in_vain,
                "{} waits in vain: {:?}",
                task.id,
                self.world.why(task.id.as_str()).reasons
            );
        }
        Ok(())
    }
}

fn classes(kinds: &[Kind]) -> Vec<DeclaredClass> {
    let class = |(number, kind): (usize, &Kind)| DeclaredClass {
        id: id(&format!("class-{number}")),
        offer: kind.runner("any").0.offer,
        cost: 1.0,
        max: 3,
    };
    kinds.iter().enumerate().map(class).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_failed_that_could_still_run_and_nothing_waits_that_never_could(
        declared in proptest::collection::vec(machine(), 0..2),
        complete in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        let mut watched = Watched::new(declared, complete);
        for (number, step) in steps.into_iter().enumerate() {
            watched.apply(step, number);
            watched.look_at_rejections()?;
            watched.look_at_what_waits()?;
        }
        watched.world.pass_alive(MEMORY + secs(201), &[]);
        watched.look_at_rejections()?;
        watched.look_at_what_waits()?;
    }
}
