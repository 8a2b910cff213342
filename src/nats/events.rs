//! Lifecycle events on core subjects, at best effort: what must not be missed is in the history.

use std::sync::Arc;

use async_nats::HeaderMap;
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
    let mut headers = HeaderMap::new();
    let state = event.state.as_str();
    let id = match event.token {
        Some(token) => format!("{}.{token}.{state}", event.id),
        None => format!("{}.{}.{state}", event.id, event.attempt),
    };
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", id.as_str());
    headers.insert("ce-type", format!("longshore.{}.{state}", event.kind).as_str());
    headers.insert("ce-source", format!("/{}", context.names.prefix()).as_str());
    headers.insert("ce-time", event.at.rfc3339().as_str());
    headers.insert("ce-subject", event.id.as_str());
    headers.insert("content-type", "application/json");
    headers
}
