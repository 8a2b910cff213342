//! Heartbeats, deliveries, reports and the farewell of a runner as JSON.
//!
//! Law: what is written here is read back as the same. `runner`, `report` and `kind` may be left out where the
//! path or subject says them, and must not contradict it where they are given.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use super::registration::{read_registered, read_registration, write_registered, write_registration};

use super::Malformed;
use super::fields::{Fields, Required, json};
use super::json::Json;
use super::registration::MOST_RUNNING;
use crate::model::{
    ArtifactId, ArtifactNews, AssignmentMessage, AttemptOutcome, Delivery, End, Heartbeat, HeartbeatAnswer,
    Held, Kind, Leave, QueueId, Report, Reported, RunnerId, StopOrder, TaskId, Token, time,
};

/// The most reports in one payload.
pub const MOST_REPORTS: usize = 10_000;
/// The most artifacts in one list.
pub const MOST_ARTIFACTS: usize = 100_000;
/// How much of an end's message is kept, in bytes: its end, where the last lines of output are.
pub const LONGEST_MESSAGE: usize = 4096;

/// What the path or subject of a report says already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    pub runner: Option<&'a RunnerId>,
    /// Reports that name no kind either are taken for jobs'.
    pub kind: Option<Kind>,
    /// `start` or `end`.
    pub report: Option<&'a str>,
}

/// Reads a heartbeat. `runner` is the runner the path or subject names.
pub fn read_heartbeat(body: &[u8], runner: Option<&RunnerId>) -> Result<Heartbeat, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    Ok(Heartbeat {
        runner: runner_named(&fields, "runner", runner)?,
        incarnation: incarnation(&fields)?,
        number: fields.number("number").required(&fields, "number")?,
        running: held(&fields, "running", MOST_RUNNING)?,
        artifacts: read_news(&fields)?,
    })
}

/// Writes a heartbeat; the path or subject names the runner.
pub fn write_heartbeat(heartbeat: &Heartbeat) -> Vec<u8> {
    bytes(&HeartbeatJson {
        incarnation: &heartbeat.incarnation,
        number: heartbeat.number,
        running: held_json(&heartbeat.running),
        artifacts: heartbeat.artifacts.as_ref().map(NewsJson::of),
    })
}

/// What a heartbeat says of artifacts.
fn read_news(fields: &Fields<'_>) -> Result<Option<ArtifactNews>, Malformed> {
    let Some(news) = fields.object("artifacts")? else { return Ok(None) };
    Ok(Some(ArtifactNews {
        number: news.number("number").required(&news, "number")?,
        added: artifacts(&news, "added", MOST_ARTIFACTS)?,
        removed: artifacts(&news, "removed", MOST_ARTIFACTS)?,
    }))
}

/// Reads a list of artifacts.
pub(super) fn artifacts(fields: &Fields<'_>, name: &str, most: usize) -> Result<Vec<ArtifactId>, Malformed> {
    let list = fields.list(name, most)?.iter().enumerate();
    list.map(|(place, value)| artifact(format!("{}[{place}]", fields.path(name)), value)).collect()
}

/// Reads the name of an artifact.
pub(super) fn artifact(path: String, value: &Json<'_>) -> Result<ArtifactId, Malformed> {
    let Some(text) = value.as_str() else { return Err(Malformed::value(path, value, "expected a text")) };
    ArtifactId::parse(text).map_err(|why| Malformed::value(path, value, why))
}

/// Reads the answer to a heartbeat.
pub fn read_heartbeat_answer(body: &[u8]) -> Result<HeartbeatAnswer, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    let stop = fields.objects("stop", MOST_RUNNING)?;
    Ok(HeartbeatAnswer {
        number: fields.number("number").required(&fields, "number")?,
        artifacts: fields.number("artifacts")?,
        stop: stop.iter().map(read_stop).collect::<Result<_, _>>()?,
        register: fields.flag("register")?.unwrap_or(false),
        leave: fields.flag("leave")?.unwrap_or(false),
    })
}

