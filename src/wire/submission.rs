//! Submissions: what a producer sends, read into tasks that admission can decide about.
//!
//! Law: each task of a body is read on its own, so one that is malformed refuses itself and nothing else; only
//! a body that cannot be taken apart is refused as a whole. What this version cannot honour is refused, never
//! ignored; fields it does not know go to the runner as they are. Two submissions of the same content have the
//! same body and the same hash, whatever the order and spacing of their fields.
//!
//! Comes before: admission. Reads no state: whether a task fits anywhere is not asked here.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use uuid::Uuid;

use super::fields::{Fields, Required, json};
use super::group::{read_group, read_group_id};
use super::json::{Json, Object};
use super::registration::write_resources;
use super::{Malformed, message};
use crate::core::settings::Settings;
use crate::model::time::{format_span, parse_span};
use crate::model::{
    Artifacts, BuildId, Id, IfUnplaceable, Kind, Limits, NewTask, QueueId, Resources, Shape, Time,
    Traceparent,
};

/// The most bytes of one body.
pub const MOST_BODY: usize = 8 << 20;
/// The most tasks of one body.
pub const MOST_TASKS: usize = 1_000;
/// The most bytes of one task, as compact JSON.
pub const MOST_TASK: usize = 256 << 10;
/// The most bytes of a task's `spec`, as compact JSON.
pub const MOST_SPEC: usize = 64 << 10;
/// The most job shapes a build declares.
pub const MOST_JOBS: usize = 16;
/// The most inputs a task names.
pub const MOST_INPUTS: usize = 1_000;
/// The longest time one attempt may be allowed to run.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(30 * 86_400);
/// The longest time after which a pending task may be set to expire.
pub const LONGEST_EXPIRY: Duration = Duration::from_secs(365 * 86_400);

/// The queue and the tenant of a task that names none.
const DEFAULT: &str = "default";
/// What content hashes are made in; a change would make conflicts of repeated submissions.
const CONTENT: Uuid = Uuid::from_u128(0x6c6f_6e67_7368_4f72_a5e5_7461_736b_0001);

/// A task that cannot be read. The other tasks of its body are not touched by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The line it stands on, in a body of lines.
    pub line: Option<usize>,
    /// What stood in its `id`, if it was a text; at most its first 128 characters.
    pub id: Option<String>,
    pub malformed: Malformed,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        self.malformed.fmt(f)
    }
}

impl std::error::Error for Refused {}

/// A body that cannot be taken apart into tasks: nothing of it was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body has {bytes} bytes; at most {MOST_BODY} are allowed, send fewer tasks at a time")]
    TooLarge { bytes: usize },
    #[error("the body has {tasks} tasks; at most {MOST_TASKS} are allowed, send it in several parts")]
    TooMany { tasks: usize },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Each task of a body in its order, read or refused.
pub type Submissions = Vec<Result<Arc<NewTask>, Refused>>;

/// What stands outside a body and holds for its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Of a task that names none; with `queue`, of every task.
    pub kind: Kind,
    /// What a subject says of every task: one that says otherwise is refused.
    pub queue: Option<QueueId>,
    pub build: Option<BuildId>,
    /// Of every task that says none of its own.
    pub traceparent: Option<Traceparent>,
}

impl Outside {
    /// Nothing but the kind of a task that names none.
    pub fn of_kind(kind: Kind) -> Self {
        Self { kind, queue: None, build: None, traceparent: None }
    }
}

/// A body taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// It is one task by itself, and not a list or lines, of however few.
    pub alone: bool,
    pub tasks: Submissions,
}

/// Reads the tasks of a body. A task without `kind` is of `default_kind`.
pub fn read_submissions(
    body: &[u8],
    default_kind: Kind,
    settings: &Settings,
) -> Result<Submissions, BodyError> {
    read_body(body, default_kind, settings).map(|body| body.tasks)
}

/// Reads one task, `{"tasks": […]}`, or one task a line. A task without `kind` is of `default_kind`.
pub fn read_body(body: &[u8], default_kind: Kind, settings: &Settings) -> Result<Body, BodyError> {
    read_body_from(body, &Outside::of_kind(default_kind), settings)
}

