//! A task that waits too long for room has a runner kept for it.

use std::time::Duration;

use longshore::core::Settings;
use longshore::core::fit::Misfit;
use longshore::core::input::Command;
use longshore::model::{AttemptOutcome, Fact, Reservation, Terms, Time};
use proptest::prelude::*;

use super::world::*;

impl World {
    fn kept(&self) -> Vec<(String, String)> {
        let shown = |kept: &Reservation| (kept.task.to_string(), kept.runner.to_string());
        self.state.reservations().iter().map(|kept| shown(kept)).collect()
    }

    fn reservation(&self, task: &str) -> Reservation {
        Reservation::clone(self.state.reservations().of(&id(task)).expect("a runner is kept for it"))
    }

    /// Tasks on a runner that were assigned at this time or before.
    fn running_since(&self, at: Time) -> Vec<String> {
        let held = self.state.fleet().seats().flat_map(|seat| seat.tasks.values());
        let old = held.filter(|task| task.assignment().is_some_and(|held| held.assigned <= at));
        old.map(|task| task.id.to_string()).collect()
    }

    /// A small task for every cpu of the runner, so that a large one finds no room.
    fn fill(&mut self, prefix: &str, count: u64) {
        for number in 0..count {
            self.submit(task(&format!("{prefix}-{number}")));
        }
    }
}

fn kept(task: &str, runner: &str) -> (String, String) {
    (task.to_owned(), runner.to_owned())
}

fn at_once() -> Settings {
    Settings { reserve_after: Duration::ZERO, ..Settings::default() }
}

/// One runner of four cpus with three small tasks, and a large one that waits.
fn crowded(settings: Settings) -> World {
    let mut world = World::with(settings, [runner("r").cpu(4)]);
    world.fill("small", 3);
    world.submit(task("large").cpu(4));
    world
}

#[test]
fn a_task_that_waits_too_long_has_a_runner_kept_for_it_and_starts_when_that_is_free() {
    let mut world = crowded(Settings::default());
    world.submit(task("overtakes"));
    assert_eq!(world.where_is("overtakes"), "r", "before its time it is overtaken");
    world.pass_alive(secs(59), &[]);
    assert_eq!(world.kept(), []);
    world.pass_alive(secs(2), &[]);
    assert_eq!(world.kept(), [kept("large", "r")]);
    world.submit(task("late"));
    for name in ["small-0", "small-1", "small-2"] {
        world.succeed(name);
        assert_eq!((world.where_is("late"), world.where_is("large")), ("pending".into(), "pending".into()));
    }
    world.succeed("overtakes");
    assert_eq!(world.where_is("large"), "r");
    assert_eq!(world.kept(), []);
    world.succeed("large");
    assert_eq!(world.where_is("late"), "r");
}

#[test]
fn with_nothing_to_wait_for_a_large_task_is_never_overtaken_on_the_only_runner_it_fits() {
    let mut world = World::with(at_once(), [runner("big").cpu(4), runner("small").cpu(1)]);
    world.submit(task("a").cpu(2));
    world.submit(task("b").cpu(1));
    assert_eq!(world.where_is("b"), "small", "the fullest first");
    world.submit(task("large").cpu(4));
    assert_eq!(world.kept(), [kept("large", "big")]);
    world.submit(task("c"));
    assert_eq!(world.where_is("c"), "pending");
    world.succeed("b");
    assert_eq!(world.where_is("c"), "small", "other runners go on");
    world.succeed("a");
    assert_eq!(world.where_is("large"), "big");
}

#[test]
fn others_start_there_only_if_their_timeout_ends_before_or_they_leave_room() {
    let mut world = World::with(at_once(), [runner("r").cpu(4)]);
    world.submit(task("first").cpu(2).timeout(secs(100)));
    world.submit(task("large").cpu(3));
    let fits_by = world.reservation("large").fits_by;
    assert_eq!(fits_by, Some(world.assignment("first").assigned + secs(100)));
    world.submit(task("too-long").memory(2).cpu(2).timeout(secs(101)));
    world.submit(task("unbounded").memory(3).cpu(2));
    world.submit(task("short").memory(4).timeout(secs(100)));
    assert_eq!(world.where_is("too-long"), "pending");
    assert_eq!(world.where_is("unbounded"), "pending");
    assert_eq!(world.where_is("short"), "r", "back-fill");
    world.submit(task("beside"));
    assert_eq!(world.where_is("beside"), "r", "one cpu is left beside the large one");
    world.end("short", AttemptOutcome::Succeeded);
    world.succeed("first");
    assert_eq!(world.where_is("large"), "r");
}

