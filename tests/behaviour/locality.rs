//! A task waits for runners that hold what it makes or reads, and then takes any.

use std::time::Duration;

use longshore::core::Settings;
use longshore::core::input::Command;
use longshore::core::settings::Locality;
use longshore::core::verdict::Verdict;
use longshore::model::{AttemptOutcome, Fact, Found};

use super::world::*;

const CACHE_WAIT: Duration = Duration::from_secs(10);
const DEPS_WAIT: Duration = Duration::from_secs(20);

fn settings() -> Settings {
    let waits = Locality { cache_wait: CACHE_WAIT, deps_wait: DEPS_WAIT };
    Settings { locality: [(id("default"), waits)].into(), ..Settings::default() }
}

fn world(runners: impl IntoIterator<Item = RunnerBuilder>) -> World {
    World::with(settings(), runners)
}

/// Asserts that the task is placed `after` from now, and not a moment before.
#[track_caller]
fn placed_after(world: &mut World, name: &str, after: Duration, runner: &str) {
    let moment = Duration::from_millis(1);
    if !after.is_zero() {
        world.pass_alive(after - moment, &[]);
        assert_eq!(world.where_is(name), "pending");
        world.pass_alive(moment, &[]);
    }
    assert_eq!(world.where_is(name), runner);
}

#[test]
fn a_task_of_which_nobody_holds_anything_goes_to_any_runner_after_the_second_wait() {
    let mut world = world([runner("early")]);
    world.submit(task("t").makes("sha256-bb").reads(&["sha256-aa"]));
    world.pass_alive(secs(15), &[]);
    world.register(runner("late").cost(0.5));
    placed_after(&mut world, "t", secs(5), "late");
}

#[test]
fn a_holder_takes_a_task_at_once_and_one_that_wants_nothing_waits_its_time() {
    let mut world = world([runner("r").cpu(4).holding(&["x"])]);
    world.submit(task("j2"));
    world.submit(task("j1").reads(&["x", "y"]));
    assert_eq!(world.where_is("j1"), "r", "the runner's first task");
    placed_after(&mut world, "j2", DEPS_WAIT, "r");
}

#[test]
fn the_waits_follow_each_other_and_what_is_cached_nowhere_has_only_the_second() {
    let mut world = world([runner("holder").cpu(1).holding(&["out"]), runner("other")]);
    world.submit(task("first").makes("out"));
    assert_eq!(world.where_is("first"), "holder");
    world.submit(task("cached").makes("out").reads(&["in"]));
    world.submit(task("uncached").makes("new"));
    placed_after(&mut world, "uncached", DEPS_WAIT, "other");
    placed_after(&mut world, "cached", CACHE_WAIT, "other");
}

#[test]
fn a_runner_with_an_input_may_have_a_cached_task_only_after_the_first_wait() {
    let mut world = world([runner("cached").cpu(1).holding(&["out"]), runner("deps").holding(&["in"])]);
    world.submit(task("busy").makes("out"));
    world.submit(task("t").makes("out").reads(&["in"]));
    placed_after(&mut world, "t", CACHE_WAIT, "deps");
    assert_eq!(world.where_is("busy"), "cached");
}

#[test]
fn news_adds_runners_at_once_on_every_step_and_restarts_nothing() {
    let mut world = world([runner("full").cpu(1).holding(&["out"]), runner("a").cost(5.0), runner("b")]);
    world.submit(task("busy").makes("out"));
    world.submit(task("t1").makes("out").reads(&["in"]));
    world.submit(task("t2").makes("out").reads(&["in"]));
    world.news("a", 1, &["out"], &[]);
    assert_eq!((world.where_is("t1"), world.where_is("t2")), ("a".into(), "a".into()), "on the first step");

    world.submit(task("t3").reads(&["in"]));
    world.pass_alive(secs(5), &[]);
    world.news("a", 2, &["in"], &[]);
    assert_eq!(world.where_is("t3"), "a", "on the second");

    world.submit(task("t4").makes("new"));
    world.hold("a");
    world.hold("b");
    world.pass_alive(DEPS_WAIT, &[]);
    assert_eq!(world.where_is("t4"), "pending", "open to all, and nobody has room");
    world.news("a", 3, &["new"], &[]);
    world.resume("b");
    assert_eq!(world.where_is("t4"), "b", "no news takes a right away");
}

