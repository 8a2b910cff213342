//! What the laws need of an adapter, and turns to commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use longshore::adapters::{MemoryTable, RedbTable};
use longshore::model::turn::FORMAT;
use longshore::model::{Change, EarlyCancel, Fact, Head, Id, Key, Row, Time, TurnId, TurnRecord};
use longshore::ports::{Commit, Follow, Table};
use tempfile::TempDir;
use uuid::Uuid;

/// One adapter with one fresh table.
pub(crate) trait Fixture: Sized + Send {
    type Table: Table + 'static;

    /// How many random histories the adapter is worth.
    const CASES: u32;

    async fn fresh() -> Self;

    /// A way of its own to the table, as another process would have it.
    async fn writer(&self) -> Arc<Self::Table>;
}

pub(crate) struct Memory(MemoryTable);

impl Fixture for Memory {
    type Table = MemoryTable;
    const CASES: u32 = 256;

    async fn fresh() -> Self {
        Self(MemoryTable::new())
    }

    async fn writer(&self) -> Arc<MemoryTable> {
        Arc::new(self.0.clone())
    }
}

/// A file has one process: its writers share the open table.
pub(crate) struct Redb {
    table: Arc<RedbTable>,
    _dir: TempDir,
}

impl Fixture for Redb {
    type Table = RedbTable;
    const CASES: u32 = 32;

    async fn fresh() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let table = Arc::new(RedbTable::open(dir.path()).expect("an empty table"));
        Self { table, _dir: dir }
    }

    async fn writer(&self) -> Arc<RedbTable> {
        self.table.clone()
    }
}

pub(crate) fn id(text: &str) -> Id {
    Id::parse(text).expect("a name")
}

/// A row that says little: enough to tell one version from another.
pub(crate) fn row(name: &str, version: u64) -> Row {
    Row::EarlyCancel(EarlyCancel { id: id(name), reason: "why".into(), sequence: version, at: Time(version) })
}

pub(crate) fn put(name: &str, version: u64) -> Change {
    Change::Put(row(name, version))
}

pub(crate) fn delete(name: &str) -> Change {
    Change::Delete(Key::EarlyCancel(id(name)))
}

/// A leader: it never uses a counter twice.
pub(crate) struct Leader {
    id: Uuid,
    counter: u64,
}

impl Leader {
    pub(crate) fn number(number: u128) -> Self {
        Self { id: Uuid::from_u128(number), counter: 0 }
    }

    /// The turn directly after `head` with these changes.
    pub(crate) fn turn_after(&mut self, head: &Head, changes: Vec<Change>) -> Arc<TurnRecord> {
        self.turn(head.number + 1, changes, vec![])
    }

    pub(crate) fn turn(&mut self, number: u64, changes: Vec<Change>, facts: Vec<Fact>) -> Arc<TurnRecord> {
        self.counter += 1;
        Arc::new(TurnRecord {
            format: FORMAT,
            number,
            id: TurnId { leader: self.id, counter: self.counter },
            epoch: 1,
            at: Time(1_000 * number),
            released: false,
            changes,
            facts,
        })
    }

    /// Commits `count` turns after the head, each of which puts one row of a few and deletes another.
    pub(crate) async fn commits<T: Table>(&mut self, table: &T, count: u64) -> Vec<Arc<TurnRecord>> {
        let first = table.load().await.expect("a table").head.number + 1;
        let mut turns = Vec::new();
        for number in first..first + count {
            let changes =
                vec![put(&format!("t{}", number % 7), number), delete(&format!("t{}", (number + 3) % 7))];
            let turn = self.turn(number, changes, vec![]);
            assert_eq!(table.commit(&turn).await, Commit::Done);
            turns.push(turn);
        }
        turns
    }
}

/// The rows that turns leave behind.
pub(crate) fn sum<'a>(turns: impl IntoIterator<Item = &'a Arc<TurnRecord>>) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    for change in turns.into_iter().flat_map(|turn| &turn.changes) {
        match change {
            Change::Put(row) => rows.insert(row.key(), row.clone()),
            Change::Delete(key) => rows.remove(key),
        };
    }
    rows.into_values().collect()
}

/// The next `count` turns of a stream.
pub(crate) async fn next_turns(
    stream: &mut BoxStream<'static, Follow>,
    count: usize,
) -> Vec<Arc<TurnRecord>> {
    let mut turns = Vec::new();
    while turns.len() < count {
        match stream.next().await.expect("the table is open") {
            Follow::Turn(turn) => turns.push(turn),
            Follow::Behind | Follow::Lost { .. } => panic!("cannot follow after {} turns", turns.len()),
        }
    }
    turns
}
