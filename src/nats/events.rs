//! Lifecycle events on core subjects, at best effort: what must not be missed is in the history.

use std::sync::Arc;

use async_nats::header::{HeaderMap, HeaderName};
use rustc_hash::FxHashMap;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::model::{Change, Fact, Lifecycle, Row, TaskId, Traceparent, TurnRecord};
use crate::wire::event::write_lifecycle;

/// Starts to tell.
pub(super) fn start(duties: &mut JoinSet<()>, context: &Arc<Context>, stop: &CancellationToken) {
    let (context, stop) = (context.clone(), stop.clone());
    let mut turns = context.handle.turns();
    duties.spawn(async move {
        loop {
            let turn = tokio::select! {
                turn = turns.recv() => turn,
                () = stop.cancelled() => return,
            };
            match turn {
                Ok(turn) => {
                    let traces = traces(&turn);
                    for fact in &turn.facts {
                        if let Fact::Task(event) = fact {
                            tell(&context, event, traces.get(&event.id).copied()).await;
                        }
                    }
                }
                Err(RecvError::Lagged(turns)) => {
                    tracing::warn!(turns, "lifecycle events were left out: too slow")
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// The traces of the tasks that entered a state in a turn: each has its row there.
fn traces(turn: &TurnRecord) -> FxHashMap<&TaskId, &Traceparent> {
    let rows = turn.changes.iter().filter_map(|change| match change {
        Change::Put(Row::Task(task)) => Some((&task.id, &**task.traceparent.as_ref()?)),
        _ => None,
    });
    rows.collect()
}

async fn tell(context: &Context, event: &Lifecycle, trace: Option<&Traceparent>) {
    let subject = context.names.event(event.kind, event.state, &event.queue);
    let body = write_lifecycle(event);
    let mut headers = headers(context, event);
    if let Some(trace) = trace {
        headers.insert(Traceparent::NAME, trace.to_string().as_str());
    }
    // Best effort, as promised.
    let _ = context.connection.client.publish_with_headers(subject, headers, body.into()).await;
}

/// The attributes of CloudEvents 1.0 in binary mode.
fn headers(context: &Context, event: &Lifecycle) -> HeaderMap {
    const SPEC_VERSION: HeaderName = HeaderName::from_static("ce-specversion");
    const ID: HeaderName = HeaderName::from_static("ce-id");
    const TYPE: HeaderName = HeaderName::from_static("ce-type");
    const SOURCE: HeaderName = HeaderName::from_static("ce-source");
    const TIME: HeaderName = HeaderName::from_static("ce-time");
    const SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
    const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
    let mut headers = HeaderMap::new();
    let state = event.state.as_str();
    let id = match event.token {
        Some(token) => format!("{}.{token}.{state}", event.id),
        None => format!("{}.{}.{state}", event.id, event.attempt),
    };
    headers.insert(SPEC_VERSION, "1.0");
    headers.insert(ID, id);
    headers.insert(TYPE, format!("longshore.{}.{state}", event.kind));
    headers.insert(SOURCE, format!("/{}", context.names.prefix()));
    headers.insert(TIME, event.at.rfc3339());
    headers.insert(SUBJECT, event.id.as_str());
    headers.insert(CONTENT_TYPE, "application/json");
    headers
}
