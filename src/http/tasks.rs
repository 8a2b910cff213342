//! Tasks: submitting, looking at, explaining and cancelling them.
//!
//! Law: a body of many tasks is one question to the dispatcher, and each of its tasks is answered on its own, in
//! its place. One task alone is answered by the status as well.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use crate::core::explain::{self, Why};
use crate::core::fit::Misfit;
use crate::core::input::{Answer, Command, Commanded, Input, Submitted};
use crate::core::{State as Rows, admitted_in, lifecycle};
use crate::model::{
    Fact, Id, Kind, Lifecycle, LifecycleState, NewTask, Outcome, Task, TaskId, TaskState, Time, Traceparent,
};
use crate::ports::{HistoryQuery, TurnEvents};
use crate::wire::fields::LONGEST_WORD;
use crate::wire::submission::{Body, Outside, Refused, read_body_from};

/// A body larger than this is read on a thread of its own, so that short requests do not wait for it.
const READ_ASIDE: usize = 256 << 10;
/// The most turns a timeline looks at.
const MOST_TURNS: usize = 1_000;
/// The most runners an explanation names.
const MOST_EXPLAINED: usize = 1_000;

/// What became of one submitted task.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubmissionAnswer {
    /// The id as it was submitted; null where there was none.
    id: Option<String>,
    /// `admitted`, `duplicate`, `rejected`, `conflict`; `accepted`: durable, and decided later; `full`: not taken
    /// now, submit it again later.
    answer: &'static str,
    reason: Option<String>,
}

/// Submits one task, a list of tasks, or one task a line.
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks",
    params(("traceparent" = Option<String>, Header,
        description = "The trace the tasks belong to (W3C Trace Context); a task's own `traceparent` goes before it")),
    request_body(content = Object, description = "A task, `{\"tasks\": […]}` of up to 1,000, or NDJSON; 8 MiB"),
    responses(
        (status = 202, description = "What became of each task, in their order", body = [SubmissionAnswer]),
        (status = 400, description = "The body, or the one task, is malformed", body = Problem),
        (status = 409, description = "One task alone: another task is known under its id, or it contradicts its group", body = Problem),
        (status = 413, description = "Too many bytes or tasks", body = Problem),
        (status = 429, description = "One task alone: the window is full", body = Problem),
        (status = 503, description = "Nothing is decided at the moment", body = Problem)))]
pub(super) async fn submit(
    State(app): State<Arc<App>>,
    asked: Asked,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    asked.only(&[])?;
    let trace = headers.get(Traceparent::NAME).and_then(|said| said.to_str().ok());
    let outside = Outside { traceparent: trace.and_then(Traceparent::parse), ..Outside::of_kind(Kind::Job) };
    let settings = app.context.settings.clone();
    let read = if body.len() > READ_ASIDE {
        let reading = tokio::task::spawn_blocking(move || read_body_from(&body, &outside, &settings));
        reading.await.expect("reading a body does not panic")?
    } else {
        read_body_from(&body, &outside, &settings)?
    };
    let Body { alone, tasks } = read;
    let mut inputs = Vec::with_capacity(tasks.len());
    for task in tasks.iter().flatten() {
        inputs.push(Input::Submit { task: task.clone(), sequence: app.context.handle.next_sequence() });
    }
    let mut decided = if inputs.is_empty() { Vec::new() } else { app.put(inputs).await? }.into_iter();
    let mut full = false;
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        let answer = match task {
            Err(refused) if alone => return Err(refused.malformed.into()),
            Err(refused) => malformed(refused),
            Ok(task) => match decided.next() {
                Some(Some(Answer::Submitted(submitted))) if alone => said_alone(&task, submitted)?,
                Some(Some(Answer::Submitted(submitted))) => said(&task, submitted),
                Some(None) => {
                    SubmissionAnswer { id: Some(task.id.to_string()), answer: "accepted", reason: None }
                }
                _ => unreachable!("a submission is answered as a submission"),
            },
        };
        full |= answer.answer == "full";
        answers.push(answer);
    }
    let mut response = (StatusCode::ACCEPTED, Json(answers)).into_response();
    if full {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}

