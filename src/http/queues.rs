//! Queues: what waits and runs on each, pausing and resuming.
//!
//! Law: a queue exists when a live task names it or an operator said something of it; every other name is a
//! queue on which nothing happens yet, and may be paused before its first task.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use crate::core::State as Rows;
use crate::core::input::{Command, Input};
use crate::core::shelves::Live;
use crate::model::{QueueId, Time};

/// A queue as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueView {
    #[schema(value_type = String)]
    id: QueueId,
    paused: bool,
    /// Since when it has been paused or not, if an operator ever said so; in RFC 3339.
    since: Option<String>,
    /// Tasks by state, jobs and builds together.
    pending: usize,
    assigned: usize,
    running: usize,
    jobs: LiveView,
    builds: LiveView,
}

/// Tasks of one kind that have not ended, by state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LiveView {
    pending: usize,
    assigned: usize,
    running: usize,
}

impl From<Live> for LiveView {
    fn from(live: Live) -> Self {
        Self { pending: live.pending, assigned: live.assigned, running: live.running }
    }
}

/// All queues.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueList {
    queues: Vec<QueueView>,
}

/// Lists the queues that have live tasks, or that somebody paused or resumed.
#[utoipa::path(get, path = "/v1/queues", tag = "queues",
    responses((status = 200, body = QueueList), (status = 400, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>, asked: Asked) -> Result<Json<QueueList>, Problem> {
    asked.only(&[])?;
    let queues = app.context.handle.view().read(|rows| {
        let mut known: BTreeMap<&QueueId, ()> = rows.queues().map(|queue| (&queue.id, ())).collect();
        known.extend(rows.shelves().queues().map(|(id, _)| (id, ())));
        known.into_keys().map(|id| queue_view(rows, id)).collect()
    });
    Ok(Json(QueueList { queues }))
}

fn queue_view(rows: &Rows, id: &QueueId) -> QueueView {
    let live = rows.shelves().queue(id);
    let said = rows.queue(id);
    QueueView {
        id: id.clone(),
        paused: rows.is_paused(id),
        since: said.map(|queue| queue.since).map(Time::rfc3339),
        pending: live.jobs.pending + live.builds.pending,
        assigned: live.jobs.assigned + live.builds.assigned,
        running: live.jobs.running + live.builds.running,
        jobs: live.jobs.into(),
        builds: live.builds.into(),
    }
}

/// Places nothing of the queue until it is resumed; what runs, runs on.
#[utoipa::path(post, path = "/v1/queues/{id}/pause", tag = "queues",
    params(("id" = String, Path, description = "The queue's id")),
    responses((status = 200, body = QueueView), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn pause(
    State(app): State<Arc<App>>,
    Named(queue): Named,
    asked: Asked,
    payload: Payload,
) -> Result<Json<QueueView>, Problem> {
    asked.only(&[])?;
    payload.reason()?;
    command(&app, &queue, Command::PauseQueue { queue: queue.clone() }).await
}

/// Takes back a pause.
#[utoipa::path(post, path = "/v1/queues/{id}/resume", tag = "queues",
    params(("id" = String, Path, description = "The queue's id")),
    responses((status = 200, body = QueueView), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Named(queue): Named,
    asked: Asked,
    payload: Payload,
) -> Result<Json<QueueView>, Problem> {
    asked.only(&[])?;
    payload.reason()?;
    command(&app, &queue, Command::UnpauseQueue { queue: queue.clone() }).await
}

async fn command(app: &App, queue: &QueueId, command: Command) -> Result<Json<QueueView>, Problem> {
    app.ask_one(Input::Command(command)).await?;
    Ok(Json(app.context.handle.view().read(|rows| queue_view(rows, queue))))
}
