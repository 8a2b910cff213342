//! Status: how this replica stands, for people, probes and scrapes.
//!
//! Law: `healthz` says that the process answers, nothing more. `readyz` says that a command would be taken, or
//! why not. Gauges are computed from the committed rows when they are asked for.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::request::{Asked, Payload};
use super::{App, json};
use crate::core::State as Rows;
use crate::core::input::{Answer, Command, Commanded, Input};
use crate::core::shelves::Live;
use crate::core::state::Window;
use crate::model::{IntentState, Kind, RunnerState, Time};
use crate::runtime::credit::{Board, Reason};
use crate::runtime::{Role, Status};
use crate::telemetry::Gauges;
use crate::telemetry::metrics::LiveTasks;

/// How this replica and its pool stand.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusView {
    replica: String,
    /// `leader` or `follower`.
    role: &'static str,
    /// The replica that leads, if one does.
    leader: Option<String>,
    pool: String,
    version: &'static str,
    /// The table's id, and the last committed turn of it.
    table: String,
    turn: u64,
    /// Turns that stand in the table and that this replica has not applied, as of the last one it heard of.
    lag: u64,
    /// Log time of the last committed turn, in RFC 3339.
    at: String,
    /// Why nothing is decided, if the pool is frozen.
    frozen: Option<String>,
    /// Since when an operator has paused the whole pool, if so; in RFC 3339.
    paused_since: Option<String>,
    /// What is wrong with the table, if anything.
    trouble: Option<String>,
    stopping: bool,
    /// Whether some running build has no room for a job of its own, so that no build starts.
    builds_unsafe: bool,
    /// What the windows take.
    credit: Vec<Credit>,
    counts: CountsView,
}

/// Whether one window takes submissions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Credit {
    /// `builds`, `jobs` or `jobs_of_builds`.
    consumer: &'static str,
    paused: bool,
    /// `capacity`, `window`, `table` or `operator`.
    reason: Option<&'static str>,
    pending: usize,
    window: usize,
}

/// Numbers of tasks by state, and of runners.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CountsView {
    pending: usize,
    assigned: usize,
    running: usize,
    /// Ended tasks that are still remembered.
    ended: usize,
    runners: usize,
}

/// How this replica and its pool stand.
#[utoipa::path(get, path = "/v1/status", tag = "monitoring",
    responses((status = 200, body = StatusView), (status = 400, body = Problem)))]
pub(super) async fn status(State(app): State<Arc<App>>, asked: Asked) -> Result<Json<StatusView>, Problem> {
    asked.only(&[])?;
    let status = app.context.handle.status();
    let lag = app.context.handle.lag();
    Ok(Json(app.context.handle.view().read(|rows| StatusView {
        replica: status.replica.to_string(),
        role: if status.role == Role::Leading { "leader" } else { "follower" },
        leader: status.leader.map(|leader| leader.to_string()),
        pool: app.context.pool.clone(),
        version: env!("CARGO_PKG_VERSION"),
        table: rows.table.to_string(),
        turn: rows.turn(),
        lag,
        at: rows.now().rfc3339(),
        frozen: rows.pool().frozen.as_ref().map(|why| why.to_string()),
        paused_since: rows.pool().paused_since.map(Time::rfc3339),
        credit: credit(rows, &status, app.context.board.as_ref()),
        trouble: status.trouble,
        stopping: status.stopping,
        builds_unsafe: rows.pool().unsafe_since.is_some(),
        counts: CountsView {
            pending: rows.counts().pending.values().sum(),
            assigned: rows.counts().assigned,
            running: rows.counts().running,
            ended: rows.counts().ended,
            runners: rows.fleet().len(),
        },
    })))
}