fn malformed(refused: Refused) -> SubmissionAnswer {
    let reason = format!("malformed: {refused}");
    SubmissionAnswer { id: refused.id, answer: "rejected", reason: Some(reason) }
}

fn said(task: &NewTask, submitted: Submitted) -> SubmissionAnswer {
    let (answer, reason) = match submitted {
        Submitted::Admitted => ("admitted", None),
        Submitted::Duplicate => ("duplicate", None),
        Submitted::Rejected { reason } => ("rejected", Some(reason.to_string())),
        Submitted::Conflict { reason } => ("conflict", Some(reason.to_string())),
        Submitted::Full { reason } => ("full", Some(reason.to_string())),
    };
    SubmissionAnswer { id: Some(task.id.to_string()), answer, reason }
}

fn said_alone(task: &NewTask, submitted: Submitted) -> Result<SubmissionAnswer, Problem> {
    match submitted {
        Submitted::Conflict { reason } => {
            let field = if reason.starts_with("group.") { "group" } else { "id" };
            Err(Problem::new(StatusCode::CONFLICT, "conflict", &*reason).about(field))
        }
        Submitted::Full { reason } => {
            let detail = format!("{reason}; submit it again later");
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "full", detail).again_after(1))
        }
        taken => Ok(said(task, taken)),
    }
}

/// A task as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskView {
    #[schema(value_type = String)]
    id: TaskId,
    kind: &'static str,
    #[schema(value_type = String)]
    queue: Id,
    #[schema(value_type = String)]
    tenant: Id,
    priority: i32,
    #[schema(value_type = Option<String>)]
    build: Option<Id>,
    #[schema(value_type = Option<String>)]
    group: Option<Id>,
    /// `pending`, `assigned`, `running` or `ended`.
    state: &'static str,
    outcome: Option<&'static str>,
    /// Why it is pending again, is asked to stop, or ended.
    reason: Option<String>,
    #[schema(value_type = Option<String>)]
    runner: Option<Id>,
    /// Assignments made so far.
    attempt: u32,
    token: Option<String>,
    exit_code: Option<i32>,
    /// The last lines of output, as the runner reported them.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// From submission to the last assignment; of a pending task until now.
    waited_ms: Option<u64>,
    /// From the last start to its end; of a running task until now.
    ran_ms: Option<u64>,
    /// When it was submitted, in RFC 3339.
    submitted: String,
    /// Time before which it is not placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
}

impl TaskView {
    /// A task at log time `now`.
    pub(super) fn of(task: &Task, now: Time) -> Self {
        let event = lifecycle(task, now);
        let so_far = |from: Time| u64::try_from(now.since(from).as_millis()).unwrap_or(u64::MAX);
        let mut view = Self {
            id: event.id,
            kind: event.kind.as_str(),
            queue: event.queue,
            tenant: event.tenant,
            priority: task.priority,
            build: task.build.clone(),
            group: task.shape.group.clone(),
            state: task.state_word(),
            outcome: event.outcome.map(Outcome::as_str),
            reason: event.reason.map(|reason| reason.to_string()),
            runner: event.runner,
            attempt: event.attempt,
            token: event.token.map(|token| token.to_string()),
            exit_code: event.exit_code,
            message: None,
            waited_ms: event.waited_ms,
            ran_ms: event.ran_ms,
            submitted: task.submitted.rfc3339(),
            not_before: None,
        };
        match &task.state {
            TaskState::Pending { not_before, reason, .. } => {
                view.waited_ms = Some(so_far(task.submitted));
                view.reason = reason.as_ref().map(|reason| reason.to_string());
                view.not_before = not_before.filter(|at| *at > now).map(Time::rfc3339);
            }
            TaskState::Assigned(held) | TaskState::Running(held) => {
                view.ran_ms = held.started.map(so_far);
                view.reason = held.stop.as_ref().map(|stop| stop.reason.to_string());
            }
            TaskState::Ended(ending) => {
                view.message = ending.message.as_ref().map(|message| message.to_string());
            }
        }
        view
    }
}

/// One task in full.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskInFull {
    #[serde(flatten)]
    view: TaskView,
    /// The task as it was submitted, while it is kept.
    #[schema(value_type = Option<Object>)]
    task: Option<Box<RawValue>>,
    /// The states it entered, oldest first.
    timeline: Vec<Moment>,
}

