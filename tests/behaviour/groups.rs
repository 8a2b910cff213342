//! Groups: a bound on their runners, an order, a fate shared, runners of their own.

use longshore::core::fit::Misfit;
use longshore::core::input::Submitted;
use longshore::core::verdict::Verdict;
use longshore::model::*;

use super::world::*;

const ANY: Terms = Terms { max_runners: None, ordered: false, stop_on_failure: false };
const STOPS: Terms = Terms { stop_on_failure: true, ..ANY };

fn at_most(runners: u32) -> Terms {
    Terms { max_runners: Some(runners), ..ANY }
}

fn bound(world: &World, group: &str) -> Vec<String> {
    let group = world.state.groups().get(&id(group)).expect("a group");
    group.runners().map(ToString::to_string).collect()
}

fn row(world: &World, group: &str) -> Group {
    let group = world.state.groups().get(&id(group)).expect("a group");
    Group::clone(group.row().expect("it has a row"))
}

fn conflict(answer: Submitted) -> String {
    match answer {
        Submitted::Conflict { reason } => reason.to_string(),
        other => panic!("answered {other:?}"),
    }
}

#[test]
fn a_group_is_bound_to_at_most_max_runners() {
    let mut world = World::with_runners((1..=4).map(|n| runner(&format!("r{n}")).cpu(1)));
    world.submit_all((0..6).map(|n| task(&format!("t{n}")).group("g", at_most(2))));
    assert_eq!(bound(&world, "g"), ["r1", "r2"]);
    world.submit(task("other"));
    assert_eq!(world.where_is("other"), "r3", "the group holds nobody else back");
    let why = world.why("t3");
    assert_eq!(why.runners[3].1, Some(Misfit::GroupFull { group: id("g"), runners: 2 }));
    assert!(why.reasons.iter().any(|said| said.contains("group g is bound to r1, r2")), "{:?}", why.reasons);
    assert_eq!(why.verdict, Some(Verdict::FitsLater));
}

#[test]
fn a_binding_ends_with_the_last_task_a_runner_has_of_the_group() {
    let mut world = World::with_runners([runner("r1").cpu(2), runner("r2").cpu(2)]);
    world.submit(task("small").group("g", at_most(1)));
    world.submit(task("large").cpu(2).group("g", at_most(1)));
    assert_eq!((bound(&world, "g"), world.where_is("large")), (vec!["r1".to_owned()], "pending".into()));
    world.submit(task("filler"));
    assert_eq!(world.where_is("filler"), "r1");
    world.succeed("small");
    assert_eq!(world.where_is("large"), "r2", "the freed slot is a wake-up");
    assert_eq!(bound(&world, "g"), ["r2"]);
}

#[test]
fn the_row_says_each_turn_that_changed_tasks_or_runners() {
    let mut world = World::with_runners([runner("r1").cpu(1)]);
    world.submit(task("a").group("g", ANY));
    assert_eq!(row(&world, "g").modification_count, 1);
    world.submit(task("b").group("g", ANY));
    assert_eq!(row(&world, "g").modification_count, 2);
    world.start("a");
    assert_eq!(row(&world, "g").modification_count, 2, "neither tasks nor runners changed");
    world.pass_alive(secs(1), &[]);
    world.succeed("a");
    let changed = row(&world, "g");
    assert_eq!((changed.modification_count, changed.last_modified), (3, world.now));
    world.take_over();
    assert_eq!(row(&world, "g"), changed);
}

#[test]
fn an_ordered_group_starts_in_the_order_of_index_one_after_another() {
    let mut world = World::with_runners([runner("r1").cpu(8), runner("r2").cpu(8)]);
    world.submit_all([3, 1, 2].map(|n| task(&format!("t{n}")).step("g", ANY, n)));
    assert_eq!(world.where_is("t1"), "r1");
    assert_eq!((world.where_is("t2"), world.where_is("t3")), ("pending".into(), "pending".into()));
    let why = world.why("t3");
    assert_eq!((why.verdict, why.position), (Some(Verdict::FitsLater), None));
    assert_eq!(why.reasons, ["it waits for its turn in group g: t1 (index 1, assigned) goes first"]);
    assert_eq!(why.runners[1].1, Some(Misfit::NotItsTurn { group: id("g"), first: id("t1") }));
    world.fail("t1");
    assert_eq!(world.where_is("t2"), "r1", "without stop_on_failure an end is an end");
    world.succeed("t2");
    assert_eq!(world.where_is("t3"), "r1");
}

