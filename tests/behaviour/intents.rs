//! Intents: what waits for want of a runner asks for one, once, of the cheapest class that may have more.

use longshore::core::Settings;
use longshore::core::input::{Answer, Command, Commanded, Input};
use longshore::model::*;
use proptest::prelude::*;

use super::world::{RunnerBuilder, TaskBuilder, World, build, id, runner, secs, task};

fn class(name: &str, like: RunnerBuilder, cost: f64, max: u32) -> DeclaredClass {
    DeclaredClass { id: id(name), offer: like.0.offer, cost, max }
}

/// A class of four cores, scaled to zero.
fn small(max: u32) -> DeclaredClass {
    class("small", runner("any").cpu(4), 1.0, max)
}

fn world(classes: Vec<DeclaredClass>) -> World {
    World::empty(Settings { classes, ..Settings::default() })
}

fn of_class(name: &str, class: &str) -> RunnerBuilder {
    let mut builder = runner(name).cpu(4);
    builder.0.class = Some(id(class));
    builder
}

fn started_for(name: &str, intent: &Intent) -> RunnerBuilder {
    let mut builder = of_class(name, intent.class.as_str());
    builder.0.intent = Some(intent.id.clone());
    builder
}

impl World {
    fn intents(&self) -> Vec<Intent> {
        self.state.intents().iter().map(|intent| Intent::clone(intent)).collect()
    }

    fn only_intent(&self) -> Intent {
        let mut intents = self.intents();
        assert_eq!(intents.len(), 1, "{intents:?}");
        intents.remove(0)
    }

    /// Each class with what is asked for and what is starting.
    fn asked(&self) -> Vec<(String, u32, u32)> {
        let line = |intent: Intent| (intent.class.to_string(), intent.asked, intent.starting);
        self.intents().into_iter().map(line).collect()
    }

    fn ack(&mut self, intent: &Intent, count: Option<u32>) -> Commanded {
        self.command(Command::AcknowledgeIntent { intent: intent.id.clone(), count })
    }

    fn decline(&mut self, intent: &Intent) -> Commanded {
        self.command(Command::DeclineIntent { intent: intent.id.clone(), reason: "no quota".into() })
    }

    fn refused(&mut self, builder: RunnerBuilder) -> String {
        match self.tell(Input::Register(builder.0)) {
            Answer::RegistrationRefused { reason } => reason.to_string(),
            other => panic!("a registration was answered {other:?}"),
        }
    }
}

fn is(change: IntentChange) -> impl Fn(&Fact) -> bool {
    move |fact| matches!(fact, Fact::Intent { change: known, .. } if *known == change)
}

#[test]
fn a_task_without_a_runner_asks_for_one_and_runs_on_the_one_that_comes() {
    let mut world = world(vec![small(10)]);
    world.submit(task("t").cpu(2));
    let intent = world.only_intent();
    assert_eq!((intent.asked, intent.starting, intent.waiting), (1, 0, 1));
    assert_eq!(intent.tasks, [id("t")]);
    let why = world.why("t").reasons.join("; ");
    assert!(why.contains("an intent asks for 1 runner of class small since"), "{why}");

    assert_eq!(world.ack(&intent, None), Commanded::Done);
    assert_eq!(world.asked(), [("small".to_owned(), 0, 1)]);
    let why = world.why("t").reasons.join("; ");
    assert!(why.contains("1 runner of class small starting since"), "{why}");

    world.register(started_for("s1", &intent));
    assert_eq!(world.where_is("t"), "s1");
    assert_eq!(world.asked(), []);
    world.pass(secs(5));
    assert_eq!(world.asked(), [], "what is placed asks for nothing");
    assert_eq!(world.said(is(IntentChange::Asked)), 1);
    assert_eq!(world.said(is(IntentChange::Arrived)), 1);
}

#[test]
fn tasks_are_packed_and_no_class_is_asked_for_more_than_its_most() {
    let mut world = world(vec![small(3)]);
    world.submit_all((0..9).map(|n| task(&format!("t{n}")).cpu(1)));
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 3, 0)], "four to a runner");
    world.submit_all((9..90).map(|n| task(&format!("t{n}")).cpu(1)));
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 3, 0)], "and three at most");
}

