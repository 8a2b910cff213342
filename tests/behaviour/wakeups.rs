//! Whatever can make a task runnable wakes it in the very turn; the sweep finds nothing.

use longshore::core::Settings;
use longshore::core::input::Command;
use longshore::core::settings::Locality;
use longshore::model::{AttemptOutcome, Fact, Terms};
use proptest::prelude::*;

use super::world::*;

/// A task waits for want of room; `cause` makes room; it must be placed at once.
fn wakes(world: &mut World, name: &str, cause: impl FnOnce(&mut World)) {
    assert_eq!(world.where_is(name), "pending");
    cause(world);
    assert_ne!(world.where_is(name), "pending");
}

#[test]
fn each_cause_wakes_the_task_it_makes_runnable() {
    let full = || {
        let mut world = World::with_runners([runner("r").cpu(1)]);
        world.submit(task("runs"));
        world.start("runs");
        world.submit(task("waits"));
        world
    };
    wakes(&mut full(), "waits", |world| world.succeed("runs"));
    wakes(&mut full(), "waits", |world| {
        world.register(runner("r2"));
    });
    wakes(&mut full(), "waits", |world| {
        world.register(runner("r").cpu(2));
    });
    wakes(&mut full(), "waits", |world| {
        world.cancel("runs");
        world.end("runs", AttemptOutcome::Cancelled);
    });
    let mut world = World::with_runners([runner("r")]);
    world.hold("r");
    world.submit(task("held"));
    wakes(&mut world, "held", |world| world.resume("r"));
    world.command(Command::PauseQueue { queue: id("default") });
    world.submit(task("paused"));
    wakes(&mut world, "paused", |world| {
        world.command(Command::UnpauseQueue { queue: id("default") });
    });
    world.command(Command::PausePool);
    world.submit(task("paused-too"));
    wakes(&mut world, "paused-too", |world| {
        world.command(Command::UnpausePool);
    });
    world.succeed("paused-too");
    world.submit(task("refused"));
    world.end("refused", AttemptOutcome::Refused);
    wakes(&mut world, "refused", |world| world.pass(secs(1)));
    world.submit(task("repeats").retries(1));
    world.fail("repeats");
    wakes(&mut world, "repeats", |world| world.pass(secs(1)));
}

#[test]
fn the_end_of_a_build_elsewhere_wakes_a_build_that_the_rule_held_back() {
    let mut world = World::with_runners([runner("r1").opaque(2), runner("r2").opaque(1)]);
    world.submit(build("b1"));
    world.submit(build("b2"));
    assert_eq!(world.where_is("b1"), "r2", "the fullest first");
    assert_eq!(world.where_is("b2"), "r1");
    world.submit(build("b3"));
    wakes(&mut world, "b3", |world| world.succeed("b1"));
}

#[derive(Debug, Clone)]
enum Step {
    Submit {
        cpu: u64,
        arch: u8,
        build: bool,
        of: Option<u8>,
        priority: i32,
        wants: u8,
        group: Option<u8>,
        timeout: Option<u64>,
    },
    News {
        which: u8,
        artifact: u8,
        held: bool,
    },
    End {
        which: usize,
        outcome: u8,
    },
    Runner {
        which: u8,
        cpu: u64,
        arch: u8,
        slots: u32,
    },
    Leave {
        which: u8,
    },
    Stand {
        which: u8,
        how: u8,
    },
    Pause(bool),
    PausePool(bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (
            1..5u64,
            0..3u8,
            any::<bool>(),
            proptest::option::of(0..20u8),
            -1..2i32,
            any::<u8>(),
            proptest::option::weighted(0.3, 0..3u8),
            proptest::option::of(1..60u64),
        )
            .prop_map(|(cpu, arch, build, of, priority, wants, group, timeout)| Step::Submit {
                cpu, arch, build, of, priority, wants, group, timeout,
            }),
        2 => (0..4u8, 0..4u8, any::<bool>())
            .prop_map(|(which, artifact, held)| Step::News { which, artifact, held }),
        5 => (any::<usize>(), 0..6u8).prop_map(|(which, outcome)| Step::End { which, outcome }),
        2 => (0..4u8, 1..9u64, 1..3u8, 1..5u32)
            .prop_map(|(which, cpu, arch, slots)| Step::Runner { which, cpu, arch, slots }),
        1 => (0..4u8).prop_map(|which| Step::Leave { which }),
        1 => (0..4u8, 0..3u8).prop_map(|(which, how)| Step::Stand { which, how }),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => any::<bool>().prop_map(Step::PausePool),
        2 => (1..40u64).prop_map(Step::Pass),
    ]
}

fn arch(number: u8) -> &'static str {
    ["", "amd64", "arm64"][usize::from(number)]
}

/// Of four artifacts, what a task wants: two bits say its output, four its inputs.
fn wanting(task: TaskBuilder, wants: u8) -> TaskBuilder {
    let names = ["a0", "a1", "a2", "a3"];
    let inputs: Vec<&str> = (0..4).filter(|bit| wants & (4 << bit) != 0).map(|bit| names[bit]).collect();
    let task = task.reads(&inputs);
    if wants & 64 != 0 { task.makes(names[usize::from(wants & 3)]) } else { task }
}

