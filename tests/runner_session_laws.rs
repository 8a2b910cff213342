//! The session under any order of messages: doubled, late, lost, and with the lease running out in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore::model::*;
use longshore::runner::session::{Inherited, Input, Output, Restored, Session, SessionConfig};
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Deliver(u8, u8),
    Stop(u8, u8),
    /// The oldest attempt that is to end ends; `true`: any that runs ends by itself.
    End(bool),
    AnswerRegistration,
    AnswerHeartbeat,
    TakeReports,
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..4_000).prop_map(Step::Pass),
        (0u8..3, 0u8..6).prop_map(|(task, token)| Step::Deliver(task, token)),
        (0u8..3, 0u8..6).prop_map(|(task, token)| Step::Stop(task, token)),
        any::<bool>().prop_map(Step::End),
        Just(Step::AnswerRegistration),
        Just(Step::AnswerHeartbeat),
        Just(Step::TakeReports),
        Just(Step::Forget),
    ]
}

/// What the outside knows, kept apart from the session.
struct World {
    session: Session,
    now: Duration,
    turn: u64,
    running: BTreeMap<Held, Option<Duration>>,
    started: BTreeSet<Held>,
    stopped_before: BTreeSet<Held>,
    registration: Option<(u64, Duration)>,
    heartbeats: BTreeMap<u64, Duration>,
    /// By when everything running must have been told to end at once.
    lease_until: Option<Duration>,
    /// Whether a registration was answered.
    known: bool,
    reports: u64,
    ends: BTreeMap<Held, u32>,
}

fn held(task: u8, token: u8) -> Held {
    // Each token is of one task, in a turn of its own.
    let turn = u64::from(token) * 3 + u64::from(task) + 1;
    Held { id: Id::parse(&format!("t{task}")).expect("a name"), token: Token { epoch: 1, turn, index: 0 } }
}

impl World {
    /// A start that goes on with the first attempts of some tasks, which may run until `until`.
    fn new(inherited: u8, until: Duration) -> Self {
        let offer = Offer {
            kinds: BTreeSet::from([Kind::Job]),
            queues: BTreeSet::new(),
            arch: "".into(),
            os: "".into(),
            labels: BTreeMap::new(),
            taints: BTreeSet::new(),
            group: None,
            resources: Some(Resources::new(2_000, 1 << 30)),
            slots: 4,
            open: false,
        };
        let config = SessionConfig::new(Id::parse("r1").expect("a name"), "i".into(), Arc::new(offer));
        let running: Vec<Held> = (0..inherited).map(|task| held(task, 0)).collect();
        let of_before =
            |held: &Held| Inherited { held: held.clone(), kind: Kind::Job, order: Arc::default() };
        let restored = Restored {
            running: running.iter().map(of_before).collect(),
            running_until: until,
            ..Restored::default()
        };
        Self {
            session: Session::new(config, restored, Duration::ZERO),
            now: Duration::ZERO,
            turn: 0,
            running: running.iter().map(|held| (held.clone(), None)).collect(),
            started: running.into_iter().collect(),
            stopped_before: BTreeSet::new(),
            registration: None,
            heartbeats: BTreeMap::new(),
            lease_until: (inherited > 0).then_some(until),
            known: false,
            reports: 0,
            ends: BTreeMap::new(),
        }
    }

