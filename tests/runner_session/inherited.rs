//! A start that goes on with what an earlier one began: under that one's lease, and only if the dispatcher agrees.

use longshore::runner::session::Inherited;

use super::*;

const UNTIL: Duration = Duration::from_secs(8);

fn inherited(id: &str, token: &str, cpu: u64) -> Inherited {
    let order = WorkOrder { resources: Resources::new(cpu, 1 << 30), ..WorkOrder::default() };
    Inherited { held: held(id, token), kind: Kind::Job, order: Arc::new(order) }
}

/// A start at time 0 that goes on with these, of turns before 10; they may run until 8 s.
fn starting_with(running: &[(&str, &str)]) -> World {
    let running = running.iter().map(|(id, token)| inherited(id, token, 1_000)).collect();
    let seen = LastSeen { table: TABLE, turn: 9 };
    World::starting_with(Restored {
        running,
        running_until: UNTIL,
        last_seen: Some(seen),
        ..Restored::default()
    })
}

#[test]
fn what_runs_is_listed_kept_and_not_started_again() {
    let mut world = starting_with(&[("t1", "1.4.0")]);
    let (number, registration) = world.registration();
    assert_eq!(registration.running, [held("t1", "1.4.0")]);
    assert_eq!(world.reports(), [""; 0], "before it is answered nothing is said under this incarnation");
    world.answer_registration(number, TABLE, 10, &[held("t1", "1.4.0")]);
    assert_eq!(world.reports(), ["t1 1.4.0 start"], "the earlier start may not have got to say it");
    world.deliver(&[assignment("t1", "1.4.0", "")], &[]);
    world.pass(ms(13_000));
    assert_eq!((world.starts(), world.stops()), (vec![], vec![]), "it runs on under the new lease");
    world.ends("t1", "1.4.0", AttemptOutcome::Succeeded);
    assert_eq!(world.reports(), ["t1 1.4.0 start", "t1 1.4.0 succeeded"]);
}

#[test]
fn what_the_dispatcher_does_not_list_ends_at_once() {
    let mut world = starting_with(&[("t1", "1.4.0"), ("t2", "1.4.1")]);
    let number = world.registration().0;
    world.answer_registration(number, TABLE, 10, &[held("t2", "1.4.1")]);
    assert_eq!(world.stops(), [("t1".to_owned(), ms(0))]);
    assert_eq!(world.reports(), ["t2 1.4.1 start"]);
}

#[test]
fn unanswered_it_ends_when_the_earlier_starts_time_is_over() {
    let mut world = starting_with(&[("t1", "1.4.0")]);
    assert_eq!(world.session.work_until(), Some(UNTIL));
    world.pass(ms(7_999));
    assert_eq!(world.stops(), []);
    world.pass(ms(1));
    assert_eq!(world.stops(), [("t1".to_owned(), ms(0))]);
    // An answer to what was asked before comes too late to take it back.
    let number = world.registration().0;
    world.answer_registration(number, TABLE, 10, &[held("t1", "1.4.0")]);
    assert_eq!(world.session.lease_until(), None);
    world.out.clear();
    world.pass(ms(60_000));
    assert!(world.try_registration().is_none(), "while it runs nothing is asked for");
    world.ends("t1", "1.4.0", AttemptOutcome::Cancelled);
    let (number, registration) = world.registration();
    assert_eq!(registration.running, [held("t1", "1.4.0")], "its end is still to be said");
    world.answer_registration(number, TABLE, 11, &[held("t1", "1.4.0")]);
    assert_eq!(world.reports(), ["t1 1.4.0 handback"]);
}

#[test]
fn a_start_that_comes_too_late_ends_it_before_anything_else() {
    let running = vec![inherited("t1", "1.4.0", 1_000)];
    let mut world = World::starting_with(Restored { running, ..Restored::default() });
    assert_eq!(world.stops(), [("t1".to_owned(), ms(0))]);
    assert!(world.try_registration().is_none());
}

