//! Pulling: subscriptions, requests that wait, and leases on tasks.

use longshore::core::fit::Misfit;
use longshore::core::input::{Answer, Command, Commanded, Input, Submitted};
use longshore::core::settings::{Guards, Settings};
use longshore::core::state::Window;
use longshore::core::verdict::Verdict;
use longshore::model::*;
use longshore::runtime::credit::Level;

use super::pullers::{LEASE, subscription};
use super::world::*;

const ACK: AttemptOutcome = AttemptOutcome::Succeeded;

fn world() -> World {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    world.subscribe("s1", "q");
    world
}

fn on_q(name: &str) -> TaskBuilder {
    task(name).queue("q").arch("riscv64").label("zone", "eu").cpu(900)
}

#[test]
fn a_task_is_pulled_started_and_acknowledged() {
    let mut world = world();
    world.submit(on_q("t1"));
    assert_eq!(world.where_is("t1"), "pending", "nothing on the queue is pushed, and nothing never fits");
    let lease = world.pull("s1");
    assert_eq!((world.where_is("t1").as_str(), world.row("t1").attempt), ("s1", 1));
    world.begin(&lease);
    assert_eq!(world.finish(&lease, ACK), Commanded::Done);
    assert_eq!(world.where_is("t1"), "succeeded");
    assert!(world.is_over(&lease, LeaseWord::Extend).contains("task t1 ended succeeded"));
    assert!(!world.delivered.contains(&id("s1")), "what was pulled is in the answer");
}

/// Scenario 29.
#[test]
fn two_subscriptions_on_one_topic_never_get_the_same_task() {
    let mut world = world();
    world.subscribe("s2", "q");
    world.subscribe("dev", "q_dev");
    world.submit_all((0..10).map(|n| on_q(&format!("t{n}"))));
    let mut given = Vec::new();
    for _ in 0..5 {
        given.extend([world.pull("s1").task, world.pull("s2").task]);
    }
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 10);
    assert_eq!((world.pull_as("s1", None), world.pull_as("dev", None)), (None, None));
    world.submit(task("d").queue("q_dev"));
    assert_eq!(world.pull_as("s1", None), None, "topics never mix");
    assert_eq!(world.pull("dev").task, id("d"));
}

/// Scenario 20.
#[test]
fn a_hundred_pulls_at_once_get_a_hundred_different_tasks() {
    let mut world = world();
    world.submit_all((0..100).map(|n| on_q(&format!("t{n}"))));
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let request = world.request("s1", None, true);
            world.ask(request)
        })
        .collect();
    world.turn();
    let mut given: Vec<TaskId> = asked.iter().map(|asked| world.given(asked).task).collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 100, "all in one turn");
}

/// Scenario 30.
#[test]
fn a_request_that_waits_is_answered_in_the_turn_that_brings_a_task() {
    let mut world = world();
    let (first, second) = (world.wait_on("s1"), world.wait_on("s1"));
    assert_eq!((world.pulled(&first), world.state.open_requests()), (None, 2));
    world.submit(on_q("t1"));
    assert_eq!(world.given(&first).task, id("t1"), "the oldest request goes first");
    assert_eq!(world.pulled(&second), None);
    world.withdraw(&second, false);
    assert_eq!((world.pulled(&second), world.state.open_requests()), (Some(Pulled::Nothing), 0));
    world.submit(on_q("t2"));
    assert_eq!(world.where_is("t2"), "pending", "a request that was withdrawn takes nothing");
}

/// Scenario 12.
#[test]
fn a_request_that_is_withdrawn_in_the_turn_of_a_task_takes_nothing() {
    let mut world = world();
    let asked = world.wait_on("s1");
    world.push(Input::Withdraw { asked: asked.request.clone(), gone: true });
    world.submit(on_q("t1"));
    assert_eq!((world.pulled(&asked), world.where_is("t1").as_str()), (Some(Pulled::Nothing), "pending"));
}

