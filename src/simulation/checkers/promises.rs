//! What was promised is kept: a task whose producer was answered ends, once, and one way only.
//!
//! Reads what producers were told, the facts of committed turns, and the marks of the work. Besides: only work
//! that succeeded is said to have; what had finished, with its report in the inbox while its runner had its
//! lease, is never repeated; and what some runner that was here could run is never rejected.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::input::Submitted;
use crate::model::{Held, Lifecycle, LifecycleState, Outcome, RunnerId, TaskId, Token};

/// Promises and what became of them.
#[derive(Debug, Default)]
pub(super) struct Promises {
    open: BTreeSet<TaskId>,
    ended: BTreeMap<TaskId, Outcome>,
    /// Attempts whose work ran to success, and when.
    succeeded: BTreeMap<(TaskId, Token), u64>,
    /// Tasks that finished in time, under which token.
    finished: BTreeMap<TaskId, Token>,
    possible: BTreeSet<TaskId>,
    registered: BTreeSet<RunnerId>,
    runners: BTreeSet<RunnerId>,
    could_start: BTreeMap<TaskId, u64>,
}

impl Promises {
    pub fn possible(&mut self, id: &TaskId) {
        self.possible.insert(id.clone());
    }

    pub fn has_runner(&mut self, runner: &RunnerId) {
        self.runners.insert(runner.clone());
    }

    pub fn registered(&mut self, runner: &RunnerId) {
        self.registered.insert(runner.clone());
    }

    pub fn told(&mut self, id: &TaskId, answer: &Submitted) -> Option<String> {
        match answer {
            Submitted::Admitted | Submitted::Duplicate => {
                if !self.ended.contains_key(id) {
                    self.open.insert(id.clone());
                }
                None
            }
            Submitted::Rejected { reason } => match self.ended.get(id) {
                Some(Outcome::Rejected) => None,
                other => Some(format!("{id} was answered rejected ({reason}) and is {other:?}")),
            },
            Submitted::Conflict { reason } => Some(format!("{id} conflicts with itself: {reason}")),
            Submitted::Full { .. } => None,
        }
    }

    pub fn finished(&mut self, id: &TaskId, token: Token, leaseless_at: u64) {
        let under_this_lease =
            self.succeeded.get(&(id.clone(), token)).is_some_and(|stopped| *stopped > leaseless_at);
        if under_this_lease && !self.ended.contains_key(id) {
            self.finished.entry(id.clone()).or_insert(token);
        }
    }

    pub fn succeeded(&mut self, now: u64, held: &Held) {
        self.succeeded.insert((held.id.clone(), held.token), now);
    }

    pub fn began(&self, held: &Held) -> Option<String> {
        let before = self.finished.get(&held.id).filter(|before| **before != held.token)?;
        Some(format!("{} is repeated under {} though it finished under {before}", held.id, held.token))
    }

    /// A task entered a state, as a committed turn says.
    pub fn entered(&mut self, fact: &Lifecycle) -> Vec<String> {
        let mut found = Vec::new();
        let id = &fact.id;
        if let Some(before) = self.ended.get(id) {
            found.push(format!("{id} had ended {before} and is {} now", fact.state.as_str()));
        }
        if fact.state != LifecycleState::Ended {
            return found;
        }
        let outcome = fact.outcome.unwrap_or(Outcome::Failed);
        let reason = fact.reason.as_deref().unwrap_or_default();
        if outcome == Outcome::Succeeded {
            let token = fact.token.unwrap_or(Token { epoch: 0, turn: 0, index: 0 });
            if !self.succeeded.contains_key(&(id.clone(), token)) {
                found.push(format!("{id} is said to have succeeded under {token}, and no work did"));
            }
        }
        if let Some(token) = self.finished.get(id)
            && outcome != Outcome::Succeeded
        {
            found.push(format!("{id} finished under {token} and ended {outcome}: {reason}"));
        }
        if outcome == Outcome::Rejected && self.possible.contains(id) && self.registered == self.runners {
            found.push(format!("{id} was rejected though it could run: {reason}"));
        }
        self.open.remove(id);
        self.ended.insert(id.clone(), outcome);
        found
    }

    pub fn could_start(&mut self, now: u64, jobs: BTreeSet<TaskId>) -> Vec<(TaskId, u64)> {
        self.could_start.retain(|id, _| jobs.contains(id));
        for id in jobs {
            self.could_start.entry(id).or_insert(now);
        }
        self.could_start.iter().map(|(id, since)| (id.clone(), *since)).collect()
    }

    pub fn has_ended(&self, id: &TaskId) -> bool {
        self.ended.contains_key(id)
    }

    pub fn all_ended(&self) -> bool {
        self.open.is_empty()
    }

    pub fn ended(&self) -> u64 {
        self.ended.len() as u64
    }

    pub fn unended(&self) -> String {
        self.open.iter().map(TaskId::as_str).collect::<Vec<_>>().join(" ")
    }
}