/// The same, where a subject says something of its tasks.
pub fn read_body_from(body: &[u8], outside: &Outside, settings: &Settings) -> Result<Body, BodyError> {
    if body.len() > MOST_BODY {
        return Err(BodyError::TooLarge { bytes: body.len() });
    }
    let read = |line, value| read_one(line, value, outside, settings);
    if let Some(lines) = lines_of(body) {
        within_most(lines.len())?;
        let tasks = lines.into_iter().map(|(line, text)| match json(text) {
            Ok(value) => read(Some(line), value),
            Err(malformed) => Err(Refused { line: Some(line), id: None, malformed }),
        });
        return Ok(Body { alone: false, tasks: tasks.collect() });
    }
    let mut whole = match json(body)? {
        Json::Object(whole) => whole,
        other => {
            let why = "is not a task, {\"tasks\": […]} or one task a line";
            return Err(Malformed::value("", &other, why).into());
        }
    };
    // A field of this name makes it a list of tasks, never a task.
    let Some(tasks) = whole.remove("tasks") else {
        return Ok(Body { alone: true, tasks: vec![read(None, Json::Object(whole))] });
    };
    Fields::of_object(&whole)?;
    let Json::List(tasks) = tasks else {
        return Err(Malformed::value("tasks", &tasks, "expected a list of tasks").into());
    };
    within_most(tasks.len())?;
    let tasks = tasks.into_iter().map(|task| read(None, task)).collect();
    Ok(Body { alone: false, tasks })
}

/// Reads one task.
pub fn read_task(body: &[u8], default_kind: Kind, settings: &Settings) -> Result<Arc<NewTask>, Malformed> {
    read_traced(json(body)?, default_kind, None, settings)
}

/// Reads one task; `traceparent` is the one it belongs to if it says none itself.
fn read_traced(
    value: Json<'_>,
    default_kind: Kind,
    traceparent: Option<Traceparent>,
    settings: &Settings,
) -> Result<Arc<NewTask>, Malformed> {
    let fields = Fields::of_payload(&value)?;
    let id = fields.id("id").required(&fields, "id")?;
    let kind = match fields.get("kind") {
        Some(kind) => message::kind_of(&fields, "kind", kind)?,
        None => default_kind,
    };
    let tenant = fields.id("tenant")?.unwrap_or_else(default_name);
    let (group, grouping) = read_group(&fields)?;
    let build = read_build(&fields, &id, kind)?;
    let shape = Shape { group, ..read_shape(&fields, kind, settings)? };
    let jobs = read_jobs(&fields, &shape, settings)?;
    let priority = fields.whole("priority", -1000, 1000)?.unwrap_or(0);
    let limits = read_limits(&fields, settings)?;
    fields.object("spec")?;
    let artifacts = read_artifacts(&fields)?;
    let (mut task, mut body) = canonical(value, kind, &shape.queue, &tenant)?;
    // No part of the content: who submits a task again may do so for another reason.
    let own = task.remove(Traceparent::NAME);
    if own.is_some() {
        body = text_of(&task);
    }
    let content = Uuid::new_v5(&CONTENT, body.as_bytes());
    let traceparent = own.and_then(|own| Traceparent::parse(own.as_str()?)).or(traceparent);
    if let Some(trace) = traceparent {
        task.insert(Traceparent::NAME, trace.to_string());
    }
    if fill_in_amounts(&mut task, &shape.resources) || traceparent.is_some() {
        body = text_of(&task);
    }
    Ok(Arc::new(NewTask {
        id,
        shape: Arc::new(shape),
        tenant,
        priority: i32::try_from(priority).expect("at most 1000"),
        build,
        jobs,
        grouping,
        limits: Arc::new(limits),
        artifacts,
        content,
        traceparent: traceparent.map(Arc::new),
        body: body.into(),
    }))
}

fn read_one<'a>(
    line: Option<usize>,
    mut value: Json<'a>,
    outside: &'a Outside,
    settings: &Settings,
) -> Result<Arc<NewTask>, Refused> {
    let id = value.as_object().and_then(|task| task.get("id")).cloned();
    let refused = |malformed| {
        let id = id.as_ref().and_then(Json::as_str).map(|id| id.chars().take(Id::MAX).collect());
        Refused { line, id, malformed }
    };
    match fill_in(&mut value, outside) {
        Ok(()) => read_traced(value, outside.kind, outside.traceparent, settings).map_err(refused),
        Err(malformed) => Err(refused(malformed)),
    }
}

/// Gives a task what its subject says of it, and refuses one that contradicts it.
fn fill_in<'a>(value: &mut Json<'a>, outside: &'a Outside) -> Result<(), Malformed> {
    let (Json::Object(fields), Some(queue)) = (value, &outside.queue) else { return Ok(()) };
    let said = [
        ("kind", Some(outside.kind.as_str())),
        ("queue", Some(queue.as_str())),
        ("build", outside.build.as_ref().map(Id::as_str)),
    ];
    for (name, said) in said {
        match (fields.get(name).filter(|value| !value.is_null()), said) {
            (Some(given), Some(said)) if given.as_str() != Some(said) => {
                let why = format!("the subject says {said:?}; send the same or leave it out");
                return Err(Malformed::value(name, given, why));
            }
            (Some(given), None) => {
                let why = "the subject names no build; publish it on longshore.job.pending.<queue>.<build>";
                return Err(Malformed::value(name, given, why));
            }
            (Some(_), Some(_)) | (None, None) => {}
            (None, Some(said)) => {
                fields.insert(name, said);
            }
        }
    }
    Ok(())
}

