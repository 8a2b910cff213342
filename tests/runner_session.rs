//! The session's ownership laws as stories: what a runner may have, and when it has to let go.

#[path = "runner_session/inherited.rs"]
mod inherited;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore::model::*;
use longshore::runner::session::{Input, Output, Restored, Session, SessionConfig};

const TABLE: uuid::Uuid = uuid::Uuid::from_u128(1);
const OTHER_TABLE: uuid::Uuid = uuid::Uuid::from_u128(2);

struct World {
    session: Session,
    now: Duration,
    /// What was asked for since it was last looked at.
    out: Vec<Output>,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn held(id: &str, token: &str) -> Held {
    Held { id: Id::parse(id).expect("a name"), token: token.parse().expect("a token") }
}

fn offer() -> Offer {
    Offer {
        kinds: BTreeSet::from([Kind::Job]),
        queues: BTreeSet::new(),
        arch: "amd64".into(),
        os: "linux".into(),
        labels: Default::default(),
        taints: BTreeSet::from(["spot".into()]),
        group: None,
        resources: Some(Resources::new(4_000, 8 << 30)),
        slots: 3,
        open: false,
    }
}

fn assignment(id: &str, token: &str, more: &str) -> AssignmentMessage {
    AssignmentMessage {
        id: Id::parse(id).expect("a name"),
        kind: Kind::Job,
        queue: Id::parse("default").expect("a name"),
        attempt: 1,
        token: token.parse().expect("a token"),
        deadline: Duration::from_secs(30),
        task: format!(r#"{{"id":"{id}","tolerations":["spot"]{more}}}"#).into(),
    }
}

impl World {
    fn starting_with(restored: Restored) -> Self {
        let runner = Id::parse("r1").expect("a name");
        let config = SessionConfig::new(runner, "i1".into(), Arc::new(offer()));
        let mut world = World { session: Session::new(config, restored, ms(0)), now: ms(0), out: Vec::new() };
        world.happens(Input::Tick);
        world
    }

    /// Registered at time 0 with turn 10, a lease of 15 s and a heartbeat every 5 s.
    fn registered() -> Self {
        let mut world = Self::starting_with(Restored::default());
        let number = world.registration().0;
        world.answer_registration(number, TABLE, 10, &[]);
        world.out.clear();
        world
    }

    fn happens(&mut self, input: Input) {
        self.out.extend(self.session.on(self.now, input));
    }

    /// Lets time pass, waking the session whenever it asks.
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(wake) = self.session.next_wake().filter(|wake| *wake <= until) {
            self.now = self.now.max(wake);
            self.happens(Input::Tick);
        }
        self.now = until;
        self.happens(Input::Tick);
    }

    fn registration(&mut self) -> (u64, Registration) {
        self.try_registration().expect("it registers")
    }

    fn try_registration(&mut self) -> Option<(u64, Registration)> {
        self.out.iter().rev().find_map(|output| match output {
            Output::Register { number, registration } => Some((*number, registration.clone())),
            _ => None,
        })
    }

    fn answer_registration(&mut self, number: u64, table: uuid::Uuid, turn: u64, assignments: &[Held]) {
        self.happens(Input::Registered {
            number,
            registered: Registered {
                table,
                turn,
                lease: Duration::from_secs(15),
                heartbeat: Duration::from_secs(5),
                assignments: assignments.to_vec(),
            },
        });
    }

    fn heartbeats(&self) -> Vec<Heartbeat> {
        let beats = self.out.iter().filter_map(|output| match output {
            Output::Heartbeat(heartbeat) => Some(heartbeat.clone()),
            _ => None,
        });
        beats.collect()
    }

    fn answer_heartbeat(&mut self, number: u64) {
        self.happens(Input::HeartbeatAnswered(HeartbeatAnswer { number, ..HeartbeatAnswer::default() }));
    }

    fn deliver(&mut self, assignments: &[AssignmentMessage], stop: &[Held]) {
        let stop = stop.iter().map(|held| StopOrder {
            id: held.id.clone(),
            token: held.token,
            reason: "asked".into(),
        });
        let delivery = Delivery { assignments: assignments.to_vec(), stop: stop.collect() };
        self.happens(Input::Delivered(delivery));
    }

    fn run(&mut self, id: &str, token: &str) {
        self.deliver(&[assignment(id, token, "")], &[]);
        self.happens(Input::Started(held(id, token)));
    }

    fn ends(&mut self, id: &str, token: &str, outcome: AttemptOutcome) {
        let end = End { outcome, exit_code: Some(0), message: None, artifacts: Vec::new() };
        self.happens(Input::Ended { held: held(id, token), end });
    }

    fn starts(&self) -> Vec<String> {
        let starts = self.out.iter().filter_map(|output| match output {
            Output::Start { assignment, .. } => Some(format!("{} {}", assignment.id, assignment.token)),
            _ => None,
        });
        starts.collect()
    }

    fn stops(&self) -> Vec<(String, Duration)> {
        let stops = self.out.iter().filter_map(|output| match output {
            Output::Stop { held, grace, .. } => Some((held.id.to_string(), *grace)),
            _ => None,
        });
        stops.collect()
    }

    /// Reports as `id token what`.
    fn reports(&self) -> Vec<String> {
        let reports = self.out.iter().filter_map(|output| match output {
            Output::Report { report, .. } => Some(match &report.what {
                Reported::Start => format!("{} {} start", report.id, report.token),
                Reported::End(end) => format!("{} {} {}", report.id, report.token, end.outcome.as_str()),
            }),
            _ => None,
        });
        reports.collect()
    }

    fn last_message(&self) -> String {
        let message = self.out.iter().rev().find_map(|output| match output {
            Output::Report { report: Report { what: Reported::End(end), .. }, .. } => end.message.clone(),
            _ => None,
        });
        message.expect("an end with a message").to_string()
    }

    fn reports_taken(&mut self) {
        self.happens(Input::ReportsTaken { through: 1_000 });
    }
}

#[test]
fn an_assignment_delivered_twice_is_started_once() {
    let mut world = World::registered();
    world.deliver(&[assignment("t1", "1.10.0", "")], &[]);
    world.deliver(&[assignment("t1", "1.10.0", "")], &[]);
    world.happens(Input::Started(held("t1", "1.10.0")));
    world.ends("t1", "1.10.0", AttemptOutcome::Succeeded);
    world.deliver(&[assignment("t1", "1.10.0", "")], &[]);
    world.reports_taken();
    world.pass(ms(3_000));
    world.deliver(&[assignment("t1", "1.10.0", "")], &[]);
    assert_eq!(world.starts(), ["t1 1.10.0"]);
    assert_eq!(world.reports(), ["t1 1.10.0 start", "t1 1.10.0 succeeded"]);
}

#[test]
fn a_runner_cut_off_has_ended_its_work_before_its_lease_is_over() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.pass(ms(13_900));
    assert!(world.stops().is_empty());
    world.pass(ms(100));
    assert_eq!(world.stops(), [("t1".to_owned(), ms(0))], "one second before the lease ends, without grace");
    world.deliver(&[assignment("t2", "1.11.0", "")], &[]);
    assert_eq!(world.starts(), ["t1 1.10.0"], "it takes nothing before it has registered");