#[test]
fn what_was_given_to_somebody_who_is_gone_is_pending_again_unless_it_was_started() {
    let mut world = world();
    let asked = world.wait_on("s1");
    world.submit(on_q("t1"));
    let lease = world.given(&asked);
    world.withdraw(&asked, true);
    assert_eq!((world.where_is("t1").as_str(), world.row("t1").spent), ("pending", 0));
    assert!(world.is_over(&lease, LeaseWord::Start).contains("pending again"));

    let asked = world.wait_on("s1");
    let lease = world.given(&asked);
    world.begin(&lease);
    world.withdraw(&asked, true);
    assert_eq!(world.row("t1").state_word(), "running");
}

/// Scenario 22, for subscriptions.
#[test]
fn a_named_puller_gets_its_unstarted_task_again_and_others_the_next() {
    let mut world = world();
    world.submit_all([on_q("t1"), on_q("t2"), on_q("t3")]);
    let lease = world.pull_as("s1", Some("anna")).expect("a task");
    assert_eq!(world.pull_as("s1", Some("anna")), Some(lease.clone()), "under the same token");
    assert_eq!(world.pull_as("s1", Some("bert")).expect("a task").task, id("t2"));
    world.begin(&lease);
    assert_eq!(world.pull_as("s1", Some("anna")).expect("a task").task, id("t3"));
}

#[test]
fn a_request_that_is_repeated_is_answered_the_same() {
    let mut world = world();
    world.submit_all([on_q("t1"), on_q("t2")]);
    let request = world.request("s1", None, true);
    let first = world.ask(request.clone());
    world.settle();
    let lease = world.given(&first);
    world.take_over();
    let again = world.ask(request);
    world.settle();
    assert_eq!(world.given(&again), lease, "also by the next leader");
    assert_eq!(world.where_is("t2"), "pending");
}

#[test]
fn a_name_waits_once_at_a_time() {
    let mut world = world();
    let request = world.request("s1", Some("anna"), true);
    let first = world.ask(request);
    world.settle();
    let request = world.request("s1", Some("anna"), true);
    let second = world.ask(request);
    world.settle();
    assert_eq!(world.pulled(&first), Some(Pulled::Nothing));
    world.submit(on_q("t1"));
    assert_eq!(world.given(&second).task, id("t1"));
}

/// Scenario 31.
#[test]
fn a_lease_that_ends_gives_the_task_to_someone_else_and_its_puller_is_told() {
    let mut world = world();
    world.submit(on_q("t1"));
    let first = world.pull("s1");
    world.begin(&first);
    world.pass(LEASE - secs(1));
    assert!(matches!(world.say(&first, LeaseWord::Extend), Commanded::Leased { .. }), "extend keeps it");
    world.pass(LEASE - secs(1));
    assert_eq!(world.row("t1").state_word(), "running");
    let other = world.wait_on("s1");
    world.pass(secs(1));
    let second = world.given(&other);
    assert_eq!((second.task.clone(), world.row("t1").spent), (id("t1"), 1));
    assert_eq!(world.said(|fact| matches!(fact, Fact::LeaseOver { .. })), 1);
    for word in [LeaseWord::Extend, LeaseWord::Start] {
        assert!(world.is_over(&first, word).contains("under another lease"));
    }
    assert!(matches!(world.finish(&first, ACK), Commanded::LeaseOver { .. }));
    assert_eq!(world.finish(&second, ACK), Commanded::Done);
}

#[test]
fn a_lease_that_ends_unstarted_spends_nothing_and_the_last_attempt_exhausts() {
    let mut world = world();
    world.submit(on_q("t1").attempts(1));
    world.pull("s1");
    world.pass(LEASE);
    assert_eq!((world.where_is("t1").as_str(), world.row("t1").spent), ("pending", 0));
    let lease = world.pull("s1");
    world.begin(&lease);
    world.pass(LEASE);
    assert_eq!(world.where_is("t1"), "exhausted");
}

