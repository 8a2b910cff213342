//! Runners, as operators see and move them.
//!
//! Law: what a runner holds and why it is idle come from the same rows and the same functions the planner asks.
//! Each runner of a list is read by itself, so that a large fleet never keeps the next turn waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use crate::core::fleet::Seat;
use crate::core::input::{Answer, Command, Commanded, Input};
use crate::core::{State as Rows, explain};
use crate::model::{Id, Kind, Resources, RunnerId, Standing, TaskId};
use crate::wire::registration::write_resources;

/// The most runners of one page, and how many there are unless asked otherwise.
const MOST_LISTED: usize = 1_000;
/// Beyond so many lines of waiting tasks, a list does not say why each runner is idle.
const MOST_LINES: usize = 200;
/// The most assignments shown of one runner.
const MOST_ASSIGNMENTS: usize = 1_000;

type Amounts = BTreeMap<Arc<str>, Value>;

/// A runner as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunnerView {
    #[schema(value_type = String)]
    id: RunnerId,
    /// `ready`, `held`, `draining` or `lost`.
    state: &'static str,
    /// Why it is held.
    reason: Option<String>,
    /// The task that waited too long and that it is kept for.
    #[schema(value_type = Option<String>)]
    kept_for: Option<TaskId>,
    /// Why it gets nothing more at the moment; in a list only while few different tasks wait.
    idle: Option<String>,
    #[schema(value_type = String)]
    incarnation: Arc<str>,
    /// When it last registered with something new, in RFC 3339.
    registered: String,
    lost: Option<String>,
    #[schema(value_type = Option<String>)]
    class: Option<Id>,
    cost: f64,
    #[schema(value_type = String)]
    version: Arc<str>,
    #[schema(value_type = Vec<String>)]
    kinds: BTreeSet<Kind>,
    /// Empty means any.
    #[schema(value_type = Vec<String>)]
    queues: BTreeSet<Id>,
    /// The only group it takes tasks of; null for any.
    #[schema(value_type = Option<String>)]
    group: Option<Id>,
    #[schema(value_type = String)]
    arch: Arc<str>,
    #[schema(value_type = String)]
    os: Arc<str>,
    #[schema(value_type = Object)]
    labels: BTreeMap<Arc<str>, Arc<str>>,
    #[schema(value_type = Vec<String>)]
    taints: BTreeSet<Arc<str>>,
    /// Amounts by name, with `slots`; without resources it is bounded by its slots alone.
    #[schema(value_type = Object)]
    capacity: Amounts,
    #[schema(value_type = Object)]
    held: Amounts,
    #[schema(value_type = Object)]
    free: Amounts,
    /// Its assigned and running tasks; at most 1,000 are shown.
    assignments: Vec<AssignmentView>,
}

/// A task on a runner.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AssignmentView {
    #[schema(value_type = String)]
    id: TaskId,
    kind: &'static str,
    state: &'static str,
    attempt: u32,
    token: String,
    confirmed: bool,
    /// Why it is asked to stop, if it is.
    stop: Option<String>,
}

/// A page of runners.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunnerPage {
    runners: Vec<RunnerView>,
    /// Asks for the next page, as `after`; null on the last one.
    next: Option<String>,
}

