//! What stands in the file: the rows, the log of turns, the head, and the history; and how one turn gets there.
//!
//! Law: a turn's rows, its place in the log, the head and its facts are one transaction: all of them or none.
//! Only the turn directly after the head is written. The head is always the last turn of the log.

use redb::{
    Database, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use uuid::Uuid;

use super::super::acceptance;
use super::{Bounds, history};
use crate::model::{Change, Head, Key, Row, TurnRecord};
use crate::ports::table::TURNS_KEPT;
use crate::ports::{Commit, Load};
use crate::wire::turn::{self as wire, DecodeError, EncodedTurn};

/// The key as text -> the row as JSON: the snapshot, as it stands after the head.
const ROWS: TableDefinition<&str, &[u8]> = TableDefinition::new("rows");
/// The number -> the turn as JSON.
const TURNS: TableDefinition<u64, &[u8]> = TableDefinition::new("turns");
/// `table` -> the id drawn when the file was made; `head` -> the last turn, as JSON.
const ABOUT: TableDefinition<&str, &[u8]> = TableDefinition::new("about");

/// How many turns one step of compaction drops: a step is a transaction that commits have to wait for.
const COMPACTION_STEP: usize = 1_000;

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    File(#[from] redb::Error),
    #[error("{what}: {why}")]
    Decode { what: String, why: DecodeError },
    #[error("{0}")]
    Contradiction(String),
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Failure {
            fn from(why: redb::$error) -> Self {
                Failure::File(why.into())
            }
        }
    )*};
}
from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError);

/// How far a commit got before it failed: decides what is known of what stands in the file.
#[derive(Debug)]
pub(super) enum Stage {
    /// Whether this turn stands there already is not known.
    Looking,
    /// It did not stand there, and nothing of it was made durable.
    Writing,
    /// It may or may not stand there.
    Committing,
}

/// Makes the tables of a new file and gives the file its id.
pub(super) fn create(db: &Database, table: Uuid) -> Result<(), Failure> {
    let writing = db.begin_write()?;
    writing.open_table(ROWS)?;
    writing.open_table(TURNS)?;
    history::create(&writing)?;
    {
        let mut about = writing.open_table(ABOUT)?;
        about.insert("table", table.to_string().as_bytes())?;
        about.insert("head", wire::encode_head(&Head::empty()).as_slice())?;
    }
    Ok(writing.commit()?)
}

/// The id the file was given.
pub(super) fn table_id(reading: &ReadTransaction) -> Result<Uuid, Failure> {
    let about = reading.open_table(ABOUT)?;
    let text = about.get("table")?.map(|text| text.value().to_vec()).unwrap_or_default();
    Uuid::try_parse_ascii(&text)
        .map_err(|why| Failure::Contradiction(format!("its table id is unreadable: {why}")))
}

/// The last turn, which must also be the last of a log without gaps.
pub(super) fn head(reading: &ReadTransaction) -> Result<Head, Failure> {
    let head = read_head(&reading.open_table(ABOUT)?)?;
    let turns = reading.open_table(TURNS)?;
    let (first, last) = (turns.first()?, turns.last()?);
    let (Some(first), Some(last)) = (first, last) else {
        return match head.number {
            0 => Ok(head),
            number => Err(Failure::Contradiction(format!("its head is turn {number} and its log is empty"))),
        };
    };
    let (first, last, bytes) = (first.0.value(), last.0.value(), last.1);
    let turn = decode_turn(last, bytes.value())?;
    if turn.head() != head {
        let why = format!("its head is turn {} and its log ends with turn {}", head.number, turn.number);
        return Err(Failure::Contradiction(why));
    }
    if turns.len()? != last - first + 1 {
        let why = format!("its log holds {} turns from {first} to {last}", turns.len()?);
        return Err(Failure::Contradiction(why));
    }
    Ok(head)
}

/// Everything that stands there.
pub(super) fn load(reading: &ReadTransaction) -> Result<Load, Failure> {
    let (table, head) = (table_id(reading)?, head(reading)?);
    let mut rows: Vec<(Key, Row)> = Vec::new();
    for entry in reading.open_table(ROWS)?.iter()? {
        let (key, bytes) = entry?;
        let row = wire::decode_row(bytes.value())
            .map_err(|why| Failure::Decode { what: format!("row {}", key.value()), why })?;
        let found = row.key();
        if found.to_string() != key.value() {
            return Err(Failure::Contradiction(format!("row {} says that it is {found}", key.value())));
        }
        rows.push((found, row));
    }
    rows.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    Ok(Load { table, head, rows: rows.into_iter().map(|(_, row)| row).collect() })
}

/// Up to `limit` turns after number `after`; `None` if the log cannot continue from there.
pub(super) fn turns(
    reading: &ReadTransaction,
    after: u64,
    limit: usize,
) -> Result<Option<Vec<TurnRecord>>, Failure> {
    let head = read_head(&reading.open_table(ABOUT)?)?;
    if after >= head.number {
        return Ok((after == head.number).then(Vec::new));
    }
    let table = reading.open_table(TURNS)?;
    let mut turns = Vec::new();
    for entry in table.range(after + 1..)?.take(limit) {
        let (number, bytes) = entry?;
        if turns.is_empty() && number.value() != after + 1 {
            return Ok(None);
        }
        turns.push(decode_turn(number.value(), bytes.value())?);
    }
    Ok((!turns.is_empty() || limit == 0).then_some(turns))
}

