//! What is pulled is pushed to nobody.
//!
//! Reads the facts of committed turns. Law: while a queue has a subscription, what is placed of it is placed on one
//! of its subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Fact, LifecycleState, QueueId, RunnerId};

/// The subscriptions of each queue.
#[derive(Debug, Default)]
pub(super) struct Pulling {
    queues: BTreeMap<QueueId, BTreeSet<RunnerId>>,
}

impl Pulling {
    pub fn said(&mut self, fact: &Fact) -> Option<String> {
        match fact {
            Fact::Subscribed { subscription, queue } => {
                self.queues.entry(queue.clone()).or_default().insert(subscription.clone());
            }
            Fact::Unsubscribed { subscription, .. } => {
                for on in self.queues.values_mut() {
                    on.remove(subscription);
                }
            }
            Fact::Task(task) if task.state == LifecycleState::Assigned => {
                let on = self.queues.get(&task.queue).filter(|on| !on.is_empty())?;
                let runner = task.runner.as_ref().filter(|runner| !on.contains(*runner))?;
                return Some(format!("{} of queue {} was pushed to {runner}", task.id, task.queue));
            }
            _ => {}
        }
        None
    }
}
