//! Verdicts under change: runners and classes come, shrink, are held, are lost, and start anew as something else.

use std::sync::Arc;
use std::time::Duration;

use longshore::core::Settings;
use longshore::core::input::Submitted;
use longshore::model::*;

use super::world::*;

const FAIL_AFTER_A_MINUTE: IfUnplaceable = IfUnplaceable::FailAfter(Duration::from_secs(60));

fn class(name: &str, like: RunnerBuilder) -> DeclaredClass {
    DeclaredClass { id: id(name), offer: like.0.offer, cost: 1.0, max: 10 }
}

fn declaring(classes: Vec<DeclaredClass>) -> Settings {
    Settings { classes, ..Settings::default() }
}

impl World {
    /// A new leader, whose configuration declares other classes.
    fn take_over_declaring(&mut self, classes: Vec<DeclaredClass>) {
        let settings = Settings { classes, ..Settings::clone(&self.state.settings) };
        self.state.settings = Arc::new(settings);
        self.take_over();
    }
}

#[test]
fn a_declared_class_that_is_scaled_to_zero_is_waited_for_without_end() {
    let large = || runner("large").cpu(8);
    let mut world = World::with(declaring(vec![class("large", large())]), [runner("small").cpu(1)]);
    let mut of_class = large();
    of_class.0.class = Some(id("large"));
    world.register(of_class.clone());
    world.leave("large", &[]);
    world.submit(task("t").cpu(8));
    world.pass_alive(secs(3_000), &[]);
    assert_eq!(world.where_is("t"), "pending");
    world.register(of_class);
    assert_eq!(world.where_is("t"), "large");
}

#[test]
fn what_waits_for_a_class_that_is_declared_no_more_is_judged_by_the_next_leader() {
    let classes = vec![class("large", runner("any").cpu(8))];
    let mut world = World::with(declaring(classes), [runner("small").cpu(1)]);
    world.submit(task("t").cpu(8));
    world.take_over_declaring(Vec::new());
    assert_eq!(world.where_is("t"), "pending", "small has not reported yet");
    world.beat("small", &[]);
    assert_eq!(world.where_is("t"), "rejected");
    assert!(world.reason("t").contains("runner small: needs cpu 8; it has cpu 1"), "{}", world.reason("t"));
}

#[test]
fn what_waits_for_a_class_that_shrank_is_judged_by_the_next_leader() {
    let sized = |cpu| vec![class("large", runner("any").cpu(cpu))];
    let mut world = World::with(declaring(sized(8)), [runner("small").cpu(1)]);
    world.submit(task("eight").cpu(8));
    world.submit(task("six").cpu(6));
    world.take_over_declaring(sized(6));
    world.beat("small", &[]);
    assert_eq!((world.where_is("eight"), world.where_is("six")), ("rejected".into(), "pending".into()));
    assert!(world.reason("eight").contains("class large: needs cpu 8; it has cpu 6"));
}

#[test]
fn a_runner_that_starts_anew_as_something_else_is_remembered_as_what_it_was() {
    let mut world = World::with_runners([runner("r").cpu(8).arch("arm64")]);
    world.register(runner("r").cpu(8).arch("amd64").incarnation("second"));
    world.submit(task("arm").arch("arm64"));
    world.submit(task("amd").arch("amd64"));
    assert_eq!((world.where_is("arm"), world.where_is("amd")), ("pending".into(), "r".into()));
    world.pass_alive(secs(590), &[]);
    assert_eq!(world.where_is("arm"), "pending");
    world.pass_alive(secs(20), &[]);
    assert_eq!(world.where_is("arm"), "rejected");
    assert!(world.reason("arm").contains("needs arch arm64; it has amd64"), "{}", world.reason("arm"));
}

#[test]
fn a_runner_that_grows_again_in_time_takes_what_waited_for_it() {
    let mut world = World::with_runners([runner("r").cpu(8)]);
    world.register(runner("r").cpu(2));
    world.submit(task("t").cpu(8));
    world.pass_alive(secs(500), &[]);
    world.register(runner("r").cpu(8).incarnation("second"));
    assert_eq!(world.where_is("t"), "r");
}

#[test]
fn a_lost_runner_may_come_back_for_a_while_and_then_is_forgotten() {
    let fleet = || [runner("small").cpu(1), runner("big").cpu(8)];
    let mut world = World::with_runners(fleet());
    world.silence("big");
    world.submit(task("t").cpu(8));
    world.pass_alive(secs(500), &["big"]);
    world.register(runner("big").cpu(8).incarnation("second"));
    assert_eq!(world.where_is("t"), "big");

    let mut world = World::with_runners(fleet());
    world.silence("big");
    world.submit(task("t").cpu(8));
    world.pass_alive(secs(601), &["big"]);
    assert_eq!(world.where_is("t"), "rejected");
    assert!(world.state.runner(&id("big")).is_none());
}