#[test]
fn what_is_given_back_is_placed_after_its_delay_and_spends_nothing() {
    let mut world = world();
    world.submit(on_q("t1"));
    let lease = world.pull("s1");
    world.begin(&lease);
    assert_eq!(world.nack(&lease, secs(30)), Commanded::Done);
    assert_eq!(world.pull_as("s1", None), None);
    assert_eq!(world.reason("t1"), "given back by its puller: not now");
    let asked = world.wait_on("s1");
    world.pass(secs(30));
    let lease = world.given(&asked);
    assert_eq!(world.row("t1").spent, 0);
    world.nack(&lease, secs(0));
    assert_eq!(world.pull("s1").task, id("t1"), "without a delay, at once");
}

#[test]
fn a_start_counts_once() {
    let mut world = world();
    world.submit(on_q("t1"));
    let lease = world.pull("s1");
    world.begin(&lease);
    let Commanded::PullRefused { reason } = world.say(&lease, LeaseWord::Start) else {
        panic!("taken twice")
    };
    assert!(reason.contains("must not run twice"), "{reason}");
}

#[test]
fn after_a_take_over_every_lease_counts_from_the_new_leaders_first_turn() {
    let mut world = world();
    world.submit(on_q("t1"));
    let lease = world.pull("s1");
    world.begin(&lease);
    world.pass(LEASE - secs(1));
    world.take_over();
    world.pass(LEASE - secs(1));
    assert!(matches!(world.say(&lease, LeaseWord::Extend), Commanded::Leased { .. }));
    world.pass(LEASE);
    assert_eq!(world.where_is("t1"), "pending");
}

#[test]
fn without_rearming_a_new_leader_takes_what_is_still_somebodys() {
    let guards = Guards { rearm_leases: false, ..Guards::default() };
    let mut world = World::empty(Settings { guards, ..Settings::default() });
    world.subscribe("s1", "q");
    world.submit(on_q("t1"));
    let lease = world.pull("s1");
    world.begin(&lease);
    world.take_over();
    world.pass(secs(1));
    assert_eq!(world.where_is("t1"), "pending", "the guard earns its place");
}

#[test]
fn a_cancelled_task_is_stopped_by_its_puller_or_with_its_lease() {
    let mut world = world();
    world.submit_all([on_q("t1"), on_q("t2"), on_q("t3"), on_q("t4")]);
    let running = world.pull("s1");
    world.begin(&running);
    let (unstarted, silent) = (world.pull("s1"), world.pull_as("s1", Some("anna")).expect("a task"));
    world.cancel("t1");
    world.cancel("t2");
    world.cancel("t3");
    let said = world.say(&running, LeaseWord::Extend);
    assert!(
        matches!(&said, Commanded::Leased { stop: Some(why), .. } if &**why == "somebody asked"),
        "{said:?}"
    );
    world.finish(&running, AttemptOutcome::Cancelled);
    assert_eq!(world.where_is("t1"), "cancelled");
    assert!(world.is_over(&unstarted, LeaseWord::Start).contains("not to be started"));
    assert_eq!(world.where_is("t2"), "cancelled");
    assert_eq!(world.pull_as("s1", Some("anna")).expect("the next").task, id("t4"));
    assert_eq!((world.where_is("t3").as_str(), silent.task.as_str()), ("cancelled", "t3"));
}

