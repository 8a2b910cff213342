//! Which runner takes which task.

use longshore::core::Settings;
use longshore::core::settings::{Order, Strategy};
use longshore::model::Kind;

use super::world::*;

#[test]
fn of_two_runners_the_cheaper_takes_the_task_and_the_dearer_when_that_is_full() {
    let mut world = World::with_runners([runner("cheap").cpu(2).cost(1.0), runner("dear").cpu(2).cost(2.0)]);
    world.submit(task("t1").cpu(2));
    world.submit(task("t2").cpu(2));
    world.submit(task("t3").cpu(2));
    assert_eq!(world.where_is("t1"), "cheap");
    assert_eq!(world.where_is("t2"), "dear");
    assert_eq!(world.where_is("t3"), "pending");
    assert_eq!(
        world.delivered.iter().filter(|to| to.as_str() == "dear").count(),
        2,
        "its registration, and t2"
    );
}

#[test]
fn a_task_that_needs_arm64_goes_to_the_runner_that_has_it_and_one_that_names_no_arch_to_any() {
    let mut world = World::with_runners([runner("a"), runner("b").arch("arm64").cost(5.0)]);
    world.submit(task("arm").arch("arm64"));
    world.submit(task("any"));
    assert_eq!(world.where_is("arm"), "b");
    assert_eq!(world.where_is("any"), "a");
}

#[test]
fn an_opaque_runner_has_slots_only_and_a_divisible_one_exact_amounts() {
    let mut world = World::with_runners([runner("opaque").opaque(6).kinds(&[Kind::Build])]);
    world.register(runner("divisible").cpu(4).memory(10).kinds(&[Kind::Job]));
    world.submit(build("b").cpu(64));
    let slots = |world: &World| 6 - world.state.fleet().get(&id("opaque")).expect("a runner").held.slots;
    assert_eq!(slots(&world), 5);
    world.succeed("b");
    assert_eq!(slots(&world), 6);

    world.submit(task("t").cpu(1).memory(2));
    let seat = world.state.fleet().get(&id("divisible")).expect("a runner").clone();
    let left = seat.runner.offer.resources.as_ref().expect("amounts").left_after(&seat.held.resources);
    assert_eq!(left.to_string(), "cpu 3, memory 8GiB");
    world.succeed("t");
    assert!(world.state.fleet().get(&id("divisible")).expect("a runner").held.is_empty());
}

#[test]
fn a_freed_runner_goes_to_the_oldest_waiting_task_that_fits() {
    let mut world = World::with_runners([runner("r").cpu(2), runner("arm").arch("arm64").cpu(1)]);
    world.submit(task("busy").cpu(2));
    world.submit(task("filler").arch("arm64"));
    for waiting in [task("wrong").arch("arm64"), task("old").cpu(2), task("new").cpu(2)] {
        world.submit(waiting);
    }
    world.succeed("busy");
    assert_eq!(world.where_is("old"), "r");
    assert_eq!(world.where_is("new"), "pending");
    assert_eq!(world.where_is("wrong"), "pending");
}

#[test]
fn a_task_too_large_for_now_does_not_block_a_small_one_of_another_shape() {
    let mut world = World::with_runners([runner("r").cpu(4)]);
    world.submit(task("first").cpu(2));
    world.submit(task("large").cpu(4));
    world.submit(task("small").cpu(1));
    assert_eq!(world.where_is("large"), "pending");
    assert_eq!(world.where_is("small"), "r");
}

#[test]
fn a_waiting_arm64_task_does_not_hold_an_idle_amd64_runner() {
    let mut world = World::with_runners([runner("amd").cpu(1), runner("arm").arch("arm64").cpu(1)]);
    world.submit(task("holds-arm").arch("arm64"));
    world.submit(task("waits-for-arm").arch("arm64"));
    world.submit(task("amd-task").arch("amd64"));
    assert_eq!(world.where_is("waits-for-arm"), "pending");
    assert_eq!(world.where_is("amd-task"), "amd");
}