#[test]
fn what_is_starting_is_not_asked_for_twice() {
    let mut world = world(vec![small(10)]);
    world.submit_all((0..8).map(|n| task(&format!("t{n}")).cpu(1)));
    world.pass(secs(2));
    let intent = world.only_intent();
    assert_eq!(world.ack(&intent, None), Commanded::Done);
    world.pass(secs(5));
    assert_eq!(world.asked(), [("small".to_owned(), 0, 2)]);
    world.submit_all((8..13).map(|n| task(&format!("t{n}")).cpu(1)));
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 2, 2)], "only for those beyond what is starting");
    let grown = world.only_intent();
    assert_eq!(grown.id, intent.id, "one intent for each class and shape");
    world.register(started_for("s1", &grown));
    world.register(started_for("s2", &grown));
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 2, 0)]);
    world.register(started_for("s2", &grown));
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 2, 0)], "registering again counts once");
}

#[test]
fn shapes_share_the_runners_that_are_asked_for() {
    let mut world = world(vec![small(10)]);
    world.submit_all([task("a").cpu(3), task("b").cpu(1)]);
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
}

#[test]
fn the_cheapest_class_that_fits_is_asked_first_and_the_next_for_what_is_left() {
    let dear = class("dear", runner("any").cpu(8), 3.0, 10);
    let arm = class("arm", runner("any").cpu(8).arch("arm64"), 0.1, 10);
    let mut world = world(vec![dear, small(1), arm]);
    world.submit_all((0..6).map(|n| task(&format!("t{n}")).cpu(2).arch("amd64")));
    world.pass(secs(2));
    let mut asked = world.asked();
    asked.sort();
    assert_eq!(asked, [("dear".to_owned(), 1, 0), ("small".to_owned(), 1, 0)]);
    world.submit(task("wide").cpu(6).arch("amd64"));
    assert!(
        world.why("wide").classes.iter().any(|(name, misfit)| name.as_str() == "small" && misfit.is_some())
    );
}

#[test]
fn what_something_else_blocks_asks_for_nothing() {
    let mut world = world(vec![small(10)]);
    world.command(Command::PauseQueue { queue: id("default") });
    world.submit(task("paused"));
    world.pass(secs(2));
    assert_eq!(world.asked(), []);
    world.command(Command::UnpauseQueue { queue: id("default") });
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
    world.command(Command::PausePool);
    world.pass(secs(2));
    assert_eq!(world.asked(), [], "withdrawn while the pool is paused");
    world.command(Command::UnpausePool);
    world.cancel("paused");
    world.pass(secs(2));
    let later = world.now + secs(60);
    world.submit(task("later").not_before(later));
    world.pass(secs(5));
    assert_eq!(world.asked(), [], "its time has not come");
    world.pass(secs(60));
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
}

#[test]
fn a_group_that_may_have_no_other_runner_asks_for_none() {
    let terms = Terms { max_runners: Some(1), ordered: false, stop_on_failure: false };
    let mut world = world(vec![small(5)]);
    world.register(of_class("r", "small"));
    world.submit(task("first").cpu(4).group("g", terms));
    world.submit(task("second").cpu(4).group("g", terms));
    assert_eq!(world.where_is("second"), "pending");
    assert_eq!(world.asked(), []);
    world.submit(task("other").cpu(4));
    world.pass_alive(secs(1), &[]);
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
}

#[test]
fn a_task_a_runner_refused_waits_for_its_back_off_and_not_for_a_runner() {
    let mut world =
        World::with(Settings { classes: vec![small(10)], ..Settings::default() }, [of_class("s1", "small")]);
    world.submit(task("t"));
    world.end("t", AttemptOutcome::Refused);
    assert_eq!(world.where_is("t"), "pending");
    assert_eq!(world.asked(), []);
}

#[test]
fn a_cancelled_task_withdraws_what_nobody_answered_and_keeps_what_is_starting() {
    let mut world = world(vec![small(10)]);
    world.submit(task("t"));
    world.cancel("t");
    world.pass(secs(2));
    assert_eq!((world.asked(), world.said(is(IntentChange::Withdrawn))), (vec![], 1));
    world.submit(task("u"));
    let intent = world.only_intent();
    world.ack(&intent, None);
    world.cancel("u");
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 0, 1)]);
}

