//! History read back from its stream.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_trait::async_trait;
use futures_util::StreamExt;

use crate::broker::{Connection, chain};
use crate::ports::history::task_of;
use crate::ports::{History, HistoryQuery, TableError, TurnEvents};
use crate::wire::event::read_turn;
use crate::wire::subject::Names;

/// The most turns one question looks at; a turn may hold many facts.
const MOST_LOOKED_AT: u64 = 20_000;

/// The history of a pool, as its leaders have published it.
#[derive(Debug, Clone)]
pub struct JetStreamHistory {
    connection: Connection,
    names: Names,
}

impl JetStreamHistory {
    /// The history in the stream of these names.
    pub fn new(connection: &Connection, names: &Names) -> Self {
        Self { connection: connection.clone(), names: names.clone() }
    }

    async fn read(&self, query: &HistoryQuery) -> Result<Vec<TurnEvents>, String> {
        let js = &self.connection.jetstream;
        let stream = js.get_stream(self.names.history_stream()).await.map_err(|why| chain(&why))?;
        let state = &stream.cached_info().state;
        if state.messages == 0 {
            return Ok(Vec::new());
        }
        let from = state.first_sequence.max(state.last_sequence.saturating_sub(MOST_LOOKED_AT));
        let consumer = stream.create_consumer(OrderedConfig {
            filter_subject: self.names.history(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ..Default::default()
        });
        let consumer = consumer.await.map_err(|why| chain(&why))?;
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.map_err(|why| chain(&why))?;
        let mut turns = std::collections::VecDeque::new();
        while left > 0 {
            let Some(message) = messages.next().await else { break };
            let message = message.map_err(|why| chain(&why))?;
            left = message.info().map_err(|why| why.to_string())?.pending;
            let Ok(turn) = read_turn(&message.payload) else { continue };
            keep(&mut turns, turn, query);
            if query.since.is_some() && turns.len() == query.limit {
                break;
            }
        }
        Ok(turns.into())
    }
}

/// Keeps what a turn says to the question: the first turns after the one named, else the last.
fn keep(turns: &mut std::collections::VecDeque<TurnEvents>, mut turn: TurnEvents, query: &HistoryQuery) {
    if query.since.is_some_and(|since| turn.turn <= since) {
        return;
    }
    if let Some(id) = &query.id {
        turn.events.retain(|fact| task_of(fact) == Some(id));
    }
    // Published at least once.
    if turn.events.is_empty() || turns.back().is_some_and(|last| last.turn >= turn.turn) {
        return;
    }
    turns.push_back(turn);
    if query.since.is_none() && turns.len() > query.limit {
        turns.pop_front();
    }
}

#[async_trait]
impl History for JetStreamHistory {
    async fn events(&self, query: HistoryQuery) -> Result<Vec<TurnEvents>, TableError> {
        let what = || format!("stream {}", self.names.history_stream());
        let read = tokio::time::timeout(std::time::Duration::from_secs(5), self.read(&query)).await;
        let read = read.unwrap_or_else(|_| Err("no answer within 5s".to_owned()));
        read.map_err(|why| TableError::Unreadable { what: what(), why })
    }
}
