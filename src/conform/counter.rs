//! The counter a puller comes to: it gives out what the story puts on it, under leases, and keeps what it was told.
//!
//! Law: as with a real dispatcher, a lease is started once, an unstarted task is given again to the puller of its
//! name, and what is said after a lease is over is answered 410.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::dispatcher::Weather;
use super::marks::time_of_day;
use super::watched::Watched;
use crate::model::time::format_span;
use crate::model::{
    AssignmentMessage, AttemptOutcome, Given, Id, LeaseId, LeaseWord, Subscription, TaskId, Time,
};
use crate::wire::pull::{read_said, read_subscription, write_given};

/// What a puller said.
#[derive(Debug, Clone)]
pub enum Asked {
    Subscribed(Subscription),
    /// It pulled, under this name if any.
    Pulled(Option<Id>),
    Said(LeaseId, LeaseWord),
    Unreadable(String),
}

/// When it was said, by the time of day, and with which status it was answered; 0 if it was not.
#[derive(Debug, Clone)]
pub struct Said {
    pub asked: Asked,
    pub at: Duration,
    pub status: u16,
}

/// An answer: its status, its body, and after how many seconds to ask again.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub again: Option<u64>,
}

#[derive(Debug)]
struct Lease {
    message: AssignmentMessage,
    puller: Option<Id>,
    started: bool,
    over_at: Duration,
    stop: bool,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    /// How long leases run: what the subscription asked for.
    lease: Duration,
    subscribed: Option<Id>,
    waiting: VecDeque<AssignmentMessage>,
    leases: BTreeMap<LeaseId, Lease>,
    /// Pulls are answered at once with nothing and this `Retry-After`, in seconds.
    empty_for: Option<u64>,
    /// This word is answered with this status, whatever stands for it.
    answers: Option<(&'static str, u16)>,
    said: Vec<Said>,
}

/// A counter; its clones are one.
#[derive(Debug, Clone)]
pub struct Counter(Watched<State>);

impl Counter {
    /// A counter where leases run for `lease` unless a subscription says otherwise.
    pub fn new(lease: Duration) -> Self {
        let state = State {
            weather: Weather::Fair,
            lease,
            subscribed: None,
            waiting: VecDeque::new(),
            leases: BTreeMap::new(),
            empty_for: None,
            answers: None,
            said: Vec::new(),
        };
        Self(Watched::new(state))
    }

    // What a story does.

    /// Changes how it is to pullers.
    pub fn turns(&self, weather: Weather) {
        self.0.change(|state| state.weather = weather);
    }

    /// Puts a task on it.
    pub fn put(&self, message: AssignmentMessage) {
        self.0.change(|state| state.waiting.push_back(message));
    }

    /// Answers pulls at once with nothing, to be asked again after so many seconds; `None` ends it.
    pub fn is_empty_for(&self, seconds: Option<u64>) {
        self.0.change(|state| state.empty_for = seconds);
    }