    fn happens(&mut self, input: Input) {
        for output in self.session.on(self.now, input) {
            match output {
                Output::Start { assignment, .. } => {
                    let held = Held { id: assignment.id, token: assignment.token };
                    assert!(self.started.insert(held.clone()), "started twice: {held:?}");
                    assert!(!self.stopped_before.contains(&held), "asked back before: {held:?}");
                    assert!(self.lease_until.is_some_and(|until| self.now < until), "no lease: {held:?}");
                    assert!(!self.running.keys().any(|other| other.id == held.id), "side by side: {held:?}");
                    self.running.insert(held, None);
                }
                Output::Stop { held, grace, .. } => {
                    let asked = self.running.get_mut(&held).expect("only what was started is stopped");
                    *asked = Some(asked.unwrap_or(Duration::MAX).min(self.now + grace));
                }
                Output::Register { number, .. } => {
                    let renews = self.session.work_until().is_some();
                    assert!(renews || self.running.is_empty(), "registers while old work runs");
                    self.registration = Some((number, self.now));
                }
                Output::Heartbeat(heartbeat) => {
                    assert!(self.running.keys().all(|held| heartbeat.running.contains(held)));
                    self.heartbeats.insert(heartbeat.number, self.now);
                }
                Output::Report { number, report } => {
                    let begun = self.started.contains(&Held { id: report.id.clone(), token: report.token });
                    assert!(self.known || !begun, "nobody takes reports of an incarnation not known yet");
                    assert_eq!(number, self.reports + 1, "reports are numbered without a gap");
                    self.reports = number;
                    if let Reported::End(_) = report.what {
                        *self.ends.entry(Held { id: report.id, token: report.token }).or_insert(0) += 1;
                    }
                }
                Output::Forget { .. } | Output::Seen(_) | Output::Leave(_) => {}
            }
        }
        // Nothing may run on past the lease that covered it.
        if let Some(until) = self.lease_until.filter(|until| self.now >= *until) {
            self.lease_until = None;
            // What was asked under it is not listened to any more.
            self.registration = self.registration.filter(|(_, sent)| *sent >= until);
            assert!(
                self.running.values().all(|asked| asked.is_some_and(|by| by <= self.now)),
                "at the lease's end something was not told to end at once: {:?}",
                self.running
            );
        }
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(wake) = self.session.next_wake().filter(|wake| *wake <= until) {
            let before = (self.now, self.session.next_wake());
            self.now = self.now.max(wake);
            self.happens(Input::Tick);
            assert_ne!(before, (self.now, self.session.next_wake()), "it wakes for nothing, for ever");
        }
        self.now = until;
        self.happens(Input::Tick);
    }

    fn end(&mut self, by_itself: bool) {
        let next = self.running.iter().find(|(_, asked)| by_itself || asked.is_some());
        let Some((held, asked)) = next.map(|(held, asked)| (held.clone(), *asked)) else { return };
        self.running.remove(&held);
        let outcome = if asked.is_some() { AttemptOutcome::Cancelled } else { AttemptOutcome::Succeeded };
        self.happens(Input::Ended {
            held: held.clone(),
            end: End { outcome, exit_code: None, message: None, artifacts: Vec::new() },
        });
        assert!(!self.known || self.ends.contains_key(&held), "an attempt that was started ends in a report");
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Pass(millis) => self.pass(Duration::from_millis(millis)),
            Step::Deliver(task, token) => {
                let held = held(task, token);
                self.turn = self.turn.max(held.token.turn);
                let assignment = AssignmentMessage {
                    task: format!(r#"{{"id":"{}","resources":{{"cpu":1}}}}"#, held.id).into(),
                    id: held.id,
                    kind: Kind::Job,
                    queue: Id::parse("q").expect("a name"),
                    attempt: 1,
                    token: held.token,
                    deadline: Duration::from_secs(30),
                };
                self.happens(Input::Delivered(Delivery { assignments: vec![assignment], stop: Vec::new() }));
            }
            Step::Stop(task, token) => {
                let held = held(task, token);
                if !self.started.contains(&held) {
                    self.stopped_before.insert(held.clone());
                }
                let stop = StopOrder { id: held.id, token: held.token, reason: "asked".into() };
                self.happens(Input::Delivered(Delivery { assignments: Vec::new(), stop: vec![stop] }));
            }
            Step::End(by_itself) => self.end(by_itself),
            Step::AnswerRegistration => {
                let Some((number, sent)) = self.registration.take() else { return };
                let assignments: Vec<Held> = self.running.keys().cloned().collect();
                let (turn, heartbeat) = (self.turn.min(6), Duration::from_secs(5));
                let table = uuid::Uuid::from_u128(1);
                let registered = Registered { table, turn, lease: LEASE, heartbeat, assignments };
                self.lease_until = self.lease_until.max(Some(sent + LEASE)).filter(|until| *until > self.now);
                self.known = true;
                self.happens(Input::Registered { number, registered });
            }
            Step::AnswerHeartbeat => {
                let Some((number, sent)) = self.heartbeats.pop_last() else { return };
                self.lease_until = self.lease_until.map(|until| until.max(sent + LEASE));
                self.happens(Input::HeartbeatAnswered(HeartbeatAnswer { number, ..Default::default() }));
            }
            Step::TakeReports => self.happens(Input::ReportsTaken { through: self.reports }),
            Step::Forget => self.happens(Input::Unknown),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_arrives_in_whatever_order_ownership_holds(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new(0, Duration::ZERO);
        world.happens(Input::Tick);
        world.take(Step::AnswerRegistration);
        for step in steps {
            world.take(step);
        }
    }

    #[test]
    fn and_so_it_does_for_a_start_that_goes_on_with_what_runs(
        inherited in 1u8..4,
        until in 0u64..20_000,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(inherited, Duration::from_millis(until));
        world.happens(Input::Tick);
        for step in steps {
            world.take(step);
        }
    }
}