/// Writes the answer to a heartbeat.
pub fn write_heartbeat_answer(answer: &HeartbeatAnswer) -> Vec<u8> {
    bytes(&HeartbeatAnswerJson {
        number: answer.number,
        artifacts: answer.artifacts,
        stop: answer.stop.iter().map(StopJson::of).collect(),
        register: answer.register,
        leave: answer.leave,
    })
}

/// Reads a runner's farewell. `runner` is the runner the path or subject names.
pub fn read_leave(body: &[u8], runner: Option<&RunnerId>) -> Result<Leave, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    Ok(Leave {
        runner: runner_named(&fields, "runner", runner)?,
        incarnation: incarnation(&fields)?,
        handback: fields.ids("handback", MOST_RUNNING)?,
    })
}

/// Writes a runner's farewell; the path or subject names the runner.
pub fn write_leave(leave: &Leave) -> Vec<u8> {
    bytes(&LeaveJson { incarnation: &leave.incarnation, handback: &leave.handback })
}

/// Reads one report, or a pack of them: `{"reports": […]}`. One that cannot be read refuses the pack.
pub fn read_reports(body: &[u8], said: Said<'_>) -> Result<Vec<Report>, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    if fields.get("reports").is_none() {
        return Ok(vec![read_report(&fields, said)?]);
    }
    fields.objects("reports", MOST_REPORTS)?.iter().map(|report| read_report(report, said)).collect()
}

/// Writes a pack of reports; the path or subject names the runner.
pub fn write_reports(reports: &[Report]) -> Vec<u8> {
    bytes(&ReportsJson { reports: reports.iter().map(ReportJson::of).collect() })
}

/// Writes one report on its own, in the form [`read_reports`] reads without anything said beside it.
pub fn write_report(report: &Report) -> Vec<u8> {
    bytes(&ReportJson { runner: Some(report.runner.as_str()), ..ReportJson::of(report) })
}

/// Reads what waits for a runner, whose `v` must be 1 or absent. The tasks stay the JSON they were submitted as.
pub fn read_delivery(body: &[u8]) -> Result<Delivery, Malformed> {
    let read: DeliveryJson<'_> =
        serde_json::from_slice(body).map_err(|why| Malformed::payload(format!("is no delivery: {why}")))?;
    Fields::of_version(read.v.as_ref())?;
    let assignments = read.assignments.into_iter().map(|assignment| AssignmentMessage {
        id: assignment.id,
        kind: assignment.kind,
        queue: assignment.queue,
        attempt: assignment.attempt,
        token: assignment.token,
        deadline: assignment.deadline,
        task: assignment.task.get().into(),
    });
    let stop = read.stop.into_iter().map(|stop| StopOrder {
        id: stop.id,
        token: stop.token,
        reason: stop.reason.into(),
    });
    Ok(Delivery { assignments: assignments.collect(), stop: stop.collect() })
}

/// Writes what waits for a runner. A task that is not JSON is left out of nothing: it is sent as a text, which
/// the runner refuses with its reason.
pub fn write_delivery(delivery: &Delivery) -> Vec<u8> {
    let tasks: Vec<Cow<'_, RawValue>> = delivery.assignments.iter().map(task_of).collect();
    let assignments = delivery.assignments.iter().zip(&tasks).map(|(assignment, task)| AssignmentJson {
        id: assignment.id.clone(),
        kind: assignment.kind,
        queue: assignment.queue.clone(),
        attempt: assignment.attempt,
        token: assignment.token,
        deadline: assignment.deadline,
        task,
    });
    bytes(&DeliveryJson {
        v: None,
        assignments: assignments.collect(),
        stop: delivery.stop.iter().map(StopJson::of).collect(),
    })
}

