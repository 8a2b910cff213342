//! Registrations and their answers as JSON.
//!
//! Law: what a registration does not say has the default of the protocol; what this version cannot honour
//! (another protocol) is refused, never ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::fields::{Fields, Required, json};
use super::message::{HeldJson, held, held_json};
use super::{Malformed, message};
use crate::model::{
    ArtifactId, Kind, LastSeen, Offer, QueueId, Registered, Registration, Resources, RunnerId, time,
};

/// The most tasks a runner may list as running.
pub const MOST_RUNNING: usize = 100_000;
/// The most slots a runner may offer.
pub const MOST_SLOTS: u32 = 10_000;
/// The slots of a runner with resources that names none.
pub const DEFAULT_SLOTS: u32 = 100;
/// The protocol this version speaks.
pub const PROTOCOL: i64 = 1;

/// Reads a registration. `runner` is the runner named by the path or subject, if any; the payload may then
/// leave its `id` out, and must not name another.
pub fn read_registration(body: &[u8], runner: Option<&RunnerId>) -> Result<Registration, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    if let Some(protocol) = fields.get("protocol")
        && protocol.as_i64() != Some(PROTOCOL)
    {
        return Err(fields.refuse("protocol", protocol, "this version speaks protocol 1 only"));
    }
    Ok(Registration {
        runner: message::runner_named(&fields, "id", runner)?,
        incarnation: message::incarnation(&fields)?,
        offer: Arc::new(read_offer(&fields)?),
        cost: read_cost(&fields)?,
        class: fields.id("class")?,
        intent: fields.id("intent")?,
        running: held(&fields, "running", MOST_RUNNING)?,
        artifacts: read_artifacts(&fields)?,
        last_seen: read_last_seen(&fields)?,
        version: fields.word("version")?.unwrap_or_default(),
    })
}

/// Writes a registration.
pub fn write_registration(registration: &Registration) -> Vec<u8> {
    let offer = &registration.offer;
    let any = [Id("*")];
    let queues: Vec<Id<'_>> = offer.queues.iter().map(|queue| Id(queue.as_str())).collect();
    let json = RegistrationJson {
        id: registration.runner.as_str(),
        incarnation: &registration.incarnation,
        kinds: &offer.kinds,
        queues: if queues.is_empty() { &any } else { &queues },
        group: offer.group.as_ref().map(|group| group.as_str()),
        class: registration.class.as_ref().map(|class| class.as_str()),
        intent: registration.intent.as_ref().map(|intent| intent.as_str()),
        arch: &offer.arch,
        os: &offer.os,
        labels: &offer.labels,
        taints: &offer.taints,
        cost: registration.cost,
        resources: offer.resources.as_ref().map(write_resources),
        slots: offer.slots,
        running: held_json(&registration.running),
        artifacts: registration.artifacts.as_deref(),
        last_seen: registration.last_seen.map(|seen| LastSeenJson { table: seen.table, turn: seen.turn }),
        version: &registration.version,
        protocol: PROTOCOL,
    };
    message::bytes(&json)
}

/// Reads the answer to a registration.
pub fn read_registered(body: &[u8]) -> Result<Registered, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    Ok(Registered {
        table: fields.parsed("table").required(&fields, "table")?,
        turn: fields.number("turn").required(&fields, "turn")?,
        lease: fields.span("lease").required(&fields, "lease")?,
        heartbeat: fields.span("heartbeat").required(&fields, "heartbeat")?,
        assignments: held(&fields, "assignments", MOST_RUNNING)?,
    })
}

/// Writes the answer to a registration.
pub fn write_registered(registered: &Registered) -> Vec<u8> {
    message::bytes(&RegisteredJson {
        table: registered.table,
        turn: registered.turn,
        lease: registered.lease,
        heartbeat: registered.heartbeat,
        assignments: held_json(&registered.assignments),
    })
}

/// Amounts as a payload shows them: whole cores as a number, parts as thousandths, memory in bytes.
pub fn write_resources<V: From<u64> + From<String>>(resources: &Resources) -> BTreeMap<Arc<str>, V> {
    let cpu = match resources.cpu {
        milli if milli % 1000 == 0 => V::from(milli / 1000),
        milli => V::from(format!("{milli}m")),
    };
    let mut amounts = BTreeMap::from([("cpu".into(), cpu), ("memory".into(), resources.memory.into())]);
    amounts.extend(resources.other.iter().map(|(name, amount)| (name.clone(), V::from(*amount))));
    amounts
}

