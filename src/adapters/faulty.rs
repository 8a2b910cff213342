//! A table in memory that goes wrong on demand: the four answers of a commit, and a store that forgets.
//!
//! Law: which commit goes wrong, and how, is decided by whoever holds the table (a script, or a seed), never by
//! chance; the same script gives the same run. Apart from its faults it is the table it wraps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use super::MemoryTable;
use crate::model::TurnRecord;
use crate::ports::{Budget, Commit, Follow, History, HistoryQuery, Load, Table, TableError, TurnEvents};

/// How one commit goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It goes well.
    None,
    /// It is stored and the answer is lost.
    AnswerLost,
    /// It is lost on its way: not stored, no answer.
    LostOnTheWay,
    /// The table is full: refused, nothing stored.
    Full,
    /// The table takes no turn of this size: refused, nothing stored.
    TooLarge,
    /// It is stored and acknowledged, and then the store loses so many of its last turns.
    TailLost { turns: u64 },
}

/// A table in memory with faults. Clones are the same table with the same script.
#[derive(Debug, Clone)]
pub struct FaultyTable {
    table: MemoryTable,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Fault>,
    seeded: Option<Seeded>,
}

/// Draws faults for commits the script says nothing of.
#[derive(Debug)]
struct Seeded {
    state: u64,
    one_in: u64,
    choice: Vec<Fault>,
}

impl FaultyTable {
    /// `table`, with no faults until some are scripted.
    pub fn over(table: MemoryTable) -> Self {
        Self { table, script: Arc::default() }
    }

    /// `table`, where one commit in `one_in` suffers one of `choice`, drawn from `seed`.
    pub fn seeded(table: MemoryTable, seed: u64, one_in: u64, choice: &[Fault]) -> Self {
        let seeded = Seeded { state: seed, one_in: one_in.max(1), choice: choice.to_vec() };
        let script = Script { next: VecDeque::new(), seeded: Some(seeded) };
        Self { table, script: Arc::new(Mutex::new(script)) }
    }

    /// Says how the next commits go, in order, before anything drawn.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.lock().expect("no one panics while holding the script").next.extend(faults);
    }

    /// The table below, which never goes wrong.
    pub fn inner(&self) -> &MemoryTable {
        &self.table
    }

    /// Writes one turn, at once, as the script has it.
    pub fn try_commit(&self, turn: &Arc<TurnRecord>) -> Commit {
        let fault = self.script.lock().expect("no one panics while holding the script").draw();
        match fault {
            Fault::None => self.table.try_commit(turn),
            Fault::AnswerLost => {
                self.table.try_commit(turn);
                Commit::Unknown { why: format!("no answer to turn {}", turn.number) }
            }
            Fault::LostOnTheWay => Commit::Unknown { why: format!("no answer to turn {}", turn.number) },
            Fault::Full => self.refuse(turn, || "the table is full".to_owned()),
            Fault::TooLarge => self.refuse(turn, || {
                let rows = turn.changes.len();
                let most = rows.saturating_sub(1);
                format!("turn {} has {rows} rows; the table takes at most {most} in one turn", turn.number)
            }),
            Fault::TailLost { turns } => {
                let answer = self.table.try_commit(turn);
                self.table.forget_after(self.table.head().number.saturating_sub(turns));
                answer
            }
        }
    }

    /// Everything that stands there.
    pub fn read(&self) -> Load {
        self.table.read()
    }

    /// All turns after number `after`; `None` if the log cannot continue from there.
    pub fn turns_after(&self, after: u64) -> Option<Vec<Arc<TurnRecord>>> {
        self.table.turns_after(after)
    }

    /// Only what would be stored can be refused: another's turn at its number still deposes.
    fn refuse(&self, turn: &Arc<TurnRecord>, why: impl FnOnce() -> String) -> Commit {
        if turn.number == self.table.head().number + 1 {
            Commit::Refused { why: why() }
        } else {
            self.table.try_commit(turn)
        }
    }
}

impl Script {
    fn draw(&mut self) -> Fault {
        if let Some(fault) = self.next.pop_front() {
            return fault;
        }
        self.seeded.as_mut().map_or(Fault::None, Seeded::draw)
    }
}

impl Seeded {
    fn draw(&mut self) -> Fault {
        if self.choice.is_empty() || !self.next().is_multiple_of(self.one_in) {
            return Fault::None;
        }
        let place = self.next() % self.choice.len() as u64;
        self.choice[usize::try_from(place).expect("less than a length")]
    }

    /// The splitmix64 sequence: every seed, zero included, gives a well-mixed one.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[async_trait]
impl Table for FaultyTable {
    async fn load(&self) -> Result<Load, TableError> {
        Ok(self.read())
    }

    async fn commit(&self, turn: &Arc<TurnRecord>) -> Commit {
        self.try_commit(turn)
    }

    async fn follow(&self, after: u64) -> Result<BoxStream<'static, Follow>, TableError> {
        self.table.follow(after).await
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.table.newest()
    }

    async fn compact(&self) -> Result<(), TableError> {
        self.table.compact().await
    }

    fn budget(&self) -> Budget {
        self.table.budget()
    }
}

#[async_trait]
impl History for FaultyTable {
    async fn events(&self, query: HistoryQuery) -> Result<Vec<TurnEvents>, TableError> {
        self.table.events(query).await
    }
}