#[test]
fn a_task_that_waits_for_its_turn_holds_back_nobody() {
    let mut world = World::with_runners([runner("r1").cpu(2)]);
    world.submit(task("t1").step("g", ANY, 1));
    world.submit(task("t2").step("g", ANY, 2).priority(9));
    assert_eq!(world.submit(task("other")), Submitted::Admitted);
    assert_eq!(world.where_is("other"), "r1");
    assert!(world.state.backlog().is_empty());
}

#[test]
fn a_lower_index_that_comes_late_goes_next_and_a_gap_holds_nobody() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit(task("t5").step("g", ANY, 5));
    world.submit(task("t9").step("g", ANY, 9));
    world.submit(task("t2").step("g", ANY, 2));
    assert_eq!(
        (world.where_is("t5"), world.where_is("t2")),
        ("r1".into(), "pending".into()),
        "one at a time"
    );
    world.succeed("t5");
    assert_eq!((world.where_is("t2"), world.where_is("t9")), ("r1".into(), "pending".into()));
    world.succeed("t2");
    assert_eq!(world.where_is("t9"), "r1");
}

#[test]
fn a_late_lower_index_takes_the_turn_of_one_that_waits() {
    let mut world = World::with_runners([runner("r1").cpu(1)]);
    world.submit(task("filler"));
    world.submit(task("t2").step("g", ANY, 2));
    world.submit(task("t1").step("g", ANY, 1));
    world.succeed("filler");
    assert_eq!((world.where_is("t1"), world.where_is("t2")), ("r1".into(), "pending".into()));
}

/// Scenario 21.
#[test]
fn after_a_failure_the_rest_of_an_ordered_group_never_starts_and_ends_cancelled() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit_all((0..5).map(|n| task(&format!("t{n}")).step("g", STOPS, n)));
    world.succeed("t0");
    world.fail("t1");
    for name in ["t2", "t3", "t4"] {
        assert_eq!((world.where_is(name).as_str(), world.row(name).attempt), ("cancelled", 0));
        assert_eq!(world.reason(name), "its group g was stopped: t1 ended failed");
    }
    assert_eq!(world.where_is("t0"), "succeeded");
    assert_eq!(world.said(|fact| matches!(fact, Fact::GroupStopped { .. })), 1);
    world.submit(task("t7").step("g", STOPS, 7));
    assert_eq!(world.where_is("t7"), "cancelled", "also what is submitted later");
}

#[test]
fn a_failure_that_is_repeated_stops_nothing_and_holds_its_place() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit(task("t0").step("g", STOPS, 0).retries(1));
    world.submit(task("t1").step("g", STOPS, 1));
    world.fail("t0");
    assert_eq!((world.where_is("t0"), world.where_is("t1")), ("pending".into(), "pending".into()));
    world.pass_alive(secs(2), &[]);
    assert_eq!((world.where_is("t0"), world.where_is("t1")), ("r1".into(), "pending".into()));
    world.succeed("t0");
    assert_eq!(world.where_is("t1"), "r1");
}

#[test]
fn a_cancel_in_the_middle_stops_what_comes_after_and_nothing_before() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit_all((0..4).map(|n| task(&format!("t{n}")).step("g", STOPS, n)));
    world.cancel("t2");
    assert_eq!((world.where_is("t0"), world.where_is("t1")), ("r1".into(), "pending".into()));
    assert_eq!(world.where_is("t3"), "cancelled");
    world.succeed("t0");
    assert_eq!(world.where_is("t1"), "r1");
    world.fail("t1");
    assert_eq!(row(&world, "g").stopped.expect("stopped").after, Some(1));
}

#[test]
fn a_failure_in_a_group_without_order_stops_all_of_it() {
    let mut world = World::with_runners([runner("r1").cpu(2)]);
    world.submit_all(["a", "b", "c"].map(|name| task(name).group("g", STOPS)));
    world.start("b");
    world.fail("a");
    assert_eq!(world.where_is("c"), "cancelled");
    assert!(world.assignment("b").stop.is_some(), "what runs is asked to stop");
    world.end("b", AttemptOutcome::Cancelled);
    assert_eq!(world.where_is("b"), "cancelled");
}