fn read_offer(fields: &Fields<'_>) -> Result<Offer, Malformed> {
    let resources = fields.resources("resources")?;
    let slots = match (fields.count("slots", 1, MOST_SLOTS)?, &resources) {
        (Some(slots), _) => slots,
        (None, Some(_)) => DEFAULT_SLOTS,
        (None, None) => {
            let why = "is missing; a runner without resources is bounded by its slots alone";
            return Err(Malformed::new(fields.path("slots"), why));
        }
    };
    Ok(Offer {
        kinds: read_kinds(fields)?,
        queues: read_queues(fields)?,
        arch: fields.word("arch")?.unwrap_or_default(),
        os: fields.word("os")?.unwrap_or_default(),
        labels: fields.labels("labels")?,
        taints: fields.words("taints")?,
        group: fields.id("group")?,
        resources,
        slots,
        open: false,
    })
}

pub(super) fn read_kinds(fields: &Fields<'_>) -> Result<BTreeSet<Kind>, Malformed> {
    let Some(value) = fields.get("kinds") else { return Ok(BTreeSet::from([Kind::Job, Kind::Build])) };
    let kinds: Result<BTreeSet<Kind>, Malformed> =
        fields.list("kinds", 2)?.iter().map(|kind| message::kind_of(fields, "kinds", kind)).collect();
    match kinds? {
        none if none.is_empty() => Err(fields.refuse("kinds", value, "names no kind; leave it out for both")),
        kinds => Ok(kinds),
    }
}

fn read_queues(fields: &Fields<'_>) -> Result<BTreeSet<QueueId>, Malformed> {
    let Some(value) = fields.get("queues") else { return Ok(BTreeSet::new()) };
    let list = fields.list("queues", 1_000)?;
    if list.is_empty() {
        return Err(fields.refuse("queues", value, "names no queue; leave it out or say [\"*\"] for any"));
    }
    if list.iter().any(|queue| queue.as_str() == Some("*")) {
        return Ok(BTreeSet::new());
    }
    Ok(fields.ids("queues", 1_000)?.into_iter().collect())
}

/// What it holds; one that does not say is not asked.
fn read_artifacts(fields: &Fields<'_>) -> Result<Option<Vec<ArtifactId>>, Malformed> {
    match fields.get("artifacts") {
        Some(_) => message::artifacts(fields, "artifacts", message::MOST_ARTIFACTS).map(Some),
        None => Ok(None),
    }
}

pub(super) fn read_cost(fields: &Fields<'_>) -> Result<f64, Malformed> {
    let Some(value) = fields.get("cost") else { return Ok(1.0) };
    match value.as_f64() {
        Some(cost) if cost.is_finite() && cost >= 0.0 => Ok(cost),
        _ => Err(fields.refuse("cost", value, "expected a number that is not negative")),
    }
}

fn read_last_seen(fields: &Fields<'_>) -> Result<Option<LastSeen>, Malformed> {
    let Some(seen) = fields.object("last_seen")? else { return Ok(None) };
    // An object without a table says that the runner has seen none yet.
    let Some(table) = seen.parsed("table")? else { return Ok(None) };
    Ok(Some(LastSeen { table, turn: seen.number("turn").required(&seen, "turn")? }))
}

#[derive(Serialize)]
#[serde(transparent)]
struct Id<'a>(&'a str);

#[derive(Serialize)]
struct RegistrationJson<'a> {
    id: &'a str,
    incarnation: &'a str,
    kinds: &'a BTreeSet<Kind>,
    queues: &'a [Id<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    arch: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    os: &'a str,
    labels: &'a BTreeMap<Arc<str>, Arc<str>>,
    taints: &'a BTreeSet<Arc<str>>,
    cost: f64,
    resources: Option<BTreeMap<Arc<str>, Value>>,
    slots: u32,
    running: Vec<HeldJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts: Option<&'a [ArtifactId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<LastSeenJson>,
    version: &'a str,
    protocol: i64,
}

#[derive(Serialize)]
struct LastSeenJson {
    table: Uuid,
    turn: u64,
}

#[derive(Serialize)]
struct RegisteredJson<'a> {
    table: Uuid,
    turn: u64,
    #[serde(with = "time::span")]
    lease: Duration,
    #[serde(with = "time::span")]
    heartbeat: Duration,
    assignments: Vec<HeldJson<'a>>,
}
