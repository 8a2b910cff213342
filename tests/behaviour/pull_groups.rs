//! Groups whose runners a program binds, and asks for their tasks one by one.

use longshore::core::fit::Misfit;
use longshore::core::input::{Answer, Command, Commanded, Input};
use longshore::core::settings::Settings;
use longshore::model::*;

use super::pullers::LEASE;
use super::world::*;

const ANY: Terms = Terms { max_runners: None, ordered: false, stop_on_failure: false };

fn at_most(runners: u32) -> Terms {
    Terms { max_runners: Some(runners), ..ANY }
}

impl World {
    fn count(&self) -> u64 {
        let group = self.state.groups().get(&id("g")).expect("a group");
        group.row().expect("it has a row").modification_count
    }

    fn binding(runner: &str, seen: Option<u64>) -> Binding {
        Binding { group: id("g"), runner: id(runner), seen, lease: LEASE }
    }

    fn bind(&mut self, runner: &str) -> Commanded {
        self.command(Command::BindRunner(Self::binding(runner, None)))
    }

    fn unbind(&mut self, runner: &str) -> Commanded {
        self.command(Command::UnbindRunner(Self::binding(runner, None)))
    }

    fn next(&mut self, runner: &str) -> Pulled {
        let request = PullRequest {
            group: Some(id("g")),
            puller: Some(id(runner)),
            ..self.request(runner, None, false)
        };
        match self.tell(Input::Pull(request)) {
            Answer::Pulled(pulled) => pulled,
            other => panic!("answered {other:?}"),
        }
    }

    fn next_lease(&mut self, runner: &str) -> LeaseId {
        match self.next(runner) {
            Pulled::Given(given) => given.lease,
            other => panic!("answered {other:?}"),
        }
    }
}

/// A group with its tasks, bound to one program before anything is pushed.
fn bound(tasks: impl IntoIterator<Item = TaskBuilder>) -> World {
    let mut world = World::empty(Settings::default());
    world.submit_all(tasks);
    assert_eq!(world.bind("p1"), Commanded::Done);
    world.register(runner("r1").cpu(8));
    world
}

fn some(count: usize) -> Vec<TaskBuilder> {
    (0..count).map(|n| task(&format!("t{n}")).group("g", ANY)).collect()
}

#[test]
fn the_tasks_of_a_group_bound_by_hand_are_asked_for_and_pushed_to_nobody() {
    let mut world = bound(some(2));
    assert_eq!(world.where_is("t0"), "pending");
    let why = world.why("t0");
    assert!(why.runners.contains(&(id("r1"), Some(Misfit::GroupPulled { group: id("g") }))), "{why:?}");
    assert!(why.reasons.iter().any(|said| said.contains("bound to it; nobody asks")), "{:?}", why.reasons);
    let lease = world.next_lease("p1");
    assert_eq!(lease.task, id("t0"));
    world.submit(task("other"));
    assert_eq!(world.where_is("other"), "r1", "and p1 takes nothing else");
    world.begin(&lease);
    world.finish(&lease, AttemptOutcome::Succeeded);
    let lease = world.next_lease("p1");
    world.finish(&lease, AttemptOutcome::Succeeded);
    assert_eq!(world.next("p1"), Pulled::Nothing);
    assert_eq!(world.next("r1"), Pulled::Unknown);
}

/// Scenario 17.
#[test]
fn a_change_on_another_state_of_the_group_is_refused_and_changes_nothing() {
    let mut world = bound(some(1));
    let count = world.count();
    let stale = Command::BindRunner(World::binding("p2", Some(count - 1)));
    assert_eq!(world.command(stale), Commanded::GroupChanged { modification_count: count });
    let first = world.push(Input::Command(Command::BindRunner(World::binding("p2", Some(count)))));
    let second = world.push(Input::Command(Command::BindRunner(World::binding("p3", Some(count)))));
    world.settle();
    assert_eq!(world.answered(first), Some(Answer::Commanded(Commanded::Done)));
    let changed = Commanded::GroupChanged { modification_count: count + 1 };
    assert_eq!(world.answered(second), Some(Answer::Commanded(changed)), "also within one turn");
    assert_eq!(world.count(), count + 1);
    let group = world.state.groups().get(&id("g")).expect("a group");
    assert!(group.runners().eq([&id("p1"), &id("p2")]));
    let mut foreign = World::binding("p1", None);
    foreign.group = id("other");
    assert_eq!(world.command(Command::BindRunner(foreign)), Commanded::UnknownGroup);
}

