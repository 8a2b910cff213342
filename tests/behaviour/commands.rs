//! Cancel, hold, drain, resume, pause.

use longshore::core::input::{Command, Commanded, Input, Submitted};
use longshore::model::{AttemptOutcome, Fact, Outcome, Pool, RunnerState};

use super::world::*;

#[test]
fn a_pending_task_is_cancelled_at_once_and_an_ended_one_says_so() {
    let mut world = World::with_runners([runner("r").cpu(1)]);
    world.submit(task("runs"));
    world.submit(task("waits"));
    assert_eq!(world.cancel("waits"), Commanded::Done);
    assert_eq!(world.where_is("waits"), "cancelled");
    assert_eq!(world.cancel("waits"), Commanded::AlreadyEnded { outcome: Outcome::Cancelled });
}

#[test]
fn a_running_task_is_cancelled_when_its_runner_confirms() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(task("t"));
    world.start("t");
    world.cancel("t");
    assert_eq!(world.where_is("t"), "r");
    let held = world.held_by("r");
    let stop = world.beat("r", &held).stop;
    assert_eq!(stop.len(), 1);
    assert_eq!(&*stop[0].reason, "somebody asked");
    world.end("t", AttemptOutcome::Cancelled);
    assert_eq!(world.where_is("t"), "cancelled");
}

#[test]
fn a_running_task_is_cancelled_when_its_runners_lease_is_over() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(task("t"));
    world.start("t");
    world.cancel("t");
    world.silence("r");
    assert_eq!(world.where_is("t"), "cancelled");
}

#[test]
fn a_cancel_that_overtakes_its_submission_ends_it_and_spares_a_later_one() {
    let mut world = World::with_runners([runner("r")]);
    let reason: std::sync::Arc<str> = "too late".into();
    world.command(Command::Cancel { id: id("older"), reason: reason.clone(), sequence: 10 });
    world.command(Command::Cancel { id: id("newer"), reason, sequence: 10 });
    for (name, sequence) in [("older", 9), ("newer", 11)] {
        let task = std::sync::Arc::new(task(name).0);
        world.tell(Input::Submit { task, sequence });
    }
    assert_eq!(world.where_is("older"), "cancelled");
    assert_eq!(world.where_is("newer"), "r");
}

#[test]
fn a_held_runner_gets_nothing_until_it_is_resumed_and_the_hold_survives_restarts() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    world.submit(task("runs"));
    world.start("runs");
    world.hold("r");
    world.submit(task("waits"));
    assert_eq!(world.where_is("waits"), "pending");
    world.take_over();
    let held = world.held("runs");
    world.register(runner("r").cpu(2).incarnation("second").running(&[held]));
    assert_eq!(world.state.runner(&id("r")).expect("a runner").state(), RunnerState::Held);
    world.succeed("runs");
    assert_eq!(world.where_is("waits"), "pending");
    world.resume("r");
    assert_eq!(world.where_is("waits"), "r");
}

#[test]
fn a_draining_runner_finishes_what_it_has_and_gets_nothing_more() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    world.submit(task("runs"));
    world.start("runs");
    world.drain("r");
    world.submit(task("waits"));
    assert_eq!(world.where_is("waits"), "pending");
    world.succeed("runs");
    assert_eq!(world.where_is("runs"), "succeeded");
    assert_eq!(world.where_is("waits"), "pending");
}

#[test]
fn a_job_of_a_running_build_may_start_on_a_draining_runner_if_it_fits_nowhere_else() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    world.submit(build("b"));
    world.drain("r");
    world.submit(task("stranger"));
    world.submit(task("job").of("b"));
    assert_eq!(world.where_is("job"), "r");
    assert_eq!(world.where_is("stranger"), "pending");
    world.register(runner("other").cpu(2).cost(9.0));
    world.submit(task("job2").of("b"));
    assert_eq!(world.where_is("job2"), "other");
}

#[test]
fn a_paused_queue_places_nothing_and_keeps_what_runs() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.submit(task("runs"));
    world.start("runs");
    world.command(Command::PauseQueue { queue: id("default") });
    assert_eq!(world.submit(task("waits")), Submitted::Admitted);
    world.submit(task("other").queue("fast"));
    assert_eq!(world.where_is("waits"), "pending");
    assert_eq!(world.where_is("other"), "r");
    world.take_over();
    assert_eq!(world.where_is("waits"), "pending");
    world.succeed("runs");
    assert_eq!(world.where_is("runs"), "succeeded");
    world.command(Command::UnpauseQueue { queue: id("default") });
    assert_eq!(world.where_is("waits"), "r");
}

#[test]
fn a_paused_pool_places_nothing_on_any_queue_and_keeps_what_runs() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.submit(task("runs"));
    world.start("runs");
    assert_eq!(world.command(Command::PausePool), Commanded::Done);
    assert_eq!(world.command(Command::PausePool), Commanded::Unchanged, "it is so already");
    assert_eq!(world.submit(task("waits")), Submitted::Admitted);
    world.submit(build("build"));
    world.submit(task("other").queue("fast"));
    for name in ["waits", "build", "other"] {
        assert_eq!(world.where_is(name), "pending");
    }
    world.register(runner("r2").cpu(8));
    world.succeed("runs");
    assert_eq!((world.where_is("runs"), world.where_is("waits")), ("succeeded".into(), "pending".into()));
    assert_eq!(world.command(Command::UnpausePool), Commanded::Done);
    for name in ["waits", "build", "other"] {
        assert_ne!(world.where_is(name), "pending", "{name}");
    }
    assert_eq!(world.said(|fact| matches!(fact, Fact::PoolPaused)), 1);
    assert_eq!(world.said(|fact| matches!(fact, Fact::PoolUnpaused)), 1);
}

#[test]
fn a_pause_of_the_pool_survives_take_overs() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.command(Command::PausePool);
    let since = world.state.pool().paused_since;
    world.submit(task("waits"));
    world.take_over();
    world.register(runner("r").cpu(4).incarnation("second"));
    assert_eq!(world.where_is("waits"), "pending");
    assert_eq!((world.state.pool().paused_since, since.is_some()), (since, true));
    world.command(Command::UnpausePool);
    assert_eq!(world.where_is("waits"), "r");
    assert_eq!(*world.state.pool(), Pool::default(), "nothing is left to say of the pool");
}

#[test]
fn a_build_that_runs_gets_its_jobs_while_the_pool_is_paused() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.submit(build("runs"));
    world.start("runs");
    world.command(Command::PausePool);
    world.submit(build("waits"));
    world.submit(task("job").of("runs"));
    world.submit(task("job-of-waiting").of("waits"));
    assert_eq!(world.where_is("job"), "r");
    assert_eq!(world.where_is("waits"), "pending");
    assert_eq!(world.where_is("job-of-waiting"), "pending");
    // What an operator said of a queue holds for all of it, whatever else is paused.
    world.command(Command::PauseQueue { queue: id("default") });
    world.submit(task("job2").of("runs"));
    assert_eq!(world.where_is("job2"), "pending");
    world.command(Command::UnpausePool);
    assert_eq!(world.where_is("job2"), "pending", "the queue is still paused");
    world.command(Command::UnpauseQueue { queue: id("default") });
    assert_eq!(world.where_is("job2"), "r");
    assert_ne!(world.where_is("waits"), "pending");
}

#[test]
fn an_unknown_runner_cannot_be_held() {
    let mut world = World::with_runners([]);
    let command = Command::HoldRunner { runner: id("nobody"), reason: "x".into() };
    assert_eq!(world.command(command), Commanded::UnknownRunner);
}
