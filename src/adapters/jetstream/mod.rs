//! A table on NATS JetStream: one key-value bucket that several dispatchers share.
//!
//! Law: a turn is one message, taken only if the bucket's last sequence is the one its writer knows: so of
//! several writers exactly one wins, and turn n+1 stands directly after turn n. A single answer that something
//! is not there is never believed; what is there is read in order, without a gap. A bucket that ends before what
//! was seen of it has lost turns: from then on nothing is written to it or followed.
//!
//! `bucket` makes and asks it, `reader` reads it in order, `publish` writes one message, `known` is what this
//! process knows of its end; `commit`, `load`, `follow` and `log` are the port. `snapshot` writes the rows beside
//! the turns, on the pages that `pages` lays out and `page_id` names.

mod bucket;
mod commit;
mod follow;
mod history;
mod known;
mod load;
mod log;
mod output;
mod page_id;
mod pages;
mod publish;
mod reader;
pub mod setup;
mod snapshot;
mod trouble;

pub use history::JetStreamHistory;
pub use output::JetStreamOutput;
pub use setup::{Room, SetupError, prepare};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use self::bucket::Bucket;
use self::known::{Known, Step};
use self::snapshot::Snapshot;
use self::trouble::Trouble;
use crate::broker::Connection;
use crate::model::{Head, TurnRecord};
use crate::ports::{Budget, Commit, Follow, Load, Table, TableError};
use crate::wire::subject::Names;

/// What one turn may have, so that it is one message with room to spare.
const BUDGET: Budget = Budget { rows: 4_000, bytes: 512 << 10 };
/// What a message has besides the turn itself, in bytes.
const ENVELOPE: usize = 4 << 10;
/// How long a replicated bucket must say that it ends before what was seen until that is believed: longer than a
/// server that was cut off from the others takes to notice that it leads no longer.
const CERTAIN_AFTER: Duration = Duration::from_secs(20);

/// How a bucket is made and used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many servers keep it; three in production.
    pub replicas: usize,
    /// What it may hold, in bytes; the servers set it aside. It has to take the last 1,000 turns and the rows twice:
    /// a new leader writes the snapshot anew before the old one is dropped.
    pub max_bytes: u64,
    /// How many may read it at once; each follower is one.
    pub max_consumers: i32,
    /// How old the snapshot may become while anything changes.
    pub snapshot_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { replicas: 1, max_bytes: 1 << 30, max_consumers: 256, snapshot_every: Duration::from_secs(10) }
    }
}

/// A table in a bucket. Clones are the same open table.
#[derive(Debug, Clone)]
pub struct JetStreamTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    options: Options,
    /// Nothing until the table was loaded once.
    known: Mutex<Option<Known>>,
    /// Who holds it writes: one at a time, so that each knows the last sequence.
    writing: tokio::sync::Mutex<()>,
    /// The number of connections after which the bucket was last found to have what was seen of it.
    checked: AtomicU64,
    snapshot: tokio::sync::Mutex<Snapshot>,
    /// Told when a turn becomes known.
    news: Arc<Notify>,
    /// The newest turn that what was followed has told of.
    newest: watch::Sender<u64>,
    /// Why nothing is written or followed any more, if so.
    lost: watch::Sender<Option<Arc<str>>>,
    /// Since when the bucket has been saying that it ends before what was seen.
    doubted: Mutex<Option<Instant>>,
}

impl JetStreamTable {
    /// Makes an empty table with an id of its own. `Unreadable` if there is one already, or if the server cannot
    /// make it; it says why.
    pub async fn create(
        connection: &Connection,
        names: &Names,
        options: Options,
    ) -> Result<Self, TableError> {
        Bucket::create(connection, names, &options)
            .await
            .map_err(|why| why.into_error(format!("create {}", bucket::what(connection, names))))?;
        Self::open(connection, names, options).await
    }

    /// Opens the table that is there. `Unreadable` if there is none, or if the bucket is not one of Longshore's
    /// or is set up in a way that could lose turns.
    pub async fn open(connection: &Connection, names: &Names, options: Options) -> Result<Self, TableError> {
        let bucket = Bucket::open(connection, names)
            .await
            .map_err(|why| why.into_error(format!("open {}", bucket::what(connection, names))))?;
        let shared = Shared {
            bucket,
            options,
            known: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            checked: AtomicU64::new(0),
            snapshot: tokio::sync::Mutex::default(),
            news: Arc::default(),
            newest: watch::Sender::new(0),
            lost: watch::Sender::new(None),
            doubted: Mutex::default(),
        };
        let shared = Arc::new(shared);
        tokio::spawn(snapshot::keep(Arc::downgrade(&shared)));
        Ok(Self { shared })
    }

    /// The id drawn when the table was made.
    pub fn table(&self) -> Uuid {
        self.shared.bucket.table
    }

    /// Up to `limit` turns after number `after`; `None` if the log cannot continue from there.
    pub async fn turns(&self, after: u64, limit: usize) -> Result<Option<Vec<TurnRecord>>, TableError> {
        log::turns(&self.shared, after, limit).await.map_err(|why| self.shared.error(why))
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().expect("no one panics while holding what is known")
    }