/// The lines of a body that is one value a line, with their numbers. A single value is not such a body,
/// however many lines it takes.
fn lines_of(body: &[u8]) -> Option<Vec<(usize, &[u8])>> {
    let lines: Vec<(usize, &[u8])> = body
        .split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty())
        .collect();
    let (_, first) = lines.first()?;
    (lines.len() > 1 && serde_json::from_slice::<serde::de::IgnoredAny>(first).is_ok()).then_some(lines)
}

fn within_most(tasks: usize) -> Result<(), BodyError> {
    if tasks > MOST_TASKS { Err(BodyError::TooMany { tasks }) } else { Ok(()) }
}

fn read_build(fields: &Fields<'_>, id: &Id, kind: Kind) -> Result<Option<BuildId>, Malformed> {
    let build = fields.id("build")?;
    if let Some(named) = &build {
        let shown = named.as_str().into();
        if kind == Kind::Build {
            return Err(fields.refuse("build", &shown, "nested_build: a build cannot belong to a build"));
        }
        if named == id {
            return Err(fields.refuse("build", &shown, "a task cannot belong to itself"));
        }
    }
    Ok(build)
}

fn read_shape(fields: &Fields<'_>, kind: Kind, settings: &Settings) -> Result<Shape, Malformed> {
    Ok(Shape {
        kind,
        queue: fields.id("queue")?.unwrap_or_else(default_name),
        resources: read_resources(fields, settings)?,
        arch: fields.word("arch")?.unwrap_or_default(),
        os: fields.word("os")?.unwrap_or_default(),
        labels: fields.labels("labels")?,
        tolerations: fields.words("tolerations")?,
        group: None,
    })
}

/// What is asked for; cpu and memory each have a default of their own.
fn read_resources(fields: &Fields<'_>, settings: &Settings) -> Result<Resources, Malformed> {
    let defaults = &settings.default_resources;
    let Some(mut asked) = fields.resources("resources")? else { return Ok(defaults.clone()) };
    let said = fields.object("resources")?.expect("resources were read from it");
    if said.get("cpu").is_none() {
        asked.cpu = defaults.cpu;
    }
    if said.get("memory").is_none() {
        asked.memory = defaults.memory;
    }
    Ok(asked)
}

/// The shapes of a build's jobs. A build that declares none, or an empty list, may submit jobs like itself
/// with the default resources.
fn read_jobs(fields: &Fields<'_>, own: &Shape, settings: &Settings) -> Result<Arc<[Arc<Shape>]>, Malformed> {
    let declared = fields.objects("jobs", MOST_JOBS)?;
    if own.kind == Kind::Job {
        return match fields.get("jobs") {
            Some(jobs) if !declared.is_empty() => Err(fields.refuse(
                "jobs",
                jobs,
                "only a build declares jobs; leave it out or send kind \"build\"",
            )),
            _ => Ok(Arc::from([])),
        };
    }
    if declared.is_empty() {
        let resources = settings.default_resources.clone();
        return Ok(Arc::from([Arc::new(Shape { kind: Kind::Job, resources, ..own.clone() })]));
    }
    declared
        .iter()
        .map(|job| {
            let labels = if job.get("labels").is_some() { job.labels("labels")? } else { own.labels.clone() };
            let tolerations = match job.get("tolerations") {
                Some(_) => job.words("tolerations")?,
                None => own.tolerations.clone(),
            };
            Ok(Arc::new(Shape {
                kind: Kind::Job,
                queue: job.id("queue")?.unwrap_or_else(|| own.queue.clone()),
                resources: read_resources(job, settings)?,
                arch: job.word("arch")?.unwrap_or_else(|| own.arch.clone()),
                os: job.word("os")?.unwrap_or_else(|| own.os.clone()),
                labels,
                tolerations,
                group: read_group_id(job)?,
            }))
        })
        .collect()
}

