//! Pulling as JSON: subscriptions, what is said of a lease, and a request for a task on its way to the leader.
//!
//! Law: a subscription bounds what it names and nothing else. What is written here is read back as the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Malformed;
use super::fields::{Fields, MOST_CPU, MOST_MEMORY, Required, json as read_json};
use super::json::{Json, Object};
use super::message::{LONGEST_MESSAGE, kind_of, tail};
use super::registration::{MOST_SLOTS, read_cost, read_kinds, write_resources};
use crate::model::time::{format_span, parse_span};
use crate::model::{
    AttemptOutcome, Binding, Given, GroupId, Kind, LEASE, LeaseId, LeaseWord, Offer, PullRequest, Pulled,
    QueueId, Resources, RunnerId, StopOrder, Subscription, Time,
};

/// The shortest and the longest lease.
pub const LEASES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(86_400)];
/// The longest delay of a task that is given back.
pub const LONGEST_DELAY: Duration = Duration::from_secs(7 * 86_400);
/// The longest reason, in bytes.
const LONGEST_REASON: usize = 1024;
/// How an acknowledgement may say that the work ended.
const OUTCOMES: [AttemptOutcome; 4] = [
    AttemptOutcome::Succeeded,
    AttemptOutcome::Failed,
    AttemptOutcome::Cancelled,
    AttemptOutcome::StartFailed,
];

/// Reads a subscription. `id` stands where the payload names none.
pub fn read_subscription(body: &[u8], id: RunnerId) -> Result<Subscription, Malformed> {
    let value = read_json(body)?;
    let fields = Fields::of_payload(&value)?;
    let id = fields.id("id")?.unwrap_or(id);
    of_fields(&fields, id)
}

/// Reads a subscription from a command.
pub(super) fn subscription(fields: &Fields<'_>) -> Result<Subscription, Malformed> {
    let id = fields.id("subscription").required(fields, "subscription")?;
    of_fields(fields, id)
}

fn of_fields(fields: &Fields<'_>, id: RunnerId) -> Result<Subscription, Malformed> {
    let topic: QueueId = fields.id("topic").required(fields, "topic")?;
    let own = |queues: &Json<'_>| queues.as_list() == Some(&[topic.as_str().into()]);
    if let Some(queues) = fields.get("queues").filter(|queues| !own(queues)) {
        return Err(fields.refuse(
            "queues",
            queues,
            "a subscription has one queue, its topic: leave this out",
        ));
    }
    let offer = Offer {
        kinds: read_kinds(fields)?,
        queues: BTreeSet::from([topic]),
        arch: fields.word("arch")?.unwrap_or_default(),
        os: fields.word("os")?.unwrap_or_default(),
        labels: fields.labels("labels")?,
        taints: fields.words("taints")?,
        group: fields.id("group")?,
        resources: read_limits(fields)?,
        slots: fields.count("slots", 1, MOST_SLOTS)?.unwrap_or(MOST_SLOTS),
        open: true,
    };
    Ok(Subscription { id, offer: Arc::new(offer), cost: read_cost(fields)?, lease: read_lease(fields)? })
}

/// Reads how long a lease is to run.
fn read_lease(fields: &Fields<'_>) -> Result<Duration, Malformed> {
    between(fields, "lease", LEASE, LEASES)
}

/// What all its tasks may take together. Cores or memory it does not name are not bounded.
fn read_limits(fields: &Fields<'_>) -> Result<Option<Resources>, Malformed> {
    let (Some(limits), Some(named)) = (fields.resources("resources")?, fields.object("resources")?) else {
        return Ok(None);
    };
    let cpu = named.get("cpu").map_or(MOST_CPU, |_| limits.cpu);
    let memory = named.get("memory").map_or(MOST_MEMORY, |_| limits.memory);
    Ok(Some(Resources { cpu, memory, ..limits }))
}

fn between(
    fields: &Fields<'_>,
    name: &str,
    otherwise: Duration,
    [least, most]: [Duration; 2],
) -> Result<Duration, Malformed> {
    let given = fields.span(name)?.unwrap_or(otherwise);
    if (least..=most).contains(&given) {
        return Ok(given);
    }
    let why = format!("must be from {} to {}", format_span(least), format_span(most));
    Err(fields.refuse(name, &format_span(given).into(), why))
}

/// Writes a subscription as a command.
pub(super) fn write_subscription(request: &str, new: &Subscription) -> Vec<u8> {
    let offer = &new.offer;
    bytes(&json!({
        "request": request, "command": "subscribe", "subscription": new.id,
        "topic": offer.queues.first(), "lease": format_span_exact(new.lease), "cost": new.cost,
        "kinds": offer.kinds, "arch": offer.arch, "os": offer.os, "labels": offer.labels,
        "taints": offer.taints, "group": offer.group, "slots": offer.slots,
        "resources": offer.resources.as_ref().map(write_resources::<Value>),
    }))
}