    let before = world.out.len();
    world.pass(ms(60_000));
    assert!(!world.out[before..].iter().any(|output| matches!(output, Output::Register { .. })));
    world.ends("t1", "1.10.0", AttemptOutcome::Cancelled);
    assert!(world.reports().contains(&"t1 1.10.0 handback".to_owned()));
    let (number, registration) = world.registration();
    assert_eq!(registration.running, [held("t1", "1.10.0")], "listed until its end was taken");
    world.answer_registration(number, TABLE, 20, &[]);
    world.deliver(&[assignment("t2", "1.11.0", ""), assignment("t3", "1.20.0", "")], &[]);
    assert_eq!(world.starts(), ["t1 1.10.0", "t3 1.20.0"]);
    assert!(world.last_message().contains("older than turn 20"));
}

#[test]
fn a_lease_runs_from_when_the_answered_heartbeat_was_sent() {
    let mut world = World::registered();
    world.pass(ms(5_000));
    let number = world.heartbeats()[0].number;
    world.pass(ms(4_000));
    world.answer_heartbeat(number);
    assert_eq!(world.session.lease_until(), Some(ms(20_000)), "sent at 5 s, not answered at 9 s");
    world.answer_heartbeat(number);
    world.answer_heartbeat(99);
    assert_eq!(world.session.lease_until(), Some(ms(20_000)));
}

