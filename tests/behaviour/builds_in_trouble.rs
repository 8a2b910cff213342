//! Builds whose jobs belong to groups, whose fleet shrinks, and that are handed back when it stays small.

use longshore::core::Settings;
use longshore::core::builds::stranded_shape;
use longshore::core::fit::Misfit;
use longshore::model::*;

use super::world::*;

const ANY: Terms = Terms { max_runners: None, ordered: false, stop_on_failure: false };
const ONE: Terms = Terms { max_runners: Some(1), ..ANY };

fn unsafe_said(world: &World) -> (usize, usize) {
    let broken = world.said(|fact| matches!(fact, Fact::BuildsUnsafe { .. }));
    (broken, world.said(|fact| matches!(fact, Fact::BuildsSafe)))
}

fn is_asked_back(world: &World, name: &str) -> bool {
    let stop = world.assignment(name).stop;
    stop.is_some_and(|stop| stop.cause == StopCause::HandBack)
}

#[test]
fn jobs_that_bind_a_group_elsewhere_hold_no_build_back_for_they_end() {
    let mut world = World::with_runners([runner("amd").cpu(4), runner("arm").arch("arm64").cpu(4)]);
    world.submit(task("elsewhere").arch("amd64").group("g", ONE));
    assert_eq!(world.where_is("elsewhere"), "amd");
    world.submit(build("b").arch("amd64").jobs([task("x").arch("arm64").group("g", ONE).shape()]));
    assert_eq!(world.where_is("b"), "amd");
    world.submit(task("job").arch("arm64").of("b").group("g", ONE));
    assert_eq!(world.where_is("job"), "pending");
    world.succeed("elsewhere");
    assert_eq!(world.where_is("job"), "arm");
}

#[test]
fn builds_of_a_group_of_one_runner_stay_together_with_their_jobs() {
    let mut world = World::with_runners([runner("r1").cpu(3), runner("r2").cpu(8).cost(2.0)]);
    let job = || task("x").group("g", ONE).shape();
    for name in ["b1", "b2", "b3"] {
        world.submit(build(name).group("g", ONE).jobs([job()]));
    }
    assert_eq!((world.where_is("b1"), world.where_is("b2")), ("r1".into(), "r1".into()));
    assert_eq!(world.where_is("b3"), "pending", "beside three builds no job would have room");
    assert!(matches!(world.why("b3").runners[0].1, Some(Misfit::NoRoomForJobs { .. })));
    world.submit(task("job").of("b1").group("g", ONE));
    assert_eq!(world.where_is("job"), "r1");
    world.succeed("job");
    world.succeed("b1");
    assert_eq!(world.where_is("b3"), "r1");
}

#[test]
fn a_build_needs_a_runner_of_its_jobs_group_that_stays() {
    let own = || runner("own").cpu(4).dedicated("g").label("gpu", "yes");
    let of_group = |task: TaskBuilder| task.label("gpu", "yes").group("g", ANY);
    let mut world = World::with_runners([runner("host").cpu(4), own()]);
    world.submit(of_group(task("first")));
    world.succeed("first");
    assert!(world.beat("own", &[]).leave, "its group has nothing left");
    world.submit(build("b").jobs([of_group(task("x")).shape()]));
    assert_eq!(world.where_is("b"), "pending", "whoever was told to leave is no room for its jobs");
    world.leave("own", &[]);
    world.register(own().incarnation("second"));
    assert_eq!(world.where_is("b"), "host");
    assert!(!world.beat("own", &[]).leave, "the build may yet submit a job");
}

#[test]
fn a_runner_that_was_told_to_leave_gets_no_job_of_a_running_build() {
    let of_group = |task: TaskBuilder| task.cpu(2).label("gpu", "yes").group("g", ANY);
    let own = |name: &str| runner(name).cpu(2).dedicated("g").label("gpu", "yes");
    let mut world = World::with_runners([runner("host").cpu(4), own("own")]);
    world.submit(of_group(task("first")));
    world.succeed("first");
    assert!(world.beat("own", &[]).leave);
    world.register(own("other"));
    world.submit(build("b").jobs([of_group(task("x")).shape()]));
    assert_eq!(world.where_is("b"), "host");
    world.submit(of_group(task("j1")).of("b"));
    world.submit(of_group(task("j2")).of("b"));
    assert_eq!((world.where_is("j1"), world.where_is("j2")), ("other".into(), "pending".into()));
    let misfit = world.why("j2").runners.into_iter().find(|(runner, _)| runner.as_str() == "own");
    assert_eq!(misfit.expect("own").1, Some(Misfit::Draining));
    world.succeed("j1");
    assert_eq!(world.where_is("j2"), "other");
}

#[test]
fn when_the_runner_of_its_jobs_group_comes_back_in_time_no_build_is_handed_back() {
    let own = || runner("own").cpu(4).dedicated("g").label("gpu", "yes");
    let job = || task("x").label("gpu", "yes").group("g", ANY).shape();
    let mut world = World::with_runners([runner("host").cpu(4), own()]);
    world.submit(build("b").jobs([job()]));
    world.leave("own", &[]);
    assert_eq!(stranded_shape(&world.state).as_deref(), Some(&job()));
    assert_eq!(unsafe_said(&world), (1, 0));
    world.pass_alive(secs(295), &[]);
    world.register(own().incarnation("second"));
    assert_eq!((stranded_shape(&world.state), unsafe_said(&world)), (None, (1, 1)));
    world.pass_alive(secs(60), &[]);
    assert!(!is_asked_back(&world, "b"));
    assert_eq!(world.where_is("b"), "host");
}

