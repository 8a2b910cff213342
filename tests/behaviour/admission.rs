//! Admitted, duplicate, rejected; a conflict; a full window.

use longshore::core::Settings;
use longshore::core::input::Submitted;
use longshore::model::Key;

use super::world::*;

#[test]
fn a_repeated_submission_is_a_duplicate_and_another_content_a_conflict() {
    let mut world = World::with_runners([runner("r")]);
    assert_eq!(world.submit(task("t")), Submitted::Admitted);
    assert_eq!(world.submit(task("t")), Submitted::Duplicate);
    let Submitted::Conflict { reason } = world.submit(task("t").content(2)) else { panic!("a conflict") };
    assert!(reason.contains("another task is known as t"), "{reason}");
    world.succeed("t");
    assert_eq!(world.submit(task("t")), Submitted::Duplicate, "its tombstone answers");
    assert_eq!(world.where_is("t"), "succeeded");
}

#[test]
fn a_tombstone_is_forgotten_after_keep_ended_or_when_there_are_too_many() {
    let settings = Settings { keep_ended_tasks: 2, ..Settings::default() };
    let mut world = World::with(settings, [runner("r")]);
    for name in ["t1", "t2", "t3"] {
        world.submit(task(name));
        world.succeed(name);
        world.now = world.now + secs(1);
    }
    world.settle();
    assert!(world.state.task("t1").is_none());
    assert!(world.state.task("t3").is_some());
    world.pass_alive(secs(3601), &[]);
    assert!(world.state.task("t3").is_none());
    assert_eq!(world.submit(task("t3")), Submitted::Admitted, "nobody remembers it");
}

#[test]
fn a_full_window_refuses_what_is_beyond_it_and_says_both_numbers() {
    let settings = Settings { window: 2, ..Settings::default() };
    let mut world = World::with(settings, [runner("r").cpu(1)]);
    for name in ["runs", "w1", "w2"] {
        assert_eq!(world.submit(task(name)), Submitted::Admitted);
    }
    let Submitted::Full { reason } = world.submit(task("w3")) else { panic!("the window is full") };
    assert!(reason.contains("2 jobs wait already; the window takes 2"), "{reason}");
    assert!(world.state.task("w3").is_none());
    world.succeed("runs");
    assert_eq!(world.submit(task("w3")), Submitted::Admitted);
}

#[test]
fn a_full_window_never_keeps_out_a_job_of_a_running_build() {
    let settings = Settings { window: 1, ..Settings::default() };
    let mut world = World::with(settings, [runner("r").cpu(2)]);
    world.submit(build("b"));
    world.submit(task("filler"));
    world.submit(task("waits"));
    for name in ["j1", "j2", "j3"] {
        assert_eq!(world.submit(task(name).of("b")), Submitted::Admitted);
    }
}

#[test]
fn one_queue_leaves_room_in_the_window_for_others() {
    let settings = Settings { window: 4, window_share: 2, ..Settings::default() };
    let mut world = World::with(settings, [runner("r").cpu(1)]);
    for name in ["runs", "w1", "w2"] {
        assert_eq!(world.submit(task(name)), Submitted::Admitted);
    }
    let Submitted::Full { reason } = world.submit(task("w3")) else { panic!("its share is full") };
    assert!(reason.contains("2 tasks of queue default wait already; one queue takes at most 2"), "{reason}");
    assert_eq!(world.submit(task("other").queue("other")), Submitted::Admitted);
    world.succeed("runs");
    assert_eq!(world.submit(task("w3")), Submitted::Admitted, "one of the queue was placed");
}

#[test]
fn bodies_beyond_the_windows_bytes_are_refused() {
    let settings = Settings { window_bytes: 40, ..Settings::default() };
    let mut world = World::with(settings, [runner("r").cpu(1)]);
    assert_eq!(world.submit(task("a-task-of-some-length")), Submitted::Admitted);
    assert!(matches!(world.submit(task("another-of-some-length")), Submitted::Full { .. }));
}

#[test]
fn the_body_of_an_ended_task_is_kept_only_if_it_is_small() {
    let settings = Settings { keep_ended_body: 64, ..Settings::default() };
    let mut world = World::with(settings, [runner("r")]);
    world.submit(task("small"));
    world.submit(task("large").change(|task| task.body = "x".repeat(65).into()));
    world.succeed("small");
    let turn_of_end = {
        let report = world.end_report("large", longshore::model::AttemptOutcome::Succeeded);
        world.push(longshore::core::input::Input::Report(report));
        world.turn()
    };
    assert!(world.state.body("small").is_some());
    assert!(world.state.body("large").is_none());
    let deleted = longshore::model::Change::Delete(Key::Spec(id("large")));
    assert!(turn_of_end.changes.contains(&deleted));
}