#[test]
fn the_runner_on_which_it_fits_soonest_is_kept() {
    let mut world = World::with(at_once(), [runner("late").cpu(2), runner("soon").cpu(2), runner("never")]);
    world.hold("never");
    world.submit(task("a").cpu(2).timeout(secs(500)));
    world.submit(task("b").cpu(2).timeout(secs(100)));
    assert_eq!((world.where_is("a"), world.where_is("b")), ("late".into(), "soon".into()));
    world.submit(task("large").cpu(2).memory(2));
    assert_eq!(world.kept(), [kept("large", "soon")]);
}

#[test]
fn at_most_a_quarter_of_the_runners_is_kept_and_the_next_in_turn_follows() {
    let names: Vec<String> = (0..8).map(|number| format!("r{number}")).collect();
    let mut world = World::with(at_once(), names.iter().map(|name| runner(name).cpu(2)));
    world.fill("small", 16);
    for number in 1..=3 {
        // Another shape each: one of a line at a time has a runner kept.
        world.submit(task(&format!("large-{number}")).cpu(2).memory(number + 1));
    }
    let kept_for = |world: &World| world.kept().into_iter().map(|(task, _)| task).collect::<Vec<_>>();
    assert_eq!(kept_for(&world), ["large-1", "large-2"]);
    let runner = world.reservation("large-1").runner;
    for held in world.held_by(runner.as_str()) {
        world.succeed(held.id.as_str());
    }
    assert_eq!(world.where_is("large-1"), runner.as_str());
    assert_eq!(kept_for(&world), ["large-2", "large-3"]);
}

#[test]
fn what_comes_before_it_in_the_order_is_not_held_back() {
    let mut world = crowded(at_once());
    world.submit(task("urgent").priority(1));
    assert_eq!(world.where_is("urgent"), "r");
    assert_eq!(world.kept(), [kept("large", "r")]);
}

#[test]
fn jobs_of_running_builds_start_on_kept_runners() {
    let mut world = World::with(at_once(), [runner("r").cpu(4)]);
    world.submit(build("b"));
    world.submit(task("large").cpu(4));
    assert_eq!(world.kept(), [kept("large", "r")]);
    world.submit(task("other"));
    world.submit(task("job").of("b"));
    assert_eq!((world.where_is("job"), world.where_is("other")), ("r".into(), "pending".into()));
}

/// What ends a reservation, and how it comes about.
type Cause<'a> = (&'a str, &'a dyn Fn(&mut World));

#[test]
fn a_reservation_ends_with_what_it_stands_for() {
    let causes: [Cause; 6] = [
        ("its task is cancelled", &|world| {
            world.cancel("large");
        }),
        ("its runner is held", &|world| world.hold("r")),
        ("its runner drains", &|world| world.drain("r")),
        ("its runner is lost", &|world| world.silence("r")),
        ("its runner shrinks", &|world| {
            world.register(runner("r").cpu(3));
        }),
        ("its queue is paused", &|world| {
            world.command(Command::PauseQueue { queue: id("default") });
        }),
    ];
    for (what, cause) in causes {
        let mut world = World::with(at_once(), [runner("other").cpu(4)]);
        world.hold("other");
        world.register(runner("r").cpu(4));
        world.fill("small", 3);
        world.submit(task("large").cpu(4));
        assert_eq!(world.kept(), [kept("large", "r")], "{what}");
        cause(&mut world);
        assert_eq!(world.kept(), [], "{what}");
        assert_eq!(world.said(|fact| matches!(fact, Fact::ReservationOver { .. })), 1, "{what}");
    }
}

#[test]
fn a_task_that_loses_its_turn_in_its_group_keeps_no_runner() {
    let terms = Terms { max_runners: None, ordered: true, stop_on_failure: false };
    let mut world = World::with(at_once(), [runner("r").cpu(4)]);
    world.fill("small", 3);
    world.submit(task("second").cpu(4).step("g", terms, 2));
    assert_eq!(world.kept(), [kept("second", "r")]);
    world.submit(task("first").step("g", terms, 1));
    assert_eq!(world.kept(), []);
    assert_eq!(world.where_is("first"), "r");
}

#[test]
fn a_group_that_is_bound_elsewhere_keeps_no_other_runner() {
    let terms = Terms { max_runners: Some(1), ordered: false, stop_on_failure: false };
    let mut world =
        World::with(at_once(), [runner("r").cpu(4), runner("arm").arch("arm64").cpu(1).cost(2.0)]);
    world.fill("small", 3);
    world.submit(task("large").cpu(4).group("g", terms));
    assert_eq!(world.kept(), [kept("large", "r")]);
    world.submit(task("bound").arch("arm64").group("g", terms));
    assert_eq!(world.where_is("bound"), "arm");
    assert_eq!(world.kept(), []);
    world.submit(task("other"));
    assert_eq!(world.where_is("other"), "r");
    world.succeed("bound");
    assert_eq!(world.kept(), [kept("large", "r")]);
}