/// Three builds on two large runners, and a third runner for their jobs that goes.
fn shrunk() -> World {
    let hosts = [runner("r1").cpu(4), runner("r2").cpu(4).cost(2.0), runner("jobs").cpu(4).cost(3.0)];
    let mut world = World::with_runners(hosts);
    for name in ["first", "second", "third"] {
        world.submit(build(name).cpu(2).jobs([task("x").cpu(3).shape()]));
        world.start(name);
        world.pass_alive(secs(1), &[]);
    }
    let places = ["first", "second", "third"].map(|name| world.where_is(name));
    assert_eq!(places, ["r1", "r1", "r2"]);
    world.leave("jobs", &[]);
    world
}

#[test]
fn after_the_grace_the_youngest_build_is_handed_back_and_no_other_once_the_rule_holds() {
    let mut world = shrunk();
    world.pass_alive(secs(299), &[]);
    assert!(["first", "second", "third"].iter().all(|name| !is_asked_back(&world, name)));
    world.pass_alive(secs(2), &[]);
    let asked = ["first", "second", "third"].map(|name| is_asked_back(&world, name));
    assert_eq!(asked, [false, false, true]);
    world.pass_alive(secs(30), &[]);
    assert!(!is_asked_back(&world, "second"), "one at a time");
    world.end("third", AttemptOutcome::Handback);
    world.pass_alive(secs(600), &[]);
    assert_eq!((world.where_is("third"), world.row("third").spent), ("pending".into(), 0));
    assert!(!is_asked_back(&world, "second"), "r2 has room for any job now");
    assert_eq!(unsafe_said(&world), (1, 1));
}

#[test]
fn builds_are_handed_back_one_after_another_until_the_rule_holds() {
    let mut world = shrunk();
    world.leave("r2", &["third"]);
    assert_eq!(world.where_is("third"), "pending", "no build starts while the rule is broken");
    world.pass_alive(secs(301), &[]);
    assert!(is_asked_back(&world, "second") && !is_asked_back(&world, "first"));
    world.end("second", AttemptOutcome::Handback);
    world.pass_alive(secs(6), &[]);
    assert!(is_asked_back(&world, "first"), "beside two cores a job of three has no room");
    world.end("first", AttemptOutcome::Handback);
    assert_eq!(unsafe_said(&world), (1, 1));
    let hosts: Vec<String> = ["first", "second", "third"].iter().map(|name| world.where_is(name)).collect();
    assert_eq!(hosts, ["pending", "pending", "pending"], "none could run its jobs");
    world.register(runner("jobs").cpu(4));
    assert_ne!(world.where_is("first"), "pending", "the oldest first");
}

#[test]
fn the_grace_goes_on_under_the_next_leader() {
    let mut world = shrunk();
    world.pass_alive(secs(200), &[]);
    world.take_over();
    world.pass_alive(secs(95), &[]);
    assert!(!is_asked_back(&world, "third"));
    world.pass_alive(secs(10), &[]);
    assert!(is_asked_back(&world, "third"));
}

#[test]
fn the_jobs_of_a_build_that_is_handed_back_go_with_it_and_spend_nothing() {
    let fleet = [runner("host").cpu(4), runner("amd").cpu(2), runner("arm").arch("arm64")];
    let mut world = World::with_runners(fleet);
    let shapes = [task("x").cpu(2).shape(), task("x").arch("arm64").shape()];
    world.submit(build("b").cpu(3).arch("amd64").jobs(shapes));
    world.submit(task("job").cpu(2).of("b"));
    world.start("job");
    assert_eq!((world.where_is("b"), world.where_is("job")), ("host".into(), "amd".into()));
    world.leave("arm", &[]);
    world.pass_alive(secs(301), &[]);
    assert!(is_asked_back(&world, "b") && is_asked_back(&world, "job"));
    world.end("b", AttemptOutcome::Handback);
    world.end("job", AttemptOutcome::Handback);
    assert_eq!(["b", "job"].map(|name| world.row(name).spent), [0, 0]);
    assert_eq!(world.where_is("b"), "pending");
    assert_eq!(world.where_is("job"), "amd", "a job waits for no build");
    world.register(runner("arm").arch("arm64"));
    assert_eq!(world.where_is("b"), "host");
}

#[test]
fn no_runner_is_kept_for_a_build_where_its_jobs_would_have_no_room() {
    let settings = Settings { reserve_after: secs(0), ..Settings::default() };
    let mut world =
        World::with(settings, [runner("amd").cpu(2), runner("arm").arch("arm64").cpu(2).cost(0.5)]);
    world.submit(task("busy").cpu(2).arch("amd64").timeout(secs(900)));
    world.submit(task("short").cpu(2).arch("arm64").timeout(secs(5)));
    world.submit(build("b").cpu(2).jobs([task("x").arch("arm64").shape()]));
    let kept = world.state.reservations().of(&id("b")).expect("a runner is kept").clone();
    assert_eq!(kept.runner, id("amd"), "arm would be free sooner, but its jobs need arm");
}

#[test]
fn a_build_that_ends_with_its_stopped_group_takes_its_jobs_along() {
    let stops = Terms { stop_on_failure: true, ..ANY };
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.submit(task("bad").group("g", stops));
    world.submit(build("b").group("g", stops).jobs([task("x").shape()]));
    world.submit(task("job").of("b"));
    world.submit(task("waits").of("b"));
    world.submit(task("later").of("b"));
    world.fail("bad");
    assert!(world.assignment("b").stop.is_some());
    world.end("b", AttemptOutcome::Cancelled);
    assert_eq!(world.where_is("b"), "cancelled");
    for name in ["job", "waits", "later"] {
        if world.where_is(name) == "r" {
            world.end(name, AttemptOutcome::Cancelled);
        }
        assert_eq!(world.where_is(name), "cancelled");
    }
}