#[test]
fn an_answer_that_comes_after_the_lease_revives_nothing() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.pass(ms(5_000));
    let number = world.heartbeats()[0].number;
    // Suspended: no tick in between.
    world.now = ms(16_000);
    world.answer_heartbeat(number);
    assert_eq!(world.session.lease_until(), None);
    assert_eq!(world.stops().len(), 1);
}

#[test]
fn a_stop_that_overtakes_its_assignment_is_remembered() {
    let mut world = World::registered();
    world.deliver(&[], &[held("t1", "1.12.0")]);
    world.deliver(&[], &[held("t1", "1.12.0")]);
    assert_eq!(world.reports(), ["t1 1.12.0 handback"]);
    world.reports_taken();
    world.deliver(&[assignment("t1", "1.12.0", "")], &[]);
    assert!(world.starts().is_empty());
    assert_eq!(world.reports(), ["t1 1.12.0 handback", "t1 1.12.0 refused"]);
    // Even a registration's answer that still lists it does not bring it back.
    world.happens(Input::Unknown);
    let number = world.registration().0;
    world.answer_registration(number, TABLE, 13, &[held("t1", "1.12.0")]);
    world.deliver(&[assignment("t1", "1.12.0", "")], &[]);
    assert!(world.starts().is_empty());
}

#[test]
fn the_same_task_asked_for_again_is_the_same_attempt_and_a_cancelled_one_is_stopped() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.deliver(&[assignment("t1", "1.10.0", "")], &[held("t1", "1.10.0")]);
    assert_eq!(world.stops(), [("t1".to_owned(), ms(10_000))]);
    world.ends("t1", "1.10.0", AttemptOutcome::Cancelled);
    world.deliver(&[assignment("t2", "1.11.0", "")], &[]);
    assert_eq!(world.starts(), ["t1 1.10.0", "t2 1.11.0"]);
    assert_eq!(world.reports(), ["t1 1.10.0 start", "t1 1.10.0 cancelled"]);
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let mut world = World::registered();
    let mut refused = |assignment: AssignmentMessage| {
        world.deliver(&[assignment], &[]);
        assert!(world.starts().is_empty());
        world.last_message()
    };
    let cpu = refused(assignment("a", "1.10.0", r#","resources":{"cpu":5}"#));
    assert_eq!(cpu, "needs cpu 5; 4 of 4 is free");
    let arch = refused(assignment("b", "1.10.1", r#","arch":"arm64""#));
    assert_eq!(arch, "needs arch arm64; this runner has amd64");
    let kind = refused(AssignmentMessage { kind: Kind::Build, ..assignment("c", "1.10.2", "") });
    assert_eq!(kind, "is a build; this runner takes job");
    let taint = refused(AssignmentMessage { task: "{}".into(), ..assignment("d", "1.10.3", "") });
    assert_eq!(taint, "does not tolerate taint spot of this runner");
    let unreadable = refused(AssignmentMessage { task: "\"x\"".into(), ..assignment("e", "1.10.4", "") });
    assert!(unreadable.contains("is not a JSON object"));
    world.reports_taken();
    world.deliver(&[assignment("a", "1.10.0", "")], &[]);
    assert!(world.starts().is_empty(), "a token that was refused stays refused");

    for (index, id) in ["f", "g", "h", "i"].into_iter().enumerate() {
        world.deliver(&[assignment(id, &format!("1.11.{index}"), "")], &[]);
    }
    assert_eq!(world.starts().len(), 3);
    assert_eq!(world.last_message(), "needs a slot; 3 of 3 are taken");
}

#[test]
fn the_same_task_starts_again_only_after_the_minimum_retry_period() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    // The next attempt is here before the last one has ended: never side by side.
    world.deliver(&[assignment("t1", "1.11.0", "")], &[held("t1", "1.10.0")]);
    assert_eq!(world.starts(), ["t1 1.10.0"]);
    world.ends("t1", "1.10.0", AttemptOutcome::Failed);
    world.pass(ms(999));
    assert_eq!(world.starts(), ["t1 1.10.0"]);
    world.pass(ms(1));
    assert_eq!(world.starts(), ["t1 1.10.0", "t1 1.11.0"]);
}

#[test]
fn an_answer_that_cannot_be_had_says_nothing_about_what_is_pending() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    // No delivery, no heartbeat answer, failed registrations: none of them ends or starts anything.
    world.happens(Input::Unknown);
    let number = world.registration().0;
    world.happens(Input::RegistrationFailed { number });
    world.pass(ms(5_000));
    assert!(world.stops().is_empty());
    assert_eq!(world.session.held().count(), 1);
}

#[test]
fn finished_work_is_listed_until_its_report_was_taken() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.ends("t1", "1.10.0", AttemptOutcome::Succeeded);
    world.pass(ms(5_000));
    assert_eq!(world.heartbeats()[0].running, [held("t1", "1.10.0")]);
    world.reports_taken();
    assert!(world.out.iter().any(|output| matches!(output, Output::Forget { .. })));
    world.pass(ms(5_000));
    assert!(world.heartbeats()[1].running.is_empty());
}