/// Writes one turn if it is the next one.
pub(super) fn commit(
    db: &Database,
    turn: &TurnRecord,
    encoded: &EncodedTurn,
    bounds: &Bounds,
) -> Result<Commit, (Stage, Failure)> {
    let looking = |why| (Stage::Looking, why);
    let writing = db.begin_write().map_err(|why| looking(why.into()))?;
    let look = || standing(&writing.open_table(ABOUT)?, &writing.open_table(TURNS)?, turn);
    let refuse = || acceptance::excess(bounds.budget, turn, || encoded.bytes().len());
    if let Some(answer) = look().map_err(looking)?.or_else(refuse) {
        return Ok(answer); // the transaction is given up: nothing was written
    }
    put(&writing, turn, encoded)
        .and_then(|()| history::record(&writing, turn, encoded, bounds.history_turns))
        .map_err(|why| (Stage::Writing, why))?;
    writing.commit().map_err(|why| (Stage::Committing, why.into()))?;
    Ok(Commit::Done)
}

/// What a look into the file answers to a turn; `None` if it can be written.
pub(super) fn look(reading: &ReadTransaction, turn: &TurnRecord) -> Result<Option<Commit>, Failure> {
    standing(&reading.open_table(ABOUT)?, &reading.open_table(TURNS)?, turn)
}

fn standing(
    about: &impl ReadableTable<&'static str, &'static [u8]>,
    turns: &impl ReadableTable<u64, &'static [u8]>,
    turn: &TurnRecord,
) -> Result<Option<Commit>, Failure> {
    let head = read_head(about)?;
    if turn.number == head.number + 1 {
        return Ok(None);
    }
    let there = turns.get(turn.number)?.map(|bytes| decode_turn(turn.number, bytes.value())).transpose()?;
    Ok(Some(acceptance::answer(turn, there.map(|turn| turn.id), &head)))
}

/// Drops one step of turns that lie before the kept ones; says whether more are left.
pub(super) fn compact_step(db: &Database) -> Result<bool, Failure> {
    let writing = db.begin_write()?;
    let head = read_head(&writing.open_table(ABOUT)?)?;
    let Some(last) = head.number.checked_sub(TURNS_KEPT) else { return Ok(false) };
    let mut dropped = 0;
    {
        let mut turns = writing.open_table(TURNS)?;
        for turn in turns.extract_from_if(0..=last, |_, _| true)?.take(COMPACTION_STEP) {
            turn?;
            dropped += 1;
        }
    }
    if dropped > 0 {
        writing.commit()?;
    }
    Ok(dropped == COMPACTION_STEP)
}

/// Whether the rows are what the turns in the log made of them.
///
/// Every row the log speaks of must stand as its last change left it; where the log is whole, no other row may.
pub(super) fn check(reading: &ReadTransaction) -> Result<Head, Failure> {
    let loaded = load(reading)?;
    let mut rows: std::collections::BTreeMap<Key, Row> =
        loaded.rows.into_iter().map(|row| (row.key(), row)).collect();
    let mut last_changes = std::collections::BTreeMap::new();
    let mut first = None;
    for entry in reading.open_table(TURNS)?.iter()? {
        let (number, bytes) = entry?;
        first.get_or_insert(number.value());
        for change in decode_turn(number.value(), bytes.value())?.changes {
            last_changes.insert(change.key(), (number.value(), change));
        }
    }
    for (key, (number, change)) in last_changes {
        let expected = match change {
            Change::Put(row) => Some(row),
            Change::Delete(_) => None,
        };
        if rows.remove(&key) != expected {
            return Err(Failure::Contradiction(format!("row {key} is not what turn {number} made of it")));
        }
    }
    match rows.keys().next() {
        Some(key) if first == Some(1) => Err(Failure::Contradiction(format!("row {key} comes from no turn"))),
        _ => Ok(loaded.head),
    }
}

fn put(writing: &WriteTransaction, turn: &TurnRecord, encoded: &EncodedTurn) -> Result<(), Failure> {
    let mut rows = writing.open_table(ROWS)?;
    for (index, change) in turn.changes.iter().enumerate() {
        let key = change.key().to_string();
        match encoded.row(index) {
            Some(row) => rows.insert(key.as_str(), row)?,
            None => rows.remove(key.as_str())?,
        };
    }
    writing.open_table(TURNS)?.insert(turn.number, encoded.bytes())?;
    writing.open_table(ABOUT)?.insert("head", wire::encode_head(&turn.head()).as_slice())?;
    Ok(())
}

fn read_head(about: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Head, Failure> {
    let bytes = about.get("head")?.ok_or_else(|| Failure::Contradiction("it has no head".to_owned()))?;
    wire::decode_head(bytes.value()).map_err(|why| Failure::Decode { what: "its head".to_owned(), why })
}

fn decode_turn(number: u64, bytes: &[u8]) -> Result<TurnRecord, Failure> {
    let turn = wire::decode(bytes).map_err(|why| Failure::Decode { what: format!("turn {number}"), why })?;
    if turn.number == number {
        Ok(turn)
    } else {
        Err(Failure::Contradiction(format!("turn {number} says that it is turn {}", turn.number)))
    }
}
