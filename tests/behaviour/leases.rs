//! No task under two owners: leases, restarts, asking back, reading reports first.

use longshore::core::Settings;
use longshore::core::input::{Answer, Input};
use longshore::model::{AttemptOutcome, Fact, Heartbeat, RunnerState};

use super::world::*;

#[test]
fn a_silent_runners_work_is_given_away_only_a_margin_after_its_lease() {
    let mut world = World::with_runners([runner("r1"), runner("r2").cost(2.0)]);
    world.submit(task("t"));
    world.start("t");
    world.pass_alive(secs(19), &["r1"]);
    assert_eq!(world.where_is("t"), "r1");
    world.pass_alive(secs(2), &["r1"]);
    assert_eq!(world.where_is("t"), "r2");
    assert_eq!(world.row("t").spent, 1);
    let lost = world.state.runner(&id("r1")).expect("its row stays");
    assert_eq!(lost.state(), RunnerState::Lost);
}

#[test]
fn finished_work_whose_report_is_on_its_way_is_not_lost_work() {
    let mut world = World::with_runners([runner("r1"), runner("r2").cost(2.0)]);
    world.submit(task("t"));
    world.start("t");
    let report = world.end_report("t", AttemptOutcome::Succeeded);
    world.on_its_way(report);
    world.silence("r1");
    assert_eq!(world.where_is("t"), "succeeded");
    assert_eq!(world.row("t").attempt, 1);
}

#[test]
fn a_heartbeat_that_comes_just_in_time_saves_the_work() {
    let mut world = World::with_runners([runner("r1")]);
    world.submit(task("t"));
    world.start("t");
    let held = world.held_by("r1");
    world.pass(secs(19));
    assert!(!world.beat("r1", &held).register);
    world.pass(secs(19));
    assert_eq!(world.where_is("t"), "r1");
}

#[test]
fn a_lost_runner_is_told_to_register_and_gets_work_again() {
    let mut world = World::with_runners([runner("r1")]);
    world.submit(task("t"));
    world.start("t");
    world.silence("r1");
    assert_eq!(world.where_is("t"), "pending");
    assert!(world.beat("r1", &[]).register);
    let registered = world.register(runner("r1"));
    assert_eq!(registered.assignments, [], "what it had was given up");
    assert_eq!(world.where_is("t"), "r1");
    assert!(world.assignment("t").token.turn >= registered.turn);
}

#[test]
fn a_new_incarnation_keeps_what_it_lists_and_the_rest_is_lost_at_once() {
    let mut world = World::with_runners([runner("r1").cpu(2), runner("r2").cost(2.0)]);
    world.submit(task("kept"));
    world.submit(task("gone"));
    world.start("kept");
    world.start("gone");
    let kept = world.held("kept");
    let registered =
        world.register(runner("r1").cpu(2).incarnation("second").running(std::slice::from_ref(&kept)));
    assert_eq!(registered.assignments, std::slice::from_ref(&kept));
    assert_eq!(world.held("kept"), kept, "the same token");
    assert_eq!(world.row("gone").spent, 1);
    assert_ne!(world.where_is("gone"), "pending");
    world.succeed("kept");
    assert_eq!(world.where_is("kept"), "succeeded", "its end counts under the new incarnation");
}

#[test]
fn a_new_incarnation_keeps_all_it_lists_also_when_that_is_more_than_a_turn_can_write() {
    let mut world = World::with_runners([runner("r1").cpu(10).memory(100)]);
    let names: Vec<String> = (0..10).map(|number| format!("t{number}")).collect();
    world.submit_all(names.iter().map(|name| task(name)));
    names.iter().for_each(|name| world.start(name));
    let kept: Vec<_> = names.iter().map(|name| world.held(name)).collect();
    world.budget.rows = 4;
    let registered = world.register(runner("r1").cpu(10).memory(100).incarnation("second").running(&kept));
    assert_eq!(registered.assignments, kept, "what is not named would be ended");
    for _ in 0..3 {
        world.beat("r1", &kept);
    }
    world.budget.rows = 10_000;
    names.iter().for_each(|name| world.succeed(name));
    assert!(names.iter().all(|name| world.row(name).attempt == 1 && world.where_is(name) == "succeeded"));
}

