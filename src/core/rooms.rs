//! Rooms: the runners of one profile in the order of what they have free.
//!
//! Law: the order is that in which `pack` takes runners: the fullest first, by cpu, then memory, then slots, then id.
//! A search passes over all runners with the same free cpu at once if none of them has the memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::RunnerId;

/// What a runner has free. One that has no slot left has no room at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Room {
    pub cpu: u64,
    pub memory: u64,
    pub slots: u32,
}

/// Runners with the same free cpu, by what else they have.
type Level = BTreeSet<(u64, u32, RunnerId)>;

/// Runners by their room.
#[derive(Debug, Clone, Default)]
pub(super) struct Rooms {
    levels: BTreeMap<u64, Level>,
    len: usize,
}

impl Rooms {
    /// Puts a runner in.
    pub fn insert(&mut self, room: Room, runner: RunnerId) {
        let level = self.levels.entry(room.cpu).or_default();
        self.len += usize::from(level.insert((room.memory, room.slots, runner)));
    }

    /// Takes a runner out that was put in with this room.
    pub fn remove(&mut self, room: Room, runner: RunnerId) {
        let Some(level) = self.levels.get_mut(&room.cpu) else { return };
        self.len -= usize::from(level.remove(&(room.memory, room.slots, runner)));
        if level.is_empty() {
            self.levels.remove(&room.cpu);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them, the fullest first.
    pub fn runners(&self) -> impl Iterator<Item = &RunnerId> {
        self.levels.values().flatten().map(|(_, _, runner)| runner)
    }

    /// The fullest runner with at least so much free that `takes` accepts, and its room.
    pub fn fullest<T>(
        &self,
        cpu: u64,
        memory: u64,
        mut takes: impl FnMut(&RunnerId) -> Option<T>,
    ) -> Option<(Room, T)> {
        self.levels_from(cpu, memory).find_map(|(cpu, level)| {
            level.range(at_least(memory, 0)..).find_map(|(memory, slots, runner)| {
                takes(runner).map(|taken| (Room { cpu, memory: *memory, slots: *slots }, taken))
            })
        })
    }

    /// The emptiest runner with at least so much free that `takes` accepts, and its room; of several with the same
    /// room the one with the smallest id.
    pub fn emptiest<T>(
        &self,
        cpu: u64,
        memory: u64,
        mut takes: impl FnMut(&RunnerId) -> Option<T>,
    ) -> Option<(Room, T)> {
        self.levels_from(cpu, memory).rev().find_map(|(cpu, level)| {
            let (memory, slots, last) =
                level.range(at_least(memory, 0)..).rev().find(|(.., runner)| takes(runner).is_some())?;
            let same = level.range(at_least(*memory, *slots)..=(*memory, *slots, last.clone()));
            let taken = same.into_iter().find_map(|(.., runner)| takes(runner))?;
            Some((Room { cpu, memory: *memory, slots: *slots }, taken))
        })
    }

    /// Whether any has so much free.
    pub fn any(&self, cpu: u64, memory: u64) -> bool {
        self.levels_from(cpu, memory).next_back().is_some()
    }

    fn levels_from(&self, cpu: u64, memory: u64) -> impl DoubleEndedIterator<Item = (u64, &Level)> {
        let has_memory = move |level: &Level| level.last().is_some_and(|(most, ..)| *most >= memory);
        self.levels.range(cpu..).filter(move |(_, level)| has_memory(level)).map(|(cpu, level)| (*cpu, level))
    }
}

/// Before all runners of a level with so much free.
fn at_least(memory: u64, slots: u32) -> (u64, u32, RunnerId) {
    thread_local! {
        static SMALLEST: RunnerId = RunnerId::parse("-").expect("a legal name");
    }
    (memory, slots, SMALLEST.with(RunnerId::clone))
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
            let runner = |number: usize| RunnerId::parse(&format!("r{number:02}")).expect("a legal name");
            let mut sorted = BTreeSet::new();
            let mut tested = Rooms::default();
            for (number, (cpu, memory, slots)) in rooms.into_iter().enumerate() {
                let room = Room { cpu, memory, slots };
                tested.insert(room, runner(number));
                if gone[number] {
                    tested.remove(room, runner(number));
                } else {
                    sorted.insert((room, runner(number)));
                }
            }
            let free = |id: &RunnerId| !taken[id.as_str()[1..].parse::<usize>().expect("a number")];
            let takes = |id: &RunnerId| free(id).then(|| id.clone());
            let fitting: Vec<(Room, RunnerId)> = sorted
                .iter()
                .filter(|(room, id)| room.cpu >= cpu && room.memory >= memory && free(id))
                .cloned()
                .collect();
            let emptiest = fitting.iter().max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            prop_assert_eq!(tested.fullest(cpu, memory, takes), fitting.first().cloned());
            prop_assert_eq!(tested.emptiest(cpu, memory, takes), emptiest.cloned());
            prop_assert_eq!(tested.len(), sorted.len());
            prop_assert!(tested.runners().eq(sorted.iter().map(|(_, id)| id)));
        }
    }
}