#[test]
fn a_group_is_bound_by_hand_to_no_more_runners_than_it_may() {
    let tasks = some(2).into_iter().map(|task| task.group("g", at_most(1)));
    let mut world = bound(tasks);
    let Commanded::PullRefused { reason } = world.bind("p2") else { panic!("bound") };
    assert!(reason.contains("bound to 1 runners of at most 1"), "{reason}");
    assert_eq!(world.bind("p1"), Commanded::Unchanged);
    assert_eq!(world.unbind("p1"), Commanded::Done);
    assert_eq!(world.where_is("t0"), "r1", "it is pushed again");
}

/// Scenario 18.
#[test]
fn what_cannot_be_given_now_is_passed_over_and_a_runner_that_drains_or_runs_gets_nothing() {
    let mut world = World::empty(Settings::default());
    assert_eq!(world.bind("p1"), Commanded::UnknownGroup);
    let mut world = bound([
        task("late").group("g", ANY).not_before(Time(1_900_000_000_000)),
        task("a").group("g", ANY),
        task("b").group("g", ANY),
    ]);
    let lease = world.next_lease("p1");
    assert_eq!((lease.task.as_str(), world.where_is("b").as_str()), ("a", "pending"));
    assert!(world.why("late").reasons.iter().any(|said| said.contains("it waits until")));
    world.begin(&lease);
    assert_eq!(world.next("p1"), Pulled::Busy { task: id("a") });
    world.finish(&lease, AttemptOutcome::Succeeded);
    world.drain("p1");
    assert_eq!((world.next("p1"), world.where_is("b").as_str()), (Pulled::Draining, "pending"));
}

/// Scenario 19.
#[test]
fn removing_the_last_runner_releases_the_tasks_and_removing_another_keeps_them() {
    let mut world = bound([
        task("two").group("g", ANY).attempts(2).of("b"),
        task("one").group("g", ANY).attempts(1).of("b"),
        task("unstarted").group("g", ANY),
    ]);
    for other in ["p2", "p3"] {
        assert_eq!(world.bind(other), Commanded::Done);
    }
    let (two, one) = (world.next_lease("p1"), world.next_lease("p2"));
    world.begin(&two);
    world.begin(&one);
    let unstarted = world.next_lease("p3");
    assert_eq!(world.unbind("p3"), Commanded::Done);
    assert_eq!((world.where_is("unstarted").as_str(), world.row("unstarted").spent), ("pending", 0));
    assert!(matches!(world.say(&unstarted, LeaseWord::Start), Commanded::LeaseOver { .. }));
    assert_eq!(world.unbind("p1"), Commanded::Done);
    assert_eq!(world.where_is("two"), "p1", "others remain: it runs on under its lease");
    assert!(matches!(world.say(&two, LeaseWord::Extend), Commanded::Leased { .. }));
    assert_eq!(world.unbind("p1"), Commanded::UnknownRunner);
    assert_eq!(world.unbind("p2"), Commanded::Done);
    assert_eq!((world.where_is("one").as_str(), world.row("two").spent), ("exhausted", 1));
    assert!(world.said(|fact| matches!(fact, Fact::Task(task) if task.id == id("one") && task.outcome == Some(Outcome::Exhausted))) == 1);
    assert_eq!(world.where_is("two"), "r1", "the group is pushed again");
    assert!(world.is_over(&two, LeaseWord::Extend).contains("under another lease"));
    assert!(world.state.runner(&id("p1")).is_none() && world.state.runner(&id("p2")).is_none());
}

/// Scenario 22.
#[test]
fn an_unstarted_task_is_given_again_and_a_cancelled_one_is_told_to_stop_then_comes_the_next() {
    let mut world = bound(some(4));
    let first = world.next_lease("p1");
    assert_eq!(world.next_lease("p1"), first, "the same task under the same token");
    world.cancel("t0");
    let Pulled::Stop(order) = world.next("p1") else { panic!("not told to stop") };
    assert_eq!((order.id, order.token), (id("t0"), first.token));
    assert_eq!(world.where_is("t0"), "cancelled");
    let second = world.next_lease("p1");
    assert_eq!(second.task, id("t1"));
    world.begin(&second);
    world.cancel("t1");
    for _ in 0..2 {
        assert!(matches!(world.next("p1"), Pulled::Stop(order) if order.id == id("t1")));
    }
    world.finish(&second, AttemptOutcome::Cancelled);
    assert_eq!(world.next_lease("p1").task, id("t2"));
}

