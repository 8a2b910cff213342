//! History: the facts of each turn in a stream of their own, one message a turn.
//!
//! Law: at least once and in order: a turn is published only when the stream has the one before it, for one that
//! was lost on its way could not be told from one that had nothing to say. A new leader asks the stream what the
//! last turn in it is and goes on after it from the log, so a take-over leaves no gap.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::broker::chain;
use crate::model::TurnRecord;
use crate::ports::Follow;
use crate::wire::event::{read_turn_number, write_turn};

/// The pause after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Starts to publish.
pub(super) fn start(duties: &mut JoinSet<()>, context: &Arc<Context>, stop: &CancellationToken) {
    let (context, stop) = (context.clone(), stop.clone());
    duties.spawn(async move {
        while !stop.is_cancelled() {
            // Subscribed before the log is read, so that nothing falls between.
            let turns = context.handle.turns();
            let publishing = Publishing { context: context.clone(), last: 0 };
            tokio::select! {
                why = publishing.run(turns) => {
                    tracing::warn!(why, "history was not published; it is taken up again where it ends");
                    let _ = tokio::time::timeout(AGAIN, stop.cancelled()).await;
                }
                () = stop.cancelled() => {}
            }
        }
    });
}

struct Publishing {
    context: Arc<Context>,
    /// The last turn that is in the stream, or had nothing to say.
    last: u64,
}

impl Publishing {
    /// Publishes until something fails, and says what.
    async fn run(mut self, turns: tokio::sync::broadcast::Receiver<Arc<TurnRecord>>) -> String {
        match self.go_on(turns).await {
            Ok(()) => "the turns ended".to_owned(),
            Err(why) => why,
        }
    }

    async fn go_on(
        &mut self,
        mut turns: tokio::sync::broadcast::Receiver<Arc<TurnRecord>>,
    ) -> Result<(), String> {
        self.last = last_published(&self.context).await?;
        let now = self.context.handle.view().read(|state| state.turn());
        self.catch_up(now).await?;
        loop {
            match turns.recv().await {
                Ok(turn) => self.publish(&turn).await?,
                Err(RecvError::Lagged(_)) => {
                    let now = self.context.handle.view().read(|state| state.turn());
                    self.catch_up(now).await?;
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Publishes from the log what is missing up to turn `until`.
    async fn catch_up(&mut self, until: u64) -> Result<(), String> {
        if self.last >= until {
            return Ok(());
        }
        let mut log = self.context.table.follow(self.last).await.map_err(|why| why.to_string())?;
        while self.last < until {
            match log.next().await {
                Some(Follow::Turn(turn)) => self.publish(&turn).await?,
                Some(Follow::Behind) => {
                    // Older than the log reaches: what is gone is gone, and said.
                    tracing::warn!(
                        after = self.last,
                        until,
                        "history has a gap: the log no longer reaches back"
                    );
                    self.last = until;
                }
                Some(Follow::Lost { why }) => return Err(why),
                None => return Err("the log ended".to_owned()),
            }
        }
        Ok(())
    }

    async fn publish(&mut self, turn: &TurnRecord) -> Result<(), String> {
        if turn.number <= self.last {
            return Ok(());
        }
        if !turn.facts.is_empty() {
            let mut headers = HeaderMap::new();
            let table = self.context.handle.view().read(|state| state.table);
            headers.insert("Nats-Msg-Id", format!("{table}.{}", turn.number).as_str());
            let body = write_turn(turn.number, turn.at, &turn.facts);
            let js = &self.context.connection.jetstream;
            let sent = js.publish_with_headers(self.context.names.history(), headers, body.into()).await;
            sent.map_err(|why| chain(&why))?.await.map_err(|why| chain(&why))?;
        }
        self.last = turn.number;
        Ok(())
    }
}

/// The number of the last turn in the stream; 0 if there is none.
async fn last_published(context: &Context) -> Result<u64, String> {
    use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
    let js = &context.connection.jetstream;
    let stream = js.get_stream(context.names.history_stream()).await.map_err(|why| chain(&why))?;
    match stream.get_last_raw_message_by_subject(&context.names.history()).await {
        Ok(message) => read_turn_number(&message.payload).map_err(|why| why.to_string()),
        Err(why) if why.kind() == NoMessageFound => Ok(0),
        Err(why) => Err(chain(&why)),
    }
}
