//! Rooms: the runners of one profile in the order of what they have free.
//!
//! Law: the order is that in which `pack` takes runners: the fullest first, by cpu, then memory, then slots, then id.
//! A search passes over all runners with the same free cpu at once if none of them has the memory.

use std::collections::{BTreeMap, BTreeSet};

use super::numbered::Number;

/// What a runner has free. One that has no slot left has no room at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Room {
    pub cpu: u64,
    pub memory: u64,
    pub slots: u32,
}

/// A runner: its number in the order of ids, and its seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sitter {
    pub order: u64,
    pub seat: Number,
}

/// Runners with the same free cpu.
#[derive(Debug, Clone, Default)]
struct Level {
    /// The most memory any of them has free: a level without enough is passed over unseen.
    most: u64,
    /// By what else they have.
    runners: BTreeSet<(u64, u32, Sitter)>,
}

/// Runners by their room.
#[derive(Debug, Clone, Default)]
pub(super) struct Rooms {
    levels: BTreeMap<u64, Level>,
    len: usize,
}

impl Rooms {
    /// Puts a runner in.
    pub fn insert(&mut self, room: Room, runner: Sitter) {
        let level = self.levels.entry(room.cpu).or_default();
        level.most = level.most.max(room.memory);
        self.len += usize::from(level.runners.insert((room.memory, room.slots, runner)));
    }

    /// Takes a runner out that was put in with this room.
    pub fn remove(&mut self, room: Room, runner: Sitter) {
        let Some(level) = self.levels.get_mut(&room.cpu) else { return };
        self.len -= usize::from(level.runners.remove(&(room.memory, room.slots, runner)));
        match level.runners.last() {
            Some((most, ..)) => level.most = *most,
            None => drop(self.levels.remove(&room.cpu)),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them, the fullest first.
    pub fn seats(&self) -> impl Iterator<Item = Number> {
        self.levels.values().flat_map(|level| &level.runners).map(|(.., runner)| runner.seat)
    }

    /// The fullest runner with at least so much free that `takes` accepts, and its room.
    pub fn fullest<T>(
        &self,
        cpu: u64,
        memory: u64,
        mut takes: impl FnMut(Number) -> Option<T>,
    ) -> Option<(Room, T)> {
        self.levels_from(cpu, memory).find_map(|(cpu, level)| {
            level.runners.range(at_least(memory, 0)..).find_map(|(memory, slots, runner)| {
                takes(runner.seat).map(|taken| (Room { cpu, memory: *memory, slots: *slots }, taken))
            })
        })
    }

    /// The emptiest runner with at least so much free that `takes` accepts, and its room; of several with the same
    /// room the one with the smallest id.
    pub fn emptiest<T>(
        &self,
        cpu: u64,
        memory: u64,
        mut takes: impl FnMut(Number) -> Option<T>,
    ) -> Option<(Room, T)> {
        self.levels_from(cpu, memory).rev().find_map(|(cpu, level)| {
            let (memory, slots, last) = level
                .runners
                .range(at_least(memory, 0)..)
                .rev()
                .find(|(.., runner)| takes(runner.seat).is_some())?;
            let same = level.runners.range(at_least(*memory, *slots)..=(*memory, *slots, *last));
            let taken = same.into_iter().find_map(|(.., runner)| takes(runner.seat))?;
            Some((Room { cpu, memory: *memory, slots: *slots }, taken))
        })
    }

    /// Whether any has so much free.
    pub fn any(&self, cpu: u64, memory: u64) -> bool {
        self.levels_from(cpu, memory).next_back().is_some()
    }

    fn levels_from(&self, cpu: u64, memory: u64) -> impl DoubleEndedIterator<Item = (u64, &Level)> {
        self.levels
            .range(cpu..)
            .filter(move |(_, level)| level.most >= memory)
            .map(|(cpu, level)| (*cpu, level))
    }
}

/// Before all runners of a level with so much free.
fn at_least(memory: u64, slots: u32) -> (u64, u32, Sitter) {
    (memory, slots, Sitter { order: 0, seat: 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_in_either_order_is_the_one_a_plain_search_finds(
            rooms in prop::collection::vec((0u64..4, 0u64..4, 0u32..3), 0..24),
            taken in prop::collection::vec(any::<bool>(), 24),
            gone in prop::collection::vec(any::<bool>(), 24),
            cpu in 0u64..5,
            memory in 0u64..5,
        ) {
            // Whoever comes later in the order of ids was seated earlier.
            let runner = |number: u32| Sitter { order: u64::from(number), seat: 100 - number };
            let mut sorted = BTreeSet::new();
            let mut tested = Rooms::default();
            for (number, (cpu, memory, slots)) in (0..).zip(rooms) {
                let room = Room { cpu, memory, slots };
                tested.insert(room, runner(number));
                if gone[number as usize] {
                    tested.remove(room, runner(number));
                } else {
                    sorted.insert((room, runner(number)));
                }
            }
            let free = |seat: Number| !taken[100 - seat as usize];
            let takes = |seat: Number| free(seat).then_some(seat);
            let fitting: Vec<(Room, Sitter)> = sorted
                .iter()
                .filter(|(room, runner)| room.cpu >= cpu && room.memory >= memory && free(runner.seat))
                .copied()
                .collect();
            let emptiest = fitting.iter().max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            let seat = |found: Option<&(Room, Sitter)>| found.map(|(room, runner)| (*room, runner.seat));
            prop_assert_eq!(tested.fullest(cpu, memory, takes), seat(fitting.first()));
            prop_assert_eq!(tested.emptiest(cpu, memory, takes), seat(emptiest));
            prop_assert_eq!(tested.len(), sorted.len());
            prop_assert!(tested.seats().eq(sorted.iter().map(|(_, runner)| runner.seat)));
        }
    }
}