    /// Answers a word of leases (`start`, `extend`, `ack`) with this status; `None` ends it.
    pub fn answers(&self, word: Option<(&'static str, u16)>) {
        self.0.change(|state| state.answers = word);
    }

    /// Asks with its next answers about the lease of `task` that its work be stopped.
    pub fn stops(&self, task: &TaskId) {
        self.0.change(|state| {
            state
                .leases
                .iter_mut()
                .filter(|(id, _)| id.task == *task)
                .for_each(|(_, lease)| lease.stop = true);
        });
    }

    /// Ends the lease of `task`: it is somebody else's from now on.
    pub fn takes_away(&self, task: &TaskId) {
        self.0.change(|state| state.leases.retain(|id, _| id.task != *task));
    }

    /// Forgets that anybody has subscribed.
    pub fn forgets(&self) {
        self.0.change(|state| state.subscribed = None);
    }

    /// Looks at what it was told.
    pub fn heard<T>(&self, look: impl FnOnce(&[Said]) -> T) -> T {
        look(&self.0.state().said)
    }

    /// When the lease of `task` is over, by the time of day, as it was last extended.
    pub fn over_at(&self, task: &TaskId) -> Duration {
        let state = self.0.state();
        let lease = state.leases.iter().find(|(id, _)| id.task == *task);
        lease.map_or(Duration::ZERO, |(_, lease)| lease.over_at)
    }

    /// How long its leases run.
    pub fn lease(&self) -> Duration {
        self.0.state().lease
    }

    /// The first thing said that cannot be read.
    pub fn unreadable(&self) -> Option<String> {
        self.heard(|said| {
            said.iter().find_map(|said| match &said.asked {
                Asked::Unreadable(why) => Some(why.clone()),
                _ => None,
            })
        })
    }

    /// The last words it was told, with their answers.
    pub fn told(&self) -> String {
        let words = self.heard(|said| said.iter().rev().take(8).map(Said::shown).collect::<Vec<_>>());
        words.into_iter().rev().collect::<Vec<_>>().join(", ")
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

    /// Keeps something that was not answered.
    pub fn was_not_answered(&self, asked: Asked) {
        self.0.state().keep(asked, 0);
    }

    /// A subscription as it is read.
    pub fn subscription(body: &[u8]) -> Asked {
        let free = "conform-subscription".parse().expect("a legal name");
        read_subscription(body, free)
            .map_or_else(|why| Asked::Unreadable(format!("subscription: {why}")), Asked::Subscribed)
    }

    /// A word of a lease as it is read.
    pub fn word(lease: &str, word: &str, body: &[u8]) -> Asked {
        let unreadable = |why: String| Asked::Unreadable(format!("{word} of lease {lease}: {why}"));
        let lease: LeaseId = match lease.parse() {
            Ok(lease) => lease,
            Err(why) => return unreadable(format!("{why}")),
        };
        read_said(word, body).map_or_else(|why| unreadable(why.to_string()), |word| Asked::Said(lease, word))
    }

    /// Takes a subscription.
    pub fn subscribe(&self, body: &[u8]) -> Answer {
        self.0.change(|state| state.take(Self::subscription(body)))
    }

    /// Answers a pull if it can be answered now: with a task, or with nothing once `late`.
    pub fn pull(&self, subscription: &Id, puller: Option<&Id>, late: bool) -> Option<Answer> {
        self.0.state().pull(subscription, puller, late)
    }

    /// Answers a word of a lease.
    pub fn say(&self, lease: &str, word: &str, body: &[u8]) -> Answer {
        self.0.change(|state| state.take(Self::word(lease, word, body)))
    }
}

impl State {
    fn keep(&mut self, asked: Asked, status: u16) {
        self.said.push(Said { asked, at: time_of_day(), status });
    }

    fn take(&mut self, asked: Asked) -> Answer {
        let answer = match &asked {
            Asked::Subscribed(new) => {
                (self.lease, self.subscribed) = (new.lease, Some(new.id.clone()));
                let (topic, lease) = (new.offer.queues.first(), format_span(new.lease));
                Answer::ok(json!({"id": new.id, "topic": topic, "lease": lease}).to_string())
            }
            Asked::Said(id, word) => match self.answers.filter(|(about, _)| *about == name_of(word)) {
                Some((_, status)) => Answer::problem(status, code_of(status), "as the kit says"),
                None => self.decide(id, word),
            },
            Asked::Unreadable(why) => Answer::problem(400, "malformed", why),
            Asked::Pulled(_) => unreachable!("a pull is answered by `pull`"),
        };
        self.keep(asked, answer.status);
        answer
    }

    fn pull(&mut self, subscription: &Id, puller: Option<&Id>, late: bool) -> Option<Answer> {
        let pulled = Asked::Pulled(puller.cloned());
        if self.subscribed.as_ref() != Some(subscription) {
            self.keep(pulled, 404);
            return Some(Answer::problem(404, "unknown_subscription", "it was never made here"));
        }
        if let Some(seconds) = self.empty_for {
            self.keep(pulled, 204);
            return Some(Answer { again: Some(seconds), ..Answer::empty() });
        }
        let now = time_of_day();
        let again = self.leases.iter_mut().find(|(_, lease)| {
            puller.is_some() && lease.puller.as_ref() == puller && !lease.started && lease.over_at > now
        });
        let (id, message) = match again {
            Some((id, lease)) => {
                lease.over_at = now + self.lease;
                (id.clone(), lease.message.clone())
            }
            None => match self.waiting.pop_front() {
                Some(message) => {
                    let id = LeaseId { task: message.id.clone(), token: message.token };
                    let lease = Lease {
                        message: message.clone(),
                        puller: puller.cloned(),
                        started: false,
                        over_at: now + self.lease,
                        stop: false,
                    };
                    self.leases.insert(id.clone(), lease);
                    (id, message)
                }
                None if late => {
                    self.keep(pulled, 204);
                    return Some(Answer::empty());
                }
                None => return None,
            },
        };
        self.keep(pulled, 200);
        Some(Answer::ok(write_given(&Given {
            lease: id,
            kind: message.kind,
            queue: message.queue,
            attempt: message.attempt,
            runs: self.lease,
            deadline: as_time(now + self.lease),
            task: message.task,
        })))
    }

    fn decide(&mut self, id: &LeaseId, said: &LeaseWord) -> Answer {
        let now = time_of_day();
        let Some(lease) = self.leases.get_mut(id).filter(|lease| lease.over_at > now) else {
            return Answer::problem(410, code_of(410), "the lease is over");
        };
        match said {
            LeaseWord::Start if lease.started => {
                return Answer::problem(409, code_of(409), "it was started already");
            }
            LeaseWord::Start | LeaseWord::Extend => {
                lease.started = true;
                lease.over_at = now + self.lease;
            }
            LeaseWord::Ack { .. } | LeaseWord::Nack { .. } => {
                self.leases.remove(id);
                return Answer::ok(
                    json!({"id": id.to_string(), "deadline": null, "runs": null, "stop": null}).to_string(),
                );
            }
        }
        let stop = lease.stop.then_some("the kit asks for it");
        let deadline = as_time(lease.over_at).rfc3339();
        let runs = format_span(self.lease);
        Answer::ok(
            json!({"id": id.to_string(), "deadline": deadline, "runs": runs, "stop": stop}).to_string(),
        )
    }
}

impl Answer {
    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), again: None }
    }

