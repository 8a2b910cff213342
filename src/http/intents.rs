//! Intents: which runners are asked for, and what provisioners answer.
//!
//! Law: an intent says everything a provisioner needs to start a runner for it, the class's offer included. An
//! acknowledgement names no more runners than are asked for; one that comes second changes nothing and is told so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use crate::core::State as Rows;
use crate::core::input::{Answer, Command, Commanded, Input};
use crate::model::{DeclaredClass, Id, Intent, IntentId, Kind, TaskId};
use crate::wire::registration::write_resources;

/// The most intents of one page, and how many there are unless asked otherwise.
const MOST_LISTED: usize = 1_000;

/// An intent as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IntentView {
    #[schema(value_type = String)]
    id: IntentId,
    #[schema(value_type = String)]
    class: Id,
    /// `asked`, `acknowledged`, `declined` or `expired`.
    state: &'static str,
    /// Runners it stands for that are not here yet: those asked for and those starting.
    count: u32,
    /// Runners nobody has answered for yet: what an acknowledgement may name.
    asked: u32,
    /// Runners that were acknowledged and have not registered yet.
    starting: u32,
    /// Runners that registered with it.
    arrived: u32,
    #[schema(value_type = String)]
    reason: Arc<str>,
    /// The first tasks behind it.
    #[schema(value_type = Vec<String>)]
    tasks: Vec<TaskId>,
    /// How many tasks were behind it when it last changed.
    waiting: u64,
    /// What these tasks ask of a runner, in words.
    shape: String,
    /// When it was made, in RFC 3339.
    made: String,
    /// When it changes by itself: expires, or is forgotten.
    expires: Option<String>,
    /// What a runner of the class has to offer; null when the class is not declared any more.
    offer: Option<OfferView>,
}

/// What a runner of a class offers, as a registration says it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OfferView {
    #[schema(value_type = Vec<String>)]
    kinds: BTreeSet<Kind>,
    /// Empty means any.
    #[schema(value_type = Vec<String>)]
    queues: BTreeSet<Id>,
    #[schema(value_type = String)]
    arch: Arc<str>,
    #[schema(value_type = String)]
    os: Arc<str>,
    #[schema(value_type = Object)]
    labels: BTreeMap<Arc<str>, Arc<str>>,
    #[schema(value_type = Vec<String>)]
    taints: BTreeSet<Arc<str>>,
    /// Null for a class bounded by its slots alone.
    #[schema(value_type = Option<Object>)]
    resources: Option<BTreeMap<Arc<str>, Value>>,
    slots: u32,
    cost: f64,
}

/// A page of intents.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IntentPage {
    intents: Vec<IntentView>,
    /// Asks for the next page, as `after`; null on the last one.
    next: Option<String>,
}

/// Lists the intents in the order of their ids.
#[utoipa::path(get, path = "/v1/intents", tag = "intents",
    params(("limit" = Option<usize>, Query, description = "1 to 1000; 1000 if left out"),
        ("after" = Option<String>, Query, description = "The `next` of the page before")),
    responses((status = 200, body = IntentPage), (status = 400, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>, asked: Asked) -> Result<Json<IntentPage>, Problem> {
    asked.only(&["limit", "after"])?;
    let limit = asked.number("limit", 1, MOST_LISTED)?.unwrap_or(MOST_LISTED);
    let after = asked.id("after")?;
    let page = |rows: &Rows| {
        let found = rows.intents().after(after.as_ref()).take(limit + 1);
        found.map(|intent| view(rows, intent)).collect::<Vec<_>>()
    };
    let mut intents = app.context.handle.view().read(page);
    let more = intents.len() > limit;
    intents.truncate(limit);
    let next = intents.last().filter(|_| more).map(|intent| intent.id.to_string());
    Ok(Json(IntentPage { intents, next }))
}

fn view(rows: &Rows, intent: &Intent) -> IntentView {
    let class = rows.settings.classes.iter().find(|class| class.id == intent.class);
    IntentView {
        id: intent.id.clone(),
        class: intent.class.clone(),
        state: intent.state().as_str(),
        count: intent.count(),
        asked: intent.asked,
        starting: intent.starting,
        arrived: intent.arrived,
        reason: intent.closed.as_ref().map_or(&intent.reason, |closed| &closed.reason).clone(),
        tasks: intent.tasks.clone(),
        waiting: intent.waiting,
        shape: intent.shape.to_string(),
        made: intent.made.rfc3339(),
        expires: intent.due().map(|at| at.rfc3339()),
        offer: class.map(offer_view),
    }
}

fn offer_view(class: &DeclaredClass) -> OfferView {
    let offer = &class.offer;
    OfferView {
        kinds: offer.kinds.clone(),
        queues: offer.queues.clone(),
        arch: offer.arch.clone(),
        os: offer.os.clone(),
        labels: offer.labels.clone(),
        taints: offer.taints.clone(),
        resources: offer.resources.as_ref().map(write_resources),
        slots: offer.slots,
        cost: class.cost,
    }
}

/// Says that runners are being started: `{"count": n}` for so many, or nothing for all that are asked for.
#[utoipa::path(post, path = "/v1/intents/{id}/ack", tag = "intents",
    params(("id" = String, Path, description = "The intent's id")),
    request_body(content = Option<Object>, description = "`{\"count\": 2}`, or nothing"),
    responses((status = 200, body = IntentView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn ack(
    State(app): State<Arc<App>>,
    Named(intent): Named,
    asked: Asked,
    payload: Payload,
) -> Result<Json<IntentView>, Problem> {
    asked.only(&[])?;
    let count = payload.count()?;
    command(&app, &intent, Command::AcknowledgeIntent { intent: intent.clone(), count }).await
}

/// Says that no runner will come of it: its class stands behind the others for a while.
#[utoipa::path(post, path = "/v1/intents/{id}/decline", tag = "intents",
    params(("id" = String, Path, description = "The intent's id")),
    request_body(content = Option<Object>, description = "`{\"reason\": \"…\"}`, or nothing"),
    responses((status = 200, body = IntentView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn decline(
    State(app): State<Arc<App>>,
    Named(intent): Named,
    asked: Asked,
    payload: Payload,
) -> Result<Json<IntentView>, Problem> {
    asked.only(&[])?;
    let reason = payload.reason()?.unwrap_or_else(|| "declined on request".to_owned()).into();
    command(&app, &intent, Command::DeclineIntent { intent: intent.clone(), reason }).await
}

async fn command(app: &App, intent: &IntentId, command: Command) -> Result<Json<IntentView>, Problem> {
    let unknown = || {
        let detail = format!(
            "no intent {intent} is known: it was withdrawn, its runners have all registered, or it never was; \
             GET /v1/intents lists those there are"
        );
        Problem::new(StatusCode::NOT_FOUND, "unknown_intent", detail)
    };
    match app.ask_one(Input::Command(command)).await? {
        Answer::Commanded(Commanded::UnknownIntent) => Err(unknown()),
        Answer::Commanded(Commanded::IntentRefused { reason }) => {
            Err(Problem::new(StatusCode::CONFLICT, "conflict", &*reason))
        }
        _ => {
            let read = |rows: &Rows| rows.intents().get(intent).map(|intent| view(rows, intent));
            app.context.handle.view().read(read).map(Json).ok_or_else(unknown)
        }
    }
}
