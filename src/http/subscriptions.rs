//! Subscriptions: programs that ask for the tasks of a queue one by one.
//!
//! Law: a pull is answered once, with a task under a lease or with nothing and when to ask again. A connection that
//! is dropped withdraws its request; a server that stops answers those that wait with nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use super::{App, DECIDE_WITHIN, json};
use crate::core::input::{Answer, Command, Commanded, Input};
use crate::model::{Id, PullRequest, Pulled, RunnerId};
use crate::wire::pull::{read_subscription, write_given};

/// The longest a pull may wait.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// In how many seconds whoever was given nothing may ask again.
const AGAIN_AFTER: u64 = 1;

/// A subscription that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubscriptionView {
    #[schema(value_type = String)]
    id: RunnerId,
    #[schema(value_type = String)]
    topic: Id,
    /// How long a task is its puller's without a word.
    lease: String,
}

/// Subscribes to a queue, the topic: `{"topic": "jobs_myapp_prod", "lease": "60s"}`, and what a registration says
/// of kinds, arch, os, labels, resources and slots. What is left out is not bounded.
#[utoipa::path(post, path = "/v1/subscriptions", tag = "pull", request_body = Object,
    responses((status = 200, body = SubscriptionView), (status = 400, body = Problem),
        (status = 409, description = "A runner has this id", body = Problem), (status = 503, body = Problem)))]
pub(super) async fn subscribe(
    State(app): State<Arc<App>>,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Json<SubscriptionView>, Problem> {
    asked.only(&[])?;
    let free = Id::parse(&format!("sub-{}", Uuid::now_v7())).expect("hexadecimal digits and dashes");
    let new = read_subscription(&body, free)?;
    let view = SubscriptionView {
        id: new.id.clone(),
        topic: new.offer.queues.first().expect("it has a topic").clone(),
        lease: crate::model::time::format_span(new.lease),
    };
    match app.ask_one(Input::Command(Command::Subscribe(new))).await? {
        Answer::Commanded(Commanded::PullRefused { reason }) => {
            Err(Problem::new(StatusCode::CONFLICT, "conflict", &*reason).about("id"))
        }
        _ => Ok(Json(view)),
    }
}

/// Asks for one task. Nothing there, and nothing coming within `wait`: 204, and when to ask again.
#[utoipa::path(patch, path = "/v1/subscriptions/{id}", tag = "pull",
    params(("id" = String, Path, description = "The subscription's id"),
        ("wait" = Option<String>, Query, description = "How long to wait for a task, like 20s; at most 5m, not at all if left out"),
        ("puller" = Option<String>, Query, description = "A name under which a task that was not started is given again")),
    responses((status = 200, description = "`{\"jobSpec\": {…}, \"task\": {…}, \"lease\": {\"id\", \"deadline\"}}`", body = Object),
        (status = 204, description = "Nothing; `Retry-After` says when to ask again"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn pull(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.only(&["wait", "puller"])?;
    let wait = asked.span("wait", LONGEST_WAIT)?.unwrap_or_default();
    let request = PullRequest {
        runner: id.clone(),
        group: None,
        puller: asked.id("puller")?,
        request: Uuid::now_v7(),
        patient: !wait.is_zero(),
    };
    match one(&app, request, wait).await? {
        Pulled::Given(given) => Ok(json(StatusCode::OK, write_given(&given))),
        Pulled::Unknown => Err(Problem::unknown_subscription(id.as_str())),
        _ => Ok(nothing()),
    }
}

/// Puts one request through the door.
pub(super) async fn one(app: &App, request: PullRequest, wait: Duration) -> Result<Pulled, Problem> {
    let answered = tokio::time::timeout(wait + DECIDE_WITHIN, app.context.door.pull(request, wait));
    tokio::select! {
        answered = answered => match answered {
            Ok(pulled) => Ok(pulled?),
            Err(_) => Err(Problem::no_leader("nobody decided in time; ask again")),
        },
        () = app.stop.cancelled() => Ok(Pulled::Nothing),
    }
}

/// There is nothing to do, and when it is worth asking again.
pub(super) fn nothing() -> Response {
    (StatusCode::NO_CONTENT, [(header::RETRY_AFTER, AGAIN_AFTER.to_string())]).into_response()
}

/// Ends a subscription: what it has not started is pending again, what was started runs on under its lease.
#[utoipa::path(delete, path = "/v1/subscriptions/{id}", tag = "pull",
    params(("id" = String, Path, description = "The subscription's id")),
    responses((status = 204, description = "It takes nothing more"), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn end(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<StatusCode, Problem> {
    asked.only(&[])?;
    match app.ask_one(Input::Command(Command::Unsubscribe { subscription: id.clone() })).await? {
        Answer::Commanded(Commanded::UnknownRunner) => Err(Problem::unknown_subscription(id.as_str())),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
