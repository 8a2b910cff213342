//! Every waiting task can state its reason.

use longshore::core::explain::idle;
use longshore::core::input::Command;
use longshore::core::verdict::Verdict;

use super::world::*;

#[test]
fn why_gives_verdict_position_and_the_misfit_on_each_runner() {
    let mut world = World::with_runners([runner("amd").cpu(2), runner("arm").arch("arm64").cpu(8)]);
    world.submit(task("busy").cpu(2).arch("amd64"));
    world.submit(task("first").cpu(2).arch("amd64"));
    world.submit(task("second").cpu(2).arch("amd64"));
    let why = world.why("second");
    assert_eq!((why.verdict, why.position), (Some(Verdict::FitsLater), Some(1)));
    let misfits: Vec<String> = why
        .runners
        .iter()
        .map(|(runner, misfit)| format!("{runner} {}", misfit.as_ref().expect("one")))
        .collect();
    assert_eq!(misfits, ["amd needs cpu 2; 0 is free now", "arm needs arch amd64; it has arm64"]);
    assert!(why.reasons[0].contains("1 tasks of the same shape"), "{:?}", why.reasons);
}

#[test]
fn the_closest_runner_is_one_that_only_has_to_become_free() {
    let mut world =
        World::with_runners([runner("fits").cpu(4), runner("small").cpu(1), runner("zlost").cpu(4)]);
    world.hold("zlost");
    world.submit(task("runs").cpu(2));
    world.submit(task("waits").cpu(4));
    let why = world.why("waits");
    assert!(
        why.reasons.iter().any(|reason| reason.contains("the closest is fits: needs cpu 4")),
        "{:?}",
        why.reasons
    );
}

#[test]
fn why_says_what_else_a_task_waits_for() {
    let mut world = World::with_runners([runner("r")]);
    world.command(Command::PauseQueue { queue: id("slow") });
    world.submit(task("paused").queue("slow"));
    assert_eq!(world.why("paused").reasons[0], "queue slow is paused");
    world.command(Command::PausePool);
    assert_eq!(world.why("paused").reasons[..2], ["the pool is paused", "queue slow is paused"]);
    world.command(Command::UnpausePool);
    let later = world.now + secs(60);
    world.submit(task("later").not_before(later));
    let why = world.why("later");
    assert_eq!(why.reasons[0], format!("it waits until {later}"));
    assert_eq!(why.position, None);
    world.submit(task("runs"));
    assert!(world.why("runs").reasons[0].starts_with("assigned on r under token"));
}

#[test]
fn a_runner_says_why_it_is_idle() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    let idle_of = |world: &World| idle(&world.state, world.state.fleet().get(&id("r")).expect("a runner"));
    assert_eq!(idle_of(&world), "nothing waits");
    world.command(Command::PausePool);
    world.submit(task("held-back"));
    assert_eq!(idle_of(&world), "the pool is paused");
    world.cancel("held-back");
    world.command(Command::UnpausePool);
    world.hold("r");
    assert_eq!(idle_of(&world), "it is held: maintenance");
    world.resume("r");
    world.submit(task("runs").cpu(1));
    world.submit(task("waits").cpu(4));
    assert_eq!(idle_of(&world), "nothing that waits fits; the closest is waits: needs cpu 4; 3 is free now");
}
