//! The dispatcher a runner talks to: it decides nothing, keeps what it was told, and answers as the story says.
//!
//! Law: in good weather it says only what a real dispatcher may say: what is unconfirmed is sent again, a stop is
//! asked for until it is answered, what a new incarnation does not list is given up. Doors carry its words and add
//! none.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::marks::time_of_day;
use super::watched::Watched;
use crate::model::{
    AssignmentMessage, AttemptOutcome, Delivery, End, Heartbeat, HeartbeatAnswer, Held, Leave, Registered,
    Registration, Report, Reported, RunnerId, StopOrder, Token,
};
use crate::wire::Malformed;
use crate::wire::message::{
    Said, read_heartbeat, read_leave, read_registration, read_reports, write_delivery,
    write_heartbeat_answer, write_registered,
};
use crate::wire::refusal::{MALFORMED, Refusal, UNKNOWN_RUNNER};
use crate::wire::subject::Ask;

/// What was sent is not sent again before.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How the dispatcher is to its runner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Weather {
    #[default]
    Fair,
    /// It says that it takes nothing now.
    Away,
    /// It hears and never answers.
    Silent,
    /// It will never take a registration.
    Refusing(Refusal),
}

/// What a runner said.
#[derive(Debug, Clone)]
pub enum Word {
    Registered(Registration),
    Beat(Heartbeat),
    Reported(Report),
    Left(Leave),
    Unreadable(String),
}

/// When it was heard, by the time of day, and whether it was answered.
#[derive(Debug, Clone)]
pub struct Heard {
    pub word: Word,
    pub at: Duration,
    pub taken: bool,
}

/// What a door is to say.
#[derive(Debug)]
pub enum Reply {
    Taken(Vec<u8>),
    Refused(Refusal),
    Away,
    Silence,
}

#[derive(Debug)]
struct Open {
    message: AssignmentMessage,
    sent: Option<Instant>,
    confirmed: bool,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    /// Reports alone are not taken.
    deaf_to_reports: bool,
    /// The next heartbeat is answered with `register`.
    asks_to_register: bool,
    /// Payloads carry fields nobody knows.
    adorned: bool,
    /// Payloads carry this `v`.
    version: Option<u64>,
    lease: Duration,
    turn: u64,
    registered: Option<Registration>,
    open: Vec<Open>,
    /// Sent once, whatever stands against it.
    extra: Vec<AssignmentMessage>,
    stops: Vec<(StopOrder, Option<Instant>)>,
    heard: Vec<Heard>,
}

/// A dispatcher with one runner; its clones are one.
#[derive(Debug, Clone)]
pub struct Dispatcher(Watched<State>);

impl Dispatcher {
    /// A dispatcher that grants leases of `lease`.
    pub fn new(lease: Duration) -> Self {
        let state = State {
            weather: Weather::Fair,
            deaf_to_reports: false,
            asks_to_register: false,
            adorned: false,
            version: None,
            lease,
            turn: 5,
            registered: None,
            open: Vec::new(),
            extra: Vec::new(),
            stops: Vec::new(),
            heard: Vec::new(),
        };
        Self(Watched::new(state))
    }

    // What a story does.

    /// Changes how it is to its runner.
    pub fn turns(&self, weather: Weather) {
        self.0.change(|state| state.weather = weather);
    }

    /// Takes no reports, or takes them again.
    pub fn hears_reports(&self, hears: bool) {
        self.0.change(|state| state.deaf_to_reports = !hears);
    }

    /// Asks with its next answer that the runner register again.
    pub fn asks_to_register(&self) {
        self.0.change(|state| state.asks_to_register = true);
    }

    /// From now on all payloads carry unknown fields.
    pub fn adorns(&self) {
        self.0.change(|state| state.adorned = true);
    }

    /// From now on all payloads say that they are of this version.
    pub fn speaks(&self, version: Option<u64>) {
        self.0.change(|state| state.version = version);
    }

    /// A token greater than all before.
    pub fn new_token(&self) -> Token {
        let mut state = self.0.state();
        state.turn += 1;
        Token { epoch: 1, turn: state.turn, index: 0 }
    }

    /// A token that is older than what the runner was answered when it registered.
    pub fn old_token(&self) -> Token {
        Token { epoch: 1, turn: 1, index: 0 }
    }

    /// Assigns it: sent until it is confirmed.
    pub fn assign(&self, message: AssignmentMessage) {
        self.0.change(|state| state.open.push(Open { message, sent: None, confirmed: false }));
    }

    /// Sends it once, though it is no assignment that stands.
    pub fn send_once(&self, message: AssignmentMessage) {
        self.0.change(|state| state.extra.push(message));
    }

    /// Takes an assignment back, as when its runner was lost.
    pub fn gives_up(&self, token: Token) {
        self.0.change(|state| state.open.retain(|open| open.message.token != token));
    }

    /// Asks for a stop until it is answered.
    pub fn stop(&self, held: &Held) {
        let order =
            StopOrder { id: held.id.clone(), token: held.token, reason: "the kit asks for it".into() };
        self.0.change(|state| state.stops.push((order, None)));
    }