#[test]
fn an_ended_subscription_gives_back_what_was_not_started_and_lets_the_rest_run_on() {
    let mut world = world();
    world.submit_all([on_q("t1"), on_q("t2")]);
    let running = world.pull("s1");
    world.begin(&running);
    let unstarted = world.pull("s1");
    let waiting = world.wait_on("s1");
    assert_eq!(world.unsubscribe("s1"), Commanded::Done);
    assert_eq!(world.pulled(&waiting), Some(Pulled::Unknown));
    assert_eq!((world.where_is("t2").as_str(), world.row("t2").spent), ("pending", 0));
    assert!(world.is_over(&unstarted, LeaseWord::Start).contains("its puller was sent away"));
    assert_eq!(world.unsubscribe("s1"), Commanded::UnknownRunner);
    world.take_over();
    assert!(matches!(world.say(&running, LeaseWord::Extend), Commanded::Leased { .. }));
    world.finish(&running, ACK);
    assert_eq!(world.where_is("t1"), "succeeded");
    assert!(world.state.runner(&id("s1")).is_none(), "its row goes with the last of it");
    let request = world.request("s1", None, false);
    assert_eq!(world.tell(Input::Pull(request)), Answer::Pulled(Pulled::Unknown));
}

#[test]
fn a_queue_is_pushed_again_when_its_last_subscription_ends() {
    let mut world = world();
    world.submit(task("t1").queue("q"));
    assert_eq!(world.where_is("t1"), "pending");
    let why = world.why("t1");
    assert_eq!(why.verdict, Some(Verdict::FitsLater));
    assert!(why.runners.contains(&(id("r1"), Some(Misfit::Pulled { queue: id("q") }))), "{why:?}");
    assert!(why.runners.contains(&(id("s1"), Some(Misfit::NotAsking))));
    assert!(why.reasons.iter().any(|said| said.contains("nobody asks at the moment")), "{:?}", why.reasons);
    world.unsubscribe("s1");
    assert_eq!(world.where_is("t1"), "r1");
}

#[test]
fn a_queue_delivered_to_any_is_pushed_and_pulled() {
    let delivered_to_any = [id("q")].into();
    let mut world = World::with(Settings { delivered_to_any, ..Settings::default() }, [runner("r1").cpu(1)]);
    world.subscribe("s1", "q");
    world.submit_all([task("t1").queue("q"), task("t2").queue("q")]);
    assert_eq!(world.where_is("t1"), "r1");
    assert_eq!(world.pull("s1").task, id("t2"));
}

#[test]
fn what_exceeds_the_declared_limits_of_every_subscription_never_fits() {
    let mut world = World::with_runners([runner("r1").cpu(8)]);
    let mut small = subscription("s1", "q");
    let mut offer = Offer::clone(&small.offer);
    (offer.arch, offer.resources) = ("amd64".into(), Some(Resources::new(2_000, 8 << 30)));
    small.offer = offer.into();
    world.command(Command::Subscribe(small));
    let answer = world.submit(task("large").queue("q").cpu(4));
    assert!(matches!(answer, Submitted::Rejected { reason } if reason.contains("runner s1: needs cpu 4")));
    assert!(matches!(world.submit(task("arm").queue("q").arch("arm64")), Submitted::Rejected { .. }));
    world.submit_all((0..3).map(|n| task(&format!("t{n}")).queue("q")));
    let leases = [world.pull("s1"), world.pull("s1")];
    assert_eq!(world.pull_as("s1", None), None, "its limits are those of all its tasks together");
    world.finish(&leases[0], ACK);
    world.pull("s1");
}

#[test]
fn a_subscription_nobody_asks_on_is_forgotten_and_one_that_waits_is_not() {
    let mut world = world();
    world.subscribe("s2", "q");
    world.submit(on_q("t1"));
    let lease = world.pull("s2");
    world.begin(&lease);
    let memory = world.state.settings.class_memory;
    let waiting = world.wait_on("s1");
    let steps = memory.as_secs() / 30 + 2;
    for _ in 0..steps {
        world.pass_alive(secs(30), &[]);
        world.say(&lease, LeaseWord::Extend);
    }
    assert!(world.state.runner(&id("s1")).is_some() && world.state.runner(&id("s2")).is_some());
    world.withdraw(&waiting, false);
    world.finish(&lease, ACK);
    world.take_over();
    world.pass_alive(memory + secs(1), &[]);
    assert!(world.state.runner(&id("s1")).is_none() && world.state.runner(&id("s2")).is_none());
    assert_eq!(world.said(|fact| matches!(fact, Fact::Unsubscribed { forgotten: true, .. })), 2);
}

