//! The event stream: lifecycle events as they are committed, server-sent.
//!
//! Law: best effort and never silent about it: whoever reads too slowly is told how many turns were missed, in an
//! event `lagged`, and goes on with the next; the history has what was missed. A stream begins with the turn
//! after the request was taken, and ends when the server stops.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, stream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::App;
use super::problem::Problem;
use super::request::Asked;
use crate::model::{Fact, Id, Kind, Lifecycle, LifecycleState, TurnRecord};
use crate::wire::event::write_lifecycle;

/// How often a silent stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a stream is asked to show.
#[derive(Debug)]
struct Filter {
    state: Option<LifecycleState>,
    queue: Option<Id>,
    kind: Option<Kind>,
    id: Option<Id>,
}

impl Filter {
    fn passes(&self, event: &Lifecycle) -> bool {
        self.state.is_none_or(|state| event.state == state)
            && self.queue.as_ref().is_none_or(|queue| event.queue == *queue)
            && self.kind.is_none_or(|kind| event.kind == kind)
            && self.id.as_ref().is_none_or(|id| event.id == *id)
    }
}

/// Streams lifecycle events: `event: task` with the event as JSON, and `event: lagged` after a gap.
#[utoipa::path(get, path = "/v1/events", tag = "monitoring",
    params(("state" = Option<String>, Query, description = "pending, assigned, running or ended"),
        ("queue" = Option<String>, Query, description = "Only tasks of this queue"),
        ("kind" = Option<String>, Query, description = "job or build"),
        ("id" = Option<String>, Query, description = "Only this task")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400, body = Problem)))]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    asked: Asked,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    asked.only(&["state", "queue", "kind", "id"])?;
    let states =
        [LifecycleState::Pending, LifecycleState::Assigned, LifecycleState::Running, LifecycleState::Ended];
    let filter = Filter {
        state: asked.one_of("state", &states.map(|state| (state.as_str(), state)))?,
        queue: asked.id("queue")?,
        kind: asked.one_of("kind", &[("job", Kind::Job), ("build", Kind::Build)])?,
        id: asked.id("id")?,
    };
    let turns =
        Turns { turns: app.context.handle.turns(), filter, ready: VecDeque::new(), stop: app.stop.clone() };
    let stream = stream::unfold(turns, |mut turns| async move {
        let event = turns.next().await?;
        Some((Ok(event), turns))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Committed turns, taken apart into events.
struct Turns {
    turns: Receiver<Arc<TurnRecord>>,
    filter: Filter,
    ready: VecDeque<Event>,
    stop: CancellationToken,
}

impl Turns {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let turn = tokio::select! {
                turn = self.turns.recv() => turn,
                () = self.stop.cancelled() => return None,
            };
            match turn {
                Ok(turn) => self.take_apart(&turn),
                Err(RecvError::Lagged(missed)) => {
                    let data = format!("{{\"missed_turns\":{missed}}}");
                    return Some(Event::default().event("lagged").data(data));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn take_apart(&mut self, turn: &TurnRecord) {
        for (place, fact) in turn.facts.iter().enumerate() {
            if let Fact::Task(event) = fact
                && self.filter.passes(event)
            {
                let id = format!("{}.{place}", turn.number);
                self.ready.push_back(Event::default().event("task").id(id).data(write_lifecycle(event)));
            }
        }
    }
}