    /// Looks at what it heard.
    pub fn heard<T>(&self, look: impl FnOnce(&[Heard]) -> T) -> T {
        look(&self.0.state().heard)
    }

    /// Whether the assignment under `token` has been sent.
    pub fn has_sent(&self, token: Token) -> bool {
        self.0.state().open.iter().any(|open| open.message.token == token && open.sent.is_some())
    }

    // What a door does.

    /// Wakes with every change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes()
    }

    /// How it is now.
    pub fn weather(&self) -> Weather {
        self.0.state().weather.clone()
    }

    /// Whether it takes reports at the moment.
    pub fn takes_reports(&self) -> bool {
        !self.0.state().deaf_to_reports
    }

    /// Answers a question of `runner`, which its address may name.
    pub fn answer(&self, ask: Ask, runner: Option<&RunnerId>, body: &[u8]) -> Reply {
        let word = match ask {
            Ask::Register => read_registration(body, runner).map(Word::Registered),
            Ask::Heartbeat => read_heartbeat(body, runner).map(Word::Beat),
            Ask::Leave => read_leave(body, runner).map(Word::Left),
        };
        self.0.change(|state| state.answer(word))
    }

    /// Takes in a pack of reports.
    pub fn report(&self, said: Said<'_>, body: &[u8]) -> Reply {
        self.0.change(|state| state.report(read_reports(body, said)))
    }

    /// What is to be sent now, if anything.
    pub fn delivery(&self) -> Option<Vec<u8>> {
        self.0.state().delivery()
    }

    /// Whether the runner has registered here.
    pub fn knows_its_runner(&self) -> bool {
        self.0.state().registered.is_some()
    }
}

impl State {
    fn hear(&mut self, word: Word, taken: bool) {
        self.heard.push(Heard { word, at: time_of_day(), taken });
    }

    fn answer(&mut self, word: Result<Word, Malformed>) -> Reply {
        let word = match word {
            Ok(word) => word,
            Err(why) => return self.refuse(&why),
        };
        let reply = match (&self.weather, &word) {
            (Weather::Away, _) => Reply::Away,
            (Weather::Silent, _) => Reply::Silence,
            (Weather::Refusing(why), Word::Registered(_)) => Reply::Refused(why.clone()),
            (_, Word::Registered(registration)) => {
                let registration = registration.clone();
                Reply::Taken(self.register(registration))
            }
            (_, Word::Beat(beat)) => {
                let beat = beat.clone();
                self.beat(&beat)
            }
            _ => Reply::Taken(self.payload(b"{}".to_vec())),
        };
        self.hear(word, matches!(reply, Reply::Taken(_)));
        reply
    }

    fn refuse(&mut self, why: &Malformed) -> Reply {
        self.hear(Word::Unreadable(why.to_string()), false);
        Reply::Refused(Refusal::new(MALFORMED, why.to_string()))
    }

    fn register(&mut self, registration: Registration) -> Vec<u8> {
        let same =
            self.registered.as_ref().is_some_and(|before| before.incarnation == registration.incarnation);
        if !same {
            let listed = |open: &Open| registration.running.contains(&held(&open.message));
            self.open.retain(listed);
        }
        self.confirm(&registration.running);
        self.turn += 1;
        let registered = Registered {
            table: uuid::Uuid::from_u128(1),
            turn: self.turn,
            lease: self.lease,
            heartbeat: self.lease / 5,
            assignments: self.open.iter().map(|open| held(&open.message)).collect(),
        };
        self.registered = Some(registration);
        self.payload(write_registered(&registered))
    }

    fn beat(&mut self, beat: &Heartbeat) -> Reply {
        let known = self.registered.as_ref().map(|known| known.incarnation.clone());
        let Some(known) = known else {
            return Reply::Refused(Refusal::new(UNKNOWN_RUNNER, "it has not registered here: register"));
        };
        let register = std::mem::take(&mut self.asks_to_register) || known != beat.incarnation;
        self.confirm(&beat.running);
        let answer = HeartbeatAnswer {
            number: beat.number,
            artifacts: beat.artifacts.as_ref().map(|news| news.number),
            stop: self.stops.iter().map(|(order, _)| order.clone()).collect(),
            register,
            leave: false,
        };
        Reply::Taken(self.payload(write_heartbeat_answer(&answer)))
    }

    fn confirm(&mut self, running: &[Held]) {
        for open in &mut self.open {
            open.confirmed |= running.contains(&held(&open.message));
        }
    }

    fn report(&mut self, reports: Result<Vec<Report>, Malformed>) -> Reply {
        let reports = match reports {
            Ok(reports) => reports,
            Err(why) => return self.refuse(&why),
        };
        let reply = match self.weather {
            Weather::Away => Reply::Away,
            Weather::Silent => Reply::Silence,
            _ if self.deaf_to_reports => Reply::Away,
            _ => Reply::Taken(self.payload(format!("{{\"taken\":{}}}", reports.len()).into_bytes())),
        };
        let taken = matches!(reply, Reply::Taken(_));
        for report in reports {
            if taken {
                self.take(&report);
            }
            self.hear(Word::Reported(report), taken);
        }
        reply
    }

