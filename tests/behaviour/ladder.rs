//! The ladder against a naive model that knows the rule in its plainest form, and nothing of the planner.

use std::collections::{BTreeMap, BTreeSet};

use longshore::core::Settings;
use longshore::core::settings::Locality;
use longshore::model::{AttemptOutcome, Runner, RunnerState, Task, Time};
use proptest::prelude::*;

use super::world::*;

const NAMES: [&str; 4] = ["a0", "a1", "a2", "a3"];

#[derive(Debug, Clone)]
enum Step {
    Submit { cpu: u64, arm: bool, output: Option<usize>, inputs: Vec<usize>, after: u64 },
    End { which: usize, outcome: AttemptOutcome },
    News { runner: usize, added: Vec<usize>, removed: Vec<usize> },
    Register { runner: usize, again: bool, holding: Option<Vec<usize>> },
    Leave { runner: usize },
    Hold { runner: usize },
    Resume { runner: usize },
    TakeOver,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let names = || proptest::collection::vec(0..NAMES.len(), 0..3);
    let outcome = prop_oneof![
        4 => Just(AttemptOutcome::Succeeded),
        1 => Just(AttemptOutcome::Failed),
        1 => Just(AttemptOutcome::Handback),
    ];
    prop_oneof![
        8 => (1..4u64, any::<bool>(), proptest::option::of(0..NAMES.len()), names(), 0..3u64).prop_map(
            |(cpu, arm, output, inputs, after)| Step::Submit { cpu, arm, output, inputs, after: after * 3 }
        ),
        4 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::End { which, outcome }),
        3 => (0..4usize, names(), names())
            .prop_map(|(runner, added, removed)| Step::News { runner, added, removed }),
        2 => (0..4usize, any::<bool>(), proptest::option::of(names()))
            .prop_map(|(runner, again, holding)| Step::Register { runner, again, holding }),
        1 => (0..4usize).prop_map(|runner| Step::Leave { runner }),
        1 => (0..4usize).prop_map(|runner| Step::Hold { runner }),
        1 => (0..4usize).prop_map(|runner| Step::Resume { runner }),
        1 => Just(Step::TakeOver),
        4 => (1..9u64).prop_map(Step::Pass),
    ]
}

/// The ends of the two waits of a task.
#[derive(Debug, Clone, Copy)]
struct Ends {
    cache: Time,
    deps: Time,
}

/// What the model knows: who holds what, and the waits that have begun.
struct Model {
    waits: Locality,
    holdings: BTreeMap<String, BTreeSet<&'static str>>,
    ends: BTreeMap<String, Ends>,
    assigned: BTreeMap<String, u32>,
    incarnations: u64,
    news: u64,
}

fn wants(task: &Task) -> (Option<&str>, Vec<&str>) {
    let own = task.artifacts.as_deref();
    let output = own.and_then(|own| own.output.as_ref()).map(|output| output.as_str());
    let inputs = own.map_or(&[][..], |own| &own.inputs).iter().map(|input| input.as_str());
    (output, inputs.collect())
}

fn able(world: &World, task: &Task, runner: &str) -> bool {
    let offer = &world.state.runner(&id(runner)).expect("it is there").offer;
    task.shape.arch.is_empty() || task.shape.arch == offer.arch
}

fn ready(world: &World) -> Vec<String> {
    let seats = world.state.fleet().seats().filter(|seat| seat.runner.state() == RunnerState::Ready);
    seats.map(|seat| seat.runner.id.to_string()).collect()
}

impl Model {
    fn holds(&self, runner: &str, artifact: &str) -> bool {
        self.holdings.get(runner).is_some_and(|held| held.contains(artifact))
    }

    fn known(&self, world: &World, task: &Task) -> bool {
        let (output, _) = wants(task);
        let holds = |runner: &String| output.is_some_and(|output| self.holds(runner, output));
        ready(world).iter().any(|runner| holds(runner) && able(world, task, runner))
    }

    fn may_have(&self, task: &Task, runner: &str, now: Time) -> bool {
        let ends = self.ends[task.id.as_str()];
        let (output, inputs) = wants(task);
        let cached = output.is_some_and(|output| self.holds(runner, output));
        let dependency = inputs.iter().any(|input| self.holds(runner, input));
        cached || (now >= ends.cache && dependency) || now >= ends.deps
    }

    /// Begins and shortens waits as they are to be at this moment.
    fn move_on(&mut self, world: &World) {
        let now = world.now;
        for task in world.state.tasks().filter(|task| !task.is_ended()) {
            let known = self.known(world, task);
            let placeable = task.limits.not_before.is_none_or(|at| at <= now);
            let seen = self.assigned.get(task.id.as_str()).copied().unwrap_or(0);
            let waited = task.is_pending() || seen < task.attempt;
            match self.ends.get_mut(task.id.as_str()) {
                None if placeable => {
                    let cache = if known { now + self.waits.cache_wait } else { now };
                    let ends = Ends { cache, deps: cache + self.waits.deps_wait };
                    self.ends.insert(task.id.to_string(), ends);
                }
                Some(ends) if waited && now < ends.cache && !known => {
                    *ends = Ends { cache: now, deps: now + self.waits.deps_wait };
                }
                _ => {}
            }
        }
    }

