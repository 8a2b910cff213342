//! Berths: what a search among some of the runners looks at first.
//!
//! Law: a berth says what its seat's row and tasks say; `enter` keeps it so. The search chooses as `Fleet::best` does.

use std::cmp::Ordering;

use super::super::fit;
use super::super::numbered::Number;
use super::super::rooms::Room;
use super::super::settings::Strategy;
use super::{Fleet, Seat};
use crate::model::{Resources, Shape};

/// What a search looks at first of each runner: whether it takes anything, and its room. They lie side by side, so
/// that a runner without room costs no look at its row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Berth {
    pub is_ready: bool,
    /// Whether it is ready and may be given anything.
    pub takes: bool,
    pub profile: u32,
    pub cost: u64,
    pub room: Room,
    /// Its number in the order of ids.
    pub order: u64,
}

impl Berth {
    fn cmp(&self, other: &Self, strategy: Strategy) -> Ordering {
        let room = match strategy {
            Strategy::Pack => self.room.cmp(&other.room),
            Strategy::Spread => other.room.cmp(&self.room),
        };
        self.cost.cmp(&other.cost).then(room).then(self.order.cmp(&other.order))
    }
}

/// Which profiles could ever run a shape, as far as that was asked.
#[derive(Debug, Default)]
pub(in crate::core) struct Able(Vec<Option<bool>>);

impl Able {
    fn is(&mut self, fleet: &Fleet, profile: u32, shape: &Shape) -> bool {
        let profile = profile as usize;
        if self.0.len() <= profile {
            self.0.resize(fleet.profiles.len(), None);
        }
        *self.0[profile].get_or_insert_with(|| fit::never(shape, &fleet.profiles[profile].offer).is_none())
    }
}

impl Fleet {
    /// Of the ready runners in `seats`, the one that takes a task of `shape` first, as [`Fleet::best`] would choose.
    pub(in crate::core) fn best_seated(
        &self,
        seats: impl Iterator<Item = Number> + Clone,
        shape: &Shape,
        able: &mut Able,
        strategy: Strategy,
        may: &mut impl FnMut(&Seat) -> bool,
    ) -> Option<&Seat> {
        let is_plain = shape.resources.other.is_empty();
        let mut takes = |seat: &Seat| {
            (is_plain || fit::room(shape, &seat.runner.offer, &seat.held).is_none()) && may(seat)
        };
        // The first of all nearly always takes it, and then no row of another was looked at.
        let first = self.first_seated(seats.clone(), shape, able, strategy, |_| true)?;
        if takes(first) {
            return Some(first);
        }
        self.first_seated(seats, shape, able, strategy, takes)
    }

    fn first_seated(
        &self,
        seats: impl Iterator<Item = Number>,
        shape: &Shape,
        able: &mut Able,
        strategy: Strategy,
        mut takes: impl FnMut(&Seat) -> bool,
    ) -> Option<&Seat> {
        let Resources { cpu, memory, .. } = shape.resources;
        let best = seats.fold(None::<(&Berth, Number)>, |best, number| {
            let berth = &self.berths[number as usize];
            let room = berth.room;
            let is_better = berth.takes
                && room.slots > 0
                && room.cpu >= cpu
                && room.memory >= memory
                && best.is_none_or(|(than, _)| berth.cmp(than, strategy).is_lt())
                && able.is(self, berth.profile, shape)
                && takes(self.seats.get(number));
            if is_better { Some((berth, number)) } else { best }
        });
        best.map(|(_, number)| self.seats.get(number))
    }

    /// Whether any ready runner in `seats` could ever run `shape`.
    pub(in crate::core) fn any_able(&self, mut seats: impl Iterator<Item = Number>, shape: &Shape) -> bool {
        seats.any(|number| {
            let berth = &self.berths[number as usize];
            berth.is_ready && fit::never(shape, &self.profiles[berth.profile as usize].offer).is_none()
        })
    }

    /// Whether any ready runner has the cpu and the memory for a task of `shape` now.
    pub(in crate::core) fn any_room(&self, shape: &Shape, able: &mut Able) -> bool {
        let Resources { cpu, memory, .. } = shape.resources;
        self.profiles.iter().zip(0..).any(|(profile, number)| {
            profile.members > 0 && profile.ready.any(cpu, memory) && able.is(self, number, shape)
        })
    }
}