#[test]
fn an_intent_nobody_answers_expires_and_is_asked_anew() {
    let mut world = world(vec![small(10)]);
    world.submit(task("t"));
    let first = world.only_intent();
    world.pass(secs(65));
    let again = world.only_intent();
    assert_ne!(first.id, again.id);
    assert_eq!((again.asked, world.said(is(IntentChange::Expired))), (1, 1));
    assert_eq!(world.ack(&first, None), Commanded::UnknownIntent);
}

#[test]
fn where_nobody_answers_another_class_is_asked() {
    let mut world = world(vec![small(10), class("dear", runner("any").cpu(8), 3.0, 10)]);
    world.submit(task("t"));
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
    world.pass(secs(65));
    let open: Vec<_> = world.intents().into_iter().filter(|intent| intent.closed.is_none()).collect();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].class, id("dear"));
}

#[test]
fn acknowledged_runners_that_never_come_are_asked_for_anew() {
    let mut world = world(vec![small(10)]);
    world.submit(task("t"));
    let first = world.only_intent();
    world.ack(&first, None);
    world.pass(secs(590));
    assert_eq!(world.asked(), [("small".to_owned(), 0, 1)]);
    world.pass(secs(20));
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
    assert_eq!(world.said(is(IntentChange::Expired)), 1);
}

