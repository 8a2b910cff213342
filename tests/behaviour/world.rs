//! The world of the stories: a leader's state, a follower's beside it, a clock moved by hand, and words to say
//! what happens. After every turn the rows and indexes are checked, and the follower must hold the same rows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use longshore::core::input::{Answer, Arrived, Command, Commanded, Input, Submitted, Ticket};
use longshore::core::{self, Effect, Settings, State, TurnBudget, Waiting, explain, invariant};
use longshore::model::*;
use longshore::ports::Load;
use longshore::runtime::Replica;
use uuid::Uuid;

pub use super::words::{RunnerBuilder, TaskBuilder, artifact, build, id, runner, secs, task};

pub struct World {
    pub state: State,
    pub follower: State,
    pub facts: Vec<Fact>,
    waiting: Waiting,
    /// Reports that have arrived and were not read yet: read before a mark comes back.
    on_their_way: VecDeque<Report>,
    marks: VecDeque<u64>,
    answers: Vec<(Ticket, Answer)>,
    tickets: u64,
    pub now: Time,
    pub budget: TurnBudget,
    pub delivered: Vec<RunnerId>,
    counter: u64,
}

impl World {
    /// A fleet that has settled: whoever never fits on it is told so.
    pub fn with_runners(runners: impl IntoIterator<Item = RunnerBuilder>) -> Self {
        Self::with(Settings::default(), runners)
    }

    pub fn with(settings: Settings, runners: impl IntoIterator<Item = RunnerBuilder>) -> Self {
        let mut world = Self::empty(settings);
        for runner in runners {
            world.register(runner);
        }
        world
    }

    /// A leader of a new table, and nobody else.
    pub fn empty(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let table = Uuid::from_u128(7);
        let mut state = State::new(settings.clone(), table);
        let now = Time(1_800_000_000_000);
        state.take_over(now);
        Self {
            state,
            follower: State::new(settings, table),
            facts: Vec::new(),
            waiting: Waiting::default(),
            on_their_way: VecDeque::new(),
            marks: VecDeque::new(),
            answers: Vec::new(),
            tickets: 0,
            now,
            budget: TurnBudget { rows: 10_000, bytes: 64 << 20 },
            delivered: Vec::new(),
            counter: 0,
        }
    }

    /// How many inputs there were.
    pub fn tickets(&self) -> u64 {
        self.tickets
    }

