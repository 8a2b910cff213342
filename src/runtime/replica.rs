//! One replica, without IO: the order around a turn.
//!
//! Law: at most one turn is on its way. Nothing is decided while it is; its effects come out only once the table
//! says `Done`; an unknown answer is met by offering the same record again, whatever arrives meanwhile. A deposed
//! replica gives back every input it has not committed and throws its state away.

use std::sync::Arc;

use uuid::Uuid;

use crate::core::input::{Arrived, Ticket};
use crate::core::{self, Effect, Settings, State, TurnBudget, Waiting};
use crate::model::{Fact, Time, TurnId, TurnRecord, turn};
use crate::ports::{Budget, Commit, Load};

/// A turn that was offered to the table.
#[derive(Debug)]
struct Flight {
    record: Arc<TurnRecord>,
    effects: Vec<Effect>,
    more: bool,
}

/// What came of offering a turn.
#[derive(Debug)]
pub enum Settled {
    /// It stands there: send the effects, then report the facts of the record.
    Committed { record: Arc<TurnRecord>, effects: Vec<Effect> },
    /// Offer the same record again; decide nothing meanwhile.
    Again { why: String },
    /// Nothing was stored: take no inputs, raise the alarm, offer the same record again later.
    Refused { why: String },
    /// Another leads. These inputs were not committed.
    Deposed { unanswered: Vec<Ticket> },
}

/// A dispatcher replica: a state, the inputs that wait, and the turn on its way.
#[derive(Debug)]
pub struct Replica {
    id: Uuid,
    counter: u64,
    state: State,
    waiting: Waiting,
    flight: Option<Flight>,
    leading: bool,
    /// A turn is due whatever waits: the first of a leadership, or the rest of a full one.
    due_now: bool,
    first: bool,
}

impl Replica {
    /// A follower of what `load` yielded, under an id that was never used.
    pub fn new(id: Uuid, settings: Arc<Settings>, load: Load) -> Self {
        Self::resume(id, 0, State::load(settings, load.table, load.head, load.rows))
    }

    /// A follower on a state to which only committed turns were applied, by a process that has decided `counter`
    /// turns under `id` before.
    pub fn resume(id: Uuid, counter: u64, state: State) -> Self {
        Self {
            id,
            counter,
            state,
            waiting: Waiting::default(),
            flight: None,
            leading: false,
            due_now: false,
            first: false,
        }
    }

    /// Follows one committed turn. Only for a follower.
    pub fn follow(&mut self, record: &TurnRecord) {
        self.state.apply(record);
    }

    /// Begins to lead: its next turn claims the log.
    pub fn lead(&mut self, now: Time) {
        self.state.take_over(now);
        self.leading = true;
        self.due_now = true;
        self.first = true;
    }

    /// How many turns were decided under its id.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Whether it leads, as far as it knows.
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// The state, which runs ahead of the table while a turn is on its way.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes in an input for the next turn.
    pub fn push(&mut self, arrived: Arrived) {
        self.waiting.push(arrived);
    }

    /// How many inputs wait for a turn.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a turn is on its way.
    pub fn is_committing(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether the turn on its way left nothing for a next one.
    pub fn is_done_for_now(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| !flight.more)
    }

    /// The record on its way.
    pub fn on_its_way(&self) -> Option<Arc<TurnRecord>> {
        self.flight.as_ref().map(|flight| flight.record.clone())
    }

    /// When the next turn is due if nothing arrives.
    pub fn next_due(&self) -> Time {
        if self.due_now || !self.waiting.is_empty() { Time(0) } else { self.state.next_due() }
    }

    /// Decides the next turn, if one is due and none is on its way.
    pub fn decide(&mut self, now: Time, budget: Budget) -> Option<Arc<TurnRecord>> {
        if !self.leading || self.flight.is_some() || self.next_due() > now {
            return None;
        }
        Some(self.take_turn(now, budget, false))
    }

    /// Decides a turn though nothing may be due: a leader that writes nothing is soon taken for gone.
    pub fn pulse(&mut self, now: Time, budget: Budget) -> Option<Arc<TurnRecord>> {
        (self.leading && self.flight.is_none()).then(|| self.take_turn(now, budget, false))
    }

    /// Decides the last turn of this leadership: whoever follows may take over at once.
    pub fn release(&mut self, now: Time, budget: Budget) -> Option<Arc<TurnRecord>> {
        (self.leading && self.flight.is_none()).then(|| self.take_turn(now, budget, true))
    }

    fn take_turn(&mut self, now: Time, budget: Budget, released: bool) -> Arc<TurnRecord> {
        self.counter += 1;
        let id = TurnId { leader: self.id, counter: self.counter };
        // The core looks whether a turn is full before each step, and estimates bytes: a quarter is kept back for
        // what the last step brings about.
        let budget = TurnBudget { rows: budget.rows - budget.rows / 4, bytes: budget.bytes / 4 * 3 };
        let mut turn = core::take_turn(&mut self.state, &mut self.waiting, id, now, budget);
        if std::mem::take(&mut self.first) {
            turn.facts.insert(0, Fact::TookOver { turn: self.state.turn() });
        }
        let record = Arc::new(TurnRecord {
            format: turn::FORMAT,
            number: self.state.turn(),
            id,
            epoch: self.state.epoch(),
            at: self.state.now(),
            released,
            changes: turn.changes,
            facts: turn.facts,
        });
        self.due_now = false;
        self.flight = Some(Flight { record: record.clone(), effects: turn.effects, more: turn.more });
        record
    }

    /// Takes in the table's answer to the turn on its way.
    pub fn settle(&mut self, answer: Commit) -> Settled {
        match answer {
            Commit::Done => {
                let flight = self.flight.take().expect("an answer is to a turn on its way");
                self.due_now = flight.more;
                if flight.record.released {
                    self.leading = false;
                }
                Settled::Committed { record: flight.record, effects: flight.effects }
            }
            Commit::Unknown { why } => Settled::Again { why },
            Commit::Refused { why } => Settled::Refused { why },
            Commit::Deposed { .. } => Settled::Deposed { unanswered: self.step_down() },
        }
    }

    /// Ceases to lead and gives back the tickets of all inputs that were not committed. The state is of no use any
    /// more: load again.
    pub fn step_down(&mut self) -> Vec<Ticket> {
        self.leading = false;
        let mut unanswered: Vec<Ticket> =
            self.waiting.drain().into_iter().map(|arrived| arrived.ticket).collect();
        for effect in self.flight.take().into_iter().flat_map(|flight| flight.effects) {
            if let Effect::Answer { to, .. } = effect {
                unanswered.push(to);
            }
        }
        unanswered
    }
}