#[test]
fn a_restarted_runners_last_report_is_read_before_its_work_is_lost() {
    let mut world = World::with_runners([runner("r1")]);
    world.submit(task("t"));
    world.start("t");
    let report = world.end_report("t", AttemptOutcome::Succeeded);
    world.on_its_way(report);
    world.register(runner("r1").incarnation("second"));
    assert_eq!(world.where_is("t"), "succeeded");
}

#[test]
fn an_unconfirmed_assignment_is_asked_back_and_pending_only_when_the_runner_answers() {
    let mut world = World::with_runners([runner("r1").cpu(1), runner("r2").cpu(1).cost(2.0)]);
    world.submit(task("t"));
    let first = world.held("t");
    world.pass_alive_without_listing(secs(31));
    assert_eq!(world.where_is("t"), "r1", "asked back, not taken");
    let answer = world.beat("r1", &[]);
    assert_eq!(answer.stop.len(), 1);
    assert_eq!(answer.stop[0].token, first.token);
    world.end("t", AttemptOutcome::Refused);
    assert_eq!(
        world.where_is("t"),
        "r2",
        "what did not reach r1 once goes to another, though that is dearer"
    );
    assert!(world.held("t").token > first.token);
    assert_eq!(world.row("t").spent, 0);
}

#[test]
fn an_assignment_is_confirmed_by_a_start_or_by_a_heartbeat_that_lists_it() {
    let mut world = World::with_runners([runner("r1")]);
    world.submit(task("t"));
    assert!(!world.assignment("t").confirmed);
    let held = world.held("t");
    world.beat("r1", &[held]);
    assert!(world.assignment("t").confirmed);
    world.pass_alive(secs(60), &[]);
    assert!(world.assignment("t").stop.is_none(), "it is not asked back");
}

#[test]
fn two_heartbeats_that_leave_a_started_task_out_mean_it_is_lost() {
    let mut world = World::with_runners([runner("r1").cpu(1), runner("r2").cost(2.0)]);
    world.submit(task("t"));
    world.start("t");
    world.beat("r1", &[]);
    world.beat("r1", &[]);
    assert_eq!(world.where_is("t"), "r1", "these may have been sent before it had the task");
    world.pass_alive(secs(16), &[]);
    world.beat("r1", &[]);
    assert_eq!(world.where_is("t"), "r1");
    world.beat("r1", &[]);
    assert_eq!(world.row("t").spent, 1);
    assert_eq!(world.row("t").attempt, 2);
}

#[test]
fn a_heartbeat_that_comes_twice_counts_once() {
    let mut world = World::with_runners([runner("r1").cpu(1)]);
    world.submit(task("t"));
    world.start("t");
    world.pass_alive(secs(16), &[]);
    let incarnation = world.state.runner(&id("r1")).expect("a runner").incarnation.clone();
    let beat =
        Heartbeat { runner: id("r1"), incarnation, number: u64::MAX, running: Vec::new(), artifacts: None };
    for _ in 0..3 {
        world.tell(Input::Heartbeat(beat.clone()));
    }
    assert_eq!(world.where_is("t"), "r1");
}

#[test]
fn a_registration_that_comes_after_its_successors_is_refused() {
    let mut world = World::with_runners([runner("r1").incarnation("0002")]);
    world.submit(task("t"));
    world.start("t");
    let answer = world.tell(Input::Register(runner("r1").incarnation("0001").0));
    assert!(matches!(answer, Answer::RegistrationRefused { .. }), "{answer:?}");
    assert_eq!(world.where_is("t"), "r1");
}

#[test]
fn a_listed_attempt_that_nobody_knows_is_to_be_stopped() {
    let mut world = World::with_runners([runner("r1")]);
    world.submit(task("t"));
    let held = world.held("t");
    world.succeed("t");
    let answer = world.beat("r1", std::slice::from_ref(&held));
    assert_eq!(answer.stop.len(), 1);
    assert_eq!((&answer.stop[0].id, answer.stop[0].token), (&held.id, held.token));
}