/// Writes the end of a subscription as a command.
pub(super) fn write_unsubscription(request: &str, id: &RunnerId) -> Vec<u8> {
    bytes(&json!({ "request": request, "command": "unsubscribe", "subscription": id }))
}

/// Reads which runner a program binds to which group, where the path says both; a body may be missing.
pub fn read_binding(body: &[u8]) -> Result<Duration, Malformed> {
    if body.trim_ascii().is_empty() {
        return Ok(LEASE);
    }
    let value = read_json(body)?;
    read_lease(&Fields::of_payload(&value)?)
}

/// Reads which runner is bound to which group from a command.
pub(super) fn binding(fields: &Fields<'_>) -> Result<Binding, Malformed> {
    Ok(Binding {
        group: fields.id("group").required(fields, "group")?,
        runner: fields.id("runner").required(fields, "runner")?,
        seen: fields.number("seen")?,
        lease: read_lease(fields)?,
    })
}

/// Writes it as a command.
pub(super) fn write_binding(request: &str, command: &str, binding: &Binding) -> Vec<u8> {
    let Binding { group, runner, seen, lease } = binding;
    let lease = format_span_exact(*lease);
    bytes(&json!({
        "request": request, "command": command, "group": group, "runner": runner, "seen": seen, "lease": lease,
    }))
}

/// Writes as a command that a runner is asked for on behalf of a group.
pub(super) fn write_wish(request: &str, group: &GroupId) -> Vec<u8> {
    bytes(&json!({ "request": request, "command": "ask_for_runner", "group": group }))
}

/// Reads what is said of a lease over HTTP, where the path says `word`.
pub fn read_said(word: &str, body: &[u8]) -> Result<LeaseWord, Malformed> {
    if body.trim_ascii().is_empty() {
        return read_word(word, &Fields::of_object(&Object::default())?);
    }
    let value = read_json(body)?;
    read_word(word, &Fields::of_payload(&value)?)
}

/// Reads what is said of a lease from a command.
pub(super) fn word(fields: &Fields<'_>) -> Result<LeaseWord, Malformed> {
    read_word(fields.text("word").required(fields, "word")?, fields)
}

fn read_word(word: &str, fields: &Fields<'_>) -> Result<LeaseWord, Malformed> {
    Ok(match word {
        "start" => LeaseWord::Start,
        "extend" => LeaseWord::Extend,
        "ack" => read_ack(fields)?,
        "nack" => LeaseWord::Nack {
            delay: between(fields, "delay", Duration::ZERO, [Duration::ZERO, LONGEST_DELAY])?,
            reason: read_reason(fields)?,
        },
        other => return Err(fields.refuse("word", &other.into(), "expected start, extend, ack or nack")),
    })
}

fn read_ack(fields: &Fields<'_>) -> Result<LeaseWord, Malformed> {
    let said = fields.text("outcome")?.unwrap_or(AttemptOutcome::Succeeded.as_str());
    let outcome = OUTCOMES.into_iter().find(|outcome| outcome.as_str() == said).ok_or_else(|| {
        let words = OUTCOMES.map(AttemptOutcome::as_str).join(", ");
        let why = format!("expected one of {words}; what is to be placed again is given back with nack");
        fields.refuse("outcome", &said.into(), why)
    })?;
    let exit_code = fields.whole("exit_code", i32::MIN.into(), i32::MAX.into())?;
    Ok(LeaseWord::Ack {
        outcome,
        exit_code: exit_code.map(|code| i32::try_from(code).expect("bounded by the limits of i32")),
        message: fields.text("message")?.map(|text| tail(text, LONGEST_MESSAGE).into()),
    })
}

fn read_reason(fields: &Fields<'_>) -> Result<Arc<str>, Malformed> {
    let given = fields.text("reason")?.filter(|reason| !reason.is_empty()).unwrap_or("no reason was given");
    if given.len() > LONGEST_REASON {
        let why = format!("has {} bytes; at most {LONGEST_REASON} are allowed", given.len());
        return Err(fields.refuse("reason", &given.into(), why));
    }
    Ok(given.into())
}

