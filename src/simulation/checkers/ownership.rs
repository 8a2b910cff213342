//! No task under two owners: at no moment do two attempts of one task execute, wherever, and what has ended
//! executes nowhere.
//!
//! Reads only the marks the work wrote down, and which tasks were said to have ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Held, RunnerId, TaskId, Token};

/// What executes at the moment, as the work itself says.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    executing: BTreeMap<TaskId, BTreeSet<(RunnerId, Token)>>,
    ended: BTreeSet<TaskId>,
}

impl Ownership {
    pub fn began(&mut self, runner: &RunnerId, held: &Held) -> Vec<String> {
        let mut found = Vec::new();
        let Held { id, token } = held;
        if self.ended.contains(id) {
            found.push(format!("{id} under {token} executes on {runner} though it has ended"));
        }
        let now = self.executing.entry(id.clone()).or_default();
        if let Some((other, under)) = now.first() {
            found.push(format!("{id} executes on {runner} under {token} and on {other} under {under}"));
        }
        now.insert((runner.clone(), *token));
        found
    }

    pub fn stopped(&mut self, runner: &RunnerId, held: &Held) {
        if let Some(now) = self.executing.get_mut(&held.id) {
            now.remove(&(runner.clone(), held.token));
            if now.is_empty() {
                self.executing.remove(&held.id);
            }
        }
    }

    pub fn executes(&self, id: &TaskId) -> bool {
        self.executing.contains_key(id)
    }

    pub fn ended(&mut self, id: &TaskId) -> Option<String> {
        self.ended.insert(id.clone());
        let (runner, token) = self.executing.get(id)?.first()?;
        Some(format!("{id} executes on {runner} under {token}"))
    }

    pub fn at_the_end(&self) -> Vec<String> {
        self.executing.keys().map(|id| format!("{id} still executes")).collect()
    }
}