#[test]
fn an_end_nobody_was_there_to_see_is_said_once_the_dispatcher_knows_this_start() {
    let mut world = starting_with(&[("t1", "1.4.0")]);
    world.ends("t1", "1.4.0", AttemptOutcome::Succeeded);
    assert_eq!(world.reports(), [""; 0], "under an incarnation nobody knows it would count for nothing");
    // It is long over when the dispatcher is there again, and finished work all the same.
    world.pass(ms(60_000));
    let (number, registration) = world.registration();
    assert_eq!(registration.running, [held("t1", "1.4.0")]);
    world.answer_registration(number, TABLE, 10, &[held("t1", "1.4.0")]);
    assert_eq!(world.reports(), ["t1 1.4.0 succeeded"]);
    let beat = world.heartbeats();
    assert!(beat.iter().all(|beat| beat.running == [held("t1", "1.4.0")]), "until it is taken");
    world.reports_taken();
    world.pass(ms(2_000));
    world.deliver(&[assignment("t1", "1.4.0", "")], &[]);
    assert_eq!(world.starts(), [""; 0]);
}

#[test]
fn what_it_goes_on_with_takes_room() {
    let mut world = starting_with(&[("t1", "1.4.0"), ("t2", "1.4.1")]);
    let number = world.registration().0;
    let both = [held("t1", "1.4.0"), held("t2", "1.4.1")];
    world.answer_registration(number, TABLE, 10, &both);
    let more = r#","resources":{"cpu":3}"#;
    world.deliver(&[assignment("t3", "1.11.0", more)], &[]);
    assert!(world.last_message().starts_with("needs cpu"), "{}", world.last_message());
    world.ends("t1", "1.4.0", AttemptOutcome::Succeeded);
    world.deliver(&[assignment("t3", "1.12.0", more)], &[]);
    assert_eq!(world.starts(), ["t3 1.12.0"]);
}

#[test]
fn a_newer_attempt_of_the_task_waits_for_the_end_of_the_one_it_goes_on_with() {
    let mut world = starting_with(&[("t1", "1.4.0")]);
    let number = world.registration().0;
    world.answer_registration(number, TABLE, 10, &[]);
    world.deliver(&[assignment("t1", "1.11.0", "")], &[]);
    world.pass(ms(3_000));
    assert_eq!(world.starts(), [""; 0]);
    world.ends("t1", "1.4.0", AttemptOutcome::Cancelled);
    world.pass(ms(1_000));
    assert_eq!(world.starts(), ["t1 1.11.0"]);
}

#[test]
fn another_table_has_no_claim_to_it_and_hears_nothing_of_it() {
    let mut world = starting_with(&[("t1", "1.4.0"), ("t2", "1.4.1")]);
    world.ends("t2", "1.4.1", AttemptOutcome::Succeeded);
    let number = world.registration().0;
    world.answer_registration(number, OTHER_TABLE, 3, &[]);
    assert_eq!(world.stops(), [("t1".to_owned(), ms(0))]);
    world.out.clear();
    world.ends("t1", "1.4.0", AttemptOutcome::Cancelled);
    let (number, registration) = world.registration();
    assert_eq!(registration.running, []);
    world.answer_registration(number, OTHER_TABLE, 4, &[]);
    assert_eq!(world.reports(), [""; 0]);
}

#[test]
fn one_that_is_to_leave_at_once_hands_it_back_first() {
    let mut world = starting_with(&[("t1", "1.4.0")]);
    world.happens(Input::Leave { wait: ms(0) });
    assert_eq!(world.stops(), [("t1".to_owned(), ms(10_000))]);
    world.ends("t1", "1.4.0", AttemptOutcome::Cancelled);
    assert!(!world.session.has_left());
    let number = world.registration().0;
    world.answer_registration(number, TABLE, 10, &[held("t1", "1.4.0")]);
    assert_eq!(world.reports(), ["t1 1.4.0 handback"]);
    world.reports_taken();
    assert!(world.session.has_left());

    let mut unanswered = starting_with(&[("t1", "1.4.0")]);
    unanswered.happens(Input::Leave { wait: ms(0) });
    unanswered.ends("t1", "1.4.0", AttemptOutcome::Cancelled);
    unanswered.pass(ms(20_000));
    assert!(unanswered.session.has_left());
}
