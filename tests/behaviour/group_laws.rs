//! Whatever happens to groups on whatever fleet: order, bound and stop hold, no wake-up is missing, all ends.

use std::collections::BTreeMap;

use longshore::core::Settings;
use longshore::core::verdict::Verdict;
use longshore::model::*;
use proptest::prelude::*;

use super::world::*;

#[derive(Debug, Clone)]
enum Step {
    Submit { group: usize, index: u32, cpu: u64, arch: u8, build: bool, of: Option<u8>, retries: u32 },
    End { which: usize, outcome: u8 },
    Cancel(u8),
    Runner { which: u8, cpu: u64, arch: u8, group: Option<usize> },
    Leave(u8),
    Lose(u8),
    Beat(u8),
    Stand { which: u8, how: u8 },
    Pass(u64),
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    let submit = (0..4usize, 0..9u32, 1..4u64, 0..3u8, prop::bool::weighted(0.2), option(0..20u8), 0..2u32);
    prop_oneof![
        9 => submit.prop_map(|(group, index, cpu, arch, build, of, retries)| Step::Submit { group, index, cpu, arch, build, of, retries }),
        7 => (any::<usize>(), 0..8u8).prop_map(|(which, outcome)| Step::End { which, outcome }),
        1 => (0..40u8).prop_map(Step::Cancel),
        3 => (0..4u8, 1..6u64, 1..3u8, option(0..3usize)).prop_map(|(which, cpu, arch, group)| Step::Runner { which, cpu, arch, group }),
        1 => (0..4u8).prop_map(Step::Leave),
        1 => (0..4u8).prop_map(Step::Lose),
        2 => (0..4u8).prop_map(Step::Beat),
        1 => (0..4u8, 0..3u8).prop_map(|(which, how)| Step::Stand { which, how }),
        2 => (1..30u64).prop_map(Step::Pass),
        1 => Just(Step::TakeOver),
    ]
}

fn option<S: Strategy>(of: S) -> impl Strategy<Value = Option<S::Value>> {
    proptest::option::weighted(0.3, of)
}

fn terms() -> impl Strategy<Value = Terms> {
    (proptest::option::of(1..3u32), any::<bool>(), any::<bool>())
        .prop_map(|(max_runners, ordered, stop_on_failure)| Terms { max_runners, ordered, stop_on_failure })
}

fn arch(number: u8) -> &'static str {
    ["", "amd64", "arm64"][usize::from(number)]
}

fn grouped(task: TaskBuilder, group: Option<&(String, Terms)>, index: u32) -> TaskBuilder {
    match group {
        None => task,
        Some((name, terms)) if terms.ordered => task.step(name, *terms, index),
        Some((name, terms)) => task.group(name, *terms),
    }
}

fn held(world: &World) -> Vec<String> {
    let seats = world.state.fleet().seats();
    seats.flat_map(|seat| seat.tasks.values().map(|task| task.id.to_string())).collect()
}

fn end(world: &mut World, name: &str, outcome: AttemptOutcome) {
    world.start(name);
    world.end(name, outcome);
}

fn apply(world: &mut World, step: Step, number: usize, groups: &[(String, Terms)]) {
    let runner_there = |world: &World, which: u8| {
        let name = format!("r{which}");
        world.state.runner(&id(&name)).is_some().then_some(name)
    };
    match step {
        Step::Submit { group, index, cpu, arch: wanted, build: true, .. } => {
            let made = build(&format!("t{number}")).cpu(cpu);
            let made = grouped(made, groups.get(group), index);
            // Its jobs are of its own group, of another, or of none.
            let mut job = task("x").arch(arch(wanted)).shape();
            job.group = groups.get([group, number % 4][number % 2]).map(|(name, _)| id(name));
            world.submit(made.jobs([job]).if_unplaceable(IfUnplaceable::Hold));
        }
        Step::Submit { group, index, cpu, arch: wanted, of, retries, .. } => {
            let mut made = task(&format!("t{number}")).arch(arch(wanted)).retries(retries);
            let mut group = groups.get(group);
            match of.map(|of| format!("t{of}")) {
                None => made = made.cpu(cpu),
                Some(of) => {
                    // A job of a build is one that the build has declared.
                    let declared = world.state.task(&of).and_then(|build| build.jobs.first().cloned());
                    if let Some(shape) = declared {
                        let named = shape.group.as_ref().map(|group| group.as_str());
                        group = groups.iter().find(|(name, _)| named == Some(name));
                        made = made.change(|task| task.shape = shape);
                    }
                    made = made.of(&of);
                }
            }
            world.submit(grouped(made, group, index).if_unplaceable(IfUnplaceable::Hold));
        }
        Step::End { which, outcome } => {
            let held = held(world);
            if !held.is_empty() {
                let outcome = AttemptOutcome::ALL.get(usize::from(outcome)).copied();
                end(world, &held[which % held.len()], outcome.unwrap_or(AttemptOutcome::Succeeded));
            }
        }
        Step::Cancel(which) => {
            if world.state.task(&format!("t{which}")).is_some() {
                world.cancel(&format!("t{which}"));
            }
        }
        Step::Runner { which, cpu, arch: has, group } => {
            let mut made = runner(&format!("r{which}")).cpu(cpu).arch(arch(has));
            made = match group.and_then(|group| groups.get(group)) {
                Some((name, _)) => made.dedicated(name),
                None => made,
            };
            world.register(made);
        }
        Step::Leave(which) => {
            if let Some(name) = runner_there(world, which) {
                world.leave(&name, &[]);
            }
        }
        Step::Lose(which) => world.silence(&format!("r{which}")),
        Step::Beat(which) => {
            if let Some(name) = runner_there(world, which) {
                let held = world.held_by(&name);
                world.beat(&name, &held);
            }
        }
        Step::Stand { which, how } => {
            let name = format!("r{which}");
            match how {
                0 => world.hold(&name),
                1 => world.drain(&name),
                _ => world.resume(&name),
            }
        }
        Step::Pass(span) => world.pass_alive(secs(span), &[]),
        Step::TakeOver => world.take_over(),
    }
}