/// A task entered a state, or something else happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Moment {
    at: String,
    /// `pending`, `assigned`, `running`, `ended`; or `stop_asked`.
    state: &'static str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Moment {
    fn of(event: &Lifecycle) -> Self {
        Self {
            at: event.at.rfc3339(),
            state: event.state.as_str(),
            attempt: event.attempt,
            runner: event.runner.as_ref().map(|runner| runner.to_string()),
            token: event.token.map(|token| token.to_string()),
            outcome: event.outcome.map(Outcome::as_str),
            exit_code: event.exit_code,
            reason: event.reason.as_ref().map(|reason| reason.to_string()),
        }
    }
}

/// One task with its timeline.
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, body = TaskInFull), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<Json<TaskInFull>, Problem> {
    asked.only(&[])?;
    let view = app.context.handle.view();
    let look = || view.read(|state| state.task(id.as_str()).cloned());
    let known = match look() {
        Some(known) => known,
        None => {
            let undecided = app.context.door.may_hold_undecided().await;
            // It may have been decided meanwhile.
            look().ok_or_else(|| Problem::unknown_task(id.as_str()).undecided(undecided))?
        }
    };
    let since = Some(admitted_in(&known).saturating_sub(1));
    let query = HistoryQuery { id: Some(id.clone()), since, limit: MOST_TURNS };
    // Without history the row still tells the story of the last attempt.
    let told = app.context.history.events(query).await.unwrap_or_default();
    let (task, body, turn, now) = view.read(|state| {
        let body = state.body(id.as_str()).cloned();
        (state.task(id.as_str()).cloned().unwrap_or(known), body, state.turn(), app.now(state))
    });
    let timeline = timeline(&task, &told, turn);
    // A body that is not JSON cannot have been admitted.
    let body = body.and_then(|body| RawValue::from_string(body.to_string()).ok());
    Ok(Json(TaskInFull { view: TaskView::of(&task, now), task: body, timeline }))
}

/// What the history tells up to `turn`; where it does not reach, what the row says.
fn timeline(task: &Task, told: &[TurnEvents], turn: u64) -> Vec<Moment> {
    let mut moments: Vec<Moment> = Vec::new();
    let facts = told.iter().filter(|events| events.turn <= turn);
    for (at, fact) in facts.flat_map(|events| events.events.iter().map(|fact| (events.at, fact))) {
        match fact {
            Fact::Task(event) => moments.push(Moment::of(event)),
            Fact::StopAsked { runner, token, reason, .. } => moments.push(Moment {
                at: at.rfc3339(),
                state: "stop_asked",
                attempt: task.attempt,
                runner: Some(runner.to_string()),
                token: Some(token.to_string()),
                outcome: None,
                exit_code: None,
                reason: Some(reason.to_string()),
            }),
            _ => {}
        }
    }
    for moment in from_row(task) {
        let known = |told: &Moment| told.state == moment.state && told.token == moment.token;
        if !moments.iter().any(known) {
            moments.push(moment);
        }
    }
    // Stable: what happened at the same moment stays in the order it was told.
    moments.sort_by(|a, b| a.at.cmp(&b.at));
    moments
}

/// The submission, and the last attempt as far as it went.
fn from_row(task: &Task) -> Vec<Moment> {
    let mut event = lifecycle(task, task.submitted);
    (event.exit_code, event.reason, event.outcome) = (None, None, None);
    let (runner, token) = (event.runner.take(), event.token.take());
    event.state = LifecycleState::Pending;
    event.attempt = 0;
    let mut moments = vec![Moment::of(&event)];
    let (assigned, started) = match &task.state {
        TaskState::Pending { .. } => (None, None),
        TaskState::Assigned(held) | TaskState::Running(held) => (Some(held.assigned), held.started),
        TaskState::Ended(ending) => (ending.assigned, ending.started),
    };
    (event.runner, event.token, event.attempt) = (runner, token, task.attempt);
    for (at, state) in [(assigned, LifecycleState::Assigned), (started, LifecycleState::Running)] {
        if let Some(at) = at {
            moments.push(Moment::of(&Lifecycle { at, state, ..event.clone() }));
        }
    }
    if let TaskState::Ended(ending) = &task.state {
        moments.push(Moment::of(&lifecycle(task, ending.ended)));
    }
    moments
}

