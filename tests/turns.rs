//! Turns as stories: what was found wrong once, told in a few inputs.

use std::sync::Arc;

use longshore::core::input::{Answer, Arrived, Input, Ticket};
use longshore::core::{Effect, Settings, State, Turn, TurnBudget, Waiting, invariant, take_turn};
use longshore::model::*;
use longshore::wire::submission::read_task;
use uuid::Uuid;

const ALL: TurnBudget = TurnBudget { rows: usize::MAX, bytes: usize::MAX };

struct World {
    state: State,
    now: u64,
}

fn name(text: &str) -> Id {
    Id::parse(text).expect("a name")
}

fn offer(slots: u32) -> Arc<Offer> {
    Arc::new(Offer {
        kinds: [Kind::Job].into(),
        queues: Default::default(),
        arch: "".into(),
        os: "".into(),
        labels: Default::default(),
        taints: Default::default(),
        group: None,
        resources: None,
        slots,
        open: false,
    })
}

impl World {
    fn new() -> Self {
        let mut state = State::new(Arc::new(Settings::default()), Uuid::from_u128(1));
        state.take_over(Time(1_000));
        Self { state, now: 1_000 }
    }

    fn turn(&mut self, budget: TurnBudget, inputs: impl IntoIterator<Item = Input>) -> Turn {
        let mut waiting = Waiting::default();
        for (ticket, input) in (0..).zip(inputs) {
            waiting.push(Arrived { ticket: Ticket(ticket), input });
        }
        let id = TurnId { leader: Uuid::nil(), counter: self.state.turn() + 1 };
        let turn = take_turn(&mut self.state, &mut waiting, id, Time(self.now), budget);
        assert_eq!(invariant::check(&self.state), Vec::<String>::new());
        if !turn.more {
            assert_eq!(invariant::missed(&self.state), 0, "planning again at once places nothing");
        }
        turn
    }

    fn register(&mut self, incarnation: &str, running: &[Held]) -> Answer {
        let registration = Registration {
            runner: name("r1"),
            incarnation: incarnation.into(),
            offer: offer(40),
            cost: 1.0,
            class: None,
            intent: None,
            running: running.to_vec(),
            artifacts: None,
            last_seen: None,
            version: "".into(),
        };
        let turn = self.turn(ALL, [Input::Register(registration)]);
        let answers = turn.effects.into_iter().filter_map(|effect| match effect {
            Effect::Answer { answer, .. } => Some(answer),
            _ => None,
        });
        answers.last().expect("an answer")
    }

    fn submit(&mut self, count: u64) {
        let inputs: Vec<Input> = (0..count)
            .map(|number| {
                let value = serde_json::json!({"id": format!("t{number}")});
                let task =
                    read_task(value.to_string().as_bytes(), Kind::Job, &self.state.settings).expect("a task");
                Input::Submit { task, sequence: number }
            })
            .collect();
        self.turn(ALL, inputs);
    }

    fn beat(&mut self, number: u64) {
        let beat = Heartbeat {
            runner: name("r1"),
            incarnation: "i1".into(),
            number,
            running: Vec::new(),
            artifacts: None,
        };
        let turn = self.turn(ALL, [Input::Heartbeat(beat)]);
        self.read_marks(&turn);
    }

    fn read_marks(&mut self, turn: &Turn) {
        let marks: Vec<Input> = turn
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::ReadReports { mark } => Some(Input::ReportsRead { mark: *mark }),
                _ => None,
            })
            .collect();
        self.turn(ALL, marks);
    }

    fn start(&mut self, id: &str) {
        let token = self.state.task(id).and_then(|task| task.assignment()).expect("it is assigned").token;
        let report = Report {
            runner: name("r1"),
            incarnation: "i1".into(),
            kind: Kind::Job,
            id: name(id),
            token,
            what: Reported::Start,
        };
        self.turn(ALL, [Input::Report(report)]);
    }
}

