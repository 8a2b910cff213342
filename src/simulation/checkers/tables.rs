//! One log, one state: what the table yields is the fold of its turns, and every replica at a turn holds the
//! same rows.
//!
//! Besides: log time never goes backwards, turns follow without a gap, and at the end nothing is held.

use std::sync::Arc;

use uuid::Uuid;

use crate::core::{Settings, State};
use crate::model::{Head, TurnRecord};
use crate::ports::Load;

/// The fold of all turns.
#[derive(Debug)]
pub(super) struct Tables {
    fold: State,
}

impl Tables {
    pub fn new(settings: Arc<Settings>, table: Uuid) -> Self {
        Self { fold: State::load(settings, table, Head::empty(), Vec::new()) }
    }

    pub fn turn(&self) -> u64 {
        self.fold.turn()
    }

    pub fn committed(&mut self, turn: &TurnRecord) -> Vec<String> {
        let mut found = Vec::new();
        if turn.number != self.fold.turn() + 1 {
            found.push(format!("turn {} follows turn {}", turn.number, self.fold.turn()));
        }
        if turn.at < self.fold.now() {
            found.push(format!("turn {} is at {}, before {}", turn.number, turn.at, self.fold.now()));
        }
        self.fold.apply(turn);
        found
    }

    pub fn table_is(&self, load: &Load) -> Vec<String> {
        if load.head.number != self.fold.turn() {
            return vec![format!("the table is at turn {}, its fold at {}", load.head.number, self.turn())];
        }
        differs(&self.fold, load)
    }

    pub fn all_ended(&self) -> bool {
        let counts = self.fold.counts();
        counts.pending.values().sum::<usize>() + counts.assigned + counts.running == 0
    }

    pub fn unended(&self) -> String {
        let live = self.fold.tasks().filter(|task| !task.is_ended());
        let named = live.map(|task| {
            let why = crate::core::explain::why(&self.fold, task.id.as_str());
            format!("{} {} ({why:?})", task.id, task.state_word())
        });
        named.take(6).collect::<Vec<_>>().join(", ")
    }

    pub fn at_the_end(&self) -> Vec<String> {
        let held = self.fold.fleet().seats().filter(|seat| !seat.held.is_empty() || !seat.tasks.is_empty());
        let mut found: Vec<String> =
            held.map(|seat| format!("{} still holds {:?}", seat.runner.id, seat.tasks.values())).collect();
        found.extend(crate::core::invariant::check(&self.fold));
        found
    }
}

/// Where a state at some turn and the table at the same turn differ.
pub(super) fn differs(state: &State, load: &Load) -> Vec<String> {
    let rows = state.rows();
    if rows == load.rows {
        return Vec::new();
    }
    let turn = load.head.number;
    let other = rows.iter().find(|row| !load.rows.contains(row)).map(crate::model::Row::key);
    let missing = load.rows.iter().find(|row| !rows.contains(row)).map(crate::model::Row::key);
    vec![format!("at turn {turn} a state holds {other:?} otherwise than the table, which has {missing:?}")]
}
