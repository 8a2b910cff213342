//! A table in one file: the durable table of a single dispatcher.
//!
//! Law: a turn is one transaction, on disk before the answer. A file that is missing, foreign or damaged is an
//! error and never an empty table. After a failure of the disk the file is opened again and looked into, so that
//! the answer says what stands there; only when that cannot be told is it `Unknown`.
//!
//! `place` opens and creates, `schema` says what stands in the file, `history` keeps the facts, `overlay` reads
//! without writing. The file is worked on off the asynchronous threads.

mod history;
mod overlay;
mod place;
mod schema;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::{Database, ReadTransaction, ReadableDatabase};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use self::place::{Opened, Place, contradiction, guarded};
use self::schema::{Failure, Stage};
use super::following::{self, Next};
use crate::model::{Head, TurnRecord};
use crate::ports::{Budget, Commit, Follow, History, HistoryQuery, Load, Table, TableError, TurnEvents};
use crate::wire::turn::encode;

/// How many turns one step of following reads.
const FOLLOW_STEP: usize = 256;

/// How much a table takes and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// What it takes as one turn.
    pub budget: Budget,
    /// How many of the newest turns keep their facts.
    pub history_turns: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { budget: Budget { rows: 4_000, bytes: 4 << 20 }, history_turns: 200_000 }
    }
}

/// A table in a file. Clones are the same open table; the last one dropped closes it.
#[derive(Debug, Clone)]
pub struct RedbTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Uuid,
    place: Place,
    bounds: Bounds,
    writable: bool,
    /// Absent from a failure of the disk until the file is opened again.
    db: Mutex<Option<Arc<Database>>>,
    news: watch::Sender<u64>,
    /// Given up last.
    _lock: File,
}

impl RedbTable {
    /// Opens the table in `dir`, or makes an empty one, and `dir` too, where none ever was.
    ///
    /// Refuses a directory that is in use, and one whose table is gone, foreign or damaged.
    pub fn open(dir: &Path) -> Result<Self, TableError> {
        Self::open_with(dir, Bounds::default())
    }

    /// The same with other bounds.
    pub fn open_with(dir: &Path, bounds: Bounds) -> Result<Self, TableError> {
        let place = Place::of(dir);
        let opened = place.open()?;
        Ok(Self::of(place, opened, bounds, true))
    }

    /// Opens the table in `dir` to look at it while no server has it. The file is not written to, whatever state
    /// it is in, and commits are refused.
    pub fn inspect(dir: &Path) -> Result<Self, TableError> {
        let place = Place::of(dir);
        let opened = place.open_unwritten()?;
        Ok(Self::of(place, opened, Bounds::default(), false))
    }

    /// Reads all of the table in `dir` without writing to it: every checksum, every row, every turn, and whether
    /// the rows are what the turns made of them. Takes time in proportion to the file.
    pub fn check(dir: &Path) -> Result<Head, TableError> {
        let place = Place::of(dir);
        let Opened { mut db, lock, .. } = place.open_unwritten()?;
        let checked = guarded(|| {
            if !db.check_integrity()? {
                return Err(Failure::Contradiction("its checksums do not match its contents".to_owned()));
            }
            schema::check(&db.begin_read()?)
        });
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        drop(lock);
        checked.map_err(|why| place.error(why))
    }

    /// The id drawn when the table was made.
    pub fn table(&self) -> Uuid {
        self.shared.table
    }

    /// Up to `limit` turns after number `after`; `None` if the log cannot continue from there.
    pub async fn turns(&self, after: u64, limit: usize) -> Result<Option<Vec<TurnRecord>>, TableError> {
        self.shared.clone().read(move |reading| schema::turns(reading, after, limit)).await
    }

    fn of(place: Place, opened: Opened, bounds: Bounds, writable: bool) -> Self {
        let Opened { db, table, head, lock } = opened;
        let db = Mutex::new(Some(Arc::new(db)));
        let news = watch::Sender::new(head.number);
        Self { shared: Arc::new(Shared { table, place, bounds, writable, db, news, _lock: lock }) }
    }
}