/// The runner a payload is from: what the path says, or else what stands in the field `name`.
pub(super) fn runner_named(
    fields: &Fields<'_>,
    name: &str,
    said: Option<&RunnerId>,
) -> Result<RunnerId, Malformed> {
    match (fields.id(name)?, said) {
        (Some(named), Some(said)) if named != *said => {
            let why = format!("the address names runner {said}; send the same name or leave it out");
            Err(fields.refuse(name, &named.as_str().into(), why))
        }
        (Some(named), _) => Ok(named),
        (None, Some(said)) => Ok(said.clone()),
        (None, None) => Err(fields.missing(name)),
    }
}

/// The incarnation of a runner: a text that is never empty.
pub(super) fn incarnation(fields: &Fields<'_>) -> Result<Arc<str>, Malformed> {
    let text = fields.word("incarnation").required(fields, "incarnation")?;
    if text.is_empty() {
        return Err(Malformed::new(fields.path("incarnation"), "is empty; send a new id with every start"));
    }
    Ok(text)
}

/// Reads a list of tasks with their tokens.
pub(super) fn held(fields: &Fields<'_>, name: &str, most: usize) -> Result<Vec<Held>, Malformed> {
    let objects = fields.objects(name, most)?;
    objects
        .iter()
        .map(|held| {
            Ok(Held {
                id: held.id("id").required(held, "id")?,
                token: held.parsed("token").required(held, "token")?,
            })
        })
        .collect()
}

pub(super) fn held_json(held: &[Held]) -> Vec<HeldJson<'_>> {
    held.iter().map(|held| HeldJson { id: held.id.as_str(), token: held.token }).collect()
}

/// Reads `job` or `build`.
pub(super) fn kind_of(fields: &Fields<'_>, name: &str, value: &Json<'_>) -> Result<Kind, Malformed> {
    match value.as_str() {
        Some("job") => Ok(Kind::Job),
        Some("build") => Ok(Kind::Build),
        _ => Err(fields.refuse(name, value, "expected \"job\" or \"build\"")),
    }
}

pub(super) fn bytes(payload: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(payload).expect("payloads have text keys and finite numbers")
}

/// The last `most` bytes of `text`, from a character's beginning on.
pub fn tail(text: &str, most: usize) -> &str {
    let from = text.len().saturating_sub(most);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}

fn read_stop(fields: &Fields<'_>) -> Result<StopOrder, Malformed> {
    Ok(StopOrder {
        id: fields.id("id").required(fields, "id")?,
        token: fields.parsed("token").required(fields, "token")?,
        reason: fields.text("reason")?.unwrap_or_default().into(),
    })
}

fn read_report(fields: &Fields<'_>, said: Said<'_>) -> Result<Report, Malformed> {
    let word = match (fields.text("report")?, said.report) {
        (Some(word), Some(said)) if word != said => {
            let why = format!("the subject says {said}; send the same or leave it out");
            return Err(fields.refuse("report", &word.into(), why));
        }
        (Some(word), _) | (None, Some(word)) => word,
        (None, None) => return Err(fields.missing("report")),
    };
    let what = match word {
        "start" => Reported::Start,
        "end" => Reported::End(read_end(fields)?),
        other => {
            return Err(fields.refuse("report", &other.into(), "expected \"start\" or \"end\""));
        }
    };
    Ok(Report {
        runner: runner_named(fields, "runner", said.runner)?,
        incarnation: incarnation(fields)?,
        kind: reported_kind(fields, said.kind)?,
        id: fields.id("id").required(fields, "id")?,
        token: fields.parsed("token").required(fields, "token")?,
        what,
    })
}

fn reported_kind(fields: &Fields<'_>, said: Option<Kind>) -> Result<Kind, Malformed> {
    let Some(value) = fields.get("kind") else { return Ok(said.unwrap_or(Kind::Job)) };
    let kind = kind_of(fields, "kind", value)?;
    match said {
        Some(said) if said != kind => {
            let why = format!("the subject says {said}; send the same or leave it out");
            Err(fields.refuse("kind", value, why))
        }
        _ => Ok(kind),
    }
}

