//! Builds never wait for ever for their jobs.

use longshore::core::builds::stranded_shape;
use longshore::core::fit::Misfit;
use longshore::core::input::Submitted;
use longshore::model::{AttemptOutcome, Fact};

use super::world::*;

#[test]
fn four_slots_and_four_builds_that_each_wait_for_a_job_all_end() {
    let mut world = World::with_runners([runner("r").opaque(4)]);
    for n in 0..4 {
        world.submit(build(&format!("b{n}")));
    }
    assert_eq!(world.where_is("b2"), "r");
    assert_eq!(world.where_is("b3"), "pending", "a slot stays for jobs");
    for n in 0..4 {
        let (build, job) = (format!("b{n}"), format!("j{n}"));
        world.submit(task(&job).of(&build));
        assert_eq!(world.where_is(&job), "r");
        world.succeed(&job);
        world.succeed(&build);
    }
    assert!((0..4).all(|n| world.where_is(&format!("b{n}")) == "succeeded"));
}

#[test]
fn a_build_whose_jobs_need_another_arch_starts_where_that_arch_keeps_room() {
    let mut world = World::with_runners([runner("amd").cpu(4), runner("arm").arch("arm64").cpu(1).cost(0.1)]);
    let job = task("any").arch("arm64").shape();
    world.submit(build("b1").jobs([job.clone()]));
    assert_eq!(world.where_is("b1"), "amd", "the cheaper arm64 runner stays for its job");
    world.submit(build("b2").jobs([job]));
    assert_eq!(world.where_is("b2"), "amd");
    world.submit(build("plain"));
    assert_eq!(world.where_is("plain"), "amd");
}

#[test]
fn jobs_of_running_builds_go_before_new_work_of_equal_priority() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    world.submit(build("b"));
    world.submit(task("filler"));
    world.submit(task("earlier"));
    world.submit(task("job").of("b"));
    world.succeed("filler");
    assert_eq!(world.where_is("job"), "r");
    assert_eq!(world.where_is("earlier"), "pending");
}

#[test]
fn a_job_beyond_every_declared_shape_is_rejected() {
    let mut world = World::with_runners([runner("r").cpu(8)]);
    world.submit(build("b"));
    let Submitted::Rejected { reason } = world.submit(task("large").cpu(4).of("b")) else {
        panic!("rejected")
    };
    assert!(reason.starts_with("exceeds_build"), "{reason}");
    assert_eq!(world.submit(task("small").of("b")), Submitted::Admitted);
}

#[test]
fn a_job_of_a_build_not_known_yet_waits_as_an_ordinary_job() {
    let mut world = World::with_runners([runner("r").cpu(1)]);
    world.submit(task("filler"));
    assert_eq!(world.submit(task("early").cpu(1).of("b")), Submitted::Admitted);
    assert_eq!(world.submit(task("oversized").cpu(1).memory(8).of("b")), Submitted::Admitted);
    world.submit(build("b").jobs([task("x").memory(2).shape()]).change(|task| {
        std::sync::Arc::make_mut(&mut task.limits).if_unplaceable = longshore::model::IfUnplaceable::Hold;
    }));
    assert_eq!(world.where_is("oversized"), "rejected");
    assert_eq!(world.where_is("early"), "pending");
    world.succeed("filler");
    assert_eq!(world.where_is("early"), "r");
}

#[test]
fn a_job_of_an_ended_build_and_of_a_job_never_run() {
    let mut world = World::with_runners([runner("r")]);
    world.submit(build("b"));
    world.succeed("b");
    world.submit(task("late").of("b"));
    assert_eq!(world.where_is("late"), "cancelled");
    world.submit(task("plain"));
    let Submitted::Rejected { reason } = world.submit(task("odd").of("plain")) else { panic!("rejected") };
    assert!(reason.starts_with("not_a_build"), "{reason}");
}

#[test]
fn a_builds_cancel_cancels_its_jobs_over_as_many_turns_as_it_takes() {
    let mut world = World::with_runners([runner("r").cpu(3)]);
    world.submit(build("b"));
    world.submit_all((0..100).map(|n| task(&format!("j{n}")).of("b")));
    world.budget.rows = 10;
    world.cancel("b");
    let pending = (0..100).filter(|n| world.where_is(&format!("j{n}")) == "pending").count();
    assert_eq!(pending, 0);
    let asked: Vec<_> = world.held_by("r").into_iter().filter(|held| held.id.as_str() != "b").collect();
    assert_eq!(asked.len(), 2);
    for held in asked {
        assert!(world.assignment(held.id.as_str()).stop.is_some());
        world.end(held.id.as_str(), AttemptOutcome::Cancelled);
        assert_eq!(world.where_is(held.id.as_str()), "cancelled");
    }
    world.end("b", AttemptOutcome::Cancelled);
    assert_eq!(world.where_is("b"), "cancelled");
}

#[test]
fn a_builds_row_outlives_its_jobs() {
    let mut world = World::with_runners([runner("r").cpu(3)]);
    world.submit(build("b"));
    world.submit(task("j").of("b"));
    world.start("j");
    world.succeed("b");
    world.pass_alive(secs(3700), &[]);
    assert_eq!(world.where_is("b"), "succeeded");
    world.end("j", AttemptOutcome::Cancelled);
    world.settle();
    assert!(world.state.task("b").is_none());
}

#[test]
fn when_the_fleet_shrinks_the_youngest_build_is_handed_back_with_its_jobs() {
    let mut world = World::with_runners([runner("r1").cpu(2), runner("r2").cpu(2)]);
    world.submit(build("old").cpu(2).jobs([task("x").shape()]));
    assert_eq!(world.where_is("old"), "r1");
    world.leave("r2", &[]);
    assert!(stranded_shape(&world.state).is_some());
    assert_eq!(world.said(|fact| matches!(fact, Fact::BuildsUnsafe { .. })), 1);
    world.submit(build("new").cpu(1));
    assert_eq!(world.where_is("new"), "pending", "no build starts");
    assert!(world.why("new").reasons.iter().any(|reason| reason.contains("no build starts")));
    world.pass_alive(secs(299), &[]);
    assert!(world.assignment("old").stop.is_none());
    world.pass_alive(secs(6), &[]);
    assert!(world.assignment("old").stop.is_some(), "asked back after the grace");
    world.end("old", AttemptOutcome::Handback);
    assert_eq!(world.row("old").spent, 0);
    assert_eq!(world.said(|fact| matches!(fact, Fact::BuildsSafe)), 1);
    assert_eq!(world.where_is("new"), "r1");
    world.register(runner("r3").cpu(3));
    assert_eq!(world.where_is("old"), "r3");
}

#[test]
fn a_build_whose_jobs_could_never_run_beside_it_is_rejected() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    let Submitted::Rejected { reason } = world.submit(build("b").cpu(2).jobs([task("x").cpu(4).shape()]))
    else {
        panic!("rejected")
    };
    assert!(reason.contains("no runner would have room"), "{reason}");
}

#[test]
fn why_names_the_rule_that_keeps_a_build_waiting() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    world.submit(build("b1"));
    world.submit(build("b2"));
    let why = world.why("b2");
    assert!(matches!(&why.runners[0].1, Some(Misfit::NoRoomForJobs { .. })), "{why:?}");
}