fn credit(rows: &Rows, status: &Status, board: Option<&Board>) -> Vec<Credit> {
    let window = rows.settings.window;
    let of = |consumer: Window| {
        let pending = rows.counts().pending.get(&consumer).copied().unwrap_or(0);
        let full = pending >= window || rows.counts().body_bytes >= rows.settings.window_bytes;
        let pulled = board.and_then(|board| board.paused(consumer));
        // Who leads says what its pulls do; who follows, what the leader's will.
        let follows = board.is_some() && status.role != Role::Leading;
        let held = follows && consumer.is_held_by_pause() && rows.pool().is_paused();
        let reason = match (pulled, full) {
            _ if status.trouble.is_some() => Some(Reason::Table),
            _ if held => Some(Reason::Operator),
            (Some(reason), _) => Some(reason),
            (None, true) => Some(Reason::Window),
            (None, false) => None,
        };
        let reason = reason.map(Reason::as_str);
        Credit { consumer: consumer.as_str(), paused: reason.is_some(), reason, pending, window }
    };
    [Window::Builds, Window::Jobs, Window::JobsOfBuilds].map(of).into()
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "monitoring", responses((status = 200, body = Object)))]
pub(super) async fn healthz() -> Response {
    json(StatusCode::OK, r#"{"healthy":true}"#)
}

/// A command would be taken; if not, why.
#[utoipa::path(get, path = "/readyz", tag = "monitoring",
    responses((status = 200, body = Object),
        (status = 503, description = "`stopping`, `table_trouble`, `no_leader` or `frozen`", body = Problem)))]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let status = app.context.handle.status();
    if status.stopping || app.stop.is_cancelled() {
        return Err(Problem::stopping());
    }
    if let Some(why) = status.trouble {
        return Err(Problem::table_trouble(&why));
    }
    if status.leader.is_none() {
        return Err(Problem::no_leader("this replica does not lead, and no other one does"));
    }
    match app.context.handle.view().read(|rows| rows.pool().frozen.clone()) {
        Some(reason) => Err(Problem::frozen(&reason)),
        None => Ok(json(StatusCode::OK, r#"{"ready":true}"#)),
    }
}

/// The scrape, in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "monitoring",
    responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let status = app.context.handle.status();
    let board = app.context.board.as_ref();
    let lag = app.context.handle.lag();
    let gauges = app.context.handle.view().read(|rows| Gauges {
        leader: status.role == Role::Leading,
        lag,
        table_trouble: status.trouble.is_some(),
        windows: credit(rows, &status, board)
            .into_iter()
            .map(|window| (window.consumer, window.reason))
            .collect(),
        ..gauges(rows, app.now(rows))
    });
    let text = app.context.metrics.scrape(&gauges);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// What a scrape shows of the committed rows.
fn gauges(rows: &Rows, now: Time) -> Gauges {
    let mut gauges = Gauges {
        jobs: live_tasks(rows, now, Kind::Job),
        builds: live_tasks(rows, now, Kind::Build),
        turn: rows.turn(),
        frozen: rows.pool().frozen.is_some(),
        kept: rows.reservations().len() as u64,
        paused: rows.pool().is_paused(),
        builds_unsafe: rows.pool().unsafe_since.is_some(),
        ..Gauges::default()
    };
    for intent in rows.intents().iter() {
        let place = IntentState::ALL.iter().position(|known| *known == intent.state());
        gauges.intents[place.expect("all states are there")] += 1;
    }
    for seat in rows.fleet().seats() {
        let state = seat.runner.state();
        let place = RunnerState::ALL.iter().position(|known| *known == state).expect("all states are there");
        gauges.runners[place] += 1;
        if state == RunnerState::Lost {
            continue;
        }
        gauges.held.add(&seat.held.resources);
        gauges.held_slots += u64::from(seat.held.slots);
        gauges.capacity_slots += u64::from(seat.slots());
        if let Some(has) = &seat.runner.offer.resources {
            gauges.capacity.add(has);
        }
    }
    gauges
}

fn live_tasks(rows: &Rows, now: Time, kind: Kind) -> LiveTasks {
    let mut sum = Live::default();
    for (_, kinds) in rows.shelves().queues() {
        let live = match kind {
            Kind::Job => &kinds.jobs,
            Kind::Build => &kinds.builds,
        };
        sum.pending += live.pending;
        sum.assigned += live.assigned;
        sum.running += live.running;
    }
    LiveTasks {
        pending: sum.pending as u64,
        assigned: sum.assigned as u64,
        running: sum.running as u64,
        oldest_pending: rows.oldest_pending(kind).map(|at| now.since(at)),
    }
}

/// Whether the pool is frozen now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Unfrozen {
    frozen: bool,
    /// Whether this request changed it.
    changed: bool,
}

/// Lets a frozen pool decide again, once a person has settled why it froze.
#[utoipa::path(post, path = "/v1/unfreeze", tag = "monitoring",
    responses((status = 200, body = Unfrozen), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn unfreeze(
    State(app): State<Arc<App>>,
    asked: Asked,
    payload: Payload,
) -> Result<Json<Unfrozen>, Problem> {
    asked.only(&[])?;
    payload.reason()?;
    let answer = app.ask_one(Input::Command(Command::Unfreeze)).await?;
    let changed = answer == Answer::Commanded(Commanded::Done);
    let frozen = app.context.handle.view().read(|rows| rows.pool().frozen.is_some());
    Ok(Json(Unfrozen { frozen, changed }))
}

/// The description of this API.
#[utoipa::path(get, path = "/openapi.json", tag = "monitoring", responses((status = 200, body = Object)))]
pub(super) async fn openapi_json() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| super::openapi().to_json().expect("the description is JSON"));
    json(StatusCode::OK, text.as_str())
}

/// Names what can be asked here.
#[utoipa::path(get, path = "/", tag = "monitoring",
    responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn index() -> Response {
    let mut text =
        format!("Longshore {}: a dispatcher for container jobs and builds\n\n", env!("CARGO_PKG_VERSION"));
    for (method, path) in super::routes() {
        text.push_str(&format!("{method:<7} {path}\n"));
    }
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
