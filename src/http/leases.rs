//! Leases: what whoever pulled a task says of it.
//!
//! Law: a word is answered once it is committed. 410 says that the task is somebody else's, or nobody's, and that its
//! work is to be stopped; 409 that it may not be started a second time.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::{Asked, Payload};
use crate::core::input::{Answer, Command, Commanded, Input};
use crate::model::{LeaseId, LeaseWord, time};
use crate::wire::pull::read_said;

/// The lease in the path.
#[derive(Debug, Clone)]
pub(super) struct OfLease(LeaseId);

impl<S: Send + Sync> FromRequestParts<S> for OfLease {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|why| Problem::parameter("id", parts.uri.path(), why.body_text()))?;
        text.parse().map(Self).map_err(|why| Problem::parameter("id", &text, why))
    }
}

/// A lease that goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeaseView {
    id: String,
    /// When it ends unless it is extended, in RFC 3339; null once the task is given back or has ended.
    deadline: Option<String>,
    /// How long that is from when this was asked.
    runs: Option<String>,
    /// Why the work is to be stopped, if it is: then say how it ended.
    stop: Option<String>,
}

/// Says that the work begins: only once, so that it cannot run twice.
#[utoipa::path(post, path = "/v1/leases/{id}/start", tag = "pull",
    params(("id" = String, Path, description = "The lease's id")),
    responses((status = 200, body = LeaseView), (status = 400, body = Problem),
        (status = 409, description = "It was started already", body = Problem),
        (status = 410, description = "The lease is over", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    lease: OfLease,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Json<LeaseView>, Problem> {
    say(&app, lease, &asked, read_said("start", &body)?).await
}

/// Says that the work goes on: the lease runs anew. The answer says if it is to be stopped.
#[utoipa::path(post, path = "/v1/leases/{id}/extend", tag = "pull",
    params(("id" = String, Path, description = "The lease's id")),
    responses((status = 200, body = LeaseView), (status = 400, body = Problem),
        (status = 410, description = "The lease is over", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn extend(
    State(app): State<Arc<App>>,
    lease: OfLease,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Json<LeaseView>, Problem> {
    say(&app, lease, &asked, read_said("extend", &body)?).await
}

/// Says how the work ended: `{"outcome": "succeeded", "exit_code": 0}`; `succeeded` if nothing is said.
#[utoipa::path(post, path = "/v1/leases/{id}/ack", tag = "pull",
    params(("id" = String, Path, description = "The lease's id")),
    request_body(content = Option<Object>, description = "`{\"outcome\", \"exit_code\", \"message\"}`, or nothing"),
    responses((status = 200, body = LeaseView), (status = 400, body = Problem),
        (status = 410, description = "The lease is over", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn ack(
    State(app): State<Arc<App>>,
    lease: OfLease,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Json<LeaseView>, Problem> {
    say(&app, lease, &asked, read_said("ack", &body)?).await
}

/// Gives the task back, to be placed again after `delay`: `{"delay": "30s", "reason": "…"}`. No attempt is spent.
#[utoipa::path(post, path = "/v1/leases/{id}/nack", tag = "pull",
    params(("id" = String, Path, description = "The lease's id")),
    request_body(content = Option<Object>, description = "`{\"delay\", \"reason\"}`, or nothing"),
    responses((status = 200, body = LeaseView), (status = 400, body = Problem),
        (status = 410, description = "The lease is over", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn nack(
    State(app): State<Arc<App>>,
    lease: OfLease,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Json<LeaseView>, Problem> {
    say(&app, lease, &asked, read_said("nack", &body)?).await
}

async fn say(
    app: &App,
    OfLease(lease): OfLease,
    asked: &Asked,
    word: LeaseWord,
) -> Result<Json<LeaseView>, Problem> {
    asked.only(&[])?;
    let id = lease.to_string();
    match app.ask_one(Input::Command(Command::Lease { lease, word })).await? {
        Answer::Commanded(Commanded::Leased { deadline, runs, stop }) => Ok(Json(LeaseView {
            id,
            deadline: Some(deadline.rfc3339()),
            runs: Some(time::format_span(runs)),
            stop: stop.map(|stop| stop.to_string()),
        })),
        Answer::Commanded(Commanded::LeaseOver { reason }) => {
            Err(Problem::new(StatusCode::GONE, "lease_over", &*reason))
        }
        Answer::Commanded(Commanded::PullRefused { reason }) => {
            Err(Problem::new(StatusCode::CONFLICT, "already_started", &*reason))
        }
        _ => Ok(Json(LeaseView { id, deadline: None, runs: None, stop: None })),
    }
}
