//! A turn while it is being decided.
//!
//! Law: every change goes through here into the state and into the turn at once, so the two cannot differ. A row
//! changed twice in one turn is written once, as it stood last.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::input::{Answer, Ticket};
use super::state::State;
use crate::model::{
    Change, Ending, Fact, Key, Lifecycle, LifecycleState, Outcome, Pool, Row, Runner, RunnerId, Task, TaskId,
    TaskState, Time, Token, size,
};

/// What one turn may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnBudget {
    pub rows: usize,
    /// Estimated encoded bytes.
    pub bytes: usize,
}

/// A message to send once the turn is committed.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Answer {
        to: Ticket,
        answer: Answer,
    },
    /// The rows hold something new for this runner.
    Deliver {
        runner: RunnerId,
    },
    /// Read all reports that have arrived, then give back the mark.
    ReadReports {
        mark: u64,
    },
}

/// Everything decided at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Turn {
    pub changes: Vec<Change>,
    pub facts: Vec<Fact>,
    pub effects: Vec<Effect>,
    /// The budget ended before the work did: another turn is due at once.
    pub more: bool,
}

pub(super) struct Draft<'a> {
    pub state: &'a mut State,
    pub now: Time,
    turn: Turn,
    /// The place of each changed row in the turn, and the bytes counted for it.
    places: FxHashMap<Key, (usize, usize)>,
    deliver: FxHashSet<RunnerId>,
    budget: TurnBudget,
    bytes: usize,
    tokens: u32,
    sequence: u64,
}

/// A task's place in the order of admission: its turn, and in these lowest bits its place within the turn.
const SEQUENCE_BITS: u32 = 20;

/// The turn that admitted a task.
pub fn admitted_in(task: &Task) -> u64 {
    task.sequence >> SEQUENCE_BITS
}

impl<'a> Draft<'a> {
    /// A turn of which so many inputs wait.
    pub fn new(state: &'a mut State, now: Time, budget: TurnBudget, inputs: usize) -> Self {
        state.advance(now);
        let now = state.now();
        let mut draft = Self {
            now,
            turn: Turn::default(),
            places: FxHashMap::default(),
            deliver: FxHashSet::default(),
            budget,
            bytes: 0,
            tokens: 0,
            sequence: 0,
            state,
        };
        // Most inputs change a row or two.
        draft.expect(2 * inputs);
        draft
    }

    /// Makes room for so many more changed rows and their facts at once, as far as the budget goes.
    pub fn expect(&mut self, rows: usize) {
        let bytes = self.budget.bytes.saturating_sub(self.bytes);
        let left = self.budget.rows.saturating_sub(self.turn.changes.len()).min(bytes / size::TASK);
        let rows = rows.min(left);
        self.places.reserve(rows);
        self.turn.changes.reserve(rows);
        self.turn.facts.reserve(rows);
    }

    /// The turn, and the state with it.
    pub fn finish(mut self) -> Turn {
        let mut deliver: Vec<RunnerId> = self.deliver.into_iter().collect();
        deliver.sort_unstable();
        self.turn.effects.extend(deliver.into_iter().map(|runner| Effect::Deliver { runner }));
        self.turn
    }

    /// Whether nothing more goes into this turn. Room for one more input's consequences is kept.
    pub fn is_full(&self) -> bool {
        let groups = self.state.groups().unwritten();
        self.turn.changes.len() + groups >= self.budget.rows
            || self.bytes + groups * size::of_unwritten_group() >= self.budget.bytes
    }

    /// Whether this turn changed any row so far.
    pub fn has_changes(&self) -> bool {
        !self.turn.changes.is_empty()
    }

    /// Says that work is left for the next turn.
    pub fn more(&mut self) {
        self.turn.more = true;
    }

    pub fn put(&mut self, row: Row) {
        let (key, bytes) = (row.key(), size::of_row(&row));
        self.state.put(row.clone());
        self.change(key, Change::Put(row), bytes);
    }

    pub fn delete(&mut self, key: Key) {
        let bytes = size::of_delete(&key);
        self.state.delete(&key);
        self.change(key.clone(), Change::Delete(key), bytes);
    }

    fn change(&mut self, key: Key, change: Change, bytes: usize) {
        self.bytes += bytes;
        match self.places.entry(key) {
            Entry::Occupied(mut before) => {
                let (place, replaced) = before.get_mut();
                self.turn.changes[*place] = change;
                self.bytes -= std::mem::replace(replaced, bytes);
            }
            Entry::Vacant(free) => {
                free.insert((self.turn.changes.len(), bytes));
                self.turn.changes.push(change);
            }
        }
    }

    /// Puts a task's row and says that it entered its state.
    pub fn put_task(&mut self, task: Task) {
        self.enter(task, None);
    }

    /// Puts a task's row without saying anything.
    pub fn put_task_quietly(&mut self, task: Task) {
        self.put(Row::Task(Arc::new(task)));
    }

    pub fn put_runner(&mut self, runner: Runner) {
        self.put(Row::Runner(Arc::new(runner)));
    }

    /// Puts what holds for the whole pool; a pool of which there is nothing to say has no row.
    pub fn put_pool(&mut self, pool: Pool) {
        if pool == Pool::default() {
            return self.delete(Key::Pool);
        }
        self.put(Row::Pool(pool));
    }

