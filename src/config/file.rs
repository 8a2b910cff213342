//! The configuration file as it is written: every section and key, with its default.
//!
//! Law: this is the only list of keys. The defaults come from the core's own, so a file that says nothing and
//! no file at all mean the same. Values are only read here; `validate` judges them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::core::settings::Settings as Decisions;
use crate::model::time::{parse_span, span};
use crate::wire::command::MOST_RUNNERS;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "tables of keys")]
pub struct File {
    pub class: Vec<ClassSection>,
    pub server: ServerSection,
    pub nats: NatsSection,
    pub log: LogSection,
    pub defaults: DefaultsSection,
    pub placement: PlacementSection,
    pub queues: BTreeMap<String, QueueSection>,
    pub lease: LeaseSection,
    pub verdict: VerdictSection,
    pub intents: IntentsSection,
    pub table: TableSection,
    pub retry: RetrySection,
    pub builds: BuildsSection,
    pub sweep: SweepSection,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct ServerSection {
    pub listen: String,
    pub data: String,
    pub output_bytes: Amount,
    pub output_age: Span,
}

/// `[nats]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct NatsSection {
    pub url: String,
    pub credentials: String,
    pub user: String,
    pub password: String,
    pub inbox: String,
    pub pools: Vec<String>,
    pub take_over: Span,
    pub window: i64,
    pub ahead: i64,
    pub replicas: i64,
    pub table_bytes: Amount,
    pub submit_bytes: Amount,
    pub report_bytes: Amount,
    pub history_bytes: Amount,
    pub history_age: Span,
}

impl Default for NatsSection {
    fn default() -> Self {
        Self {
            url: String::new(),
            credentials: String::new(),
            user: String::new(),
            password: String::new(),
            inbox: String::new(),
            pools: vec!["default".to_owned()],
            take_over: Span(Duration::from_secs(3)),
            window: 10_000,
            ahead: 0,
            replicas: 1,
            table_bytes: Amount::memory(1 << 30),
            submit_bytes: Amount::memory(4 << 30),
            report_bytes: Amount::memory(1 << 30),
            history_bytes: Amount::memory(1 << 30),
            history_age: Span(Duration::from_secs(7 * 86_400)),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct LogSection {
    pub format: String,
    pub level: String,
}

/// `[defaults]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct DefaultsSection {
    pub cpu: Amount,
    pub memory: Amount,
    pub max_attempts: i64,
}

/// `[placement]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct PlacementSection {
    pub order: String,
    pub strategy: String,
    pub reserve_after: Span,
}

/// One `[queues.NAME]`: what holds for the tasks of one queue. A queue without one has the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, expecting = "a table of keys")]
pub struct QueueSection {
    pub cache_wait: Span,
    pub deps_wait: Span,
    pub delivery: String,
}

/// `[lease]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct LeaseSection {
    pub ttl: Span,
    pub heartbeat: Span,
    pub margin: Span,
    pub assignment_deadline: Span,
}

/// `[verdict]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct VerdictSection {
    pub settle: Span,
    pub classes_complete: bool,
    pub class_memory: Span,
}

/// `[table]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct TableSection {
    pub window: i64,
    pub window_bytes: Amount,
    pub keep_ended: Span,
    pub keep_ended_tasks: i64,
    pub keep_ended_body: Amount,
    pub runner_artifacts: i64,
}

/// `[retry]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct RetrySection {
    pub backoff: Span,
    pub backoff_max: Span,
    pub refusal_backoff: Span,
}

/// `[builds]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct BuildsSection {
    pub unsafe_grace: Span,
}

/// `[sweep]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct SweepSection {
    pub every: Span,
}

/// One `[[class]]`: a kind of runner that may come though none is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, expecting = "a table of keys")]
pub struct ClassSection {
    pub id: String,
    pub arch: String,
    pub os: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<String>,
    pub kinds: Vec<String>,
    pub queues: Vec<String>,
    pub resources: BTreeMap<String, Amount>,
    pub slots: i64,
    pub cost: f64,
    pub max: i64,
}