#[test]
fn a_runner_kept_no_longer_takes_what_waited_behind() {
    let mut world = crowded(at_once());
    world.submit(task("waits"));
    assert_eq!(world.where_is("waits"), "pending");
    world.cancel("large");
    assert_eq!(world.where_is("waits"), "r");
}

#[test]
fn a_reservation_outlives_its_leader() {
    let mut world = crowded(at_once());
    let before = world.reservation("large");
    world.take_over();
    assert_eq!(world.reservation("large"), before);
    world.submit(task("late"));
    assert_eq!(world.where_is("late"), "pending");
    for name in ["small-0", "small-1", "small-2"] {
        world.succeed(name);
    }
    assert_eq!(world.where_is("large"), "r");
}

#[test]
fn why_says_what_is_kept_for_whom() {
    let mut world = crowded(at_once());
    world.submit(task("late"));
    let why = world.why("large");
    let said = |why: &longshore::core::explain::Why, text: &str| {
        why.reasons.iter().any(|reason| reason.contains(text))
    };
    assert!(said(&why, "r is kept for it since "), "{:?}", why.reasons);
    let why = world.why("late");
    let misfit = why.runners[0].1.clone().expect("it is kept for another");
    assert_eq!(misfit, Misfit::Reserved { task: id("large"), fits_by: None });
    assert!(said(&why, "is kept for large"), "{:?}", why.reasons);
    let seat = world.state.fleet().get(&id("r")).expect("a runner");
    assert_eq!(longshore::core::explain::idle(&world.state, seat), "it is kept for large");
}

/// Small tasks without end: on how many runners, how many more a second than they can take, for how long each runs
/// and whether it says so.
#[derive(Debug, Clone)]
struct Flood {
    runners: u64,
    beyond: u64,
    runs: u64,
    bounded: bool,
    reserve_after: u64,
    large: u64,
}

fn floods() -> impl Strategy<Value = Flood> {
    (1u64..4, 0u64..3, 1u64..5, any::<bool>(), 0u64..6, 2u64..=4).prop_map(
        |(runners, beyond, runs, bounded, reserve_after, large)| Flood {
            runners,
            beyond,
            runs,
            bounded,
            reserve_after,
            large,
        },
    )
}

/// Sends a large task to a fleet full of small ones, and small ones without end behind it. Says after how many
/// seconds the large one was placed.
fn flooded(flood: &Flood, mut settings: Settings, seconds: u64) -> Option<u64> {
    settings.reserve_after = secs(flood.reserve_after);
    let names: Vec<String> = (0..flood.runners).map(|number| format!("r{number}")).collect();
    let mut world = World::with(settings, names.iter().map(|name| runner(name).cpu(4)));
    let mut number = 0;
    let mut small = || {
        number += 1;
        let small = task(&format!("s{number}"));
        if flood.bounded { small.timeout(secs(flood.runs)) } else { small }
    };
    let room = 4 * flood.runners;
    world.submit_all((0..room).map(|_| small()));
    world.submit(task("large").cpu(flood.large));
    for second in 0..seconds {
        if world.where_is("large") != "pending" {
            return Some(second);
        }
        let arrive = room.div_ceil(flood.runs) + flood.beyond;
        world.submit_all((0..arrive).map(|_| small()));
        world.now = world.now + secs(1);
        for over in world.running_since(world.now - secs(flood.runs)) {
            world.succeed(&over);
        }
        world.settle();
        let most = usize::try_from(flood.runners / 4).expect("a few").max(1);
        assert!(world.state.reservations().len() <= most);
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// However many small tasks come, a large one waits no longer than until a runner is kept for it, and then until
    /// what runs there has ended.
    #[test]
    fn small_tasks_without_end_do_not_starve_a_large_one(flood in floods()) {
        let bound = flood.reserve_after + flood.runs + 1;
        let waited = flooded(&flood, Settings::default(), bound + 1);
        prop_assert!(waited.is_some_and(|waited| waited <= bound), "{waited:?} of {bound}");
    }
}

#[test]
fn without_reservations_the_large_one_starves() {
    let flood = Flood { runners: 1, beyond: 0, runs: 3, bounded: false, reserve_after: 5, large: 4 };
    assert!(flooded(&flood, Settings::default(), 60).is_some());
    let mut settings = Settings::default();
    settings.guards.reservations = false;
    assert_eq!(flooded(&flood, settings, 60), None);
}

#[test]
fn what_ran_before_without_a_timeout_makes_no_promise() {
    let mut world = crowded(at_once());
    assert_eq!(world.reservation("large").fits_by, None);
    world.submit(task("short").timeout(secs(1)));
    assert_eq!(world.where_is("short"), "pending", "nobody knows when the large one fits");
}
