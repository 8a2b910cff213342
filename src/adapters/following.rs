//! Following a log: how "read what is new, then wait for more" becomes one stream.
//!
//! Law: every turn after the one named comes once, in order. Where the log cannot continue (compacted, cut
//! short, unreadable) the stream says `Behind` and ends; loading again then shows what is the matter.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use crate::model::TurnRecord;
use crate::ports::Follow;

/// What a log answers to "what comes after this turn?".
pub(super) enum Next {
    /// In order, without a gap; empty if nothing is new.
    Turns(Vec<Arc<TurnRecord>>),
    /// The log cannot continue from there.
    Behind,
    /// The table was dropped.
    Gone,
}

struct Reader<R> {
    read: R,
    news: watch::Receiver<u64>,
    ready: VecDeque<Arc<TurnRecord>>,
    after: u64,
    ended: bool,
}

/// Streams what `read` yields after turn `after`, reading again whenever `news` changes.
pub(super) fn follow<R, F>(after: u64, news: watch::Receiver<u64>, read: R) -> BoxStream<'static, Follow>
where
    R: Fn(u64) -> F + Send + 'static,
    F: Future<Output = Next> + Send + 'static,
{
    let reader = Reader { read, news, ready: VecDeque::new(), after, ended: false };
    stream::unfold(reader, step).boxed()
}

async fn step<R, F>(mut reader: Reader<R>) -> Option<(Follow, Reader<R>)>
where
    R: Fn(u64) -> F + Send + 'static,
    F: Future<Output = Next> + Send + 'static,
{
    while !reader.ended {
        if let Some(turn) = reader.ready.pop_front() {
            reader.after = turn.number;
            return Some((Follow::Turn(turn), reader));
        }
        reader.news.borrow_and_update(); // before reading, so that what comes meanwhile wakes us
        match (reader.read)(reader.after).await {
            Next::Turns(turns) if turns.is_empty() => reader.ended = reader.news.changed().await.is_err(),
            Next::Turns(turns) => reader.ready = turns.into(),
            Next::Behind => {
                reader.ended = true;
                return Some((Follow::Behind, reader));
            }
            Next::Gone => reader.ended = true,
        }
    }
    None
}
