//! Where a table is read: a file no server has open, or the bucket that dispatchers share over NATS.
//!
//! Law: nothing is written. A file is opened for reading only; of a bucket only a process whose own turn is the
//! last one ever writes anything.

use std::path::PathBuf;

use clap::Args;

use super::super::Form;
use super::super::failure::Failure;
use super::super::nats::{Named, NatsArgs};
use crate::adapters::RedbTable;
use crate::adapters::jetstream::{JetStreamTable, Options};
use crate::model::TurnRecord;
use crate::ports::table::TURNS_KEPT;
use crate::ports::{Load, Table as _, TableError};

/// The directory of a server that was not told another.
const DATA: &str = "longshore-data";

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The directory the server was started with; wins over --nats [default: longshore-data]
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    pub(super) form: Form,
}

/// An open table.
pub(super) enum Source {
    File(Box<RedbTable>),
    Shared(JetStreamTable),
}

impl Place {
    /// The directory, if it is a file that is read.
    pub(super) fn file(&self) -> Result<Option<PathBuf>, Failure> {
        Ok(match self.named()? {
            Some(_) => None,
            None => Some(self.data.clone().unwrap_or_else(|| DATA.into())),
        })
    }

    /// Opens what stands there.
    pub(super) async fn open(&self) -> Result<Source, Failure> {
        if let Some(dir) = self.file()? {
            return Ok(Source::File(Box::new(RedbTable::inspect(&dir).map_err(said)?)));
        }
        let named = self.named()?.expect("a place is a file or a server");
        let connection = named.connect().await?;
        let table = JetStreamTable::open(&connection, &named.names, Options::default()).await;
        Ok(Source::Shared(table.map_err(said)?))
    }

    fn named(&self) -> Result<Option<Named>, Failure> {
        if self.data.is_some() { Ok(None) } else { self.nats.named("table".to_owned()) }
    }
}

impl Source {
    /// How many turns are sure to be there. Beside dispatchers that write, some go while the others are read.
    pub(super) fn tail(&self) -> u64 {
        match self {
            Source::File(_) => TURNS_KEPT,
            Source::Shared(_) => TURNS_KEPT / 2,
        }
    }

    /// Reads the whole table.
    pub(super) async fn load(&self) -> Result<Load, Failure> {
        match self {
            Source::File(table) => table.load().await,
            Source::Shared(table) => table.load().await,
        }
        .map_err(said)
    }

    /// Up to `limit` turns after number `after`; `None` if the log no longer reaches back that far.
    pub(super) async fn turns(&self, after: u64, limit: usize) -> Result<Option<Vec<TurnRecord>>, Failure> {
        match self {
            Source::File(table) => table.turns(after, limit).await,
            Source::Shared(table) => table.turns(after, limit).await,
        }
        .map_err(said)
    }
}

/// What a table that cannot be read means to whoever asked.
pub(in crate::cli) fn said(why: TableError) -> Failure {
    match why {
        TableError::InUse { what } => Failure::Broken(format!(
            "{what} is in use by a server; stop it first, or ask it: `longshore ps`, `longshore runners`, GET /v1/history"
        )),
        TableError::Unreadable { .. } => Failure::Usage(why.to_string()),
        TableError::Damaged { .. } | TableError::Lost { .. } => Failure::Broken(why.to_string()),
    }
}