/// Why a task stands where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WhyView {
    #[schema(value_type = String)]
    id: TaskId,
    state: &'static str,
    /// Of a pending task: `fits_now`, `fits_later` or `never_fits`.
    verdict: Option<&'static str>,
    /// How many pending tasks would be placed before it.
    position: Option<usize>,
    /// In sentences, the most important first.
    reasons: Vec<String>,
    /// Each runner with what is in the way there; at most 1,000.
    runners: Vec<MisfitView>,
    /// Each declared or remembered class with what is in the way there.
    classes: Vec<MisfitView>,
}

/// A runner or class, and what keeps the task from it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MisfitView {
    id: String,
    /// The reason's name, such as `busy` or `label`; null where it fits.
    misfit: Option<&'static str>,
    detail: Option<String>,
}

impl MisfitView {
    fn of((id, misfit): (Id, Option<Misfit>)) -> Self {
        let detail = misfit.as_ref().map(|misfit| misfit.to_string());
        Self { id: id.to_string(), misfit: misfit.map(|misfit| misfit.word()), detail }
    }
}

/// Explains why a task waits, or what became of it.
#[utoipa::path(get, path = "/v1/tasks/{id}/why", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, body = WhyView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn why(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<Json<WhyView>, Problem> {
    asked.only(&[])?;
    let explain = |state: &Rows| {
        let state_word = state.task(id.as_str())?.state_word();
        explain::why(state, id.as_str()).map(|why| (state_word, why))
    };
    let (state, why) =
        app.context.handle.view().read(explain).ok_or_else(|| Problem::unknown_task(id.as_str()))?;
    let Why { verdict, position, reasons, runners, classes } = why;
    Ok(Json(WhyView {
        state,
        verdict: verdict.map(|verdict| verdict.as_str()),
        position,
        reasons,
        runners: runners.into_iter().take(MOST_EXPLAINED).map(MisfitView::of).collect(),
        classes: classes.into_iter().map(MisfitView::of).collect(),
        id,
    }))
}

/// A cancel was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancelled {
    #[schema(value_type = String)]
    id: TaskId,
    /// The state it is in now; null for an id that was not seen yet.
    state: Option<&'static str>,
    /// The id was not seen yet: a submission of it that is on its way ends `cancelled`.
    remembered: bool,
}

/// Cancels a task. A pending one ends at once, the runner of a running one is asked to stop it.
#[utoipa::path(delete, path = "/v1/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"),
        ("reason" = Option<String>, Query, description = "Said to the runner, and kept with the task")),
    responses((status = 202, body = Cancelled), (status = 400, body = Problem),
        (status = 409, description = "It has ended already", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
    payload: Payload,
) -> Result<(StatusCode, Json<Cancelled>), Problem> {
    asked.only(&["reason"])?;
    let said = asked.text("reason").map(str::to_owned).or(payload.reason()?);
    let reason: Arc<str> = said.as_deref().unwrap_or("cancelled on request").into();
    if reason.len() > LONGEST_WORD {
        let why = format!("has {} bytes; at most {LONGEST_WORD} are allowed", reason.len());
        return Err(Problem::parameter("reason", &reason, why));
    }
    let sequence = app.context.handle.next_sequence();
    let command = Command::Cancel { id: id.clone(), reason, sequence };
    match app.put(vec![Input::Command(command)]).await?.pop().flatten() {
        Some(Answer::Commanded(Commanded::AlreadyEnded { outcome })) => {
            let detail = format!("task {id} has ended already: {outcome}; nothing was changed");
            Err(Problem::new(StatusCode::CONFLICT, "already_ended", detail).ended(outcome.as_str()))
        }
        Some(Answer::Commanded(_)) | None => {
            let now =
                app.context.handle.view().read(|rows| rows.task(id.as_str()).map(|task| task.state_word()));
            Ok((StatusCode::ACCEPTED, Json(Cancelled { remembered: now.is_none(), id, state: now })))
        }
        _ => unreachable!("a command is answered as a command"),
    }
}