#[test]
fn asked_to_register_again_it_keeps_its_work_and_ends_what_is_not_counted_as_its_own() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.run("t2", "1.10.1");
    world.pass(ms(5_000));
    let number = world.heartbeats()[0].number;
    let answer = HeartbeatAnswer { number, register: true, ..HeartbeatAnswer::default() };
    world.happens(Input::HeartbeatAnswered(answer));
    let (number, registration) = world.registration();
    assert_eq!(registration.running.len(), 2);
    world.answer_registration(number, TABLE, 20, &[held("t1", "1.10.0")]);
    assert_eq!(world.stops(), [("t2".to_owned(), ms(0))]);
}

#[test]
fn told_to_leave_it_lets_what_runs_end_and_leaves_by_itself() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.pass(ms(5_000));
    let number = world.heartbeats()[0].number;
    let answer = HeartbeatAnswer { number, leave: true, ..HeartbeatAnswer::default() };
    world.happens(Input::HeartbeatAnswered(answer));
    assert!(!world.session.takes_work());
    assert!(world.stops().is_empty(), "what it was given all the same runs on");
    world.ends("t1", "1.10.0", AttemptOutcome::Succeeded);
    world.happens(Input::ReportsTaken { through: u64::MAX - 1 });
    assert!(world.session.has_left());
    assert!(world.out.iter().any(|output| matches!(output, Output::Leave(_))));
}

#[test]
fn with_another_table_all_work_ends_and_nothing_of_it_is_said() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.run("t2", "1.10.1");
    world.ends("t2", "1.10.1", AttemptOutcome::Succeeded);
    world.happens(Input::Unknown);
    let number = world.registration().0;
    world.out.clear();
    world.answer_registration(number, OTHER_TABLE, 3, &[]);
    assert_eq!(world.stops(), [("t1".to_owned(), ms(0))]);
    assert!(world.out.iter().any(|output| matches!(output, Output::Forget { through: 3 })));
    assert!(!world.session.takes_work());
    world.ends("t1", "1.10.0", AttemptOutcome::Cancelled);
    assert!(world.reports().is_empty());
    let (number, registration) = world.registration();
    assert!(registration.running.is_empty());
    world.answer_registration(number, OTHER_TABLE, 4, &[]);
    world.pass(ms(1_000));
    world.deliver(&[assignment("t1", "1.10.0", "")], &[]);
    assert_eq!(world.starts(), ["t1 1.10.0"], "the token of another table is another token");
}