#[test]
fn a_paused_queue_and_a_held_subscription_give_nothing() {
    let mut world = world();
    world.submit(on_q("t1"));
    world.hold("s1");
    assert_eq!(world.pull_as("s1", None), None);
    world.resume("s1");
    world.command(Command::PauseQueue { queue: id("q") });
    let asked = world.wait_on("s1");
    assert_eq!(world.pulled(&asked), None);
    world.command(Command::UnpauseQueue { queue: id("q") });
    assert_eq!(world.given(&asked).task, id("t1"));
}

#[test]
fn a_runner_and_a_subscription_do_not_share_an_id() {
    let mut world = world();
    let taken = world.command(Command::Subscribe(subscription("r1", "q")));
    assert!(matches!(taken, Commanded::PullRefused { .. }));
    let registered = world.tell(Input::Register(runner("s1").0));
    assert!(matches!(registered, Answer::RegistrationRefused { reason } if reason.contains("subscription")));
}

#[test]
fn a_build_that_is_pulled_starts_where_its_jobs_can_be_pulled_too() {
    let mut world = World::empty(Settings::default());
    world.subscribe("s1", "q");
    world.submit(build("b").queue("q").jobs([task("j").queue("q").shape()]));
    let lease = world.pull("s1");
    world.begin(&lease);
    world.submit(task("j").queue("q").of("b"));
    let job = world.pull("s1");
    assert_eq!(job.task, id("j"));
    world.finish(&job, ACK);
    world.finish(&lease, ACK);
    assert_eq!((world.where_is("b"), world.where_is("j")), ("succeeded".into(), "succeeded".into()));
}

#[test]
fn priority_and_order_are_those_of_the_backlog() {
    let mut world = world();
    world.submit_all([on_q("old"), on_q("new"), on_q("urgent").priority(5)]);
    let given: Vec<TaskId> = (0..3).map(|_| world.pull("s1").task).collect();
    assert_eq!(given, [id("urgent"), id("old"), id("new")]);
}

#[test]
fn what_waits_to_be_pulled_says_nothing_about_capacity() {
    let mut world = world();
    world.submit_all((0..150).map(|n| on_q(&format!("t{n}"))));
    let level = Level::of(&world.state, Window::Jobs, None);
    assert_eq!((level.pending, level.ahead), (150, 100 + 150), "a subscription has no slots of its own");
    assert_eq!(Level::of(&world.state, Window::Builds, None).ahead, 100);
}

#[test]
fn what_was_cancelled_ends_once_when_its_request_is_repeated_under_its_name() {
    let mut world = world();
    world.submit(on_q("t1"));
    let request = world.request("s1", Some("anna"), false);
    let first = world.ask(request.clone());
    world.settle();
    assert_eq!(world.given(&first).task, id("t1"));
    world.cancel("t1");
    assert_eq!(world.tell(Input::Pull(request)), Answer::Pulled(Pulled::Nothing));
    let ends = |fact: &Fact| matches!(fact, Fact::Task(task) if task.outcome == Some(Outcome::Cancelled));
    assert_eq!(world.said(ends), 1);
}

#[test]
fn the_lease_of_an_earlier_puller_takes_nothing_from_whoever_has_the_task_now() {
    let delivered_to_any = [id("q")].into();
    let mut world = World::with(Settings { delivered_to_any, ..Settings::default() }, []);
    world.subscribe("s1", "q");
    world.submit(task("t1").queue("q"));
    let lease = world.pull("s1");
    world.nack(&lease, secs(0));
    world.register(runner("r1").cpu(1));
    world.start("t1");
    world.pass_alive(LEASE + secs(1), &[]);
    assert_eq!((world.where_is("t1").as_str(), world.row("t1").attempt), ("r1", 2));
}
