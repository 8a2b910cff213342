//! Who is at fault: runners that keep failing, tasks that crash runners, runners that refuse.

use longshore::model::{AttemptOutcome, RunnerState};

use super::world::*;

fn state_of(world: &World, name: &str) -> RunnerState {
    world.state.runner(&id(name)).expect("a runner").state()
}

#[test]
fn three_start_failures_in_a_row_hold_the_runner_with_the_reason() {
    let mut world = World::with_runners([runner("r")]);
    for name in ["t1", "t2", "t3"] {
        assert_eq!(state_of(&world, "r"), RunnerState::Ready);
        world.submit(task(name).attempts(1));
        world.end(name, AttemptOutcome::StartFailed);
        world.now = world.now + secs(1);
    }
    assert_eq!(state_of(&world, "r"), RunnerState::Held);
}

#[test]
fn start_failures_of_one_incident_count_once() {
    let mut world = World::with_runners([runner("r")]);
    world.submit_all((0..4).map(|n| task(&format!("t{n}")).attempts(1)));
    for n in 0..4 {
        world.now = world.now + secs(1);
        world.end(&format!("t{n}"), AttemptOutcome::StartFailed);
    }
    assert_eq!(state_of(&world, "r"), RunnerState::Ready);
    assert_eq!(world.state.runner(&id("r")).expect("a runner").incidents, 1);
}

#[test]
fn one_task_that_cannot_be_started_does_not_hold_the_runner() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(task("mistyped").attempts(3));
    for _ in 0..3 {
        world.end("mistyped", AttemptOutcome::StartFailed);
        world.pass_alive(secs(5), &[]);
    }
    assert_eq!(world.where_is("mistyped"), "exhausted");
    assert_eq!(state_of(&world, "r"), RunnerState::Ready);
}

#[test]
fn a_task_that_ran_clears_the_runner() {
    let mut world = World::with_runners([runner("r")]);
    for name in ["t1", "t2"] {
        world.submit(task(name).attempts(1));
        world.end(name, AttemptOutcome::StartFailed);
        world.now = world.now + secs(1);
    }
    world.submit(task("good"));
    world.fail("good");
    assert_eq!(
        world.state.runner(&id("r")).expect("a runner").incidents,
        0,
        "its own failure is no fault of the runner"
    );
}

#[test]
fn losses_that_coincide_with_another_runners_count_for_nobody() {
    let mut world = World::with_runners([runner("r1").cpu(1), runner("r2").cpu(1)]);
    world.pass_alive(secs(60), &[]);
    world.submit(task("t1"));
    world.submit(task("t2"));
    world.start("t1");
    world.start("t2");
    world.pass(secs(25));
    for name in ["r1", "r2"] {
        assert_eq!(state_of(&world, name), RunnerState::Lost);
        assert_eq!(world.state.runner(&id(name)).expect("a runner").incidents, 0);
    }
}

#[test]
fn a_runner_that_keeps_being_lost_with_work_is_held() {
    let mut world = World::with_runners([runner("r1").cpu(1)]);
    world.pass_alive(secs(60), &[]);
    for n in 0..3 {
        let name = format!("t{n}");
        world.submit(task(&name).attempts(1));
        world.start(&name);
        world.silence("r1");
        assert_eq!(world.where_is(&name), "exhausted");
        world.register(runner("r1").cpu(1));
    }
    assert_eq!(state_of(&world, "r1"), RunnerState::Held);
}

#[test]
fn a_refusal_spends_nothing_and_the_pair_backs_off() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(task("t").attempts(1));
    world.end("t", AttemptOutcome::Refused);
    assert_eq!(world.where_is("t"), "pending");
    world.submit(task("other"));
    assert_eq!(world.where_is("other"), "r", "others of its shape are not held back");
    world.pass(secs(1));
    assert_eq!(world.where_is("t"), "r");
    world.end("t", AttemptOutcome::Refused);
    world.pass(secs(1));
    assert_eq!(world.where_is("t"), "pending", "the back-off doubles");
    world.pass(secs(1));
    assert_eq!(world.where_is("t"), "r");
    assert_eq!(world.row("t").spent, 0);
    world.end("t", AttemptOutcome::Refused);
    assert_eq!(state_of(&world, "r"), RunnerState::Held, "three refusals of what fits");
}

#[test]
fn a_refused_task_goes_to_another_runner_at_once() {
    let mut world = World::with_runners([runner("r1"), runner("r2").cost(2.0)]);
    world.submit(task("t"));
    world.end("t", AttemptOutcome::Refused);
    assert_eq!(world.where_is("t"), "r2");
}

#[test]
fn a_task_that_is_all_two_crashes_have_in_common_is_ended_and_named() {
    let mut world = World::with_runners([runner("r1").cpu(2), runner("r2").cpu(4).cost(2.0)]);
    world.submit(task("bad").attempts(10));
    world.submit(task("good").attempts(10));
    world.start("bad");
    world.start("good");
    world.hold("r1");
    world.register(runner("r1").cpu(2).incarnation("second"));
    assert_eq!((world.where_is("bad"), world.where_is("good")), ("r2".into(), "r2".into()));
    world.start("bad");
    world.start("good");
    world.register(runner("r3").cpu(4).cost(3.0));
    world.hold("r2");
    world.register(runner("r2").cpu(4).cost(2.0).incarnation("second"));
    assert_eq!(world.where_is("bad"), "r3", "two tasks are common to both crashes: it may be either");
    world.start("bad");
    world.succeed("good");
    world.register(runner("r3").cpu(4).cost(3.0).incarnation("second"));
    assert_eq!(world.where_is("bad"), "exhausted");
    assert!(world.reason("bad").contains("two runners crashed"), "{}", world.reason("bad"));
}