#[test]
fn news_reroutes_a_task_that_is_open_to_everyone_and_it_starts_once() {
    let mut world = world([runner("a").cpu(1), runner("b").cpu(1).cost(0.1)]);
    world.submit(task("one").priority(1));
    world.submit(task("two").priority(1));
    world.pass_alive(DEPS_WAIT, &[]);
    world.submit(task("older"));
    world.submit(task("t").reads(&["x", "y"]).makes("z"));
    world.pass_alive(DEPS_WAIT, &[]);
    world.news("a", 1, &["x", "y", "z"], &[]);
    let on_a = if world.where_is("one") == "a" { "one" } else { "two" };
    let on_b = if on_a == "one" { "two" } else { "one" };
    world.succeed(on_a);
    assert_eq!(world.where_is("t"), "a", "where it is nearer, it goes before what is older");
    assert_eq!(world.where_is("older"), "pending");
    world.succeed(on_b);
    assert_eq!(world.where_is("older"), "b");
    assert_eq!(world.row("t").attempt, 1);
}

#[test]
fn on_one_runner_cached_goes_before_dependent_before_the_rest_within_equal_priority() {
    let mut world = world([runner("r").cpu(1).holding(&["in", "out", "busy"])]);
    world.submit(task("busy").makes("busy"));
    world.submit(task("rest"));
    world.submit(task("urgent").priority(5));
    world.pass_alive(DEPS_WAIT, &[]);
    world.submit(task("dependent").reads(&["in"]));
    world.submit(task("cached").makes("out"));
    let order: Vec<String> = (0..5)
        .map(|_| {
            let running = world.held_by("r")[0].id.to_string();
            world.succeed(&running);
            running
        })
        .collect();
    assert_eq!(order, ["busy", "urgent", "cached", "dependent", "rest"]);
}

#[test]
fn only_what_succeeded_is_known_and_a_lost_runner_holds_nothing() {
    let mut world = world([runner("r").holding(&["a"])]);
    world.submit(task("bad").reads(&["a"]).makes("bad-out"));
    world.fail("bad");
    assert!(world.holders("bad-out").is_empty());
    world.submit(task("good").reads(&["a"]).makes("good-out"));
    let mut report = world.end_report("good", AttemptOutcome::Succeeded);
    if let longshore::model::Reported::End(end) = &mut report.what {
        end.artifacts = vec![artifact("by-product")];
    }
    world.receive(report);
    for known in ["a", "good-out", "by-product"] {
        assert_eq!(world.holders(known), ["r"]);
    }
    world.hold("r");
    assert!(world.holders("a").is_empty(), "only ready runners are named");
    world.resume("r");
    assert_eq!(world.holders("a"), ["r"]);
    world.silence("r");
    world.register(runner("r"));
    assert!(world.holders("a").is_empty());
    assert_eq!(world.state.artifacts().count(&id("r")), 0);
}

#[test]
fn when_the_last_holder_goes_the_second_wait_begins_at_once() {
    let mut world = world([runner("holder").cpu(1).holding(&["out"]), runner("other")]);
    world.submit(task("busy").makes("out"));
    world.submit(task("t").makes("out"));
    world.pass_alive(secs(4), &[]);
    world.hold("holder");
    world.resume("holder");
    placed_after(&mut world, "t", DEPS_WAIT, "other");
}

#[test]
fn a_holder_that_could_never_run_the_task_is_not_waited_for() {
    let mut world = world([runner("arm").arch("arm64").holding(&["out"]), runner("amd")]);
    world.submit(task("t").makes("out").arch("amd64"));
    placed_after(&mut world, "t", DEPS_WAIT, "amd");
}

#[test]
fn a_task_in_its_wait_holds_nobody_of_its_shape_back() {
    let mut settings = settings();
    settings.locality.insert(id("default"), Locality { cache_wait: secs(60), deps_wait: secs(0) });
    let mut world = World::with(settings, [runner("full").cpu(1).holding(&["out"]), runner("r").cpu(1)]);
    world.submit(task("busy").makes("out"));
    world.submit(task("waits").makes("out"));
    world.submit(task("goes"));
    assert_eq!((world.where_is("waits"), world.where_is("goes")), ("pending".into(), "r".into()));
}