/// `[intents]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a table of keys")]
pub struct IntentsSection {
    pub answer: Span,
    pub start: Span,
    pub backoff: Span,
}

impl Default for File {
    fn default() -> Self {
        let core = Decisions::default();
        Self {
            class: Vec::new(),
            server: ServerSection {
                listen: "127.0.0.1:8080".to_owned(),
                data: "longshore-data".to_owned(),
                output_bytes: Amount::memory(1 << 30),
                output_age: Span(Duration::from_secs(7 * 24 * 3_600)),
            },
            nats: NatsSection::default(),
            log: LogSection { format: "text".to_owned(), level: "info".to_owned() },
            defaults: DefaultsSection {
                cpu: Amount::Text(crate::model::resources::amount_text("cpu", core.default_resources.cpu)),
                memory: Amount::memory(core.default_resources.memory),
                max_attempts: i64::from(core.default_max_attempts),
            },
            queues: BTreeMap::new(),
            placement: PlacementSection {
                order: "priority".to_owned(),
                strategy: "pack".to_owned(),
                reserve_after: Span(core.reserve_after),
            },
            lease: LeaseSection {
                ttl: Span(core.lease),
                heartbeat: Span(core.heartbeat),
                margin: Span(core.lease_margin),
                assignment_deadline: Span(core.assignment_deadline),
            },
            verdict: VerdictSection {
                settle: Span(core.settle),
                classes_complete: core.classes_complete,
                class_memory: Span(core.class_memory),
            },
            intents: IntentsSection {
                answer: Span(core.intent_answer),
                start: Span(core.intent_start),
                backoff: Span(core.intent_backoff),
            },
            table: TableSection {
                window: count(core.window),
                window_bytes: Amount::memory(core.window_bytes as u64),
                keep_ended: Span(core.keep_ended),
                keep_ended_tasks: count(core.keep_ended_tasks),
                keep_ended_body: Amount::memory(core.keep_ended_body as u64),
                runner_artifacts: count(core.runner_artifacts),
            },
            retry: RetrySection {
                backoff: Span(core.retry_backoff),
                backoff_max: Span(core.retry_backoff_max),
                refusal_backoff: Span(core.refusal_backoff),
            },
            builds: BuildsSection { unsafe_grace: Span(core.unsafe_grace) },
            sweep: SweepSection { every: Span(core.sweep) },
        }
    }
}

impl Default for QueueSection {
    fn default() -> Self {
        Self {
            cache_wait: Span(Duration::ZERO),
            deps_wait: Span(Duration::ZERO),
            delivery: "pull".to_owned(),
        }
    }
}

impl Default for ClassSection {
    fn default() -> Self {
        Self {
            id: String::new(),
            arch: String::new(),
            os: String::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            kinds: vec!["job".to_owned(), "build".to_owned()],
            queues: Vec::new(),
            resources: BTreeMap::new(),
            slots: 100,
            cost: 1.0,
            max: i64::from(MOST_RUNNERS),
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).expect("a default count is small")
}

/// A span, written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        span::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span with its unit, like \"15s\" or \"10m\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                parse_span(text).map(Span).map_err(|why| E::custom(format!("({text:?}): {why}")))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// An amount of a resource: a number, or text with a unit.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Amount {
    Whole(i64),
    Decimal(f64),
    Text(String),
}

impl Amount {
    fn memory(bytes: u64) -> Self {
        Amount::Text(crate::model::resources::amount_text("memory", bytes))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Whole(number) => write!(f, "{number}"),
            Amount::Decimal(number) => write!(f, "{number}"),
            Amount::Text(text) => f.write_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl de::Visitor<'_> for Any {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or text with a unit, like \"500m\" or \"2GiB\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount::Whole(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                Ok(i64::try_from(number).map_or_else(|_| Amount::Text(number.to_string()), Amount::Whole))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Amount, E> {
                Ok(Amount::Decimal(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
