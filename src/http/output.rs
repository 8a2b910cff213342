//! Output: what runners send of what work writes, and what people read of it.
//!
//! Law: reading shows what has arrived, in order, and of a task that has just ended also the rest, which may be on its
//! way for a moment. A reader that follows goes on through all attempts of a task, and ends
//! when the task has ended and its last attempt has nothing more to say.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::{Instant, sleep};

use super::problem::Problem;
use super::request::{Asked, Named, Payload};
use super::{App, json};
use crate::model::{TaskId, Token};
use crate::ports::OutputError;
use crate::wire::output::read_pieces;

/// How often a reader that follows looks for more.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// How long output may come after the end of its task.
const LATE: Duration = Duration::from_secs(3);

/// A runner sends pieces of what its work writes.
#[utoipa::path(post, path = "/v1/runners/{id}/output", tag = "runner's side", request_body = Object,
    params(("id" = String, Path, description = "The runner's id")),
    responses((status = 202, description = "All of them are kept: `{\"taken\": 2}`", body = Object),
        (status = 400, body = Problem), (status = 413, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn keep(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    asked.only(&[])?;
    let pieces = read_pieces(&body)?;
    app.context.output.keep(&id, &pieces).await.map_err(unreachable_store)?;
    Ok(json(StatusCode::ACCEPTED, format!("{{\"taken\":{}}}", pieces.len())))
}

/// What the work of a task wrote: of its last attempt, or of the one whose token is named.
#[utoipa::path(get, path = "/v1/tasks/{id}/logs", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"),
        ("follow" = Option<bool>, Query, description = "Go on until the task has ended"),
        ("token" = Option<String>, Query, description = "The attempt with this token")),
    responses((status = 200, content_type = "text/plain", body = String),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn logs(
    State(app): State<Arc<App>>,
    Named(id): Named,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.only(&["follow", "token"])?;
    let follow = asked.one_of("follow", &[("true", true), ("false", false)])?.unwrap_or(false);
    let token = asked
        .text("token")
        .map(|text| text.parse::<Token>().map_err(|why| Problem::parameter("token", text, why)));
    let named = token.transpose()?;
    let attempts = app.context.output.attempts(&id).await.map_err(unreachable_store)?;
    if attempts.is_empty() && standing(&app, &id) == Standing::Unknown {
        return Err(Problem::unknown_task(id.as_str()));
    }
    if let Some(token) = named.filter(|token| !follow && !attempts.contains(token)) {
        let why = format!("nothing is kept of attempt {token} of task {id}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_attempt", why));
    }
    let token = named.or(attempts.last().copied());
    let reader = Reader { app, id, named: named.is_some(), token, from: 0, follow, ended: None };
    let pieces = stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((Ok::<_, Infallible>(text), reader))
    });
    let plain =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((plain, Body::from_stream(pieces)).into_response())
}

fn unreachable_store(why: OutputError) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "output_unavailable", why.to_string()).again_after(1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    Live,
    Ended,
}

fn standing(app: &App, id: &TaskId) -> Standing {
    app.context.handle.view().read(|rows| match rows.task(id.as_str()) {
        None => Standing::Unknown,
        Some(task) if task.is_ended() => Standing::Ended,
        Some(_) => Standing::Live,
    })
}

/// One who reads.
struct Reader {
    app: Arc<App>,
    id: TaskId,
    /// Only the attempt that was asked for.
    named: bool,
    token: Option<Token>,
    from: u64,
    follow: bool,
    /// When it was first seen that the task has ended.
    ended: Option<Instant>,
}

impl Reader {
    /// What comes next; `None` when there is nothing more.
    async fn next(&mut self) -> Option<String> {
        loop {
            let mut over = false;
            if let Some(token) = self.token {
                // A store that cannot be read ends the text: it has begun, and cannot become a problem any more.
                let page = self.app.context.output.read(&self.id, token, self.from).await.ok()?;
                self.from = page.next;
                if !page.text.is_empty() {
                    return Some(page.text);
                }
                over = page.over;
            }
            let seen = match self.follow {
                true => over && self.named,
                false => over || !self.has_just_ended(),
            };
            if seen {
                return None;
            }
            if (self.follow || self.token.is_none())
                && let Some(newer) = self.newer().await
            {
                (self.token, self.from) = (Some(newer), 0);
                continue;
            }
            if self.follow && standing(&self.app, &self.id) != Standing::Live {
                let since = self.ended.get_or_insert_with(Instant::now).elapsed();
                if over || since >= LATE {
                    return None;
                }
            }
            if !self.pause().await {
                return None;
            }
        }
    }

    /// Waits until it is time to look again; `false` if the server stops.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = sleep(LOOK_AGAIN) => true,
            () = self.app.stop.cancelled() => false,
        }
    }

    /// Whether the attempt that is read may have ended so lately that the rest of its output is on its way.
    fn has_just_ended(&self) -> bool {
        self.app.context.handle.view().read(|rows| {
            let ending = rows.task(self.id.as_str()).and_then(|task| task.ending());
            ending.is_some_and(|ending| {
                self.token.is_none_or(|read| ending.token == Some(read))
                    && rows.now().since(ending.ended) < LATE
            })
        })
    }

    /// An attempt after the one that is read.
    async fn newer(&self) -> Option<Token> {
        if self.named {
            return None;
        }
        let attempts = self.app.context.output.attempts(&self.id).await.ok()?;
        attempts.into_iter().find(|token| self.token.is_none_or(|read| *token > read))
    }
}