#[test]
fn what_a_runner_holds_is_counted_whatever_the_order_of_rows() {
    let mut world = World::new();
    world.register("i1", &[]);
    world.submit(3);
    let head = Head { number: 9, ..Head::empty() };
    let mut rows = world.state.rows();
    for _ in 0..2 {
        let loaded = State::load(world.state.settings.clone(), world.state.table, head, rows.clone());
        assert_eq!(loaded.fleet().get(&name("r1")).expect("a seat").held.slots, 3);
        rows.reverse();
    }
}

#[test]
fn a_registration_that_comes_after_its_successors_takes_nothing() {
    let mut world = World::new();
    world.register("i2", &[]);
    world.submit(1);
    assert!(matches!(world.register("i1", &[]), Answer::RegistrationRefused { .. }));
    assert_eq!(&*world.state.runner(&name("r1")).expect("a row").incarnation, "i2");
}

#[test]
fn heartbeats_that_are_late_or_doubled_do_not_lose_a_task() {
    let mut world = World::new();
    world.register("i1", &[]);
    world.submit(1);
    world.start("t0");
    world.beat(1);
    world.beat(2);
    assert_eq!(
        world.state.task("t0").expect("a task").state_word(),
        "running",
        "they were sent before it came"
    );
    world.now += 20_000;
    for _ in 0..4 {
        world.beat(3);
    }
    assert_eq!(world.state.task("t0").expect("a task").state_word(), "running", "one heartbeat counts once");
    world.beat(4);
    assert_eq!(world.state.task("t0").expect("a task").spent, 1, "two that leave it out mean it is lost");
}

#[test]
fn a_runner_that_left_with_much_work_is_worked_off_over_several_turns() {
    let mut world = World::new();
    world.register("i1", &[]);
    world.submit(40);
    let leave = Leave { runner: name("r1"), incarnation: "i1".into(), handback: Vec::new() };
    let turn = world.turn(ALL, [Input::Leave(leave)]);
    let Some(Effect::ReadReports { mark }) =
        turn.effects.iter().find(|effect| matches!(effect, Effect::ReadReports { .. }))
    else {
        panic!("the reports are read first")
    };
    let few = TurnBudget { rows: 8, bytes: usize::MAX };
    let mut turn = world.turn(few, [Input::ReportsRead { mark: *mark }]);
    let mut turns = 1;
    while turn.more {
        assert!(turn.changes.len() <= 12, "{} rows in one turn", turn.changes.len());
        turn = world.turn(few, []);
        turns += 1;
    }
    assert!(turns >= 5);
    assert!(world.state.runner(&name("r1")).is_none());
    assert_eq!(world.state.counts().assigned, 0);
}

#[test]
fn submissions_that_find_no_room_do_not_make_a_turn_too_large() {
    let settings = Settings { window: 10, ..Settings::default() };
    let mut state = State::new(Arc::new(settings), Uuid::from_u128(1));
    state.take_over(Time(1_000));
    let mut waiting = Waiting::default();
    for number in 0..2_000 {
        let value = serde_json::json!({"id": format!("t{number}")});
        let task = read_task(value.to_string().as_bytes(), Kind::Job, &state.settings).expect("a task");
        waiting.push(Arrived { ticket: Ticket(number), input: Input::Submit { task, sequence: number } });
    }
    let budget = TurnBudget { rows: 1_000, bytes: 100 << 10 };
    let mut answered = 0;
    while !waiting.is_empty() {
        let id = TurnId { leader: Uuid::nil(), counter: state.turn() + 1 };
        let turn = take_turn(&mut state, &mut waiting, id, Time(1_000), budget);
        let said = serde_json::to_vec(&turn.facts).expect("facts").len();
        assert!(said <= budget.bytes, "{said} bytes of facts in one turn");
        answered += turn.effects.len();
    }
    assert_eq!(answered, 2_000);
}