#[test]
fn a_declined_class_is_left_alone_for_a_while_and_the_next_is_asked() {
    let mut world = world(vec![small(10), class("dear", runner("any").cpu(8), 3.0, 10)]);
    world.submit(task("t"));
    let intent = world.only_intent();
    assert_eq!(world.decline(&intent), Commanded::Done);
    world.pass(secs(2));
    let open = |world: &World| {
        let open: Vec<_> = world.intents().into_iter().filter(|intent| intent.closed.is_none()).collect();
        open.into_iter().map(|intent| intent.class.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(open(&world), ["dear"]);
    let why = world.why("t").reasons.join("; ");
    assert!(why.contains("class small was declined until") && why.contains("no quota"), "{why}");
    let dear = world.intents().into_iter().find(|intent| intent.closed.is_none()).expect("asked");
    world.decline(&dear);
    world.pass(secs(200));
    assert_eq!(open(&world), [""; 0]);
    world.pass(secs(110));
    assert_eq!(open(&world), ["small"]);
}

#[test]
fn a_second_answer_changes_nothing_and_is_told_so() {
    let mut world = world(vec![small(10)]);
    world.submit_all((0..8).map(|n| task(&format!("t{n}")).cpu(1)));
    world.pass(secs(2));
    let intent = world.only_intent();
    let refused = |said: Commanded| match said {
        Commanded::IntentRefused { reason } => reason.to_string(),
        other => panic!("{other:?}"),
    };
    let unknown = Command::DeclineIntent { intent: id("nobody"), reason: "x".into() };
    assert_eq!(world.command(unknown), Commanded::UnknownIntent);
    assert!(refused(world.ack(&intent, Some(5))).contains("asks for 2 runners now, not for 5"));
    assert_eq!(world.ack(&intent, Some(1)), Commanded::Done);
    assert_eq!(world.asked(), [("small".to_owned(), 1, 1)]);
    assert_eq!(world.ack(&intent, Some(1)), Commanded::Done);
    let before = world.state.rows();
    assert!(refused(world.ack(&intent, None)).contains("is acknowledged already: 2 runners are starting"));
    assert_eq!(world.state.rows(), before);
    assert_eq!(world.decline(&intent), Commanded::Done);
    assert!(refused(world.decline(&intent)).contains("declined already (no quota)"));
    assert!(refused(world.ack(&intent, None)).contains("declined already"));
}

#[test]
fn a_runner_that_contradicts_its_class_is_refused_with_both_values() {
    let mut world = world(vec![small(10)]);
    let said = world.refused(of_class("s1", "small").cpu(2));
    assert!(
        said.contains("resources.cpu (2) is less than 4") && said.contains("leave the class out"),
        "{said}"
    );
    assert!(world.refused(of_class("s1", "small").arch("arm64")).contains("arch (arm64) is less than amd64"));
    assert!(world.refused(of_class("s1", "small").taint("spot")).contains("taints (spot)"));
    world.register(of_class("s1", "small").cpu(8));
    world.register(of_class("s1", "small").cpu(2));
    world.register(of_class("other", "undeclared").cpu(1));
    world.submit(task("wide").cpu(4));
    world.pass(secs(2));
    let intent = world.only_intent();
    let mut wrong = started_for("s2", &intent);
    wrong.0.class = Some(id("undeclared"));
    let said = world.refused(wrong);
    assert!(said.contains("asks for class \"small\""), "{said}");
}

#[test]
fn a_lost_runner_makes_room_for_another_of_its_class() {
    let mut world = world(vec![small(1)]);
    world.register(of_class("s1", "small"));
    world.submit(task("t").cpu(4));
    world.submit(task("u").cpu(4));
    assert_eq!(world.asked(), [], "it is the most there may be");
    let why = world.why("u").reasons.join("; ");
    assert!(
        why.contains("class small may have no more: of at most 1 runners all are here or starting"),
        "{why}"
    );
    world.silence("s1");
    world.pass(secs(2));
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
}

#[test]
fn intents_survive_a_take_over() {
    let mut world = world(vec![small(10)]);
    world.submit_all((0..8).map(|n| task(&format!("t{n}")).cpu(1)));
    world.pass(secs(2));
    let intent = world.only_intent();
    world.ack(&intent, Some(1));
    let before = world.intents();
    world.take_over();
    world.pass(secs(3));
    assert_eq!(world.intents(), before);
    world.register(started_for("s1", &intent));
    assert_eq!(world.asked(), [("small".to_owned(), 1, 0)]);
}

#[test]
fn a_build_from_zero_gets_its_runner_and_then_one_for_its_jobs() {
    let mut world = world(vec![small(10)]);
    world.submit(build("b").cpu(4));
    let host = world.only_intent();
    assert_eq!(host.asked, 1);
    world.ack(&host, None);
    world.register(started_for("s1", &host));
    assert_eq!(world.where_is("b"), "pending", "alone, its jobs would have no room");
    world.pass(secs(2));
    let jobs = world.only_intent();
    assert_eq!((jobs.shape.kind, jobs.asked), (Kind::Job, 1));
    assert!(jobs.reason.contains("no runner has room for a job of a build"), "{}", jobs.reason);
    world.register(started_for("s2", &jobs));
    assert_ne!(world.where_is("b"), "pending");
}

#[test]
fn a_build_that_would_take_the_only_room_of_its_jobs_asks_for_a_runner_of_its_own() {
    let hosts = class("hosts", runner("any").cpu(1).queues(&["fast"]), 1.0, 10);
    let mut world =
        World::with(Settings { classes: vec![hosts], ..Settings::default() }, [runner("r").cpu(3)]);
    world.submit(build("b").queue("fast").jobs([task("x").cpu(3).shape()]));
    world.pass_alive(secs(2), &[]);
    let intent = world.only_intent();
    assert_eq!((intent.shape.kind, intent.asked), (Kind::Build, 1), "no class takes its jobs");
    assert_eq!(intent.tasks, [id("b")]);
    world.ack(&intent, None);
    world.register(started_for("h1", &intent).cpu(1).queues(&["fast"]));
    assert_eq!(world.where_is("b"), "h1");
    world.pass_alive(secs(2), &[]);
    assert_eq!(world.asked(), []);
}

#[test]
fn a_build_whose_group_keeps_its_jobs_beside_it_asks_for_no_runner_where_they_could_be_alone() {
    let one = Terms { max_runners: Some(1), ordered: false, stop_on_failure: false };
    let fleet = [runner("r").cpu(3), runner("s1").cpu(2).cost(2.0), runner("big").cpu(8)];
    let small = class("small", runner("any").cpu(2), 1.0, 10);
    let mut world = World::with(Settings { classes: vec![small], ..Settings::default() }, fleet);
    world.hold("big");
    let two_cores = |task: TaskBuilder| task.cpu(2).group("g", one);
    world.submit(two_cores(build("b")).jobs([two_cores(task("x")).shape()]));
    world.pass_alive(secs(5), &[]);
    assert_eq!((world.where_is("b"), world.asked()), ("pending".into(), vec![]));
    world.resume("big");
    assert_eq!(world.where_is("b"), "big");
}

#[test]
fn a_build_whose_group_keeps_its_jobs_beside_it_asks_for_a_runner_with_room_for_both() {
    let one = Terms { max_runners: Some(1), ordered: false, stop_on_failure: false };
    let (small, single) = (runner("any").cpu(4), runner("any").opaque(1));
    let classes = vec![
        class("single", single, 1.0, 10),
        class("small", small, 2.0, 10),
        class("large", runner("any").cpu(6), 3.0, 10),
    ];
    let mut world = World::with(Settings { classes, ..Settings::default() }, [runner("r").cpu(3)]);
    let grouped = |task: TaskBuilder| task.group("g", one);
    let jobs = [grouped(task("x")).cpu(1).shape(), grouped(task("y")).cpu(3).shape()];
    world.submit(grouped(build("b")).cpu(3).jobs(jobs));
    world.pass_alive(secs(2), &[]);
    let intent = world.only_intent();
    assert_eq!((intent.class.as_str(), intent.asked, &*intent.tasks), ("large", 1, &[id("b")][..]));
    assert_eq!(intent.shape.resources.cpu, 6_000, "the build, and the larger of its jobs");
    assert!(intent.reason.contains("its group keeps beside it"), "{}", intent.reason);
    let why = world.why("b").reasons;
    assert!(why.iter().any(|reason| reason.contains("asks for 1 runner of class large")), "{why:?}");
    world.ack(&intent, None);
    world.pass_alive(secs(2), &[]);
    assert_eq!(world.asked(), [("large".to_owned(), 0, 1)], "what is starting is not asked for twice");
    world.register(started_for("l1", &intent).cpu(6));
    assert_eq!(world.where_is("b"), "l1");
    world.pass_alive(secs(2), &[]);
    assert_eq!(world.asked(), []);
}

#[test]
fn a_stranded_job_of_a_running_build_asks_for_a_runner_and_waiting_builds_do_not() {
    let settings = Settings { classes: vec![small(10)], ..Settings::default() };
    let mut world = World::with(settings, [of_class("s1", "small"), of_class("s2", "small")]);
    world.submit(build("b").cpu(4));
    world.start("b");
    let other = if world.where_is("b") == "s1" { "s2" } else { "s1" };
    world.leave(other, &[]);
    world.submit(build("c").cpu(4));
    world.pass(secs(3));
    let intent = world.only_intent();
    assert_eq!((intent.shape.kind, intent.asked), (Kind::Job, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn when_all_that_is_asked_for_has_come_nothing_waits_and_few_runners_came_for_nothing(
        wanted in proptest::collection::vec((1..=6_u64, 1..=12_u64), 1..20), most in 0..=4_u32
    ) {
        let large = class("large", runner("any").cpu(8), 2.0, 100);
        let mut world = world(vec![small(most), large]);
        let tasks = wanted.iter().enumerate();
        world.submit_all(tasks.map(|(n, (cpu, gib))| task(&format!("t{n}")).cpu(*cpu).memory(*gib)));
        let mut came = 0;
        for _ in 0..5 {
            world.pass(secs(2));
            for intent in world.intents() {
                // What came for another may have taken all it was asked for.
                let Some(intent) = world.state.intents().get(&intent.id).cloned() else { continue };
                prop_assert_eq!(world.ack(&intent, None), Commanded::Done);
                for _ in 0..intent.asked {
                    came += 1;
                    let name = format!("{}-{came}", intent.class);
                    let cpu = if intent.class == id("small") { 4 } else { 8 };
                    world.register(started_for(&name, &intent).cpu(cpu));
                }
            }
        }
        prop_assert_eq!(world.asked(), []);
        prop_assert!(world.state.backlog().is_empty());
        prop_assert!(world.state.intents().members(&id("small")) <= most);
        // A runner may go to a task that stands before the one it was asked for; that one then asks again.
        prop_assert!(came <= 2 * wanted.len());
    }
}