#[test]
fn what_an_earlier_start_left_unsaid_is_said_before_it_registers() {
    let report = Report {
        runner: Id::parse("r1").expect("a name"),
        incarnation: "i0".into(),
        kind: Kind::Job,
        id: Id::parse("t1").expect("a name"),
        token: "1.4.0".parse().expect("a token"),
        what: Reported::End(End {
            outcome: AttemptOutcome::Succeeded,
            exit_code: Some(0),
            message: None,
            artifacts: Vec::new(),
        }),
    };
    let seen = LastSeen { table: TABLE, turn: 4 };
    let restored = Restored { reports: vec![(7, report)], last_seen: Some(seen), ..Restored::default() };
    let mut world = World::starting_with(restored);
    assert_eq!(world.reports(), ["t1 1.4.0 succeeded"]);
    assert!(world.try_registration().is_none());
    world.happens(Input::ReportsTaken { through: 7 });
    let (_, registration) = world.registration();
    assert_eq!((registration.running, registration.last_seen), (Vec::new(), Some(seen)));
}

#[test]
fn leaving_hands_back_what_is_not_started_stops_the_rest_and_says_farewell_last() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.run("t2", "1.10.1");
    world.deliver(&[assignment("t2", "1.11.0", "")], &[]);
    world.happens(Input::Leave { wait: ms(1_000) });
    assert!(world.reports().contains(&"t2 1.11.0 handback".to_owned()));
    assert!(world.stops().is_empty());
    world.deliver(&[assignment("t3", "1.12.0", "")], &[]);
    assert!(world.reports().contains(&"t3 1.12.0 handback".to_owned()));
    world.ends("t2", "1.10.1", AttemptOutcome::Succeeded);
    world.pass(ms(1_000));
    assert_eq!(world.stops(), [("t1".to_owned(), ms(10_000))]);
    world.ends("t1", "1.10.0", AttemptOutcome::Cancelled);
    assert!(world.reports().contains(&"t1 1.10.0 handback".to_owned()));
    assert!(!world.session.has_left());
    world.reports_taken();
    assert!(world.session.has_left());
    let last = world.out.last().expect("something was asked for");
    assert!(matches!(last, Output::Leave(leave) if leave.handback.is_empty()), "{last:?}");
    assert_eq!(world.session.next_wake(), None);
}

#[test]
fn a_leaving_runner_nobody_answers_leaves_all_the_same() {
    let mut world = World::registered();
    world.run("t1", "1.10.0");
    world.happens(Input::Leave { wait: ms(0) });
    world.ends("t1", "1.10.0", AttemptOutcome::Cancelled);
    world.pass(ms(60_000));
    assert!(world.session.has_left());
    assert!(matches!(world.out.last(), Some(Output::Leave(leave)) if leave.handback.len() == 1));
}

#[test]
fn remembered_tokens_are_bounded_and_what_is_forgotten_is_still_refused() {
    let runner = Id::parse("r1").expect("a name");
    let mut config = SessionConfig::new(runner, "i1".into(), Arc::new(offer()));
    config.tokens_remembered = 2;
    let mut world = World::registered();
    world.session = Session::new(config, Restored::default(), ms(0));
    world.happens(Input::Tick);
    let number = world.registration().0;
    world.answer_registration(number, TABLE, 10, &[]);
    for turn in 11..15 {
        world.deliver(&[], &[held("t1", &format!("1.{turn}.0"))]);
    }
    world.reports_taken();
    for turn in 11..15 {
        world.deliver(&[assignment("t1", &format!("1.{turn}.0"), "")], &[]);
    }
    assert!(world.starts().is_empty());
    world.deliver(&[assignment("t1", "1.15.0", "")], &[]);
    assert_eq!(world.starts(), ["t1 1.15.0"]);
}
