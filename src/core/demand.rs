//! Demand: how many runners of a class would take what waits.
//!
//! Law: tasks are packed in their order, each into the first runner that has room, with the planner's own `fit`: never
//! a runner more than that needs, and never more than the class may have. Runners that are starting are filled
//! before any is asked for. Looks at shapes and offers alone and knows no row.

use std::sync::Arc;

use super::fit::{self, Usage};
use crate::model::{Offer, Shape};

/// Beyond so many different fillings, the first ones are no longer looked at: a little more may be asked for.
const MOST_FILLINGS: usize = 256;

/// Runners of one class that are not here yet, being filled.
#[derive(Debug, Clone)]
pub struct Packing {
    offer: Arc<Offer>,
    /// Runners filled alike, in the order in which they were first used.
    fillings: Vec<(Usage, u64)>,
    /// How many more may be asked for.
    left: u64,
}

/// What became of tasks that were packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    /// Tasks that found a place.
    pub tasks: u64,
    /// Runners that were added for them.
    pub runners: u64,
}

impl Packing {
    /// `starting` empty runners that make `offer`, and at most `left` more of them.
    pub fn new(offer: Arc<Offer>, starting: u64, left: u64) -> Self {
        let fillings = if starting > 0 { vec![(Usage::default(), starting)] } else { Vec::new() };
        Self { offer, fillings, left }
    }

    /// How many runners may still be added.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Puts up to `tasks` tasks of `shape` into the runners there are. Returns how many found a place.
    pub fn fill(&mut self, shape: &Shape, tasks: u64) -> u64 {
        if fit::never(shape, &self.offer).is_some() {
            return 0;
        }
        let mut waiting = tasks;
        let mut filled = Vec::with_capacity(self.fillings.len() + 1);
        for (used, runners) in std::mem::take(&mut self.fillings) {
            let each = if waiting == 0 { 0 } else { room_for(shape, &self.offer, &used) };
            if each == 0 {
                filled.push((used, runners));
                continue;
            }
            let full = runners.min(waiting / each);
            waiting -= full * each;
            let rest = if full < runners { waiting } else { 0 };
            waiting -= rest;
            let partly = u64::from(rest > 0);
            let pieces = [
                (loaded(&used, shape, each), full),
                (loaded(&used, shape, rest), partly),
                (used, runners - full - partly),
            ];
            filled.extend(pieces.into_iter().filter(|(_, runners)| *runners > 0));
        }
        let excess = filled.len().saturating_sub(MOST_FILLINGS);
        filled.drain(..excess);
        self.fillings = filled;
        tasks - waiting
    }

    /// Puts up to `tasks` tasks of `shape` into the runners there are, and into as many more as it takes and may be.
    pub fn take(&mut self, shape: &Shape, tasks: u64) -> Packed {
        let mut placed = self.fill(shape, tasks);
        let each = match fit::never(shape, &self.offer) {
            Some(_) => 0,
            None => room_for(shape, &self.offer, &Usage::default()),
        };
        if each == 0 || placed == tasks {
            return Packed { tasks: placed, runners: 0 };
        }
        let runners = (tasks - placed).div_ceil(each).min(self.left);
        if runners > 0 {
            self.left -= runners;
            self.fillings.push((Usage::default(), runners));
            placed += self.fill(shape, tasks - placed);
        }
        Packed { tasks: placed, runners }
    }
}

/// How many tasks of `shape` fit beside `used`; `never` was asked before.
fn room_for(shape: &Shape, offer: &Offer, used: &Usage) -> u64 {
    let slots = u64::from(offer.slots.saturating_sub(used.slots));
    let Some(has) = &offer.resources else { return slots };
    let times = |name: &str, needs: u64| {
        let free = has.amount(name).saturating_sub(used.resources.amount(name));
        free.checked_div(needs).unwrap_or(u64::MAX)
    };
    let needs = &shape.resources;
    let others = needs.other.iter().map(|(name, needs)| times(name, *needs)).min().unwrap_or(u64::MAX);
    slots.min(times("cpu", needs.cpu)).min(times("memory", needs.memory)).min(others)
}

/// `used` with `tasks` more tasks of `shape`; there is room for them.
fn loaded(used: &Usage, shape: &Shape, tasks: u64) -> Usage {
    let mut loaded = used.clone();
    let more = &shape.resources;
    loaded.slots += u32::try_from(tasks).expect("bounded by slots");
    loaded.resources.cpu += tasks * more.cpu;
    loaded.resources.memory += tasks * more.memory;
    for (name, amount) in &more.other {
        *loaded.resources.other.entry(name.clone()).or_insert(0) += tasks * amount;
    }
    loaded
}