fn read_limits(fields: &Fields<'_>, settings: &Settings) -> Result<Limits, Malformed> {
    let not_before = fields.text("not_before")?.map(|text| {
        Time::parse_rfc3339(text).map_err(|why| {
            let why = format!("expected a date and time like \"2026-01-01T00:00:00Z\": {why}");
            fields.refuse("not_before", &text.into(), why)
        })
    });
    Ok(Limits {
        max_attempts: fields.count("max_attempts", 1, 100)?.unwrap_or(settings.default_max_attempts),
        retries: fields.count("retries", 0, 100)?.unwrap_or(0),
        timeout: read_span(fields, "timeout", LONGEST_TIMEOUT)?,
        not_before: not_before.transpose()?,
        expires_in: read_span(fields, "expires_in", LONGEST_EXPIRY)?,
        if_unplaceable: read_if_unplaceable(fields)?,
    })
}

fn read_span(fields: &Fields<'_>, name: &str, longest: Duration) -> Result<Option<Duration>, Malformed> {
    let Some(span) = fields.span(name)? else { return Ok(None) };
    if span.is_zero() || span > longest {
        let given = fields.get(name).expect("a span was read from it");
        let why = format!("expected more than 0 and at most {}", format_span(longest));
        return Err(fields.refuse(name, given, why));
    }
    Ok(Some(span))
}

fn read_if_unplaceable(fields: &Fields<'_>) -> Result<IfUnplaceable, Malformed> {
    const NAME: &str = "if_unplaceable";
    let Some(word) = fields.text(NAME)? else { return Ok(IfUnplaceable::default()) };
    match (word, word.strip_prefix("fail_after=")) {
        ("fail", _) => Ok(IfUnplaceable::Fail),
        ("hold", _) => Ok(IfUnplaceable::Hold),
        (_, Some(span)) => match parse_span(span) {
            Ok(span) if span <= LONGEST_EXPIRY => Ok(IfUnplaceable::FailAfter(span)),
            Ok(_) => {
                let why = format!("expected at most {}", format_span(LONGEST_EXPIRY));
                Err(fields.refuse(NAME, &word.into(), why))
            }
            Err(why) => Err(fields.refuse(NAME, &word.into(), why)),
        },
        (_, None) => {
            Err(fields.refuse(NAME, &word.into(), "expected \"fail\", \"hold\" or \"fail_after=10m\""))
        }
    }
}

/// What it reads and makes.
fn read_artifacts(fields: &Fields<'_>) -> Result<Option<Arc<Artifacts>>, Malformed> {
    let output =
        fields.get("output").map(|value| message::artifact(fields.path("output"), value)).transpose()?;
    Ok(Artifacts::of(message::artifacts(fields, "inputs", MOST_INPUTS)?, output))
}

/// The task without nulls and with its kind, queue and tenant made explicit, and the same as compact JSON with sorted
/// keys.
fn canonical<'a>(
    value: Json<'a>,
    kind: Kind,
    queue: &'a QueueId,
    tenant: &'a Id,
) -> Result<(Object<'a>, String), Malformed> {
    let Json::Object(mut task) = value else {
        return Err(Malformed::payload("is not a JSON object"));
    };
    task.retain(|value| !value.is_null());
    task.insert("kind", kind.as_str());
    task.insert("queue", queue.as_str());
    task.insert("tenant", tenant.as_str());
    let body = text_of(&task);
    if body.len() > MOST_SPEC {
        // Only now can the spec be too long by itself.
        let spec = task.get("spec").map_or(0, |spec| text_of(spec).len());
        if spec > MOST_SPEC {
            let why = format!("has {spec} bytes as JSON; at most {MOST_SPEC} are allowed");
            return Err(Malformed::new("spec", why));
        }
    }
    if body.len() > MOST_TASK {
        let why = format!("has {} bytes as JSON; at most {MOST_TASK} are allowed", body.len());
        return Err(Malformed::payload(why));
    }
    Ok((task, body))
}

/// Names the amounts that come from the defaults, so that the runner counts what the dispatcher counts. They
/// are no part of the content: a change of the defaults makes no conflict of a repeated submission. Says whether
/// there was anything to name.
fn fill_in_amounts(task: &mut Object<'_>, resources: &Resources) -> bool {
    if task.get("resources").is_none() {
        task.insert("resources", Object::default());
    }
    let Some(Json::Object(named)) = task.get_mut("resources") else { return false };
    if ["cpu", "memory"].iter().all(|name| named.get(name).is_some()) {
        // The others have no defaults where any is named.
        return false;
    }
    let before = named.len();
    for (name, amount) in write_resources::<Json<'static>>(resources) {
        if named.get(&name).is_none() {
            named.insert(name.to_string(), amount);
        }
    }
    named.len() > before
}

fn text_of(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what was read as JSON is written as JSON")
}

fn default_name() -> Id {
    static NAME: LazyLock<Id> = LazyLock::new(|| Id::parse(DEFAULT).expect("a legal name"));
    NAME.clone()
}
