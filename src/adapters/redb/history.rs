//! The history within the file: the facts of each turn, and in which turns a task occurs.
//!
//! Law: facts are written in the turn's own transaction. The index may point at a turn that does not speak of
//! the task (two names with one hash), never the other way round, so every find is checked against the facts.
//!
//! The index is cut into blocks of consecutive turns, and within a block ordered by the hash of the task's name.
//! Writing touches only the few pages of the newest block however long the history is, and forgetting takes
//! whole blocks off the old end; a question about one task looks once into each block.

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::schema::Failure;
use crate::model::{TaskId, Time, TurnRecord};
use crate::ports::history::task_of;
use crate::ports::{HistoryQuery, TurnEvents};
use crate::wire::turn::{self as wire, EncodedTurn};

/// The turn -> its log time, and its facts as JSON. Turns without facts are not here.
const FACTS: TableDefinition<u64, (u64, &[u8])> = TableDefinition::new("facts");
/// Block, hash of a task's name, and place of a turn in the block, packed in this order.
const INDEX: TableDefinition<u128, ()> = TableDefinition::new("facts_by_task");

/// Turns in a block.
const BLOCK: u64 = 64;
const HASH_SHIFT: u32 = 16;
const BLOCK_SHIFT: u32 = HASH_SHIFT + 64;

/// How many old turns, and entries of the index, one commit forgets at most: more than it adds, and little.
const FORGET_TURNS: usize = 8;
const FORGET_ENTRIES_MIN: usize = 256;

/// Makes the tables of a new file.
pub(super) fn create(writing: &WriteTransaction) -> Result<(), Failure> {
    writing.open_table(FACTS)?;
    writing.open_table(INDEX)?;
    Ok(())
}

/// Writes the facts of a turn, and forgets a little of what is older than the newest `keep` turns.
pub(super) fn record(
    writing: &WriteTransaction,
    turn: &TurnRecord,
    encoded: &EncodedTurn,
    keep: u64,
) -> Result<(), Failure> {
    let mut added = 0;
    if let Some(facts) = encoded.facts() {
        writing.open_table(FACTS)?.insert(turn.number, (turn.at.0, facts))?;
        let mut hashes: Vec<u64> = turn.facts.iter().filter_map(task_of).map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        added = hashes.len();
        if added > 0 {
            let mut index = writing.open_table(INDEX)?;
            for hash in hashes {
                index.insert(entry(turn.number, hash), ())?;
            }
        }
    }
    match turn.number.checked_sub(keep) {
        Some(last) if last > 0 => forget(writing, last, added),
        _ => Ok(()),
    }
}

/// The turns asked for, oldest first.
pub(super) fn events(reading: &ReadTransaction, query: &HistoryQuery) -> Result<Vec<TurnEvents>, Failure> {
    let facts = reading.open_table(FACTS)?;
    let Some(first) = facts.first()?.map(|(turn, _)| turn.value()) else { return Ok(Vec::new()) };
    let Some(last) = facts.last()?.map(|(turn, _)| turn.value()) else { return Ok(Vec::new()) };
    let backwards = query.since.is_none();
    let first = query.since.map_or(first, |since| first.max(since.saturating_add(1)));

    let mut found = Vec::new();
    match &query.id {
        _ if first > last => {}
        None => {
            let mut range = facts.range(first..=last)?;
            while found.len() < query.limit {
                let Some(entry) = (if backwards { range.next_back() } else { range.next() }) else { break };
                let (turn, value) = entry?;
                found.extend(read(turn.value(), value.value(), None)?);
            }
        }
        Some(id) => {
            let index = reading.open_table(INDEX)?;
            let blocks = first / BLOCK..=last / BLOCK;
            let (hash, mut walk) = (hash(id), Walk::new(blocks, backwards));
            while found.len() < query.limit
                && let Some(block) = walk.next()
            {
                let range = entry(block * BLOCK, hash)..=entry(block * BLOCK + BLOCK - 1, hash);
                let mut turns = Vec::new();
                for entry in index.range(range)? {
                    turns.push(block * BLOCK + turn_in_block(entry?.0.value()));
                }
                turns.retain(|turn| (first..=last).contains(turn));
                if backwards {
                    turns.reverse();
                }
                for turn in turns {
                    if let Some(value) = facts.get(turn)? {
                        found.extend(read(turn, value.value(), Some(id))?);
                    }
                }
            }
        }
    }
    found.truncate(query.limit);
    if backwards {
        found.reverse();
    }
    Ok(found)
}

/// Blocks in the order they are looked into.
struct Walk {
    blocks: std::ops::RangeInclusive<u64>,
    backwards: bool,
}

impl Walk {
    fn new(blocks: std::ops::RangeInclusive<u64>, backwards: bool) -> Self {
        Self { blocks, backwards }
    }

    fn next(&mut self) -> Option<u64> {
        if self.backwards { self.blocks.next_back() } else { self.blocks.next() }
    }
}

/// Forgets turns up to `last`, a step of them; and of the blocks that lie wholly before it, a step of entries.
fn forget(writing: &WriteTransaction, last: u64, added: usize) -> Result<(), Failure> {
    let mut facts = writing.open_table(FACTS)?;
    for turn in facts.extract_from_if(0..=last, |_, _| true)?.take(FORGET_TURNS) {
        turn?;
    }
    let whole = u128::from((last + 1) / BLOCK) << BLOCK_SHIFT;
    if whole > 0 {
        let mut index = writing.open_table(INDEX)?;
        for entry in index.extract_from_if(0..whole, |_, ()| true)?.take(FORGET_ENTRIES_MIN + 2 * added) {
            entry?;
        }
    }
    Ok(())
}

fn read(turn: u64, (at, facts): (u64, &[u8]), id: Option<&TaskId>) -> Result<Option<TurnEvents>, Failure> {
    let mut events = wire::decode_facts(facts)
        .map_err(|why| Failure::Decode { what: format!("the facts of turn {turn}"), why })?;
    events.retain(|fact| id.is_none_or(|id| task_of(fact) == Some(id)));
    Ok((!events.is_empty()).then_some(TurnEvents { turn, at: Time(at), events }))
}

fn entry(turn: u64, hash: u64) -> u128 {
    u128::from(turn / BLOCK) << BLOCK_SHIFT | u128::from(hash) << HASH_SHIFT | u128::from(turn % BLOCK)
}

fn turn_in_block(entry: u128) -> u64 {
    u64::try_from(entry & ((1 << HASH_SHIFT) - 1)).expect("sixteen bits")
}

/// FNV-1a: it stands in files, so it must never change.
fn hash(id: &TaskId) -> u64 {
    id.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
