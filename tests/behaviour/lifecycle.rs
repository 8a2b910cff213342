//! What reports make of a task.

use longshore::model::{AttemptOutcome, Fact, LifecycleState, Token};

use super::world::*;

#[test]
fn a_task_goes_from_pending_to_succeeded_and_says_so_once_each() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(task("t"));
    world.start("t");
    world.start("t");
    world.succeed("t");
    assert_eq!(world.where_is("t"), "succeeded");
    let states: Vec<LifecycleState> = world
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Task(event) => Some(event.state),
            _ => None,
        })
        .collect();
    use LifecycleState::*;
    assert_eq!(states, [Pending, Assigned, Running, Ended]);
}

#[test]
fn a_second_end_and_an_end_of_an_unknown_task_leave_capacity_exact() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.submit(task("t").cpu(3));
    let end = world.end_report("t", AttemptOutcome::Succeeded);
    world.receive(end.clone());
    world.receive(end.clone());
    let mut unknown = end;
    unknown.id = id("nobody");
    world.receive(unknown);
    assert_eq!(world.free_cpu("r"), 4);
    assert_eq!(world.said(|fact| matches!(fact, Fact::StaleReport { .. })), 2);
}

#[test]
fn an_end_of_a_task_placed_from_the_backlog_leaves_capacity_exact() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    world.submit(task("first").cpu(2));
    world.submit(task("second").cpu(2));
    world.succeed("first");
    assert_eq!(world.free_cpu("r"), 0);
    world.succeed("second");
    assert_eq!(world.free_cpu("r"), 2);
}

#[test]
fn a_late_end_from_a_lost_attempt_changes_nothing() {
    let mut world = World::with_runners([runner("r1").cost(1.0), runner("r2").cost(2.0)]);
    world.submit(task("t1").cpu(2));
    world.start("t1");
    let late = world.end_report("t1", AttemptOutcome::Succeeded);
    world.silence("r1");
    assert_eq!(world.where_is("t1"), "r2");
    let second = world.assignment("t1").token;
    world.receive(late.clone());
    assert_eq!(world.assignment("t1").token, second);
    assert!(second > late.token);
    assert_eq!(world.said(|fact| matches!(fact, Fact::StaleReport { token, .. } if *token == late.token)), 1);
}

#[test]
fn a_report_counts_only_if_token_incarnation_and_runner_match() {
    let mut world = World::with_runners([runner("r1"), runner("r2")]);
    world.submit(task("t"));
    let report = world.end_report("t", AttemptOutcome::Succeeded);
    let mut wrong = [report.clone(), report.clone(), report.clone()];
    wrong[0].token = Token { epoch: 1, turn: 1, index: 77 };
    wrong[1].incarnation = "other".into();
    wrong[2].runner = id("r2");
    for report in wrong {
        world.receive(report);
        assert_eq!(world.where_is("t"), "r1");
    }
    world.receive(report);
    assert_eq!(world.where_is("t"), "succeeded");
}

#[test]
fn a_tasks_own_failure_is_an_outcome_and_is_repeated_only_as_often_as_it_asked() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(task("once"));
    world.start("once");
    world.fail("once");
    assert_eq!(world.where_is("once"), "failed");
    assert_eq!(world.reason("once"), "exit code 1");

    world.submit(task("again").retries(1));
    world.fail("again");
    assert_eq!(world.where_is("again"), "pending", "it backs off first");
    world.pass(secs(2));
    assert_eq!(world.where_is("again"), "r");
    assert_eq!(world.row("again").spent, 0, "its own failure spends no attempt");
    world.fail("again");
    assert_eq!(world.where_is("again"), "failed");
}

#[test]
fn start_failures_spend_attempts_until_the_task_is_exhausted() {
    let mut world = World::with_runners([runner("r1"), runner("r2"), runner("r3")]);
    world.submit(task("t").attempts(2));
    world.end("t", AttemptOutcome::StartFailed);
    assert_eq!(world.where_is("t"), "pending");
    world.pass_alive(secs(2), &[]);
    world.end("t", AttemptOutcome::StartFailed);
    assert_eq!(world.where_is("t"), "exhausted");
    assert!(world.reason("t").contains("all 2 attempts are spent"), "{}", world.reason("t"));
}

#[test]
fn a_hand_back_spends_nothing() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(task("t").attempts(1));
    world.end("t", AttemptOutcome::Handback);
    assert_eq!(world.where_is("t"), "r", "it is placed again at once");
    assert_eq!(world.row("t").attempt, 2);
    assert_eq!(world.row("t").spent, 0);
}

#[test]
fn a_pending_task_expires_and_a_running_one_does_not() {
    let mut world = World::with_runners([runner("r").cpu(1)]);
    world.submit(task("runs").expires_in(secs(10)));
    world.submit(task("waits").expires_in(secs(10)));
    world.start("runs");
    world.pass_alive(secs(11), &[]);
    assert_eq!(world.where_is("runs"), "r");
    assert_eq!(world.where_is("waits"), "expired");
}