/// Writes what is said of a lease as a command.
pub(super) fn write_word(request: &str, lease: &LeaseId, word: &LeaseWord) -> Vec<u8> {
    let mut command = json!({ "request": request, "command": "lease", "lease": lease.to_string() });
    let said = match word {
        LeaseWord::Start => json!({ "word": "start" }),
        LeaseWord::Extend => json!({ "word": "extend" }),
        LeaseWord::Ack { outcome, exit_code, message } => {
            json!({ "word": "ack", "outcome": outcome.as_str(), "exit_code": exit_code, "message": message })
        }
        LeaseWord::Nack { delay, reason } => {
            json!({ "word": "nack", "delay": format_span_exact(*delay), "reason": reason })
        }
    };
    merge(&mut command, said);
    bytes(&command)
}

/// What a replica asks of the leader on behalf of a puller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asking {
    /// To be answered within `wait`.
    Pull {
        asked: PullRequest,
        wait: Duration,
    },
    Withdraw {
        asked: PullRequest,
    },
}

/// Writes what is asked of the leader.
pub fn write_asking(asking: &Asking) -> Vec<u8> {
    let (asked, wait) = match asking {
        Asking::Pull { asked, wait } => (asked, Some(*wait)),
        Asking::Withdraw { asked } => (asked, None),
    };
    bytes(&json!({
        "runner": asked.runner, "group": asked.group, "puller": asked.puller, "request": asked.request,
        "wait": wait.map(format_span_exact), "withdraw": wait.is_none(),
    }))
}

/// Reads what is asked of the leader.
pub fn read_asking(body: &[u8]) -> Result<Asking, Malformed> {
    let value = read_json(body)?;
    let fields = Fields::of_payload(&value)?;
    let wait = fields.span("wait")?.unwrap_or_default();
    let asked = PullRequest {
        runner: fields.id("runner").required(&fields, "runner")?,
        group: fields.id("group")?,
        puller: fields.id("puller")?,
        request: fields.parsed::<Uuid>("request").required(&fields, "request")?,
        patient: !wait.is_zero(),
    };
    let withdraw = fields.flag("withdraw")?.unwrap_or(false);
    Ok(if withdraw { Asking::Withdraw { asked } } else { Asking::Pull { asked, wait } })
}

/// Writes what a request was answered.
pub fn write_pulled(pulled: &Pulled) -> Vec<u8> {
    bytes(&match pulled {
        Pulled::Given(given) => {
            let mut answer = json!({
                "answer": "given", "lease": given.lease.to_string(), "kind": given.kind, "queue": given.queue,
                "attempt": given.attempt, "runs": format_span_exact(given.runs), "deadline": given.deadline,
            });
            merge(&mut answer, json!({ "task": &*given.task }));
            answer
        }
        Pulled::Nothing => json!({ "answer": "nothing" }),
        Pulled::Unknown => json!({ "answer": "unknown" }),
        Pulled::Busy { task } => json!({ "answer": "busy", "task": task }),
        Pulled::Draining => json!({ "answer": "draining" }),
        Pulled::Stop(order) => {
            json!({ "answer": "stop", "task": order.id, "token": order.token, "reason": order.reason })
        }
    })
}

/// Reads what a request was answered.
pub fn read_pulled(body: &[u8]) -> Result<Pulled, Malformed> {
    let value = read_json(body)?;
    let fields = Fields::of_payload(&value)?;
    Ok(match fields.text("answer").required(&fields, "answer")? {
        "given" => Pulled::Given(Box::new(Given {
            lease: fields.parsed("lease").required(&fields, "lease")?,
            kind: fields.get("kind").map_or(Ok(Kind::Job), |kind| kind_of(&fields, "kind", kind))?,
            queue: fields.id("queue").required(&fields, "queue")?,
            attempt: fields.count("attempt", 0, u32::MAX)?.unwrap_or_default(),
            runs: fields.span("runs").required(&fields, "runs")?,
            deadline: Time(fields.number("deadline").required(&fields, "deadline")?),
            task: fields.text("task").required(&fields, "task")?.into(),
        })),
        "nothing" => Pulled::Nothing,
        "unknown" => Pulled::Unknown,
        "busy" => Pulled::Busy { task: fields.id("task").required(&fields, "task")? },
        "draining" => Pulled::Draining,
        "stop" => Pulled::Stop(StopOrder {
            id: fields.id("task").required(&fields, "task")?,
            token: fields.parsed("token").required(&fields, "token")?,
            reason: fields.text("reason")?.unwrap_or_default().into(),
        }),
        other => return Err(fields.refuse("answer", &other.into(), "is none this version knows")),
    })
}

