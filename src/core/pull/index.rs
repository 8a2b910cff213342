//! Which queues are pulled, and by which subscriptions.
//!
//! Law: derived from the rows of runners alone, through `State::put`.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{QueueId, Runner, RunnerId, Standing};

/// The subscriptions by what they ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pullers {
    queues: BTreeMap<QueueId, BTreeSet<RunnerId>>,
    /// Ended, and their rows are still there.
    leaving: BTreeSet<RunnerId>,
}

impl Pullers {
    /// Whether the queue has a subscription.
    pub fn are_on(&self, queue: &QueueId) -> bool {
        self.queues.contains_key(queue)
    }

    /// The subscriptions on a queue.
    pub fn on(&self, queue: &QueueId) -> impl Iterator<Item = &RunnerId> {
        self.queues.get(queue).into_iter().flatten()
    }

    /// Those that were ended.
    pub fn leaving(&self) -> impl Iterator<Item = &RunnerId> {
        self.leaving.iter()
    }

    /// Takes in that the row `old` of one runner gave way to `new`. Says whether it changed what is pulled.
    pub fn change(&mut self, old: Option<&Runner>, new: Option<&Runner>) -> bool {
        let before = self.queues.len();
        let mut moved = false;
        if let Some((queue, runner)) = old.and_then(asks_on) {
            let on = self.queues.get_mut(queue).expect("it was put in");
            on.remove(&runner.id);
            if on.is_empty() {
                self.queues.remove(queue);
            }
            moved = new.and_then(asks_on).is_some_and(|(other, _)| other != queue);
        }
        if let Some((queue, runner)) = new.and_then(asks_on) {
            self.queues.entry(queue.clone()).or_default().insert(runner.id.clone());
        }
        if let Some(runner) = old {
            self.leaving.remove(&runner.id);
        }
        if let Some(runner) = new.filter(|runner| runner.pull.is_some() && is_ended(runner)) {
            self.leaving.insert(runner.id.clone());
        }
        moved || before != self.queues.len()
    }
}

fn is_ended(runner: &Runner) -> bool {
    runner.standing == Standing::Dismissed
}

fn asks_on(runner: &Runner) -> Option<(&QueueId, &Runner)> {
    if !runner.is_subscription() || is_ended(runner) {
        return None;
    }
    Some((runner.offer.queues.first()?, runner))
}