#[test]
fn a_task_that_is_cancelled_in_its_wait_gets_nothing_and_leaves_nothing() {
    let mut world = world([runner("holder").cpu(1).holding(&["out"]), runner("other")]);
    world.submit(task("busy").makes("out"));
    world.submit(task("t").makes("out").reads(&["in"]));
    world.cancel("t");
    assert_eq!(world.where_is("t"), "cancelled");
    assert_eq!(world.state.ladder().waiting(), (0, 0));
    world.succeed("busy");
    assert!(world.held_by("holder").is_empty());
    world.leave("holder", &[]);
    assert_eq!(world.state.artifacts().holdings().count(), 0);
}

#[test]
fn a_successor_goes_on_with_the_same_wait() {
    let mut world = world([runner("holder").cpu(1).holding(&["out"]), runner("other")]);
    world.submit(task("busy").makes("out"));
    world.submit(task("t").makes("out"));
    world.pass_alive(secs(6), &[]);
    world.take_over();
    world.pass_alive(secs(9), &[]);
    world.take_over();
    placed_after(&mut world, "t", secs(15), "other");
}

#[test]
fn a_task_that_comes_back_does_not_wait_again() {
    let mut world = world([runner("r"), runner("s")]);
    world.submit(task("t").reads(&["in"]).retries(1));
    world.pass_alive(DEPS_WAIT, &[]);
    world.hold("r");
    world.end("t", AttemptOutcome::Handback);
    assert_eq!(world.where_is("t"), "s");
}

#[test]
fn a_task_that_comes_back_waits_for_no_holder_that_has_gone_meanwhile() {
    let mut world = world([runner("holder").holding(&["out"]), runner("other")]);
    world.submit(task("t").makes("out"));
    world.news("holder", 1, &[], &["out"]);
    world.end("t", AttemptOutcome::Handback);
    placed_after(&mut world, "t", DEPS_WAIT, "holder");
}

#[test]
fn a_wait_begins_when_a_task_s_time_has_come() {
    let mut world = world([runner("r")]);
    let later = world.now + secs(60);
    world.submit(task("t").not_before(later));
    placed_after(&mut world, "t", secs(60) + DEPS_WAIT, "r");
}

#[test]
fn a_queue_without_locality_waits_for_nobody() {
    let mut world = world([runner("holder").cost(9.0).holding(&["out"]), runner("cheap").cost(1.0)]);
    world.submit(task("t").queue("plain").makes("out"));
    assert_eq!(world.where_is("t"), "cheap");
}

#[test]
fn news_is_taken_in_once_and_confirmed_with_its_number() {
    let mut world = world([runner("r").holding(&["a"])]);
    assert_eq!(world.news("r", 4, &["b"], &["a"]).artifacts, Some(4));
    assert_eq!((world.holders("a").len(), world.holders("b").len()), (0, 1));
    world.submit(task("t").reads(&["b"]).makes("a"));
    world.succeed("t");
    assert_eq!(world.news("r", 4, &["b"], &["a"]).artifacts, Some(4));
    assert_eq!(world.holders("a"), ["r"], "what is repeated says nothing new");
    world.register(runner("r"));
    assert_eq!(world.holders("a"), ["r"], "the same incarnation says nothing of artifacts");
    world.register(runner("r").holding(&["c"]));
    assert_eq!((world.holders("a").len(), world.holders("c").len()), (0, 1), "it says all it has");
    world.register(runner("r").incarnation("second"));
    assert!(world.holders("c").is_empty());
}

#[test]
fn beyond_the_limit_the_longest_known_are_forgotten() {
    let mut settings = settings();
    settings.runner_artifacts = 3;
    let mut world = World::with(settings, [runner("r").holding(&["a", "b", "c", "d"])]);
    let known = |world: &World| -> Vec<String> {
        world.state.artifacts().of(&id("r")).map(|name| name.to_string()).collect()
    };
    assert_eq!(known(&world), ["b", "c", "d"]);
    world.news("r", 1, &["b", "e"], &[]);
    assert_eq!(known(&world), ["c", "d", "e"]);
}