#[test]
fn a_runner_that_is_held_or_drains_is_waited_for_as_long_as_it_is_there() {
    let mut world = World::with_runners([runner("small").cpu(1), runner("big").cpu(8)]);
    world.hold("big");
    world.submit(task("t").cpu(8));
    world.pass_alive(secs(2_000), &[]);
    assert_eq!(world.where_is("t"), "pending");
    world.drain("big");
    world.pass_alive(secs(2_000), &[]);
    assert_eq!(world.where_is("t"), "pending");
    world.resume("big");
    assert_eq!(world.where_is("t"), "big");
}

#[test]
fn a_kind_of_runner_is_remembered_from_when_the_last_of_it_went() {
    let like = |name| runner(name).cpu(8);
    let mut world = World::with_runners([runner("small").cpu(1), like("big-1"), like("big-2")]);
    world.leave("big-1", &[]);
    world.pass_alive(secs(400), &[]);
    world.leave("big-2", &[]);
    world.submit(task("t").cpu(8));
    world.pass_alive(secs(590), &[]);
    assert_eq!(world.where_is("t"), "pending");
    world.pass_alive(secs(20), &[]);
    assert_eq!(world.where_is("t"), "rejected");
}

#[test]
fn what_waited_for_a_kind_of_runner_is_rejected_in_the_very_turn_that_forgets_it() {
    let mut world = World::with_runners([runner("small").cpu(1), runner("big").cpu(8)]);
    world.leave("big", &[]);
    world.submit(task("t").cpu(8));
    world.now = world.now + secs(600);
    world.turn();
    assert_eq!(world.said(|fact| matches!(fact, Fact::ClassForgotten { .. })), 1);
    assert_eq!(world.where_is("t"), "rejected");
}

#[test]
fn with_all_classes_declared_nobody_is_waited_for_to_show_himself() {
    let classes = vec![class("large", runner("any").cpu(8))];
    let mut world = World::empty(Settings { classes_complete: true, ..declaring(classes) });
    assert_eq!(world.submit(task("t").cpu(8)), Submitted::Admitted);
    let Submitted::Rejected { reason } = world.submit(task("huge").cpu(9)) else { panic!("rejected") };
    assert!(reason.contains("class large: needs cpu 9; it has cpu 8"), "{reason}");
}

#[test]
fn a_successor_judges_nobody_before_every_runner_it_knows_has_reported_or_has_had_time_to() {
    let mut world = World::with_runners([runner("small").cpu(1), runner("big").cpu(8)]);
    world.leave("big", &[]);
    world.submit(task("t").cpu(8));
    world.take_over();
    assert_eq!(world.submit(task("huge").cpu(64)), Submitted::Admitted);
    world.beat("small", &[]);
    assert_eq!((world.where_is("huge"), world.where_is("t")), ("rejected".into(), "pending".into()));

    let mut world = World::with_runners([runner("small").cpu(1)]);
    world.take_over();
    world.submit(task("huge").cpu(64));
    world.pass(secs(29));
    assert_eq!(world.where_is("huge"), "pending");
    world.pass(secs(2));
    assert_eq!(
        world.where_is("huge"),
        "rejected",
        "small never reported, and still counts as what may run it"
    );
    assert_eq!(world.submit(task("t")), Submitted::Admitted);
}

#[test]
fn patience_is_counted_from_the_submission_and_what_becomes_placeable_meanwhile_runs() {
    let mut world = World::with_runners([runner("small").cpu(1)]);
    world.submit(task("t").cpu(8).if_unplaceable(FAIL_AFTER_A_MINUTE));
    world.pass_alive(secs(55), &[]);
    world.register(runner("big").cpu(8));
    assert_eq!(world.where_is("t"), "big");
    world.pass_alive(secs(60), &[]);
    assert_eq!(world.where_is("t"), "big");
}

#[test]
fn at_the_end_of_its_patience_a_task_that_only_waits_for_room_goes_on_waiting() {
    let mut world = World::with_runners([runner("small").cpu(1), runner("big").cpu(8)]);
    world.submit(task("busy").cpu(8));
    world.submit(task("t").cpu(8).if_unplaceable(FAIL_AFTER_A_MINUTE));
    world.pass_alive(secs(300), &[]);
    assert_eq!(world.where_is("t"), "pending");
    world.leave("big", &["busy"]);
    world.pass_alive(secs(590), &[]);
    assert_eq!(world.where_is("t"), "pending", "big may come back");
    world.pass_alive(secs(20), &[]);
    assert_eq!(world.where_is("t"), "rejected", "its patience was over long ago");
}

#[test]
fn a_class_that_is_forgotten_leaves_the_patient_their_patience() {
    let settings = Settings { class_memory: secs(30), ..Settings::default() };
    let mut world = World::with(settings, [runner("small").cpu(1), runner("big").cpu(8)]);
    world.leave("big", &[]);
    world.submit(task("at-once").cpu(8));
    world.submit(task("patient").cpu(8).if_unplaceable(FAIL_AFTER_A_MINUTE));
    world.submit(task("held").cpu(8).if_unplaceable(IfUnplaceable::Hold));
    world.pass_alive(secs(31), &[]);
    assert_eq!((world.where_is("at-once"), world.where_is("patient")), ("rejected".into(), "pending".into()));
    world.pass_alive(secs(31), &[]);
    assert_eq!((world.where_is("patient"), world.where_is("held")), ("rejected".into(), "pending".into()));
    world.pass_alive(secs(3_000), &[]);
    assert_eq!(world.where_is("held"), "pending");
    world.register(runner("big").cpu(8));
    assert_eq!(world.where_is("held"), "big");
}

