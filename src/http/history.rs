//! The history: what was decided, turn by turn.
//!
//! Law: oldest first. Without `since` the last turns are shown; to go on, ask with `since` = the last turn shown.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::problem::Problem;
use super::request::Asked;
use super::{App, json};
use crate::ports::HistoryQuery;
use crate::wire::event::write_turns;

/// The most turns of one answer.
const MOST_TURNS: usize = 1_000;
/// The turns of an answer when nothing else is asked for.
const TURNS: usize = 100;

/// What happened, and why.
#[utoipa::path(get, path = "/v1/history", tag = "monitoring",
    params(("id" = Option<String>, Query, description = "Only what is about this task"),
        ("since" = Option<u64>, Query, description = "The first turns after this one; the last ones if left out"),
        ("limit" = Option<usize>, Query, description = "1 to 1000 turns; 100 if left out")),
    responses((status = 200, description = "`{\"turns\": [{\"turn\", \"at\", \"events\": […]}]}`", body = Object),
        (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn history(State(app): State<Arc<App>>, asked: Asked) -> Result<Response, Problem> {
    asked.only(&["id", "since", "limit"])?;
    let query = HistoryQuery {
        id: asked.id("id")?,
        since: asked.number("since", 0, u64::MAX)?,
        limit: asked.number("limit", 1, MOST_TURNS)?.unwrap_or(TURNS),
    };
    let turns = app.context.history.events(query).await?;
    Ok(json(StatusCode::OK, write_turns(&turns)))
}