#[test]
fn a_new_leader_gives_nothing_away_before_a_whole_lease_and_margin() {
    let mut world = World::with_runners([runner("r1"), runner("r2").cost(2.0)]);
    world.submit(task("t"));
    world.start("t");
    world.pass_alive(secs(18), &["r1"]);
    world.take_over();
    world.pass_alive(secs(19), &["r1"]);
    assert_eq!(world.where_is("t"), "r1");
    world.pass_alive(secs(2), &["r1"]);
    assert_eq!(world.where_is("t"), "r2");
}

#[test]
fn a_restart_finds_pending_assigned_and_running_tasks_where_they_were() {
    let mut world = World::with_runners([runner("r1").cpu(2)]);
    for name in ["running", "assigned", "pending"] {
        world.submit(task(name));
    }
    world.start("running");
    let (running, assigned) = (world.held("running"), world.held("assigned"));
    world.take_over();
    assert_eq!(world.held("running"), running);
    assert_eq!(world.held("assigned"), assigned);
    assert_eq!(world.where_is("pending"), "pending");
    world.succeed("running");
    assert_eq!(world.where_is("pending"), "r1");
    assert_eq!(world.row("running").attempt, 1);
}

#[test]
fn a_leader_that_took_over_finds_out_what_a_restarted_runner_no_longer_has() {
    let mut world = World::with_runners([runner("r1").cpu(1), runner("r2").cost(2.0)]);
    world.submit(task("t"));
    world.start("t");
    world.push(Input::Register(runner("r1").incarnation("second").0));
    world.turn();
    world.take_over();
    world.pass_alive(secs(16), &["r1"]);
    world.beat("r1", &[]);
    world.beat("r1", &[]);
    assert_eq!(world.row("t").spent, 1);
    assert_eq!(world.row("t").attempt, 2);
}

#[test]
fn a_lost_runner_with_thousands_of_tasks_is_worked_off_over_several_turns_even_by_a_successor() {
    let mut world = World::with_runners([runner("r1").cpu(1000).memory(1000).slots(1000)]);
    world.submit_all((0..500).map(|n| task(&format!("t{n}"))));
    for n in 0..500 {
        let report = world.start_report(&format!("t{n}"));
        world.push(Input::Report(report));
    }
    world.settle();
    world.budget.rows = 50;
    let (lease, margin) = (world.state.settings.lease, world.state.settings.lease_margin);
    world.now = world.now + lease + margin + secs(1);
    world.turn();
    let mark = world.state.turn();
    world.push(Input::ReportsRead { mark });
    world.turn();
    let left = world.state.fleet().get(&id("r1")).expect("a runner").tasks.len();
    assert!(left > 0 && left < 500, "{left} are left");
    world.take_over();
    assert!(world.state.fleet().get(&id("r1")).expect("a runner").tasks.is_empty());
    assert_eq!(world.state.counts().pending.values().sum::<usize>(), 500);
}

#[test]
fn a_runner_that_leaves_hands_back_without_spending_an_attempt() {
    let mut world = World::with_runners([runner("r1").cpu(2), runner("r2").cost(2.0)]);
    world.submit(task("back"));
    world.submit(task("dropped"));
    world.start("back");
    world.start("dropped");
    world.leave("r1", &["back"]);
    assert_eq!((world.where_is("back"), world.row("back").spent), ("r2".into(), 0));
    assert_eq!((world.where_is("dropped"), world.row("dropped").spent), ("r2".into(), 1));
    assert_eq!(world.said(|fact| matches!(fact, Fact::RunnerLeft { .. })), 1);
}

#[test]
fn a_new_and_empty_table_that_hears_of_another_freezes_instead_of_starting_over() {
    let mut world = World::empty(Settings::default());
    let mut stranger = runner("r1");
    let table = uuid::Uuid::from_u128(99);
    stranger.0.last_seen = Some(longshore::model::LastSeen { table, turn: 17 });
    let answer = world.tell(Input::Register(stranger.0.clone()));
    let Answer::RegistrationRefused { reason } = answer else { panic!("{answer:?}") };
    assert!(reason.contains("table"), "{reason}");
    assert!(world.state.pool().frozen.is_some());
    world.command(longshore::core::input::Command::Unfreeze);
    world.register(stranger);
    world.submit(task("t"));
    assert_eq!(world.where_is("t"), "r1");
    assert_eq!(world.held("t").token.epoch, 2, "newer than every token of the table before");
    assert_eq!(world.follower.epoch(), 2);
}