#[test]
fn freeing_eight_cpus_starts_eight_tasks_in_one_turn() {
    let mut world = World::with_runners([runner("r").cpu(8)]);
    world.submit(task("whole").cpu(8));
    world.submit_all((0..9).map(|n| task(&format!("t{n}"))));
    let turns = world.state.turn();
    world.succeed("whole");
    let assigned = (0..9).filter(|n| world.where_is(&format!("t{n}")) == "r").count();
    assert_eq!(assigned, 8);
    assert_eq!(world.where_is("t8"), "pending");
    assert_eq!(world.assignment("t0").token.turn, turns + 1, "in the turn of the report itself");
    assert_eq!(world.assignment("t7").token.turn, turns + 1);
}

#[test]
fn the_end_of_a_build_starts_a_waiting_job_and_the_other_way_round() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    world.submit(build("b1").cpu(1).jobs([task("x").shape()]));
    world.submit(task("j1").cpu(1));
    world.submit(task("j2").cpu(1));
    assert_eq!(world.where_is("j2"), "pending");
    world.succeed("b1");
    assert_eq!(world.where_is("j2"), "r");
    world.submit(build("b2").cpu(1));
    assert_eq!(world.where_is("b2"), "pending");
    world.succeed("j1");
    assert_eq!(world.where_is("b2"), "r");
}

#[test]
fn a_higher_priority_goes_first_and_fifo_ignores_it() {
    for (order, first) in [(Order::Priority, "urgent"), (Order::Fifo, "early")] {
        let settings = Settings { order, ..Settings::default() };
        let mut world = World::with(settings, [runner("r").cpu(1)]);
        world.submit(task("busy"));
        world.submit(task("early"));
        world.submit(task("urgent").priority(10));
        world.succeed("busy");
        assert_eq!(world.where_is(first), "r", "{order:?}");
    }
}

#[test]
fn pack_fills_the_fullest_runner_and_spread_takes_the_emptiest() {
    for (strategy, same) in [(Strategy::Pack, true), (Strategy::Spread, false)] {
        let settings = Settings { strategy, ..Settings::default() };
        let mut world = World::with(settings, [runner("a").cpu(4), runner("b").cpu(4)]);
        world.submit(task("t1"));
        world.submit(task("t2"));
        assert_eq!(world.where_is("t1"), "a", "equal room goes by id");
        assert_eq!(world.where_is("t1") == world.where_is("t2"), same, "{strategy:?}");
    }
}

#[test]
fn labels_taints_queues_and_kinds_bound_what_a_runner_takes() {
    let mut world = World::with_runners([
        runner("plain").cost(9.0),
        runner("eu").label("zone", "eu").cost(5.0),
        runner("spot").taint("spot").cost(0.1),
        runner("builds").kinds(&[Kind::Build]).cost(0.2),
        runner("gpu-queue").queues(&["gpu"]).resource("gpu", 2).cost(0.3),
    ]);
    world.submit(task("anywhere"));
    world.submit(task("in-eu").label("zone", "eu"));
    world.submit(task("cheap").tolerates("spot"));
    world.submit(build("compile"));
    world.submit(task("train").queue("gpu").resource("gpu", 2));
    world.submit(task("train-2").queue("gpu").resource("gpu", 1));
    assert_eq!(world.where_is("anywhere"), "eu");
    assert_eq!(world.where_is("in-eu"), "eu");
    assert_eq!(world.where_is("cheap"), "spot");
    assert_eq!(world.where_is("compile"), "builds");
    assert_eq!(world.where_is("train"), "gpu-queue");
    assert_eq!(world.where_is("train-2"), "pending");
}

#[test]
fn a_task_waits_for_its_time_and_holds_nobody_of_its_shape_back() {
    let mut world = World::with_runners([runner("r").cpu(2)]);
    let later = world.now + secs(60);
    world.submit(task("later").not_before(later));
    world.submit(task("now"));
    assert_eq!(world.where_is("now"), "r");
    assert_eq!(world.where_is("later"), "pending");
    world.pass_alive(secs(61), &[]);
    assert_eq!(world.where_is("later"), "r");
}

#[test]
fn planning_stops_at_the_budget_and_goes_on_in_the_next_turn() {
    let mut world = World::with_runners([runner("r").cpu(100).memory(1000)]);
    world.budget.rows = 3;
    world.submit_all((0..20).map(|n| task(&format!("t{n}"))));
    assert!((0..20).all(|n| world.where_is(&format!("t{n}")) == "r"));
}
