//! Lifecycle events and facts as JSON, for the event stream and the history.
//!
//! Law: times are RFC 3339 here, whatever the table keeps; what a fact does not say is left out.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use super::fields::{Fields, Required, json};
use super::json::Json;
use super::{Malformed, message};
use crate::model::{Fact, Lifecycle, Time, Token};
use crate::ports::TurnEvents;

/// Writes the lifecycle event of the protocol.
pub fn write_lifecycle(event: &Lifecycle) -> String {
    let at = event.at.rfc3339();
    serde_json::to_string(&LifecycleJson::of(event, at.into(), None))
        .expect("payloads have text keys and finite numbers")
}

/// Writes what happened, turn by turn, each with its number, log time and facts:
/// `{"turns": [{"turn", "at", "events": […]}]}`.
pub fn write_turns<'a>(turns: impl IntoIterator<Item = (u64, Time, &'a [Fact])>) -> Vec<u8> {
    let turns: Vec<_> = turns.into_iter().map(|(turn, at, facts)| (turn, at, at.rfc3339(), facts)).collect();
    let turns = turns.iter().map(|(turn, at, text, facts)| TurnJson::of(*turn, *at, text, facts));
    message::bytes(&HistoryJson { turns: turns.collect() })
}

/// Writes what happened in one turn, as the history stream keeps it: `{"turn", "at", "events": […]}`.
pub fn write_turn(turn: u64, at: Time, facts: &[Fact]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + 256 * facts.len());
    let written = serde_json::to_writer(&mut bytes, &TurnJson::of(turn, at, &at.rfc3339(), facts));
    written.expect("payloads have text keys and finite numbers, and memory takes all bytes");
    bytes
}

/// Reads the number of the turn that [`write_turn`] wrote.
pub fn read_turn_number(body: &[u8]) -> Result<u64, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    fields.number("turn").required(&fields, "turn")
}

/// Reads what [`write_turn`] wrote. A fact this version does not know is left out.
pub fn read_turn(body: &[u8]) -> Result<TurnEvents, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    let turn = fields.number("turn").required(&fields, "turn")?;
    let at = read_time(fields.text("at").required(&fields, "at")?)?;
    let events = fields.get("events").and_then(Json::as_list).unwrap_or_default();
    Ok(TurnEvents { turn, at, events: events.iter().filter_map(read_fact).collect() })
}

fn read_time(text: &str) -> Result<Time, Malformed> {
    Time::parse_rfc3339(text).map_err(|why| Malformed::value("at", &text.into(), why))
}

fn read_fact(fact: &Json<'_>) -> Option<Fact> {
    let mut fact = serde_json::to_value(fact).ok()?;
    if fact.get("fact")? == "task" {
        let at = read_time(fact.get("at")?.as_str()?).ok()?;
        fact["at"] = serde_json::to_value(at).ok()?;
    }
    serde_json::from_value(fact).ok()
}

#[derive(Serialize)]
struct HistoryJson<'a> {
    turns: Vec<TurnJson<'a>>,
}

#[derive(Serialize)]
struct TurnJson<'a> {
    turn: u64,
    at: &'a str,
    events: EventsJson<'a>,
}

/// The facts of a turn decided `at`, which is `text` in RFC 3339: most of them are of that moment.
struct EventsJson<'a> {
    at: Time,
    text: &'a str,
    facts: &'a [Fact],
}

impl<'a> TurnJson<'a> {
    fn of(turn: u64, at: Time, text: &'a str, facts: &'a [Fact]) -> Self {
        Self { turn, at: text, events: EventsJson { at, text, facts } }
    }
}

impl Serialize for EventsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.facts.iter().map(|fact| match fact {
            Fact::Task(event) => {
                let at = if event.at == self.at { self.text.into() } else { event.at.rfc3339().into() };
                FactJson::Task(LifecycleJson::of(event, at, Some("task")))
            }
            other => FactJson::Other(other),
        }))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one, and live for one answer")]
enum FactJson<'a> {
    Task(LifecycleJson<'a>),
    Other(&'a Fact),
}

#[derive(Serialize)]
struct LifecycleJson<'a> {
    /// Which fact it is, where it stands among others.
    #[serde(skip_serializing_if = "Option::is_none")]
    fact: Option<&'static str>,
    v: u32,
    id: &'a str,
    kind: &'static str,
    queue: &'a str,
    tenant: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner: Option<&'a str>,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
    at: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ran_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
}

impl<'a> LifecycleJson<'a> {
    fn of(event: &'a Lifecycle, at: Cow<'a, str>, fact: Option<&'static str>) -> Self {
        Self {
            fact,
            v: 1,
            id: event.id.as_str(),
            kind: event.kind.as_str(),
            queue: event.queue.as_str(),
            tenant: event.tenant.as_str(),
            state: event.state.as_str(),
            outcome: event.outcome.map(|outcome| outcome.as_str()),
            reason: event.reason.as_deref(),
            runner: event.runner.as_ref().map(|runner| runner.as_str()),
            attempt: event.attempt,
            token: event.token,
            at,
            waited_ms: event.waited_ms,
            ran_ms: event.ran_ms,
            exit_code: event.exit_code,
        }
    }
}
