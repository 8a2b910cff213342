//! Fits now, fits later, never fits.

use longshore::core::Settings;
use longshore::core::input::Submitted;
use longshore::model::{DeclaredClass, IfUnplaceable};

use super::world::*;

#[test]
fn what_can_never_fit_ends_at_once_with_the_reason_and_the_next_one_runs() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    let Submitted::Rejected { reason } = world.submit(task("huge").cpu(64)) else { panic!("rejected") };
    assert!(reason.contains("runner r: needs cpu 64; it has cpu 4"), "{reason}");
    assert_eq!(world.where_is("huge"), "rejected");
    world.submit(task("next"));
    assert_eq!(world.where_is("next"), "r");
}

#[test]
fn an_unknown_fleet_rejects_nothing() {
    let mut world = World::empty(Settings::default());
    assert_eq!(world.submit(task("huge").cpu(64)), Submitted::Admitted);
    world.register(runner("r").cpu(4));
    assert_eq!(world.where_is("huge"), "rejected", "the fleet has shown itself");
}

#[test]
fn without_any_runner_tasks_are_judged_when_the_settling_is_over() {
    let mut world = World::empty(Settings::default());
    world.submit(task("t"));
    world.pass(secs(29));
    assert_eq!(world.where_is("t"), "pending");
    world.pass(secs(2));
    assert_eq!(world.where_is("t"), "rejected");
    assert_eq!(world.reason("t"), "no runner is registered and no class is declared");
}

#[test]
fn a_declared_class_is_waited_for() {
    let large = runner("any").cpu(64).0.offer;
    let class = DeclaredClass { id: id("large"), offer: large, cost: 1.0, max: 10 };
    let settings = Settings { classes: vec![class], ..Settings::default() };
    let mut world = World::with(settings, [runner("r").cpu(4)]);
    world.submit(task("huge").cpu(64));
    assert_eq!(world.where_is("huge"), "pending");
    world.register(runner("large-1").cpu(64).memory(64));
    assert_eq!(world.where_is("huge"), "large-1");
}

#[test]
fn a_held_a_draining_and_a_lost_runner_still_count_as_ones_that_may_run_it() {
    let mut world = World::with_runners([runner("small").cpu(1), runner("big").cpu(8)]);
    world.hold("big");
    world.submit(task("t1").cpu(8));
    assert_eq!(world.where_is("t1"), "pending");
    world.drain("big");
    world.submit(task("t2").cpu(8));
    assert_eq!(world.where_is("t2"), "pending");
    world.silence("big");
    world.submit(task("t3").cpu(8));
    assert_eq!(world.where_is("t3"), "pending");
}

#[test]
fn a_runner_that_left_is_remembered_as_a_class_for_a_while() {
    let mut world = World::with_runners([runner("small").cpu(1), runner("big").cpu(8)]);
    world.leave("big", &[]);
    assert!(world.state.runner(&id("big")).is_none());
    world.submit(task("t").cpu(8));
    assert_eq!(world.where_is("t"), "pending");
    world.pass_alive(secs(601), &[]);
    assert_eq!(world.where_is("t"), "rejected", "nobody of that kind came back");
}

#[test]
fn a_producer_may_ask_to_hold_or_to_fail_after_a_while() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.submit(task("hold").cpu(8).if_unplaceable(IfUnplaceable::Hold));
    world.submit(task("patient").cpu(8).if_unplaceable(IfUnplaceable::FailAfter(secs(60))));
    world.pass_alive(secs(59), &[]);
    assert_eq!(world.where_is("patient"), "pending");
    world.pass_alive(secs(2), &[]);
    assert_eq!(world.where_is("patient"), "rejected");
    assert_eq!(world.where_is("hold"), "pending");
    world.register(runner("big").cpu(8));
    assert_eq!(world.where_is("hold"), "big");
}

#[test]
fn a_runner_that_shrinks_is_remembered_with_what_it_had() {
    let mut world = World::with_runners([runner("r").cpu(8)]);
    world.submit(task("busy").cpu(8));
    world.submit(task("waits").cpu(8));
    world.register(runner("r").cpu(4));
    assert_eq!(world.where_is("waits"), "pending");
    world.pass_alive(secs(601), &[]);
    assert_eq!(world.where_is("waits"), "rejected");
}
