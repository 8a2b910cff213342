//! A table in memory: the reference the other tables are compared with, and the one simulations use.
//!
//! Law: the table's laws, by the shortest way there is; and everything can also be called without waiting, so
//! that a simulation stays deterministic. Clones are the same table. Nothing survives the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use uuid::Uuid;

use super::acceptance;
use super::following::{self, Next};
use crate::model::{Change, Head, Key, Row, TurnRecord};
use crate::ports::history::task_of;
use crate::ports::table::TURNS_KEPT;
use crate::ports::{Budget, Commit, Follow, History, HistoryQuery, Load, Table, TableError, TurnEvents};
use crate::wire::turn::encode;

/// What a table in memory takes as one turn unless told otherwise.
pub const BUDGET: Budget = Budget { rows: 4_000, bytes: 4 << 20 };

/// How many turns of history it keeps.
const HISTORY_TURNS: usize = 10_000;

/// A shared table in memory.
#[derive(Debug, Clone)]
pub struct MemoryTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Uuid,
    budget: Budget,
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    head: Head,
    rows: BTreeMap<Key, Row>,
    log: VecDeque<Logged>,
    /// The turn before the first of the log.
    before: Head,
    /// Turns that contain facts.
    history: VecDeque<Arc<TurnRecord>>,
}

/// A turn, and what its changes replaced.
#[derive(Debug)]
struct Logged {
    turn: Arc<TurnRecord>,
    replaced: Vec<(Key, Option<Row>)>,
}

impl Default for MemoryTable {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTable {
    /// A new, empty table with an id of its own.
    pub fn new() -> Self {
        Self::with(Uuid::now_v7(), BUDGET)
    }

    /// A new, empty table. With `budget.bytes` at its maximum turns are never encoded to be measured.
    pub fn with(table: Uuid, budget: Budget) -> Self {
        let state = State {
            head: Head::empty(),
            rows: BTreeMap::new(),
            log: VecDeque::new(),
            before: Head::empty(),
            history: VecDeque::new(),
        };
        let news = watch::Sender::new(0);
        Self { shared: Arc::new(Shared { table, budget, state: Mutex::new(state), news }) }
    }

    /// Writes one turn, at once.
    pub fn try_commit(&self, turn: &Arc<TurnRecord>) -> Commit {
        let mut state = self.state();
        if turn.number != state.head.number + 1 {
            let standing = state.logged(turn.number).map(|logged| logged.turn.id);
            return acceptance::answer(turn, standing, &state.head);
        }
        let unmeasured = self.shared.budget.bytes == usize::MAX;
        let bytes = || if unmeasured { 0 } else { encode(turn).bytes().len() };
        if let Some(refused) = acceptance::excess(self.shared.budget, turn, bytes) {
            return refused;
        }
        state.append(turn);
        drop(state);
        self.shared.news.send_replace(turn.number);
        Commit::Done
    }

    /// Everything that stands there.
    pub fn read(&self) -> Load {
        let state = self.state();
        Load { table: self.shared.table, head: state.head, rows: state.rows.values().cloned().collect() }
    }

    /// The last turn.
    pub fn head(&self) -> Head {
        self.state().head
    }

    /// All turns after number `after`; `None` if the log cannot continue from there.
    pub fn turns_after(&self, after: u64) -> Option<Vec<Arc<TurnRecord>>> {
        let state = self.state();
        if after < state.before.number || after > state.head.number {
            return None;
        }
        let known = usize::try_from(after - state.before.number).expect("the log is in memory");
        Some(state.log.range(known..).map(|logged| logged.turn.clone()).collect())
    }

    /// Drops turns from the log, but never the last 1,000.
    pub fn compact_log(&self) {
        let mut state = self.state();
        let excess = state.log.len().saturating_sub(usize::try_from(TURNS_KEPT).unwrap_or(usize::MAX));
        let last = state.log.drain(..excess).next_back();
        state.before = last.map_or(state.before, |last| last.turn.head());
    }

    /// Loses every turn after number `last`, as a store does that lies about durability. Goes back no further
    /// than the log does.
    pub fn forget_after(&self, last: u64) {
        let mut state = self.state();
        while state.head.number > last {
            let Some(logged) = state.log.pop_back() else { break };
            for (key, row) in logged.replaced.into_iter().rev() {
                match row {
                    Some(row) => state.rows.insert(key, row),
                    None => state.rows.remove(&key),
                };
            }
            state.head = state.log.back().map_or(state.before, |logged| logged.turn.head());
        }
        let head = state.head.number;
        state.history.retain(|turn| turn.number <= head);
        drop(state);
        self.shared.news.send_replace(head);
    }

    /// The facts asked for, at once.
    pub fn read_events(&self, query: &HistoryQuery) -> Vec<TurnEvents> {
        let state = self.state();
        let asked = |turn: &Arc<TurnRecord>| {
            let about = |fact: &&_| query.id.as_ref().is_none_or(|id| task_of(fact) == Some(id));
            let events: Vec<_> = turn.facts.iter().filter(about).cloned().collect();
            (!events.is_empty()).then_some(TurnEvents { turn: turn.number, at: turn.at, events })
        };
        match query.since {
            Some(since) => {
                let first = state.history.partition_point(|turn| turn.number <= since);
                state.history.range(first..).filter_map(asked).take(query.limit).collect()
            }
            None => {
                let mut last: Vec<_> =
                    state.history.iter().rev().filter_map(asked).take(query.limit).collect();
                last.reverse();
                last
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no one panics while holding the table")
    }
}

impl State {
    fn logged(&self, number: u64) -> Option<&Logged> {
        let place = number.checked_sub(self.before.number + 1)?;
        self.log.get(usize::try_from(place).ok()?)
    }

    fn append(&mut self, turn: &Arc<TurnRecord>) {
        let mut replaced = Vec::with_capacity(turn.changes.len());
        for change in &turn.changes {
            let key = change.key();
            let old = match change {
                Change::Put(row) => self.rows.insert(key.clone(), row.clone()),
                Change::Delete(key) => self.rows.remove(key),
            };
            replaced.push((key, old));
        }
        self.head = turn.head();
        self.log.push_back(Logged { turn: turn.clone(), replaced });
        if !turn.facts.is_empty() {
            self.history.push_back(turn.clone());
            if self.history.len() > HISTORY_TURNS {
                self.history.pop_front();
            }
        }
    }
}

#[async_trait]
impl Table for MemoryTable {
    async fn load(&self) -> Result<Load, TableError> {
        Ok(self.read())
    }

    async fn commit(&self, turn: &Arc<TurnRecord>) -> Commit {
        self.try_commit(turn)
    }

    async fn follow(&self, after: u64) -> Result<BoxStream<'static, Follow>, TableError> {
        let table = Arc::downgrade(&self.shared);
        Ok(following::follow(after, self.shared.news.subscribe(), move |after| {
            let next = match table.upgrade().map(|shared| MemoryTable { shared }.turns_after(after)) {
                None => Next::Gone,
                Some(None) => Next::Behind,
                Some(Some(turns)) => Next::Turns(turns),
            };
            std::future::ready(next)
        }))
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.shared.news.subscribe()
    }

    async fn compact(&self) -> Result<(), TableError> {
        self.compact_log();
        Ok(())
    }

    fn budget(&self) -> Budget {
        self.shared.budget
    }
}

#[async_trait]
impl History for MemoryTable {
    async fn events(&self, query: HistoryQuery) -> Result<Vec<TurnEvents>, TableError> {
        Ok(self.read_events(&query))
    }
}
