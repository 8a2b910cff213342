//! Lifecycle events on core subjects, at best effort: what must not be missed is in the history.
//!
//! What nobody listens to is not written: of the turns told at once the first event of each subject goes out in any
//! case, and asks. The order of events is the order of facts.

use std::sync::Arc;

use async_nats::header::{HeaderMap, HeaderName};
use rustc_hash::FxHashMap;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::listeners::Listeners;
use crate::model::{
    Change, Fact, Kind, Lifecycle, LifecycleState, QueueId, Row, TaskId, Traceparent, TurnRecord,
};
use crate::wire::event::write_lifecycle;

/// The most turns told at once.
const TURNS: usize = 64;

/// Starts to tell.
pub(super) fn start(duties: &mut JoinSet<()>, context: &Arc<Context>, stop: &CancellationToken) {
    let (context, stop) = (context.clone(), stop.clone());
    let mut turns = context.handle.turns();
    duties.spawn(async move {
        let mut listeners = Listeners::new(&context.connection);
        loop {
            let turn = tokio::select! {
                turn = turns.recv() => turn,
                () = stop.cancelled() => return,
            };
            match turn {
                Ok(turn) => {
                    let arrived = turns.len().min(TURNS - 1);
                    let more: Vec<_> = (0..arrived).map_while(|_| turns.try_recv().ok()).collect();
                    listeners.begin().await;
                    for turn in std::iter::once(turn).chain(more) {
                        tell(&context, &mut listeners, &turn).await;
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

/// Tells what happened in a turn to whoever listens.
async fn tell(context: &Context, listeners: &mut Listeners, turn: &TurnRecord) {
    let traces = traces(turn);
    // Nothing once nobody hears it.
    let mut subjects: FxHashMap<(Kind, LifecycleState, &QueueId), Option<String>> = FxHashMap::default();
    for fact in &turn.facts {
        let Fact::Task(event) = fact else { continue };
        let heard = subjects
            .entry((event.kind, event.state, &event.queue))
            .or_insert_with(|| Some(context.names.event(event.kind, event.state, &event.queue)));
        let Some(subject) = heard else { continue };
        if listeners.nobody_hears(subject).await {
            *heard = None;
            continue;
        }
        let mut headers = headers(context, event);
        if let Some(trace) = traces.get(&event.id) {
            headers.insert(Traceparent::NAME, trace.to_string().as_str());
        }
        listeners.publish(subject.clone(), headers, write_lifecycle(event).into()).await;
    }
}

/// The traces of the tasks that entered a state in a turn: each has its row there.
fn traces(turn: &TurnRecord) -> FxHashMap<&TaskId, &Traceparent> {
    let rows = turn.changes.iter().filter_map(|change| match change {
        Change::Put(Row::Task(task)) => Some((&task.id, &**task.traceparent.as_ref()?)),
        _ => None,
    });
    rows.collect()
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