#[test]
fn more_news_than_a_turn_takes_is_taken_in_by_the_turns_after_it() {
    let names: Vec<String> = (0..50).map(|number| format!("artifact-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = world([runner("other")]);
    world.budget.rows = 7;
    world.register(runner("r").holding(&names));
    assert_eq!(world.state.artifacts().count(&id("r")), 50);
    world.silence("r");
    assert_eq!(world.state.artifacts().count(&id("r")), 0);
}

#[test]
fn why_says_what_a_task_waits_for_and_until_when() {
    let mut world = world([runner("full").cpu(1).holding(&["out"]), runner("other")]);
    world.submit(task("busy").makes("out"));
    world.submit(task("t").makes("out").reads(&["in", "more"]));
    let (first, second) = (world.now + CACHE_WAIT, world.now + CACHE_WAIT + DEPS_WAIT);
    let why = world.why("t");
    assert_eq!((why.verdict, why.position), (Some(Verdict::FitsLater), None));
    assert_eq!(
        why.reasons[0],
        format!(
            "it waits for a runner that holds out until {first}, then for one that holds an input until {second}"
        )
    );
    let misfits: Vec<&str> =
        why.runners.iter().map(|(_, misfit)| misfit.as_ref().expect("one").word()).collect();
    assert_eq!(misfits, ["busy", "holds_nothing_of_it"]);
    world.pass_alive(CACHE_WAIT, &[]);
    assert_eq!(
        world.why("t").reasons[0],
        format!(
            "it waits for a runner that holds one of its inputs: in or 1 more; from {second} on any runner may have it"
        )
    );
    world.hold("other");
    world.pass_alive(DEPS_WAIT, &[]);
    assert_eq!(world.why("t").position, Some(0));
}

#[test]
fn each_assignment_says_whether_it_hit_missed_or_timed_out() {
    let mut world = world([runner("r").cpu(1).holding(&["a", "b"]), runner("s")]);
    let result = |world: &World, name: &str| {
        world.facts.iter().rev().find_map(|fact| match fact {
            Fact::Locality { id, output, inputs, .. } if id.as_str() == name => Some((*output, *inputs)),
            _ => None,
        })
    };
    world.submit(task("hit").makes("a").reads(&["b", "c"]));
    assert_eq!(result(&world, "hit"), Some((Some(Found::Hit), Some(Found::Hit))));
    world.submit(task("late").makes("a").reads(&["unknown"]));
    world.submit(task("plain"));
    world.pass_alive(CACHE_WAIT + DEPS_WAIT, &[]);
    assert_eq!(result(&world, "late"), Some((Some(Found::Timeout), Some(Found::Miss))));
    assert_eq!(result(&world, "plain"), None);
}

#[test]
fn what_many_runners_hold_goes_in_the_same_order_as_what_a_few_hold() {
    for runners in [3, 80] {
        let named = |what: &str, number: u32| format!("{what}{number}");
        let holder = |number| {
            let held = ["x", "y", "z"].map(|what| named(what, number));
            runner(&named("r", number)).cpu(1).holding(&held.each_ref().map(String::as_str))
        };
        let mut world = world((0..runners).map(holder));
        world.command(Command::PauseQueue { queue: id("default") });
        for number in 0..runners {
            let (x, y, z) = (named("x", number), named("y", number), named("z", number));
            world.submit(task(&named("reads", number)).reads(&[&y, &z]));
            world.submit(task(&named("makes", number)).makes(&x));
        }
        world.submit(task("urgent").reads(&["y0"]).priority(1));
        world.command(Command::UnpauseQueue { queue: id("default") });
        assert_eq!(world.where_is("urgent"), "r0", "before all of lower priority");
        assert_eq!(world.where_is("makes0"), "pending");
        for number in 1..runners {
            assert_eq!(world.where_is(&named("makes", number)), named("r", number), "before what only reads");
        }
        assert!((0..runners).all(|number| world.where_is(&named("reads", number)) == "pending"));
        world.succeed("makes1");
        assert_eq!(world.where_is("reads1"), "r1");
    }
}
