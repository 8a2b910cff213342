//! Groups that a program pulls: it binds runners to one, asks for the next task by way of each, and for more runners.
//!
//! Law: who changes a group may say which state of it was seen, with `If-Match: <modification_count>`; on another
//! state nothing is changed. A runner has one task of its group at a time.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::json as value;
use uuid::Uuid;

use super::groups::GroupView;
use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use super::subscriptions::{LONGEST_WAIT, nothing, one as pull_one};
use super::{App, groups, json};
use crate::core::input::{Answer, Command, Commanded, Input};
use crate::model::{Binding, GroupId, Id, LEASE, LeaseId, PullRequest, Pulled, RunnerId};
use crate::wire::pull::{read_binding, write_given};

/// The group and the runner in the path.
#[derive(Debug, Clone)]
pub(super) struct InGroup {
    group: GroupId,
    runner: RunnerId,
}

impl<S: Send + Sync> FromRequestParts<S> for InGroup {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((group, runner)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|why| Problem::parameter("id", parts.uri.path(), why.body_text()))?;
        let read = |name, text: &str| Id::parse(text).map_err(|why| Problem::parameter(name, text, why));
        Ok(Self { group: read("id", &group)?, runner: read("runner", &runner)? })
    }
}

/// Binds a runner to a group: its tasks are asked for by way of such runners, and pushed to nobody. A runner that is
/// not known is taken to be a program that never registers.
#[utoipa::path(put, path = "/v1/groups/{id}/runners/{runner}", tag = "groups",
    params(("id" = String, Path, description = "The group's id"),
        ("runner" = String, Path, description = "The runner's id"),
        ("If-Match" = Option<u64>, Header, description = "The `modification_count` of the group as it was seen")),
    request_body(content = Option<Object>, description = "`{\"lease\": \"60s\"}`, or nothing"),
    responses((status = 200, body = GroupView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "It is bound to as many as it may be, or the runner elsewhere", body = Problem),
        (status = 412, description = "The group has changed", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn bind(
    State(app): State<Arc<App>>,
    path: InGroup,
    asked: Asked,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Json<GroupView>, Problem> {
    asked.only(&[])?;
    let binding = binding(&path, &headers, read_binding(&body)?)?;
    command(&app, &path.group, Command::BindRunner(binding)).await
}

/// Removes a runner from a group. What it has not started is pending again. With the last one the group's tasks are
/// released: those that were started spend an attempt, and end `exhausted` where none is left.
#[utoipa::path(delete, path = "/v1/groups/{id}/runners/{runner}", tag = "groups",
    params(("id" = String, Path, description = "The group's id"),
        ("runner" = String, Path, description = "The runner's id"),
        ("If-Match" = Option<u64>, Header, description = "The `modification_count` of the group as it was seen")),
    responses((status = 200, body = GroupView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 412, description = "The group has changed", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn unbind(
    State(app): State<Arc<App>>,
    path: InGroup,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Json<GroupView>, Problem> {
    asked.only(&[])?;
    let binding = binding(&path, &headers, LEASE)?;
    command(&app, &path.group, Command::UnbindRunner(binding)).await
}

/// Asks for one more runner for a task of the group. Nothing happens where enough are bound or coming.
#[utoipa::path(post, path = "/v1/groups/{id}/intents", tag = "groups",
    params(("id" = String, Path, description = "The group's id")),
    responses((status = 200, body = GroupView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "No declared class could provide one", body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn allocate(
    State(app): State<Arc<App>>,
    Named(group): Named,
    asked: Asked,
) -> Result<Json<GroupView>, Problem> {
    asked.only(&[])?;
    command(&app, &group, Command::AskForRunner { group: group.clone() }).await
}

/// The next task of the group for this runner, under a lease. One it has not started is given again; one that is to
/// be stopped is named first, as `{\"stop\": […]}`.
#[utoipa::path(post, path = "/v1/groups/{id}/runners/{runner}/next", tag = "groups",
    params(("id" = String, Path, description = "The group's id"),
        ("runner" = String, Path, description = "The runner's id"),
        ("wait" = Option<String>, Query, description = "How long to wait for a task, like 20s; at most 5m, not at all if left out")),
    responses((status = 200, description = "`{\"jobSpec\", \"task\", \"lease\"}`, or `{\"stop\": […]}`", body = Object),
        (status = 204, description = "Nothing; `Retry-After` says when to ask again"),
        (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "It runs one already, which `task` names, or it is draining", body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn next(
    State(app): State<Arc<App>>,
    path: InGroup,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.only(&["wait"])?;
    let wait: Duration = asked.span("wait", LONGEST_WAIT)?.unwrap_or_default();
    let request = PullRequest {
        runner: path.runner.clone(),
        group: Some(path.group.clone()),
        puller: Some(path.runner.clone()),
        request: Uuid::now_v7(),
        patient: !wait.is_zero(),
    };
    let (runner, group) = (&path.runner, &path.group);
    match pull_one(&app, request, wait).await? {
        Pulled::Given(given) => Ok(json(StatusCode::OK, write_given(&given))),
        Pulled::Nothing => Ok(nothing()),
        Pulled::Unknown => {
            // That there is no such group says more.
            groups::one(&app, group).and_then(|_| Err(not_bound(&path)))
        }
        Pulled::Busy { task } => {
            let detail = format!("runner {runner} runs {task} already: one task of a group at a time");
            Err(Problem::new(StatusCode::CONFLICT, "busy", detail).of_task(task.as_str()))
        }
        Pulled::Draining => {
            let detail =
                format!("runner {runner} is held or draining and gets nothing more; resume it first");
            Err(Problem::new(StatusCode::CONFLICT, "draining", detail))
        }
        Pulled::Stop(order) => {
            let lease = LeaseId { task: order.id.clone(), token: order.token }.to_string();
            let stop = value!({"id": order.id, "token": order.token, "lease": lease, "reason": order.reason});
            Ok(json(StatusCode::OK, value!({ "stop": [stop] }).to_string()))
        }
    }
}

fn not_bound(InGroup { group, runner }: &InGroup) -> Problem {
    let detail = format!(
        "runner {runner} was not bound to group {group}: PUT /v1/groups/{group}/runners/{runner} binds it"
    );
    Problem::new(StatusCode::NOT_FOUND, "not_bound", detail).about("runner")
}

/// What is asked of which state of the group.
fn binding(path: &InGroup, headers: &HeaderMap, lease: Duration) -> Result<Binding, Problem> {
    let InGroup { group, runner } = path.clone();
    let Some(said) = headers.get(header::IF_MATCH) else {
        return Ok(Binding { group, runner, seen: None, lease });
    };
    let text = said.to_str().unwrap_or_default().trim();
    let seen = match text.trim_matches('"') {
        "*" => None,
        count => Some(count.parse().map_err(|_| {
            let why = "must be the modification_count of the group, a whole number";
            Problem::parameter("If-Match", text, why)
        })?),
    };
    Ok(Binding { group, runner, seen, lease })
}

async fn command(app: &App, group: &GroupId, command: Command) -> Result<Json<GroupView>, Problem> {
    let runner = match &command {
        Command::UnbindRunner(binding) => Some(binding.runner.clone()),
        _ => None,
    };
    match app.ask_one(Input::Command(command)).await? {
        Answer::Commanded(Commanded::UnknownGroup) => Err(Problem::unknown_group(group.as_str())),
        Answer::Commanded(Commanded::UnknownRunner) => {
            let runner = runner.expect("only who is removed can be unknown");
            Err(not_bound(&InGroup { group: group.clone(), runner }))
        }
        Answer::Commanded(Commanded::GroupChanged { modification_count }) => {
            let detail = format!(
                "group {group} has changed: its modification_count is {modification_count} now; read it again"
            );
            let problem = Problem::new(StatusCode::PRECONDITION_FAILED, "group_changed", detail);
            Err(problem.about("If-Match"))
        }
        Answer::Commanded(Commanded::PullRefused { reason }) => {
            Err(Problem::new(StatusCode::CONFLICT, "conflict", &*reason))
        }
        _ => groups::one(app, group),
    }
}