    /// Nothing is where it may not be yet, and nothing waits that could be placed.
    fn check(&mut self, world: &World) -> Result<(), TestCaseError> {
        for task in world.state.tasks().filter(|task| !task.is_ended()) {
            if let Some(held) = task.assignment() {
                let news = self.assigned.insert(task.id.to_string(), task.attempt) != Some(task.attempt);
                let may = self.may_have(task, held.runner.as_str(), held.assigned);
                prop_assert!(!news || may, "{} went to {} at {}", task.id, held.runner, held.assigned);
                continue;
            }
            if !self.ends.contains_key(task.id.as_str()) {
                continue;
            }
            for runner in ready(world) {
                let fits = able(world, task, &runner)
                    && world.free_cpu(&runner) * 1000 >= task.shape.resources.cpu
                    && self.may_have(task, &runner, world.now);
                prop_assert!(!fits, "{} waits though {runner} is free", task.id);
            }
        }
        Ok(())
    }

    fn apply(&mut self, world: &mut World, step: &Step, number: usize) {
        let name = |runner: &usize| format!("r{runner}");
        let names = |which: &[usize]| which.iter().map(|name| NAMES[*name]).collect::<Vec<_>>();
        let is_here = |world: &World, runner: &usize| world.state.runner(&id(&name(runner))).is_some();
        match step {
            Step::Submit { cpu, arm, output, inputs, after } => {
                let mut made = task(&format!("t{number}")).cpu(*cpu).reads(&names(inputs));
                if let Some(output) = output {
                    made = made.makes(NAMES[*output]);
                }
                if *arm {
                    made = made.arch("arm64");
                }
                if *after > 0 {
                    made = made.not_before(world.now + secs(*after));
                }
                world.submit(made);
            }
            Step::End { which, outcome } => {
                let held: Vec<String> = world
                    .state
                    .tasks()
                    .filter(|task| task.assignment().is_some())
                    .map(|task| task.id.to_string())
                    .collect();
                let held: BTreeSet<String> = held.into_iter().collect();
                let Some(ended) = held.iter().nth(which % held.len().max(1)) else { return };
                let (row, at) = (world.row(ended), world.assignment(ended).runner.to_string());
                world.end(ended, *outcome);
                if let (AttemptOutcome::Succeeded, Some(output)) = (outcome, wants(&row).0) {
                    let made = NAMES.iter().find(|name| **name == output).expect("one of them");
                    self.holdings.entry(at).or_default().insert(made);
                }
            }
            Step::News { runner, added, removed } => {
                // Whoever has left is told to register, and holds nothing until then.
                let stays = |row: &Runner| row.state() != RunnerState::Lost;
                if world.state.runner(&id(&name(runner))).is_some_and(|row| stays(row)) {
                    self.news += 1;
                    world.news(&name(runner), self.news, &names(added), &names(removed));
                    let held = self.holdings.entry(name(runner)).or_default();
                    held.retain(|artifact| !names(removed).contains(artifact));
                    held.extend(names(added));
                }
            }
            Step::Register { runner: which, again, holding } => {
                let same = *again && is_here(world, which);
                self.incarnations += u64::from(!same);
                let before = world.state.runner(&id(&name(which))).map(|row| row.incarnation.to_string());
                let incarnation = before.filter(|_| same).unwrap_or(format!("{:09}", self.incarnations));
                let listed = if is_here(world, which) { world.held_by(&name(which)) } else { Vec::new() };
                let mut made = runner(&name(which)).cpu(3).incarnation(&incarnation).running(&listed);
                if *which == 3 {
                    made = made.arch("arm64");
                }
                match holding {
                    Some(holding) => {
                        made = made.holding(&names(holding));
                        self.holdings.insert(name(which), names(holding).into_iter().collect());
                    }
                    None if !same => {
                        self.holdings.remove(&name(which));
                    }
                    None => {}
                }
                world.register(made);
            }
            Step::Leave { runner } => {
                if is_here(world, runner) && world.held_by(&name(runner)).is_empty() {
                    world.leave(&name(runner), &[]);
                    self.holdings.remove(&name(runner));
                }
            }
            Step::Hold { runner } => world.hold(&name(runner)),
            Step::Resume { runner } => world.resume(&name(runner)),
            Step::TakeOver => world.take_over(),
            Step::Pass(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_ladder_is_climbed_as_the_naive_model_says(
        cache in 0..8u64,
        deps in 0..8u64,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let waits = Locality { cache_wait: secs(cache), deps_wait: secs(deps) };
        let settings = Settings { locality: [(id("default"), waits)].into(), ..Settings::default() };
        let mut world = World::with(settings, [runner("r0").cpu(3).incarnation("0"), runner("r3").cpu(3).arch("arm64").incarnation("0")]);
        let mut model = Model {
            waits,
            holdings: BTreeMap::new(),
            ends: BTreeMap::new(),
            assigned: BTreeMap::new(),
            incarnations: 0,
            news: 0,
        };
        for (number, step) in steps.iter().enumerate() {
            model.apply(&mut world, step, number);
            model.move_on(&world);
            model.check(&world)?;
            let seconds = if let Step::Pass(seconds) = step { *seconds } else { 0 };
            for _ in 0..seconds {
                world.pass_alive(secs(1), &[]);
                model.move_on(&world);
                model.check(&world)?;
            }
        }
    }
}
