//! The runner's side: registering, heartbeats, assignments, reports, leaving.
//!
//! Law: what a runner is told here is committed, and what it hands over is answered only once it is. A pack of
//! reports is one question. A poll that finds nothing ends empty; it is not an error.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::ToSchema;

use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use super::{App, json};
use crate::core::input::{Answer, Input};
use crate::wire::message::{
    Said, read_heartbeat, read_leave, read_registration, read_reports, write_delivery,
    write_heartbeat_answer, write_registered,
};

/// How long a poll waits when it does not say.
const WAIT: Duration = Duration::from_secs(30);
/// The longest a poll may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How many reports were taken in.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Taken {
    taken: usize,
}

/// A runner says what it offers and what it is running.
#[utoipa::path(post, path = "/v1/runners", tag = "runner's side", request_body = Object,
    responses((status = 200, description = "The lease, and the assignments it is known to have", body = Object),
        (status = 400, body = Problem),
        (status = 409, description = "It contradicts what this table knows", body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn register(
    State(app): State<Arc<App>>,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    asked.only(&[])?;
    let registration = read_registration(&body, None)?;
    match app.ask_one(Input::Register(registration)).await? {
        Answer::Registered(registered) => Ok(json(StatusCode::OK, write_registered(&registered))),
        Answer::RegistrationRefused { reason } => {
            Err(Problem::new(StatusCode::CONFLICT, "registration_refused", &*reason))
        }
        _ => unreachable!("a registration is answered as a registration"),
    }
}

/// A runner says that it is alive and what it has.
#[utoipa::path(post, path = "/v1/runners/{id}/heartbeat", tag = "runner's side", request_body = Object,
    params(("id" = String, Path, description = "The runner's id")),
    responses((status = 200, description = "What to stop, and whether to register again", body = Object),
        (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    asked.only(&[])?;
    let beat = read_heartbeat(&body, Some(&id))?;
    match app.ask_one(Input::Heartbeat(beat)).await? {
        Answer::Heartbeat(answer) => Ok(json(StatusCode::OK, write_heartbeat_answer(&answer))),
        _ => unreachable!("a heartbeat is answered as a heartbeat"),
    }
}

/// A runner goes away of its own accord.
#[utoipa::path(post, path = "/v1/runners/{id}/leave", tag = "runner's side", request_body = Object,
    params(("id" = String, Path, description = "The runner's id")),
    responses((status = 200, body = Object), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn leave(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    asked.only(&[])?;
    app.ask_one(Input::Leave(read_leave(&body, Some(&id))?)).await?;
    Ok(json(StatusCode::OK, "{}"))
}

/// Waits for assignments and for attempts to stop.
#[utoipa::path(get, path = "/v1/runners/{id}/assignments", tag = "runner's side",
    params(("id" = String, Path, description = "The runner's id"),
        ("wait" = Option<String>, Query, description = "How long to wait for something, like 30s; at most 5m")),
    responses((status = 200, description = "`{\"assignments\": […], \"stop\": […]}`, empty after the wait", body = Object),
        (status = 400, body = Problem),
        (status = 404, description = "It is not registered", body = Problem)))]
pub(super) async fn assignments(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.only(&["wait"])?;
    let wait = asked.span("wait", LONGEST_WAIT)?.unwrap_or(WAIT);
    if app.context.handle.view().read(|rows| rows.runner(&id).is_none()) {
        return Err(Problem::unknown_runner(id.as_str()));
    }
    let delivery = tokio::select! {
        delivery = app.context.outbox.next(&id, wait) => delivery,
        () = app.stop.cancelled() => Default::default(),
    };
    Ok(json(StatusCode::OK, write_delivery(&delivery)))
}

/// A runner reports starts and ends.
#[utoipa::path(post, path = "/v1/runners/{id}/reports", tag = "runner's side", request_body = Object,
    params(("id" = String, Path, description = "The runner's id")),
    responses((status = 202, description = "All of them stand in the table", body = Taken),
        (status = 400, description = "One that cannot be read refuses the pack", body = Problem),
        (status = 413, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn reports(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    asked.only(&[])?;
    let reports = read_reports(&body, Said { runner: Some(&id), ..Said::default() })?;
    let taken = app.ask(reports.into_iter().map(Input::Report).collect()).await?.len();
    Ok(json(StatusCode::ACCEPTED, format!("{{\"taken\":{taken}}}")))
}