#[test]
fn patience_outlives_its_leader() {
    let mut world = World::with_runners([runner("small").cpu(1)]);
    world.submit(task("t").cpu(8).if_unplaceable(FAIL_AFTER_A_MINUTE));
    world.pass_alive(secs(40), &[]);
    world.take_over();
    world.pass_alive(secs(15), &[]);
    assert_eq!(world.where_is("t"), "pending");
    world.pass_alive(secs(10), &[]);
    assert_eq!(world.where_is("t"), "rejected");
}

#[test]
fn patience_that_ends_before_the_fleet_has_shown_itself_is_judged_then() {
    let mut world = World::empty(Settings::default());
    let patience = IfUnplaceable::FailAfter(secs(10));
    world.submit(task("able").cpu(4).if_unplaceable(patience));
    world.submit(task("huge").cpu(64).if_unplaceable(patience));
    world.pass(secs(20));
    assert_eq!((world.where_is("able"), world.where_is("huge")), ("pending".into(), "pending".into()));
    world.register(runner("r").cpu(4));
    assert_eq!((world.where_is("able"), world.where_is("huge")), ("r".into(), "rejected".into()));
}

#[test]
fn a_task_whose_time_has_not_come_is_judged_when_it_comes_too() {
    let mut world = World::with_runners([runner("small").cpu(1), runner("big").cpu(8)]);
    let later = world.now + secs(2_000);
    world.submit(task("t").cpu(8).not_before(later));
    assert_eq!(world.where_is("t"), "pending");
    world.leave("big", &[]);
    world.pass_alive(secs(1_990), &[]);
    assert_eq!(world.where_is("t"), "pending");
    world.pass_alive(secs(20), &[]);
    assert_eq!(world.where_is("t"), "rejected");
}

#[test]
fn a_task_that_comes_back_when_nobody_can_take_it_any_more_is_judged() {
    let mut world = World::with_runners([runner("r").cpu(8)]);
    world.submit(task("t").cpu(8));
    world.start("t");
    world.register(runner("r").cpu(1));
    world.pass_alive(secs(601), &[]);
    assert_eq!(world.where_is("t"), "r", "what runs is not judged");
    world.end("t", AttemptOutcome::Handback);
    assert_eq!(world.where_is("t"), "rejected");
}

#[test]
fn a_build_is_judged_again_when_the_runners_for_its_jobs_are_forgotten() {
    let mut world = World::with_runners([runner("amd").cpu(2), runner("arm").cpu(2).arch("arm64")]);
    world.submit(task("busy").cpu(2).arch("amd64"));
    world.submit(build("b").arch("amd64").jobs([task("x").arch("arm64").shape()]));
    assert_eq!(world.where_is("b"), "pending");
    world.leave("arm", &[]);
    world.pass_alive(secs(601), &[]);
    assert_eq!(world.where_is("b"), "rejected");
    assert!(world.reason("b").contains("no runner would have room for its job"), "{}", world.reason("b"));
}

#[test]
fn a_build_waits_for_a_second_runner_of_the_kind_that_holds_it_to_come_back() {
    let mut world = World::with_runners([runner("r1").cpu(2), runner("r2").cpu(2)]);
    world.leave("r2", &[]);
    world.submit(build("b").cpu(2));
    assert_eq!(world.where_is("b"), "pending", "beside it on r1 its jobs have no room, on r2 they would");
    world.register(runner("r2").cpu(2));
    assert_ne!(world.where_is("b"), "pending");

    let mut world = World::with_runners([runner("r1").cpu(2), runner("r2").cpu(2)]);
    world.leave("r2", &[]);
    world.submit(build("b").cpu(2));
    world.pass_alive(secs(601), &[]);
    assert_eq!(world.where_is("b"), "rejected");
}

#[test]
fn a_job_of_a_running_build_is_rejected_when_nobody_will_come_and_its_build_hears_it() {
    let settings = Settings { unsafe_grace: secs(3_000), ..Settings::default() };
    let mut world = World::with(settings, [runner("amd").cpu(2), runner("arm").cpu(2).arch("arm64")]);
    world.submit(build("b").arch("amd64").jobs([task("x").arch("arm64").shape()]));
    world.submit(task("busy").cpu(2).arch("arm64"));
    world.submit(task("job").arch("arm64").of("b"));
    world.leave("arm", &["busy"]);
    world.pass_alive(secs(601), &[]);
    assert_eq!((world.where_is("b"), world.where_is("job")), ("amd".into(), "rejected".into()));
    let told = |fact: &Fact| matches!(fact, Fact::Task(event) if event.id.as_str() == "job" && event.outcome == Some(Outcome::Rejected));
    assert_eq!(world.said(told), 1);
}
