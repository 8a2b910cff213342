//! The digest: what this replica shows, in a few bytes, so that replicas can be compared.
//!
//! Law: it is of the last committed turn this replica has seen, and names it. Two replicas of a table that name
//! the same turn show the same digest; so does the fold of the table's log up to that turn.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use super::request::Asked;
use crate::runtime::Role;
use crate::wire::digest::Digests;

/// What the rows of this replica come to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DigestView {
    replica: String,
    /// `leader` or `follower`.
    role: &'static str,
    table: String,
    epoch: u32,
    /// The turn after which the rows stand so.
    turn: u64,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rows: Digests,
}

/// What the rows of this replica come to, after the turn it names.
#[utoipa::path(get, path = "/v1/digest", tag = "monitoring",
    responses((status = 200, body = DigestView), (status = 400, body = Problem)))]
pub(super) async fn digest(State(app): State<Arc<App>>, asked: Asked) -> Result<Json<DigestView>, Problem> {
    asked.only(&[])?;
    let status = app.context.handle.status();
    let view = app.context.handle.view();
    let (table, epoch, turn, rows) =
        view.read(|rows| (rows.table, rows.epoch(), rows.turn(), rows.rows_in_any_order()));
    // Every row is encoded: off the threads that answer.
    let rows = tokio::task::spawn_blocking(move || Digests::of(rows)).await.expect("encoding does not panic");
    let role = if status.role == Role::Leading { "leader" } else { "follower" };
    let (replica, table) = (status.replica.to_string(), table.to_string());
    Ok(Json(DigestView { replica, role, table, epoch, turn, rows }))
}