#[test]
fn a_stopped_group_of_thousands_is_worked_off_within_the_budget_also_by_a_successor() {
    let mut world = World::with_runners([runner("r1").cpu(1)]);
    world.submit_all((0..3_000).map(|n| task(&format!("t{n}")).step("g", STOPS, n)));
    world.budget.rows = 500;
    let report = world.end_report("t0", AttemptOutcome::Failed);
    world.push(longshore::core::input::Input::Report(report));
    let turn = world.turn();
    assert!(turn.changes.len() < 520, "{} rows", turn.changes.len());
    assert!(turn.more);
    assert_eq!(world.where_is("t2999"), "pending");
    world.take_over();
    assert!((1..3_000).all(|n| world.where_is(&format!("t{n}")) == "cancelled"));
}

#[test]
fn a_lost_task_in_the_middle_starts_again_before_any_later_one() {
    let mut world = World::with_runners([runner("r1").cpu(8), runner("r2").cpu(8)]);
    world.submit_all((0..3).map(|n| task(&format!("t{n}")).step("g", STOPS, n)));
    world.succeed("t0");
    world.start("t1");
    world.silence("r1");
    assert_eq!((world.where_is("t1"), world.where_is("t2")), ("r2".into(), "pending".into()));
    world.start("t1");
    world.take_over();
    assert_eq!((world.where_is("t1"), world.where_is("t2")), ("r2".into(), "pending".into()));
    world.end("t1", AttemptOutcome::Handback);
    assert_eq!((world.where_is("t1"), world.where_is("t2")), ("r2".into(), "pending".into()));
    world.succeed("t1");
    assert_eq!(world.where_is("t2"), "r2");
}

/// Scenario 19.
#[test]
fn with_its_last_runner_a_groups_tasks_are_pending_again_and_those_out_of_attempts_end() {
    let jobs = |name: &str| runner(name).kinds(&[Kind::Job]).cpu(2);
    let mut world = World::with_runners([jobs("r1"), jobs("r2"), runner("host").kinds(&[Kind::Build])]);
    let job = task("any").group("g", at_most(2)).shape();
    world.submit(build("b").jobs([job]));
    for name in ["a", "c", "spare", "last"] {
        let attempts = if name == "last" { 1 } else { 3 };
        world.submit(task(name).of("b").group("g", at_most(2)).attempts(attempts));
        world.start(name);
    }
    assert_eq!(world.where_is("last"), "r2");
    world.leave("r1", &["a", "c"]);
    assert_eq!((world.where_is("a"), world.where_is("c")), ("pending".into(), "pending".into()));
    assert_eq!(
        (world.where_is("spare"), world.where_is("last")),
        ("r2".into(), "r2".into()),
        "others remain"
    );
    world.silence("r2");
    assert_eq!((world.where_is("spare"), world.where_is("last")), ("pending".into(), "exhausted".into()));
    assert_eq!(bound(&world, "g"), Vec::<String>::new());
    let told = |fact: &Fact| matches!(fact, Fact::Task(event) if event.outcome == Some(Outcome::Exhausted));
    assert_eq!(world.said(told), 1, "whoever follows the build's jobs hears it");
    assert_eq!(world.where_is("b"), "host");
    world.register(jobs("r3"));
    assert_eq!((world.where_is("a"), world.where_is("c")), ("r3".into(), "r3".into()));
}

#[test]
fn settings_that_contradict_the_group_are_a_conflict_and_change_nothing() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit(task("a").group("g", at_most(2)));
    let rows = world.state.rows();
    let said = conflict(world.submit(task("b").group("g", at_most(3))));
    assert!(said.starts_with("group.max_runners: is 3; group g has 2; send the same"), "{said}");
    let said = conflict(world.submit(task("b").group("g", Terms { stop_on_failure: true, ..at_most(2) })));
    assert!(said.starts_with("group.stop_on_failure: is true; group g has false"), "{said}");
    let said = conflict(world.submit(task("b").step("g", at_most(2), 1)));
    assert!(said.starts_with("group.ordered: is true; group g has false"), "{said}");
    assert_eq!(world.state.rows(), rows);
    assert_eq!(world.submit(task("a").group("g", at_most(2))), Submitted::Duplicate);
}

#[test]
fn an_index_twice_is_a_conflict_also_when_the_first_has_ended() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit(task("a").step("g", ANY, 1));
    world.succeed("a");
    let said = conflict(world.submit(task("b").step("g", ANY, 1)));
    assert!(said.starts_with("group.index: is 1, which task a of group g has already"), "{said}");
}

#[test]
fn an_ordered_group_mixes_no_builds() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit(build("b"));
    world.submit(task("a").step("g", ANY, 1));
    let said = conflict(world.submit(task("j").of("b").step("g", ANY, 2)));
    assert!(said.contains("belongs to build b"), "{said}");
}