#[test]
fn a_registered_runner_that_is_bound_keeps_its_capacity_and_gets_only_what_is_asked_for() {
    let mut world = World::with_runners([runner("r1").cpu(2)]);
    world.submit_all((0..3).map(|n| task(&format!("t{n}")).cpu(2).group("g", ANY)));
    assert_eq!(world.where_is("t0"), "r1", "it was pushed before");
    assert_eq!(world.bind("r1"), Commanded::Done);
    world.succeed("t0");
    assert_eq!(world.where_is("t1"), "pending");
    let lease = world.next_lease("r1");
    assert_eq!(lease.task, id("t1"));
    world.begin(&lease);
    world.take_over();
    world.pass_alive(secs(30), &[]);
    assert_eq!(world.where_is("t1"), "r1");
    world.silence("r1");
    assert_eq!(world.where_is("t1"), "pending", "a runner that is lost is lost");
    let group = world.state.groups().get(&id("g")).expect("a group");
    assert!(!group.is_pulled());
}

#[test]
fn runners_of_a_group_that_is_forgotten_are_released() {
    let mut world = bound(some(1));
    assert!(matches!(world.bind("r1"), Commanded::Done));
    let lease = world.next_lease("p1");
    world.finish(&lease, AttemptOutcome::Succeeded);
    let keep = world.state.settings.keep_ended;
    for _ in 0..keep.as_secs() / 60 + 2 {
        world.pass_alive(secs(60), &[]);
        world.next("p1");
    }
    assert!(world.state.groups().is_empty());
    assert!(world.state.runner(&id("p1")).is_none(), "it was nothing but the binding");
    world.submit(task("other"));
    assert_eq!(world.where_is("other"), "r1");
}

fn with_a_class(max: u32) -> World {
    let offer = runner("any").cpu(4).0.offer.clone();
    let class = DeclaredClass { id: id("large"), offer, cost: 1.0, max };
    let mut world = World::empty(Settings { classes: vec![class], ..Settings::default() });
    world.submit_all((0..3).map(|n| task(&format!("t{n}")).group("g", at_most(2))));
    world.bind("p1");
    world.pass(secs(2));
    world
}

fn wish(world: &mut World) -> Commanded {
    world.command(Command::AskForRunner { group: id("g") })
}

#[test]
fn a_program_asks_for_one_more_runner_for_its_group() {
    let mut world = with_a_class(5);
    assert!(world.state.intents().is_empty(), "what is pulled asks for nothing by itself");
    assert_eq!(wish(&mut world), Commanded::Done);
    let intent = world.state.intents().iter().next().expect("an intent").clone();
    assert_eq!((intent.asked, intent.class.as_str()), (1, "large"));
    assert_eq!(wish(&mut world), Commanded::Unchanged, "enough are bound or coming");
    world.command(Command::AcknowledgeIntent { intent: intent.id.clone(), count: None });
    world.pass(secs(2));
    assert_eq!(wish(&mut world), Commanded::Unchanged);
    let mut came = runner("r1").cpu(4);
    (came.0.class, came.0.intent) = (Some(id("large")), Some(intent.id.clone()));
    world.register(came);
    let group = world.state.groups().get(&id("g")).expect("a group");
    assert!(group.is_bound_by_hand(&id("r1")), "it came for the group");
    assert_eq!(world.next_lease("r1").task, id("t0"));
    world.pass_alive(secs(3), &[]);
    assert!(world.state.intents().iter().all(|intent| intent.count() == 0));
    world.unbind("r1");
    world.pass_alive(secs(3), &[]);
    assert!(world.state.intents().iter().all(|intent| intent.count() == 0), "and nobody in its place");
}

#[test]
fn a_wish_that_no_class_can_grant_is_refused() {
    let mut world = with_a_class(0);
    assert!(matches!(wish(&mut world), Commanded::PullRefused { reason } if reason.contains("[[class]]")));
    assert_eq!(world.command(Command::AskForRunner { group: id("other") }), Commanded::UnknownGroup);
}