    fn take(&mut self, report: &Report) {
        match report.what {
            Reported::Start => self.confirm(&[Held { id: report.id.clone(), token: report.token }]),
            Reported::End(_) => {
                self.open.retain(|open| open.message.token != report.token);
                self.stops.retain(|(order, _)| order.token != report.token);
            }
        }
    }

    fn delivery(&mut self) -> Option<Vec<u8>> {
        let now = Instant::now();
        let due = |sent: Option<Instant>| sent.is_none_or(|sent| now - sent >= AGAIN_AFTER);
        let mut delivery = Delivery { assignments: std::mem::take(&mut self.extra), stop: Vec::new() };
        for open in self.open.iter_mut().filter(|open| !open.confirmed && due(open.sent)) {
            open.sent = Some(now);
            delivery.assignments.push(open.message.clone());
        }
        for (order, sent) in self.stops.iter_mut().filter(|(_, sent)| due(*sent)) {
            *sent = Some(now);
            delivery.stop.push(order.clone());
        }
        (!delivery.is_empty()).then(|| self.payload(write_delivery(&delivery)))
    }

    /// The payload as this story has payloads.
    fn payload(&self, written: Vec<u8>) -> Vec<u8> {
        if !self.adorned && self.version.is_none() {
            return written;
        }
        let mut value: Value = serde_json::from_slice(&written).expect("what wire writes is JSON");
        if self.adorned {
            adorn(&mut value);
        }
        if let (Some(version), Some(fields)) = (self.version, value.as_object_mut()) {
            fields.insert("v".to_owned(), version.into());
        }
        value.to_string().into_bytes()
    }
}

/// Puts a field nobody knows into the payload, its assignments, their tasks and its orders to stop.
fn adorn(value: &mut Value) {
    let add = |fields: &mut Map<String, Value>| {
        fields.insert("a_later_field".to_owned(), json!({"of": ["a later", "version"]}));
    };
    let Some(fields) = value.as_object_mut() else { return };
    add(fields);
    for list in ["assignments", "stop"] {
        for entry in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            entry.as_object_mut().into_iter().for_each(add);
            entry.get_mut("task").and_then(Value::as_object_mut).into_iter().for_each(add);
        }
    }
}

fn held(message: &AssignmentMessage) -> Held {
    Held { id: message.id.clone(), token: message.token }
}

impl Heard {
    /// The report, if it is one.
    pub fn report(&self) -> Option<&Report> {
        match &self.word {
            Word::Reported(report) => Some(report),
            _ => None,
        }
    }

    /// The end that was reported under `token`, if this is it.
    pub fn end_of(&self, token: Token) -> Option<&End> {
        match self.report().filter(|report| report.token == token).map(|report| &report.what) {
            Some(Reported::End(end)) => Some(end),
            _ => None,
        }
    }

    /// The registration, if it is one.
    pub fn registration(&self) -> Option<&Registration> {
        match &self.word {
            Word::Registered(registration) => Some(registration),
            _ => None,
        }
    }

    /// What a heartbeat or registration lists as running.
    pub fn listed(&self) -> Option<&[Held]> {
        match &self.word {
            Word::Registered(registration) => Some(&registration.running),
            Word::Beat(beat) => Some(&beat.running),
            _ => None,
        }
    }
}

/// What was heard in a few words: heartbeats are counted, the rest stands in order.
pub fn told(heard: &[Heard]) -> String {
    let mut beats = 0;
    let mut words = Vec::new();
    for heard in heard {
        let mut said = match &heard.word {
            Word::Beat(_) => {
                beats += 1;
                continue;
            }
            Word::Registered(_) => "registered".to_owned(),
            Word::Reported(report) => format!("{} {}", report.id, said_of(&report.what)),
            Word::Left(_) => "left".to_owned(),
            Word::Unreadable(why) => format!("what cannot be read ({why})"),
        };
        if !heard.taken {
            said += " (not taken)";
        }
        words.push(said);
    }
    // Of words that come again and again, the last few say enough.
    let left_out = words.len().saturating_sub(8);
    let mut text = words.split_off(left_out).join(", ");
    if left_out > 0 {
        text = format!("{left_out} words, then {text}");
    }
    match (text.is_empty(), beats) {
        (true, 0) => "nothing said".to_owned(),
        (true, _) => format!("{beats} heartbeats"),
        (false, 0) => text,
        (false, _) => format!("{text}; {beats} heartbeats"),
    }
}

fn said_of(what: &Reported) -> String {
    match what {
        Reported::Start => "start".to_owned(),
        Reported::End(end) => match end.exit_code {
            Some(code) if end.outcome == AttemptOutcome::Failed => format!("failed with {code}"),
            _ => end.outcome.as_str().to_owned(),
        },
    }
}