#[test]
fn the_rule_for_builds_counts_where_builds_bind_a_group() {
    let fleet = || World::with_runners([runner("amd").cpu(4), runner("arm").arch("arm64").cpu(4)]);
    let job = || task("x").arch("arm64").group("g", at_most(1)).shape();

    let mut world = fleet();
    world.submit(build("b").group("g", at_most(1)).jobs([job()]));
    assert_eq!(world.where_is("b"), "arm", "on amd its own job could not reach it");
    world.submit(task("j").arch("arm64").of("b").group("g", at_most(1)));
    assert_eq!(world.where_is("j"), "arm");
    let Submitted::Rejected { reason } =
        world.submit(build("c").arch("amd64").group("g", at_most(1)).jobs([job()]))
    else {
        panic!("it could never run beside its jobs")
    };
    assert!(reason.contains("no runner would have room for its job"), "{reason}");

    let mut world = fleet();
    world.submit(build("b").arch("amd64").jobs([job()]));
    assert_eq!(world.where_is("b"), "amd");
    world.submit(build("c").arch("amd64").group("g", at_most(1)).jobs([task("x").shape()]));
    assert_eq!(world.where_is("c"), "pending", "bound to amd, the group would have no room for b's job");
    assert!(matches!(world.why("c").runners[0].1, Some(Misfit::NoRoomForJobs { .. })));
    world.submit(task("j").arch("arm64").of("b").group("g", at_most(1)));
    assert_eq!(world.where_is("j"), "arm");
    world.succeed("j");
    world.succeed("b");
    assert_eq!(world.where_is("c"), "amd");
}

#[test]
fn a_runner_of_a_group_is_no_room_for_jobs_of_others_and_stays_while_a_build_may_need_it() {
    let mut world = World::with_runners([runner("host").cpu(1), runner("own").cpu(4).dedicated("g")]);
    world.submit(build("b").if_unplaceable(IfUnplaceable::Hold));
    assert_eq!(world.where_is("b"), "pending", "its jobs are of no group, and host would be full");
    world.submit(build("c").jobs([task("x").group("g", ANY).shape()]));
    assert_eq!(world.where_is("c"), "host");
    world.submit(task("j").of("c").group("g", ANY));
    world.succeed("j");
    assert!(!world.beat("own", &[]).leave, "c may submit another");
    world.succeed("c");
    assert!(world.beat("own", &[]).leave);
}

#[test]
fn a_group_is_forgotten_with_its_last_task_and_may_begin_anew() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.submit(task("a").group("g", STOPS));
    world.fail("a");
    world.submit(task("b").group("g", STOPS));
    assert_eq!(world.where_is("b"), "cancelled");
    world.pass_alive(secs(3_700), &[]);
    assert!(world.state.groups().is_empty());
    assert_eq!(world.submit(task("c").group("g", at_most(1))), Submitted::Admitted);
    assert_eq!(world.where_is("c"), "r1");
}

#[test]
fn a_dedicated_runner_takes_only_its_group_and_leaves_when_nothing_is_left() {
    let mut world = World::with_runners([runner("own").cpu(2).dedicated("g"), runner("any").cpu(1)]);
    assert!(!world.beat("own", &[]).leave, "its group may yet come");
    world.submit(task("other"));
    assert_eq!(world.where_is("other"), "any");
    world.submit(task("other2"));
    assert_eq!(world.where_is("other2"), "pending");
    let misfit = world.why("other2").runners.into_iter().find(|(runner, _)| runner.as_str() == "own");
    assert_eq!(misfit.expect("own").1, Some(Misfit::Group { takes: id("g") }));
    world.submit(task("a").group("g", ANY));
    assert_eq!(world.where_is("a"), "own");
    let held = world.held_by("own");
    assert!(!world.beat("own", &held).leave);
    world.succeed("a");
    assert!(world.beat("own", &[]).leave);
    assert!(world.beat("own", &[]).leave, "said again until it has left");
    assert_eq!(world.said(|fact| matches!(fact, Fact::RunnerDismissed { .. })), 1);
    assert!(!world.beat("any", &[]).leave);
    world.submit(task("late").group("g", ANY));
    assert_eq!(world.where_is("late"), "pending", "a dismissed runner gets nothing more");
    world.leave("own", &[]);
    world.register(runner("own").cpu(2).dedicated("g").incarnation("second"));
    assert_eq!(world.where_is("late"), "own");
}