    /// The last sequence and turn that were seen.
    fn seen(&self) -> Option<(u64, Head)> {
        self.known().as_ref().map(|known| (known.sequence, known.head))
    }

    /// Takes in a turn that was read or written at `sequence`.
    fn take_in(&self, sequence: u64, turn: &Arc<TurnRecord>) -> Result<Step, Trouble> {
        let step = self.known().as_mut().map_or(Step::Gap, |known| known.turn(sequence, turn));
        match step {
            Step::Contradiction(why) => Err(self.is_lost(why)),
            step => {
                self.news.notify_one();
                Ok(step)
            }
        }
    }

    /// The bucket's last sequence, which is not before the one seen.
    async fn last_sequence(&self) -> Result<u64, Trouble> {
        if let Some(why) = self.lost() {
            return Err(Trouble::Lost(why.to_string()));
        }
        let connects = self.bucket.connection.weather().borrow().connects;
        let seen = self.seen();
        let last = match self.bucket.last_sequence().await {
            Err(Trouble::Lost(why)) => return Err(self.is_lost(why)),
            Err(Trouble::Missing(why)) => return Err(self.doubt_for(CERTAIN_AFTER, why)),
            other => other?,
        };
        if let Some((sequence, head)) = seen {
            if last < sequence {
                return Err(self.ends_before(last, sequence));
            }
            if self.is_unchecked() {
                self.check(&head).await?;
            }
        }
        self.checked.store(connects, Ordering::Relaxed);
        *self.doubted.lock().expect("a plain value") = None;
        Ok(last)
    }

    /// Whether another server may answer now than before, or the same one with less than it had.
    fn is_unchecked(&self) -> bool {
        self.checked.load(Ordering::Relaxed) != self.bucket.connection.weather().borrow().connects
    }

    /// Makes sure that the last turn seen is still the one it was: a bucket that was put back may have grown past
    /// it again.
    async fn check(&self, head: &Head) -> Result<(), Trouble> {
        if head.number == 0 {
            return Ok(());
        }
        match self.bucket.last(&bucket::turn_key(head.number)).await? {
            Some(found) if load::decode_turn(head.number, &found.bytes)?.id == head.id => Ok(()),
            Some(_) => Err(self.is_lost(format!("turn {} is not the one it was", head.number))),
            None => {
                match log::last_number(&self.bucket).await? {
                    last if last < head.number => Err(self
                        .doubt(format!("the log ends with turn {last}, and turn {} was seen", head.number))),
                    _ => Ok(()), // dropped since
                }
            }
        }
    }

    /// What it means that the bucket says it ends before a sequence that was seen.
    fn ends_before(&self, last: u64, seen: u64) -> Trouble {
        self.doubt(format!("its last sequence is {last}, and {seen} was seen"))
    }

    /// What it means that the bucket says it ends before what was seen. One server knows; of several, one that
    /// was cut off may only not have heard of it, and is asked again.
    fn doubt(&self, why: String) -> Trouble {
        self.doubt_for(if self.bucket.replicas == 1 { Duration::ZERO } else { CERTAIN_AFTER }, why)
    }

    fn doubt_for(&self, patience: Duration, why: String) -> Trouble {
        let since = *self.doubted.lock().expect("a plain value").get_or_insert_with(Instant::now);
        if since.elapsed() >= patience {
            return self.is_lost(why);
        }
        Trouble::Unclear(format!("{why}; it is asked for {patience:?} whether that is so"))
    }

    /// Gives the table up.
    fn is_lost(&self, why: String) -> Trouble {
        let why = format!(
            "{why}; stop every dispatcher of this pool and restore the bucket from a backup, or say which turns may be forgotten"
        );
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert_with(|| {
                tracing::error!(%why, "table lost turns it had acknowledged");
                why.as_str().into()
            });
            first
        });
        Trouble::Lost(self.lost().map_or(why, |why| why.to_string()))
    }

    fn lost(&self) -> Option<Arc<str>> {
        self.lost.borrow().clone()
    }

    fn error(&self, why: Trouble) -> TableError {
        why.into_error(self.bucket.what.clone())
    }

    fn budget(&self) -> Budget {
        let message = self.bucket.connection.client.server_info().max_payload.min(bucket::MESSAGE_BYTES);
        Budget { rows: BUDGET.rows, bytes: BUDGET.bytes.min(message.saturating_sub(ENVELOPE)) }
    }
}

#[async_trait]
impl Table for JetStreamTable {
    async fn load(&self) -> Result<Load, TableError> {
        load::load(&self.shared).await.map_err(|why| self.shared.error(why))
    }

    async fn commit(&self, turn: &Arc<TurnRecord>) -> Commit {
        commit::commit(&self.shared, turn).await
    }

    async fn follow(&self, after: u64) -> Result<BoxStream<'static, Follow>, TableError> {
        Ok(follow::follow(self.shared.clone(), after))
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }

    async fn compact(&self) -> Result<(), TableError> {
        snapshot::compact(&self.shared).await.map_err(|why| self.shared.error(why))
    }

    fn budget(&self) -> Budget {
        self.shared.budget()
    }
}