    fn enter(&mut self, task: Task, reason: Option<Arc<str>>) {
        let mut lifecycle = lifecycle(&task, self.now);
        if reason.is_some() {
            lifecycle.reason = reason;
        }
        self.fact(Fact::Task(lifecycle));
        self.put(Row::Task(Arc::new(task)));
    }

    pub fn fact(&mut self, fact: Fact) {
        self.bytes += size::of_fact(&fact);
        self.turn.facts.push(fact);
    }

    pub fn answer(&mut self, to: Ticket, answer: Answer) {
        self.turn.effects.push(Effect::Answer { to, answer });
    }

    pub fn deliver(&mut self, runner: &RunnerId) {
        if !self.deliver.contains(runner) {
            self.deliver.insert(runner.clone());
        }
    }

    /// Asks for the reports on their way; the returned mark comes back after them.
    pub fn read_reports(&mut self) -> u64 {
        let mark = self.state.watch.next_mark();
        self.turn.effects.push(Effect::ReadReports { mark });
        mark
    }

    /// A token nobody had before.
    pub fn next_token(&mut self) -> Token {
        let index = self.tokens;
        self.tokens += 1;
        Token { epoch: self.state.epoch(), turn: self.state.turn(), index }
    }

    /// A place in the order of admission behind all others.
    pub fn next_sequence(&mut self) -> u64 {
        let sequence = (self.state.turn() << SEQUENCE_BITS) | self.sequence;
        self.sequence += 1;
        sequence
    }

    pub fn task(&self, id: &TaskId) -> Option<Arc<Task>> {
        self.state.task(id.as_str()).cloned()
    }

    pub fn runner(&self, id: &RunnerId) -> Option<Arc<Runner>> {
        self.state.runner(id).cloned()
    }

    /// Ends a task. Its body goes with it unless it is small enough to be kept.
    pub fn end_task(&mut self, task: &Task, ending: Ending) {
        let mut ended = task.clone();
        (ended.artifacts, ended.wait) = (None, None);
        ended.state = TaskState::Ended(Box::new(ending));
        let keep = self.state.settings.keep_ended_body;
        if self.state.body(task.id.as_str()).is_some_and(|body| body.len() > keep) {
            self.delete(Key::Spec(task.id.clone()));
        }
        self.state.watch.forget_task(&task.id);
        if let Some(until) = super::verdict::patience(task) {
            self.state.watch.unplaceable.remove(&(until, task.id.clone()));
        }
        let outcome = ended.ending().map(|ending| ending.outcome);
        self.put_task(ended);
        if let Some(outcome) = outcome {
            super::group::ended(self, task, outcome);
        }
    }

    /// Ends a task that the dispatcher itself decides about.
    pub fn end_undone(&mut self, task: &Task, outcome: Outcome, reason: &str) {
        let ending = self.ending(task, outcome, Some(reason.into()));
        self.end_task(task, ending);
    }

    /// How `task` ends now, with what its last attempt says.
    pub fn ending(&self, task: &Task, outcome: Outcome, reason: Option<Arc<str>>) -> Ending {
        let last = task.assignment();
        Ending {
            outcome,
            reason,
            runner: last.map(|last| last.runner.clone()),
            token: last.map(|last| last.token),
            assigned: last.map(|last| last.assigned),
            started: last.and_then(|last| last.started),
            ended: self.now,
            exit_code: None,
            message: None,
        }
    }

    /// Makes a task pending again.
    pub fn return_task(&mut self, task: &Task, reason: &str, not_before: Option<Time>) {
        let mut pending = task.clone();
        let reason: Arc<str> = reason.into();
        pending.state = TaskState::Pending { since: self.now, not_before, reason: Some(reason.clone()) };
        self.enter(pending, Some(reason));
    }
}

/// The lifecycle event of a task that entered its state at `at`.
pub fn lifecycle(task: &Task, at: Time) -> Lifecycle {
    let millis =
        |later: Time, earlier: Time| u64::try_from(later.since(earlier).as_millis()).unwrap_or(u64::MAX);
    let mut event = Lifecycle {
        id: task.id.clone(),
        kind: task.kind(),
        queue: task.shape.queue.clone(),
        tenant: task.tenant.clone(),
        state: LifecycleState::Pending,
        outcome: None,
        reason: None,
        runner: None,
        attempt: task.attempt,
        token: None,
        at,
        waited_ms: None,
        ran_ms: None,
        exit_code: None,
    };
    match &task.state {
        TaskState::Pending { .. } => {}
        TaskState::Assigned(assignment) | TaskState::Running(assignment) => {
            event.state = match task.state {
                TaskState::Running(_) => LifecycleState::Running,
                _ => LifecycleState::Assigned,
            };
            event.runner = Some(assignment.runner.clone());
            event.token = Some(assignment.token);
            event.waited_ms = Some(millis(assignment.assigned, task.submitted));
        }
        TaskState::Ended(ending) => {
            event.state = LifecycleState::Ended;
            event.outcome = Some(ending.outcome);
            event.reason = ending.reason.clone();
            event.runner = ending.runner.clone();
            event.token = ending.token;
            event.waited_ms = ending.assigned.map(|assigned| millis(assigned, task.submitted));
            event.ran_ms = ending.started.map(|started| millis(ending.ended, started));
            event.exit_code = ending.exit_code;
        }
    }
    event
}