impl Shared {
    /// Reads off the asynchronous threads.
    async fn read<T, F>(self: Arc<Self>, job: F) -> Result<T, TableError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, Failure> + Send + 'static,
    {
        let shared = self.clone();
        let done = spawn_blocking(move || guarded(|| job(&shared.database()?.begin_read()?))).await;
        match done {
            Ok(read) => read.map_err(|why| self.place.error(why)),
            Err(stopped) => Err(TableError::Unreadable {
                what: self.place.file.display().to_string(),
                why: format!("the program is stopping ({stopped})"),
            }),
        }
    }

    /// The open file; opens it again after a failure.
    fn database(&self) -> Result<Arc<Database>, Failure> {
        let mut slot = self.slot();
        if let Some(db) = &*slot {
            return Ok(db.clone());
        }
        let (db, table, head) = guarded(|| self.place.reopen())?;
        if table != self.table {
            return Err(Failure::Contradiction(format!(
                "it holds table {table} and no longer {}",
                self.table
            )));
        }
        self.news.send_replace(head.number);
        Ok(slot.insert(Arc::new(db)).clone())
    }

    fn write(&self, turn: &TurnRecord) -> Commit {
        let encoded = encode(turn);
        let db = match self.database() {
            Ok(db) => db,
            Err(why) => return Commit::Unknown { why: why.to_string() },
        };
        let attempt = || schema::commit(&db, turn, &encoded, &self.bounds);
        let written = catch_unwind(AssertUnwindSafe(attempt))
            .unwrap_or_else(|panic| Err((Stage::Committing, contradiction(&*panic))));
        match written {
            Ok(answer) => {
                if answer == Commit::Done {
                    self.news.send_if_modified(|last| {
                        let newer = turn.number > *last;
                        *last = turn.number.max(*last);
                        newer
                    });
                }
                answer
            }
            Err((stage, why)) => {
                let _ = catch_unwind(AssertUnwindSafe(|| drop((db, self.slot().take()))));
                self.settle(stage, turn, &why)
            }
        }
    }

    /// Finds out what a commit that failed has left behind.
    fn settle(&self, stage: Stage, turn: &TurnRecord, why: &Failure) -> Commit {
        let refused = || Commit::Refused { why: why.to_string() };
        if matches!(stage, Stage::Writing) {
            return refused();
        }
        match guarded(|| schema::look(&self.database()?.begin_read()?, turn)) {
            Ok(Some(answer)) => answer,
            Ok(None) => refused(),
            Err(again) => Commit::Unknown { why: format!("{why}; opened again: {again}") },
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Table for RedbTable {
    async fn load(&self) -> Result<Load, TableError> {
        self.shared.clone().read(schema::load).await
    }

    async fn commit(&self, turn: &Arc<TurnRecord>) -> Commit {
        if !self.shared.writable {
            return Commit::Refused { why: "the table is open for reading only".to_owned() };
        }
        let (shared, turn) = (self.shared.clone(), turn.clone());
        let done = spawn_blocking(move || shared.write(&turn)).await;
        done.unwrap_or_else(|why| Commit::Unknown { why: why.to_string() })
    }

    async fn follow(&self, after: u64) -> Result<BoxStream<'static, Follow>, TableError> {
        let table = Arc::downgrade(&self.shared);
        Ok(following::follow(after, self.shared.news.subscribe(), move |after| {
            let table = table.upgrade();
            async move {
                let Some(shared) = table else { return Next::Gone };
                match shared.read(move |reading| schema::turns(reading, after, FOLLOW_STEP)).await {
                    Ok(Some(turns)) => Next::Turns(turns.into_iter().map(Arc::new).collect()),
                    Ok(None) | Err(_) => Next::Behind,
                }
            }
        }))
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.shared.news.subscribe()
    }

    async fn compact(&self) -> Result<(), TableError> {
        if !self.shared.writable {
            return Ok(());
        }
        loop {
            let shared = self.shared.clone();
            let step = move || guarded(|| schema::compact_step(&*shared.database()?));
            match spawn_blocking(step).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => return Ok(()),
                Ok(Err(why)) => return Err(self.shared.place.error(why)),
            }
        }
    }

    fn budget(&self) -> Budget {
        self.shared.bounds.budget
    }
}

#[async_trait]
impl History for RedbTable {
    async fn events(&self, query: HistoryQuery) -> Result<Vec<TurnEvents>, TableError> {
        self.shared.clone().read(move |reading| history::events(reading, &query)).await
    }
}