fn read_end(fields: &Fields<'_>) -> Result<End, Malformed> {
    let word = fields.text("outcome").required(fields, "outcome")?;
    let outcome = AttemptOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == word);
    let outcome = outcome.ok_or_else(|| {
        let words = AttemptOutcome::ALL.map(AttemptOutcome::as_str).join(", ");
        fields.refuse("outcome", &word.into(), format!("expected one of {words}"))
    })?;
    let exit_code = fields.whole("exit_code", i32::MIN.into(), i32::MAX.into())?;
    Ok(End {
        outcome,
        exit_code: exit_code.map(|code| i32::try_from(code).expect("bounded by the limits of i32")),
        message: fields.text("message")?.map(|text| tail(text, LONGEST_MESSAGE).into()),
        artifacts: artifacts(fields, "artifacts", MOST_ARTIFACTS)?,
    })
}

/// A body as it is, or one that is not JSON as a JSON text.
fn task_of(assignment: &AssignmentMessage) -> Cow<'_, RawValue> {
    match serde_json::from_str::<&RawValue>(&assignment.task) {
        Ok(task) => Cow::Borrowed(task),
        Err(_) => Cow::Owned(serde_json::value::to_raw_value(&*assignment.task).expect("a text is JSON")),
    }
}

#[derive(Serialize)]
pub(super) struct HeldJson<'a> {
    id: &'a str,
    token: Token,
}

#[derive(Serialize)]
struct HeartbeatJson<'a> {
    incarnation: &'a str,
    number: u64,
    running: Vec<HeldJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts: Option<NewsJson<'a>>,
}

#[derive(Serialize)]
struct NewsJson<'a> {
    number: u64,
    added: &'a [ArtifactId],
    removed: &'a [ArtifactId],
}

impl<'a> NewsJson<'a> {
    fn of(news: &'a ArtifactNews) -> Self {
        Self { number: news.number, added: &news.added, removed: &news.removed }
    }
}

#[derive(Serialize)]
struct HeartbeatAnswerJson {
    number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts: Option<u64>,
    stop: Vec<StopJson>,
    register: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leave: bool,
}

#[derive(Serialize)]
struct LeaveJson<'a> {
    incarnation: &'a str,
    handback: &'a [TaskId],
}

#[derive(Serialize, Deserialize)]
struct DeliveryJson<'a> {
    #[serde(default, skip_serializing, borrow)]
    v: Option<Json<'a>>,
    #[serde(borrow, default)]
    assignments: Vec<AssignmentJson<'a>>,
    #[serde(default)]
    stop: Vec<StopJson>,
}

#[derive(Serialize, Deserialize)]
struct AssignmentJson<'a> {
    id: TaskId,
    kind: Kind,
    queue: QueueId,
    attempt: u32,
    token: Token,
    #[serde(with = "time::span")]
    deadline: Duration,
    #[serde(borrow)]
    task: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct StopJson {
    id: TaskId,
    token: Token,
    #[serde(default)]
    reason: String,
}

impl StopJson {
    fn of(order: &StopOrder) -> Self {
        Self { id: order.id.clone(), token: order.token, reason: order.reason.to_string() }
    }
}

#[derive(Serialize)]
struct ReportsJson<'a> {
    reports: Vec<ReportJson<'a>>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    report: &'static str,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner: Option<&'a str>,
    id: &'a str,
    token: Token,
    incarnation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    artifacts: &'a [ArtifactId],
}

impl<'a> ReportJson<'a> {
    fn of(report: &'a Report) -> Self {
        let end = match &report.what {
            Reported::Start => None,
            Reported::End(end) => Some(end),
        };
        Self {
            report: report.what.as_str(),
            kind: report.kind,
            runner: None,
            id: report.id.as_str(),
            token: report.token,
            incarnation: &report.incarnation,
            outcome: end.map(|end| end.outcome.as_str()),
            exit_code: end.and_then(|end| end.exit_code),
            message: end.and_then(|end| end.message.as_deref()),
            artifacts: end.map_or(&[], |end| &end.artifacts),
        }
    }
}
