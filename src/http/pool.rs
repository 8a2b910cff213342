//! The pool as a whole: pausing and resuming all of it.
//!
//! Law: a pause says what shall be placed, never what is accepted: submissions are kept as always, until their
//! window is full.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::{Asked, Payload};
use crate::core::input::{Command, Input};
use crate::model::Time;

/// Whether the pool is paused.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PoolView {
    pool: String,
    paused: bool,
    /// Since when it has been paused, if it is; in RFC 3339.
    since: Option<String>,
}

/// Pulls and places nothing in the whole pool until it is resumed; what runs, runs on, and jobs of running builds
/// are placed.
#[utoipa::path(post, path = "/v1/pause", tag = "queues",
    responses((status = 200, body = PoolView), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn pause(
    State(app): State<Arc<App>>,
    asked: Asked,
    payload: Payload,
) -> Result<Json<PoolView>, Problem> {
    command(&app, &asked, &payload, Command::PausePool).await
}

/// Takes back a pause of the whole pool; a queue that was paused by itself stays so.
#[utoipa::path(post, path = "/v1/resume", tag = "queues",
    responses((status = 200, body = PoolView), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    asked: Asked,
    payload: Payload,
) -> Result<Json<PoolView>, Problem> {
    command(&app, &asked, &payload, Command::UnpausePool).await
}

async fn command(
    app: &App,
    asked: &Asked,
    payload: &Payload,
    command: Command,
) -> Result<Json<PoolView>, Problem> {
    asked.only(&[])?;
    payload.reason()?;
    app.ask_one(Input::Command(command)).await?;
    let since = app.context.handle.view().read(|rows| rows.pool().paused_since);
    let pool = app.context.pool.clone();
    Ok(Json(PoolView { pool, paused: since.is_some(), since: since.map(Time::rfc3339) }))
}
