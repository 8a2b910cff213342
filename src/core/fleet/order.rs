//! The order of runners' ids, as numbers: whoever compares two runners compares these and reads no id.
//!
//! Law: of two runners the one with the smaller id has the smaller number. Numbers keep a distance, so that a runner
//! that comes takes one between its neighbours'; where none is left, all get new ones.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use crate::model::RunnerId;

/// How far apart numbers are at first. So many runners may come after all others.
const DISTANCE: u64 = 1 << 32;

/// All runners in the order of their ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Order(BTreeMap<RunnerId, u64>);

impl Order {
    /// Takes a runner in and says its number; nothing where all need new ones.
    pub fn put(&mut self, id: &RunnerId) -> Option<u64> {
        if let Some(known) = self.0.get(id) {
            return Some(*known);
        }
        let before = self.0.range(..id.clone()).next_back().map_or(0, |(_, number)| *number);
        let after = self.0.range(id.clone()..).next().map(|(_, number)| *number);
        let number = after.map_or(before.saturating_add(DISTANCE), |after| before.midpoint(after));
        self.0.insert(id.clone(), number);
        (before < number && after.is_none_or(|after| number < after)).then_some(number)
    }

    /// Takes a runner out.
    pub fn remove(&mut self, id: &RunnerId) {
        self.0.remove(id);
    }

    /// Gives all of them new numbers.
    pub fn renumber(&mut self) {
        self.0.values_mut().zip(1..).for_each(|(number, place)| *number = place * DISTANCE);
    }

    /// The number of a runner that was put in.
    pub fn get(&self, id: &RunnerId) -> u64 {
        *self.0.get(id).expect("a seat's runner is in the order")
    }

    /// The ids that come after `after`; all of them after nothing.
    pub fn after(&self, after: Option<&RunnerId>) -> impl Iterator<Item = &RunnerId> {
        let from = after.map_or(Unbounded, Excluded);
        self.0.range::<RunnerId, _>((from, Unbounded)).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_id_has_a_smaller_number_however_many_come_between_the_same_two() {
        let mut order = Order::default();
        let mut renumbered = 0;
        // Each comes between the first and the one before it.
        for number in (0..200).rev().chain([1_000, 999]) {
            let id = RunnerId::parse(&format!("r{number:04}")).expect("a legal name");
            if order.put(&id).is_none() {
                order.renumber();
                renumbered += 1;
            }
            assert!(order.0.values().is_sorted_by(|a, b| a < b), "after {id} came");
            assert_eq!(order.put(&id), Some(order.get(&id)), "who is known keeps its number");
        }
        assert!((1..20).contains(&renumbered), "all were renumbered {renumbered} times for 202 runners");
    }
}