/// Holds the facts, in their order, against the rules of groups.
fn broken(world: &World) -> Vec<String> {
    let mut broken = Vec::new();
    let mut stands: BTreeMap<TaskId, LifecycleState> = BTreeMap::new();
    let mut stopped: BTreeMap<GroupId, Option<u32>> = BTreeMap::new();
    let of = |task: &TaskId| world.state.task(task.as_str()).cloned();
    for fact in &world.facts {
        let Fact::Task(event) = fact else { continue };
        let Some(task) = of(&event.id) else { continue };
        let Some(group) = task.shape.group.clone() else { continue };
        let row = world.state.groups().get(&group).and_then(|group| group.row()).expect("a group has a row");
        stands.insert(event.id.clone(), event.state);
        match event.state {
            LifecycleState::Ended
                if row.terms.stop_on_failure && event.outcome != Some(Outcome::Succeeded) =>
            {
                let before = stopped.get(&group).copied().flatten();
                let index = task.index.filter(|_| row.terms.ordered);
                stopped.insert(group, index.map(|index| before.map_or(index, |before| before.min(index))));
            }
            LifecycleState::Assigned => {
                if stopped.get(&group).is_some_and(|after| after.is_none_or(|after| task.index > Some(after)))
                {
                    broken.push(format!("{} is assigned after {group} was stopped", task.id));
                }
                let goes_before = |other: &Task, state: LifecycleState| {
                    let holds = matches!(state, LifecycleState::Assigned | LifecycleState::Running);
                    holds || (state == LifecycleState::Pending && other.index < task.index)
                };
                let others = stands.iter().filter(|(other, _)| **other != task.id);
                let mut others = others.filter_map(|(other, state)| Some((of(other)?, *state)));
                if row.terms.ordered
                    && let Some((first, _)) = others.find(|(other, state)| {
                        other.shape.group.as_ref() == Some(&group) && goes_before(other, *state)
                    })
                {
                    broken.push(format!("{} is assigned before {} of {group} has ended", task.id, first.id));
                }
            }
            _ => {}
        }
    }
    broken
}

/// Everything ends once there are runners for all of it and whoever works succeeds.
fn drain(world: &mut World) {
    for which in 0..4 {
        world.resume(&format!("r{which}"));
    }
    for (name, arch) in [("amd", "amd64"), ("arm", "arm64")] {
        world.register(runner(name).cpu(64).memory(256).arch(arch));
    }
    for _ in 0..400 {
        if world.state.tasks().all(|task| task.is_ended()) {
            return;
        }
        let held = held(world);
        let asked = held.iter().find(|name| world.assignment(name).stop.is_some());
        // A build ends only when all its jobs have.
        let waits = |name: &str| {
            world.row(name).kind() == Kind::Build && world.state.jobs_of(&id(name)).next().is_some()
        };
        let next = held.iter().find(|name| !waits(name));
        match (asked, next) {
            (Some(name), _) => end(world, &name.clone(), AttemptOutcome::Handback),
            (None, Some(name)) => end(world, &name.clone(), AttemptOutcome::Succeeded),
            (None, None) => world.pass_alive(secs(61), &[]),
        }
    }
    let left: Vec<_> = world.state.tasks().filter(|task| !task.is_ended()).collect();
    panic!("not all ended: {left:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, max_shrink_iters: 128, ..ProptestConfig::default() })]

    #[test]
    fn groups_keep_order_bound_and_stop_and_always_drain(
        terms in proptest::collection::vec(terms(), 3),
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        let named = |(number, terms)| (format!("g{number}"), terms);
        let groups: Vec<(String, Terms)> = terms.into_iter().enumerate().map(named).collect();
        let settings = Settings { unsafe_grace: secs(30), ..Settings::default() };
        let mut world = World::with(settings, [runner("r0").cpu(4)]);
        for (number, step) in steps.into_iter().enumerate() {
            apply(&mut world, step, number, &groups);
            for task in world.state.tasks().filter(|task| task.is_pending()) {
                let why = world.why(task.id.as_str());
                let placeable = why.verdict == Some(Verdict::FitsNow) && why.position.is_some();
                prop_assert!(!placeable, "{} is placeable and waits: {:?}", task.id, why);
            }
        }
        drain(&mut world);
        prop_assert_eq!(broken(&world), Vec::<String>::new());
        prop_assert_eq!(world.said(|fact| matches!(fact, Fact::SweepFound { .. })), 0);
    }
}
