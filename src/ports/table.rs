//! The table: a log of turns with a snapshot.
//!
//! Laws, which one suite proves for every adapter:
//! - turn n+1 is accepted only directly after turn n, whole or not at all; of several writers exactly one wins;
//! - what `load` yields equals the fold of all turns, whatever was compacted;
//! - `follow` yields every turn after the one named, once, in order; a turn that was compacted away is `Behind`,
//!   never a gap;
//! - committing the same record again after `Unknown` ends in `Done` exactly when it stands there;
//! - `Refused` stores nothing;
//! - a table that ends before what was seen of it is said to be `Lost`: it is not followed, and takes no turn.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use uuid::Uuid;

use crate::model::{Head, Row, TurnId, TurnRecord};

/// What one turn may hold so that the table can take it as one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Rows put or deleted.
    pub rows: usize,
    /// Encoded bytes, facts included.
    pub bytes: usize,
}

/// The four answers to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// It stands there.
    Done,
    /// Another turn stands there: whoever wrote this one leads no longer.
    Deposed { by: TurnId },
    /// It may or may not stand there: the only move is to commit the same record again.
    Unknown { why: String },
    /// Nothing was stored: the table is full, closed or does not permit it.
    Refused { why: String },
}

/// Everything that stands in a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Drawn when the table was made; never changes.
    pub table: Uuid,
    pub head: Head,
    /// In the order of their keys.
    pub rows: Vec<Row>,
}

/// One step of following a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Follow {
    Turn(Arc<TurnRecord>),
    /// The next turn is no longer in the log: load again.
    Behind,
    /// The table ends before what was seen of it: it lost turns it had acknowledged. Never follow, never lead.
    Lost {
        why: String,
    },
}

/// The table could not be read. The message names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("{what}: {why}")]
    Unreadable { what: String, why: String },
    #[error("{what} is damaged: {why}; restore it from a backup, nothing was changed")]
    Damaged { what: String, why: String },
    #[error("{what} is in use by another process; stop it or choose another directory")]
    InUse { what: String },
    #[error("{what} lost turns it had acknowledged: {why}")]
    Lost { what: String, why: String },
}

/// The shared durable table.
#[async_trait]
pub trait Table: Send + Sync {
    /// Reads everything that stands there.
    async fn load(&self) -> Result<Load, TableError>;

    /// Writes one turn.
    async fn commit(&self, turn: &Arc<TurnRecord>) -> Commit;

    /// All turns after number `after`, then each new one as it is committed.
    async fn follow(&self, after: u64) -> Result<BoxStream<'static, Follow>, TableError>;

    /// The newest turn that is known to stand there, also if nobody who follows was given it yet; 0 as long as
    /// nothing is known. It is for showing how far behind a reader is, and decides nothing: while nothing is heard
    /// of the table, it stays what it was.
    fn newest(&self) -> watch::Receiver<u64>;

    /// Drops turns that the snapshot covers, but never the last 1,000.
    async fn compact(&self) -> Result<(), TableError>;

    /// What it takes as one turn.
    fn budget(&self) -> Budget;
}

/// How many turns always stay in the log.
pub const TURNS_KEPT: u64 = 1_000;
