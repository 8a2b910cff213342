//! No runner executes more than it has.
//!
//! Reads only the marks the work wrote down and what each machine truly has.

use std::collections::BTreeMap;

use super::super::work::Work;
use crate::model::{Held, Offer, Resources, RunnerId};

/// What each machine has, and what executes on it.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    machines: BTreeMap<RunnerId, Machine>,
}

#[derive(Debug)]
struct Machine {
    slots: usize,
    has: Option<Resources>,
    executing: BTreeMap<Held, Resources>,
}

impl Capacity {
    pub fn has_runner(&mut self, runner: &RunnerId, offer: &Offer) {
        let slots = offer.slots as usize;
        let machine = Machine { slots, has: offer.resources.clone(), executing: BTreeMap::new() };
        self.machines.insert(runner.clone(), machine);
    }

    pub fn began(&mut self, runner: &RunnerId, held: &Held, work: &Work) -> Option<String> {
        let machine = self.machines.get_mut(runner)?;
        machine.executing.insert(held.clone(), work.order.resources.clone());
        let mut used = Resources::default();
        for one in machine.executing.values() {
            used.add(one);
        }
        let over = machine.executing.len() > machine.slots
            || machine.has.as_ref().is_some_and(|has| !used.within(has));
        over.then(|| format!("{runner} executes {} tasks with {used}", machine.executing.len()))
    }

    pub fn stopped(&mut self, runner: &RunnerId, held: &Held) {
        if let Some(machine) = self.machines.get_mut(runner) {
            machine.executing.remove(held);
        }
    }

    /// Whether one more task of so much cpu would fit beside what executes.
    pub fn has_room(&self, runner: &RunnerId, cpu: u64) -> bool {
        self.machines.get(runner).is_some_and(|machine| {
            let used: u64 = machine.executing.values().map(|one| one.cpu).sum();
            machine.executing.len() < machine.slots
                && machine.has.as_ref().is_none_or(|has| used + cpu <= has.cpu)
        })
    }
}