/// What a puller is given: its `spec` beside the whole task, and the lease.
pub fn write_given(given: &Given) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct GivenJson<'a> {
        #[serde(rename = "jobSpec")]
        spec: Option<&'a RawValue>,
        task: &'a RawValue,
        kind: Kind,
        queue: &'a QueueId,
        attempt: u32,
        lease: LeaseJson,
    }
    #[derive(serde::Serialize)]
    struct LeaseJson {
        id: String,
        deadline: String,
        runs: String,
    }
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        spec: Option<&'a RawValue>,
    }
    let as_text;
    let task: &RawValue = match serde_json::from_str(&given.task) {
        Ok(task) => task,
        Err(_) => {
            as_text = serde_json::value::to_raw_value(&*given.task).expect("a text is JSON");
            &as_text
        }
    };
    let spec = serde_json::from_str::<Body<'_>>(&given.task).ok().and_then(|body| body.spec);
    let lease = LeaseJson {
        id: given.lease.to_string(),
        deadline: given.deadline.rfc3339(),
        runs: format_span_exact(given.runs),
    };
    let (kind, queue, attempt) = (given.kind, &given.queue, given.attempt);
    super::message::bytes(&GivenJson { spec, task, kind, queue, attempt, lease })
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    super::message::bytes(value)
}

/// A span that is read back exactly.
fn format_span_exact(span: Duration) -> String {
    let short = format_span(span);
    if parse_span(&short) == Ok(span) { short } else { format!("{}ms", span.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, Token};

    fn id(text: &str) -> Id {
        Id::parse(text).expect("a name")
    }

    fn given() -> Given {
        Given {
            lease: LeaseId { task: id("t1"), token: Token { epoch: 1, turn: 7, index: 0 } },
            kind: Kind::Build,
            queue: id("q"),
            attempt: 2,
            runs: Duration::from_millis(61_500),
            deadline: Time(1_800_000_000_000),
            task: r#"{"id":"t1","spec":{"image":"a \"b\""}}"#.into(),
        }
    }

    #[test]
    fn a_request_and_its_answer_are_read_back_as_they_were_written() {
        let asked = PullRequest {
            runner: id("s1"),
            group: Some(id("g")),
            puller: Some(id("p")),
            request: Uuid::from_u128(9),
            patient: true,
        };
        let wait = Duration::from_secs(20);
        let impatient = PullRequest { patient: false, group: None, puller: None, ..asked.clone() };
        for asking in [
            Asking::Pull { asked, wait },
            Asking::Pull { asked: impatient.clone(), wait: Duration::ZERO },
            Asking::Withdraw { asked: impatient },
        ] {
            assert_eq!(read_asking(&write_asking(&asking)), Ok(asking));
        }
        let order = StopOrder { id: id("t1"), token: given().lease.token, reason: "cancelled".into() };
        for pulled in [
            Pulled::Given(Box::new(given())),
            Pulled::Nothing,
            Pulled::Unknown,
            Pulled::Busy { task: id("t1") },
            Pulled::Draining,
            Pulled::Stop(order),
        ] {
            assert_eq!(read_pulled(&write_pulled(&pulled)), Ok(pulled));
        }
    }

    #[test]
    fn what_is_given_has_the_spec_of_the_task_beside_the_task() {
        let shown: Value = serde_json::from_slice(&write_given(&given())).expect("JSON");
        assert_eq!(shown["jobSpec"], json!({"image": "a \"b\""}));
        assert_eq!(shown["task"]["spec"], shown["jobSpec"]);
        assert_eq!(shown["lease"]["id"], "1-7-0-t1");
        let bare = Given { task: r#"{"id":"t1"}"#.into(), ..given() };
        let shown: Value = serde_json::from_slice(&write_given(&bare)).expect("JSON");
        assert_eq!(shown["jobSpec"], Value::Null);
    }

    #[test]
    fn a_subscription_bounds_only_what_it_names() {
        let read = |body: &str| read_subscription(body.as_bytes(), id("s1"));
        let plain = read(r#"{"topic": "jobs_myapp_prod"}"#).expect("well-formed");
        assert_eq!((&*plain.offer.arch, &plain.offer.resources, plain.lease), ("", &None, LEASE));
        assert!(plain.offer.open && plain.offer.kinds.len() == 2);
        let small = read(r#"{"topic": "q", "resources": {"cpu": 2}}"#).expect("well-formed");
        let limits = small.offer.resources.clone().expect("limits");
        assert_eq!((limits.cpu, limits.memory), (2000, MOST_MEMORY));
        for (body, field) in [
            (r#"{"lease": "60s"}"#, "topic"),
            (r#"{"topic": "a.b"}"#, "topic"),
            (r#"{"topic": "q", "lease": "1ms"}"#, "lease"),
            (r#"{"topic": "q", "queues": ["*"]}"#, "queues"),
        ] {
            assert_eq!(read(body).expect_err("refused").field, field);
        }
    }
}