fn bounded(task: TaskBuilder, timeout: Option<u64>) -> TaskBuilder {
    match timeout {
        Some(seconds) => task.timeout(secs(seconds)),
        None => task,
    }
}

/// Of three groups: one with a bound, one in order, one that stops.
fn grouped(task: TaskBuilder, group: Option<u8>, number: usize) -> TaskBuilder {
    let terms = |max_runners, stop_on_failure| Terms { max_runners, ordered: false, stop_on_failure };
    let index = u32::try_from(number).expect("a few steps");
    match group {
        None => task,
        Some(0) => task.group("bound", terms(Some(1), false)),
        Some(1) => task.step("order", terms(None, false), index),
        Some(_) => task.group("stops", terms(Some(2), true)),
    }
}

fn apply(world: &mut World, step: Step, number: usize) {
    match step {
        Step::Submit { cpu, arch: wanted, build: true, priority, wants, timeout, .. } => {
            let job = task("x").cpu(cpu.min(2)).arch(arch(wanted)).shape();
            let build = build(&format!("t{number}")).cpu(cpu).priority(priority).jobs([job]);
            world.submit(bounded(wanting(build, wants), timeout));
        }
        Step::Submit { cpu, arch: wanted, of, priority, wants, group, timeout, .. } => {
            let mut job = task(&format!("t{number}")).cpu(cpu).arch(arch(wanted)).priority(priority);
            if let Some(of) = of {
                job = job.of(&format!("t{of}"));
            }
            world.submit(bounded(grouped(wanting(job, wants), group, number), timeout));
        }
        Step::News { which, artifact, held } => {
            let (runner, name) = (format!("r{which}"), format!("a{artifact}"));
            if world.state.runner(&id(&runner)).is_some() {
                let (added, removed) = if held { (vec![&*name], vec![]) } else { (vec![], vec![&*name]) };
                world.news(&runner, number as u64 + 1, &added, &removed);
            }
        }
        Step::End { which, outcome } => {
            let held: Vec<String> = world
                .state
                .fleet()
                .seats()
                .flat_map(|seat| seat.tasks.values().map(|task| task.id.to_string()))
                .collect();
            if !held.is_empty() {
                let name = &held[which % held.len()];
                if outcome % 2 == 0 {
                    world.start(name);
                }
                world.end(name, AttemptOutcome::ALL[usize::from(outcome)]);
            }
        }
        Step::Runner { which, cpu, arch: has, slots } => {
            let made = runner(&format!("r{which}")).cpu(cpu).arch(arch(has));
            let made = if which == 3 { made.opaque(slots) } else { made };
            world.register(made);
        }
        Step::Leave { which } => {
            let name = format!("r{which}");
            if world.state.runner(&id(&name)).is_some() {
                world.leave(&name, &[]);
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
        Step::Pause(pause) => {
            let queue = id("default");
            world.command(if pause {
                Command::PauseQueue { queue }
            } else {
                Command::UnpauseQueue { queue }
            });
        }
        Step::PausePool(pause) => {
            world.command(if pause { Command::PausePool } else { Command::UnpausePool });
        }
        Step::Pass(span) => world.pass_alive(secs(span), &[]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// After whatever happened, a sweep finds nothing that a wake-up had not named; and what `why` calls
    /// placeable now is not pending on an open queue.
    #[test]
    fn no_wake_up_is_missing_and_why_agrees_with_the_planner(
        steps in proptest::collection::vec(step(), 1..40),
        waits in proptest::option::of((0..30u64, 0..30u64)),
        reserve_after in 0..40u64,
    ) {
        let waits = waits.map(|(cache, deps)| Locality { cache_wait: secs(cache), deps_wait: secs(deps) });
        let locality = waits.map(|waits| (id("default"), waits)).into_iter().collect();
        let reserve_after = secs(reserve_after);
        let settings = Settings { unsafe_grace: secs(30), locality, reserve_after, ..Settings::default() };
        let mut world = World::with(settings, [runner("r0").cpu(4)]);
        for (number, step) in steps.into_iter().enumerate() {
            apply(&mut world, step, number);
            let paused = world.state.is_paused(&id("default"));
            let placeable: Vec<String> = world
                .state
                .tasks()
                .filter(|task| task.is_pending() && !paused)
                .filter(|task| !world.state.pool().is_paused() || world.state.is_of_running_build(task))
                .filter(|task| {
                    let why = world.why(task.id.as_str());
                    let stands = why.position.is_some() || world.state.ladder().step(task).is_some();
                    why.verdict == Some(longshore::core::verdict::Verdict::FitsNow) && stands
                })
                .map(|task| task.id.to_string())
                .collect();
            prop_assert_eq!(placeable, Vec::<String>::new());
        }
        world.pass_alive(secs(31), &[]);
        prop_assert_eq!(world.said(|fact| matches!(fact, Fact::SweepFound { .. })), 0);
    }
}