    pub fn push(&mut self, input: Input) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.push(Arrived { ticket, input });
        ticket
    }

    /// Takes one turn and checks everything.
    pub fn turn(&mut self) -> core::Turn {
        self.counter += 1;
        let turn_id = TurnId { leader: Uuid::from_u128(9), counter: self.counter };
        let turn = core::take_turn(&mut self.state, &mut self.waiting, turn_id, self.now, self.budget);
        let record = TurnRecord {
            format: 2,
            number: self.state.turn(),
            id: turn_id,
            epoch: self.state.epoch(),
            at: self.state.now(),
            released: false,
            changes: turn.changes.clone(),
            facts: turn.facts.clone(),
        };
        self.follower.apply(&record);
        assert_eq!(self.follower.rows(), self.state.rows(), "a follower holds the same rows");
        assert_eq!(invariant::check(&self.state), Vec::<String>::new());
        self.facts.extend(turn.facts.iter().cloned());
        for effect in &turn.effects {
            match effect {
                Effect::Answer { to, answer } => self.answers.push((*to, answer.clone())),
                Effect::Deliver { runner } => self.delivered.push(runner.clone()),
                Effect::ReadReports { mark } => self.marks.push_back(*mark),
            }
        }
        turn
    }

    /// Takes turns until nothing is left to do at this moment. Reports on their way are read before any mark.
    pub fn settle(&mut self) {
        loop {
            let turn = self.turn();
            if let Some(mark) = self.marks.pop_front() {
                while let Some(report) = self.on_their_way.pop_front() {
                    self.push(Input::Report(report));
                }
                self.push(Input::ReportsRead { mark });
            } else if !turn.more && self.waiting.is_empty() {
                break;
            }
        }
        let found = self.facts.iter().find(|fact| matches!(fact, Fact::SweepFound { .. }));
        assert_eq!(found, None, "only the sweep found a task placeable");
    }

    pub fn tell(&mut self, input: Input) -> Answer {
        let ticket = self.push(input);
        self.settle();
        self.answered(ticket).expect("every input is answered")
    }

    /// What an input was answered by now, if it was.
    pub fn answered(&mut self, ticket: Ticket) -> Option<Answer> {
        let place = self.answers.iter().position(|(to, _)| *to == ticket)?;
        Some(self.answers.remove(place).1)
    }

    pub fn submit(&mut self, task: TaskBuilder) -> Submitted {
        let task = Arc::new(task.0);
        match self.tell(Input::Submit { task, sequence: self.tickets }) {
            Answer::Submitted(submitted) => submitted,
            other => panic!("a submission was answered {other:?}"),
        }
    }

    /// Submits several tasks in one turn.
    pub fn submit_all(&mut self, tasks: impl IntoIterator<Item = TaskBuilder>) {
        for task in tasks {
            let sequence = self.tickets;
            self.push(Input::Submit { task: Arc::new(task.0), sequence });
        }
        self.settle();
    }

    pub fn register(&mut self, runner: RunnerBuilder) -> Registered {
        match self.tell(Input::Register(runner.0)) {
            Answer::Registered(registered) => registered,
            other => panic!("a registration was answered {other:?}"),
        }
    }

    pub fn command(&mut self, command: Command) -> Commanded {
        match self.tell(Input::Command(command)) {
            Answer::Commanded(commanded) => commanded,
            other => panic!("a command was answered {other:?}"),
        }
    }

    pub fn cancel(&mut self, name: &str) -> Commanded {
        let sequence = self.tickets;
        self.command(Command::Cancel { id: id(name), reason: "somebody asked".into(), sequence })
    }

    pub fn hold(&mut self, runner: &str) {
        self.command(Command::HoldRunner { runner: id(runner), reason: "maintenance".into() });
    }

    pub fn drain(&mut self, runner: &str) {
        self.command(Command::DrainRunner { runner: id(runner) });
    }

    pub fn resume(&mut self, runner: &str) {
        self.command(Command::ResumeRunner { runner: id(runner) });
    }

    pub fn leave(&mut self, runner: &str, handback: &[&str]) {
        let incarnation = self.state.runner(&id(runner)).expect("a runner").incarnation.clone();
        let handback = handback.iter().map(|name| id(name)).collect();
        self.tell(Input::Leave(Leave { runner: id(runner), incarnation, handback }));
    }

    /// A heartbeat that lists `held`.
    pub fn beat(&mut self, runner: &str, held: &[Held]) -> HeartbeatAnswer {
        let incarnation =
            self.state.runner(&id(runner)).map_or("first".into(), |row| row.incarnation.clone());
        let number = self.tickets + 1;
        let beat =
            Heartbeat { runner: id(runner), incarnation, number, running: held.to_vec(), artifacts: None };
        match self.tell(Input::Heartbeat(beat)) {
            Answer::Heartbeat(answer) => answer,
            other => panic!("a heartbeat was answered {other:?}"),
        }
    }

    /// A heartbeat that lists what the runner has and says how its artifacts changed.
    pub fn news(&mut self, runner: &str, number: u64, added: &[&str], removed: &[&str]) -> HeartbeatAnswer {
        let incarnation =
            self.state.runner(&id(runner)).map_or("first".into(), |row| row.incarnation.clone());
        let names = |names: &[&str]| names.iter().map(|name| artifact(name)).collect();
        let artifacts = Some(ArtifactNews { number, added: names(added), removed: names(removed) });
        let running = self.held_by(runner);
        let beat =
            Heartbeat { runner: id(runner), incarnation, number: self.tickets + 1, running, artifacts };
        match self.tell(Input::Heartbeat(beat)) {
            Answer::Heartbeat(answer) => answer,
            other => panic!("a heartbeat was answered {other:?}"),
        }
    }

    /// The ready runners that hold an artifact.
    pub fn holders(&self, artifact: &str) -> Vec<String> {
        self.state.ready_holders(artifact).map(|runner| runner.to_string()).collect()
    }

    /// What `runner` has by our rows.
    pub fn held_by(&self, runner: &str) -> Vec<Held> {
        let seat = self.state.fleet().get(&id(runner)).expect("a runner");
        seat.tasks.values().map(|task| self.held(task.id.as_str())).collect()
    }

    /// A task under the token it is assigned with.
    pub fn held(&self, name: &str) -> Held {
        Held { id: id(name), token: self.assignment(name).token }
    }

    pub fn assignment(&self, name: &str) -> Assignment {
        let task = self.row(name);
        task.assignment().unwrap_or_else(|| panic!("{name} is {}", task.state_word())).clone()
    }

    pub fn row(&self, name: &str) -> Arc<Task> {
        self.state.task(name).unwrap_or_else(|| panic!("{name} is not known")).clone()
    }

    pub fn start_report(&self, name: &str) -> Report {
        self.report_of(name, Reported::Start)
    }

    pub fn end_report(&self, name: &str, outcome: AttemptOutcome) -> Report {
        let exit_code = match outcome {
            AttemptOutcome::Succeeded => Some(0),
            AttemptOutcome::Failed => Some(1),
            _ => None,
        };
        self.report_of(name, Reported::End(End { outcome, exit_code, message: None, artifacts: Vec::new() }))
    }

    fn report_of(&self, name: &str, what: Reported) -> Report {
        let held = self.assignment(name);
        Report {
            runner: held.runner,
            incarnation: held.incarnation,
            kind: self.row(name).kind(),
            id: id(name),
            token: held.token,
            what,
        }
    }

    pub fn receive(&mut self, report: Report) {
        self.tell(Input::Report(report));
    }

    /// The report has arrived but was not read yet.
    pub fn on_its_way(&mut self, report: Report) {
        self.on_their_way.push_back(report);
    }

    pub fn start(&mut self, name: &str) {
        let report = self.start_report(name);
        self.receive(report);
    }

    pub fn end(&mut self, name: &str, outcome: AttemptOutcome) {
        let report = self.end_report(name, outcome);
        self.receive(report);
    }

    pub fn succeed(&mut self, name: &str) {
        self.end(name, AttemptOutcome::Succeeded);
    }

    pub fn fail(&mut self, name: &str) {
        self.end(name, AttemptOutcome::Failed);
    }

    /// Moves the clock, and does what is due on the way.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let due = self.state.next_due();
            self.now = if due > self.now && due < end { due } else { end };
            self.settle();
        }
    }

    /// Moves the clock while all runners but `silent` go on with their heartbeats.
    pub fn pass_alive(&mut self, span: Duration, silent: &[&str]) {
        let step = self.state.settings.heartbeat;
        let mut left = span;
        while !left.is_zero() {
            let now = left.min(step);
            self.pass(now);
            left -= now;
            let alive: Vec<String> = self
                .state
                .fleet()
                .seats()
                .filter(|seat| seat.runner.lost.is_none() && !silent.contains(&seat.runner.id.as_str()))
                .map(|seat| seat.runner.id.to_string())
                .collect();
            for runner in alive {
                let held = self.held_by(&runner);
                self.beat(&runner, &held);
            }
        }
    }

    /// Longer than the runner's lease and the margin, while the others go on.
    pub fn silence(&mut self, runner: &str) {
        let settings = self.state.settings.clone();
        self.pass_alive(settings.lease + settings.lease_margin + secs(1), &[runner]);
    }

    /// A new leader loads what the follower has and takes over.
    pub fn take_over(&mut self) {
        let head = Head {
            number: self.follower.turn(),
            id: TurnId { leader: Uuid::from_u128(9), counter: self.counter },
            epoch: 1,
            at: self.follower.now(),
            released: false,
        };
        let load = Load { table: self.state.table, head, rows: self.follower.rows() };
        let settings = self.state.settings.clone();
        let mut successor = Replica::new(Uuid::from_u128(10), settings, load);
        successor.lead(self.now);
        self.state = successor.state().clone();
        self.waiting = Waiting::default();
        self.marks.clear();
        self.settle();
    }

    pub fn where_is(&self, name: &str) -> String {
        let task = self.row(name);
        match (&task.state, task.assignment()) {
            (TaskState::Ended(ending), _) => ending.outcome.to_string(),
            (_, Some(held)) => held.runner.to_string(),
            _ => task.state_word().to_owned(),
        }
    }

    pub fn reason(&self, name: &str) -> String {
        let task = self.row(name);
        match &task.state {
            TaskState::Ended(ending) => ending.reason.as_deref().unwrap_or_default().to_owned(),
            TaskState::Pending { reason, .. } => reason.as_deref().unwrap_or_default().to_owned(),
            _ => String::new(),
        }
    }

    pub fn free_cpu(&self, runner: &str) -> u64 {
        let seat = self.state.fleet().get(&id(runner)).expect("a runner");
        let has = seat.runner.offer.resources.as_ref().expect("a divisible runner");
        has.left_after(&seat.held.resources).cpu / 1000
    }

    pub fn why(&self, name: &str) -> explain::Why {
        explain::why(&self.state, name).expect("a known task")
    }

    pub fn said(&self, wanted: impl Fn(&Fact) -> bool) -> usize {
        self.facts.iter().filter(|fact| wanted(fact)).count()
    }
}

impl World {
    /// Moves the clock while every runner's heartbeats list nothing it was not known to have confirmed.
    pub fn pass_alive_without_listing(&mut self, span: Duration) {
        let step = self.state.settings.heartbeat;
        let mut left = span;
        while !left.is_zero() {
            let now = left.min(step);
            self.pass(now);
            left -= now;
            let alive: Vec<String> =
                self.state.fleet().seats().map(|seat| seat.runner.id.to_string()).collect();
            for runner in alive {
                let held = self
                    .held_by(&runner)
                    .into_iter()
                    .filter(|held| self.assignment(held.id.as_str()).confirmed);
                let held: Vec<Held> = held.collect();
                self.beat(&runner, &held);
            }
        }
    }
}