/// Lists runners in the order of their ids.
#[utoipa::path(get, path = "/v1/runners", tag = "runners",
    params(("limit" = Option<usize>, Query, description = "1 to 1000; 1000 if left out"),
        ("after" = Option<String>, Query, description = "The `next` of the page before")),
    responses((status = 200, body = RunnerPage), (status = 400, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>, asked: Asked) -> Result<Json<RunnerPage>, Problem> {
    asked.only(&["limit", "after"])?;
    let limit = asked.number("limit", 1, MOST_LISTED)?.unwrap_or(MOST_LISTED);
    let after = asked.id("after")?;
    let view = app.context.handle.view();
    let (mut ids, few_lines) = view.read(|rows| {
        let ids = rows.fleet().after(after.as_ref()).take(limit + 1).cloned().collect::<Vec<_>>();
        (ids, rows.backlog().lines().take(MOST_LINES + 1).count() <= MOST_LINES)
    });
    let more = ids.len() > limit;
    ids.truncate(limit);
    let one = |id: &RunnerId| view.read(|rows| Some(runner_view(rows, rows.fleet().get(id)?, few_lines)));
    let runners = ids.iter().filter_map(one).collect();
    let next = ids.last().filter(|_| more).map(|id| id.to_string());
    Ok(Json(RunnerPage { runners, next }))
}

/// One runner.
#[utoipa::path(get, path = "/v1/runners/{id}", tag = "runners",
    params(("id" = String, Path, description = "The runner's id")),
    responses((status = 200, body = RunnerView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<Json<RunnerView>, Problem> {
    asked.only(&[])?;
    one(&app, &id)
}

fn one(app: &App, id: &RunnerId) -> Result<Json<RunnerView>, Problem> {
    let read = |rows: &Rows| Some(runner_view(rows, rows.fleet().get(id)?, true));
    let shown = app.context.handle.view().read(read);
    shown.map(Json).ok_or_else(|| Problem::unknown_runner(id.as_str()))
}

fn runner_view(rows: &Rows, seat: &Seat, say_idle: bool) -> RunnerView {
    let (runner, offer) = (&seat.runner, &seat.runner.offer);
    let free = offer.resources.as_ref().map(|has| has.left_after(&seat.held.resources));
    let reason = match &runner.standing {
        Standing::Held { reason } => Some(reason.to_string()),
        Standing::Dismissed => Some("its group has nothing left for it: it is told to leave".to_owned()),
        Standing::Ready | Standing::Draining => None,
    };
    let tasks = seat.tasks.values().take(MOST_ASSIGNMENTS);
    let assignments = tasks.filter_map(|task| {
        let held = task.assignment()?;
        Some(AssignmentView {
            id: task.id.clone(),
            kind: task.kind().as_str(),
            state: task.state_word(),
            attempt: task.attempt,
            token: held.token.to_string(),
            confirmed: held.confirmed,
            stop: held.stop.as_ref().map(|stop| stop.reason.to_string()),
        })
    });
    RunnerView {
        id: runner.id.clone(),
        state: runner.state().as_str(),
        reason,
        kept_for: rows.reservations().on(&seat.runner.id).map(|kept| kept.task.clone()),
        idle: say_idle.then(|| explain::idle(rows, seat)),
        incarnation: runner.incarnation.clone(),
        registered: runner.registered.rfc3339(),
        lost: runner.lost.map(|at| at.rfc3339()),
        class: runner.class.clone(),
        cost: runner.cost,
        version: runner.version.clone(),
        kinds: offer.kinds.clone(),
        queues: offer.queues.clone(),
        group: offer.group.clone(),
        arch: offer.arch.clone(),
        os: offer.os.clone(),
        labels: offer.labels.clone(),
        taints: offer.taints.clone(),
        capacity: amounts(offer.resources.as_ref(), offer.slots),
        held: amounts(Some(&seat.held.resources), seat.held.slots),
        free: amounts(free.as_ref(), offer.slots.saturating_sub(seat.held.slots)),
        assignments: assignments.collect(),
    }
}

fn amounts(resources: Option<&Resources>, slots: u32) -> Amounts {
    let mut amounts = resources.map(write_resources).unwrap_or_default();
    amounts.insert("slots".into(), slots.into());
    amounts
}

/// Gives a runner nothing until it is resumed; what it has runs on.
#[utoipa::path(post, path = "/v1/runners/{id}/hold", tag = "runners",
    params(("id" = String, Path, description = "The runner's id")),
    request_body(content = Option<Object>, description = "`{\"reason\": \"…\"}`, or nothing"),
    responses((status = 200, body = RunnerView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn hold(
    State(app): State<Arc<App>>,
    Named(runner): Named,
    asked: Asked,
    payload: Payload,
) -> Result<Json<RunnerView>, Problem> {
    asked.only(&[])?;
    let reason = payload.reason()?.unwrap_or_else(|| "held on request".to_owned()).into();
    command(&app, &runner, Command::HoldRunner { runner: runner.clone(), reason }).await
}

/// Gives a runner nothing more, except jobs of running builds that fit nowhere else.
#[utoipa::path(post, path = "/v1/runners/{id}/drain", tag = "runners",
    params(("id" = String, Path, description = "The runner's id")),
    responses((status = 200, body = RunnerView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Named(runner): Named,
    asked: Asked,
    payload: Payload,
) -> Result<Json<RunnerView>, Problem> {
    asked.only(&[])?;
    payload.reason()?;
    command(&app, &runner, Command::DrainRunner { runner: runner.clone() }).await
}

/// Takes back a hold or a drain.
#[utoipa::path(post, path = "/v1/runners/{id}/resume", tag = "runners",
    params(("id" = String, Path, description = "The runner's id")),
    responses((status = 200, body = RunnerView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Named(runner): Named,
    asked: Asked,
    payload: Payload,
) -> Result<Json<RunnerView>, Problem> {
    asked.only(&[])?;
    payload.reason()?;
    command(&app, &runner, Command::ResumeRunner { runner: runner.clone() }).await
}

async fn command(app: &App, runner: &RunnerId, command: Command) -> Result<Json<RunnerView>, Problem> {
    match app.ask_one(Input::Command(command)).await? {
        Answer::Commanded(Commanded::UnknownRunner) => Err(Problem::unknown_runner(runner.as_str())),
        _ => one(app, runner),
    }
}