    fn empty() -> Self {
        Self { status: 204, body: Vec::new(), again: Some(1) }
    }

    /// A problem document.
    pub fn problem(status: u16, code: &str, detail: &str) -> Self {
        let document =
            json!({"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail});
        let again = matches!(status, 429 | 503).then_some(1);
        Self { status, body: document.to_string().into_bytes(), again }
    }
}

impl Said {
    /// The word about the lease of `task`, if it is one.
    pub fn of(&self, task: &TaskId) -> Option<&LeaseWord> {
        match &self.asked {
            Asked::Said(lease, word) if lease.task == *task => Some(word),
            _ => None,
        }
    }

    /// How the work of `task` ended, if it says so.
    pub fn ack_of(&self, task: &TaskId) -> Option<(AttemptOutcome, Option<i32>)> {
        match self.of(task) {
            Some(LeaseWord::Ack { outcome, exit_code, .. }) => Some((*outcome, *exit_code)),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        let word = match &self.asked {
            Asked::Subscribed(_) => "subscribed".to_owned(),
            Asked::Pulled(_) => "pulled".to_owned(),
            Asked::Said(lease, word) => {
                let word = match word {
                    LeaseWord::Ack { outcome, .. } => outcome.as_str(),
                    other => name_of(other),
                };
                format!("{} {word}", lease.task)
            }
            Asked::Unreadable(why) => format!("what cannot be read ({why})"),
        };
        match self.status {
            0 => format!("{word} (not answered)"),
            status => format!("{word} ({status})"),
        }
    }
}

fn name_of(word: &LeaseWord) -> &'static str {
    match word {
        LeaseWord::Start => "start",
        LeaseWord::Extend => "extend",
        LeaseWord::Ack { .. } => "ack",
        LeaseWord::Nack { .. } => "nack",
    }
}

fn code_of(status: u16) -> &'static str {
    match status {
        409 => "already_started",
        410 => "lease_over",
        _ => "no_leader",
    }
}

fn as_time(since_epoch: Duration) -> Time {
    Time(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
