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
    pub takes: bool,
    pub profile: u32,
    pub cost: u64,
    pub room: Room,
}

impl Berth {
    fn cmp(&self, other: &Self, strategy: Strategy) -> Ordering {
        let room = match strategy {
            Strategy::Pack => self.room.cmp(&other.room),
            Strategy::Spread => other.room.cmp(&self.room),
        };
        self.cost.cmp(&other.cost).then(room)
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
        seats: impl Iterator<Item = Number>,
        shape: &Shape,
        able: &mut Able,
        strategy: Strategy,
        may: &mut impl FnMut(&Seat) -> bool,
    ) -> Option<&Seat> {
        let Resources { cpu, memory, other } = &shape.resources;
        let mut best: Option<(&Berth, &Seat)> = None;
        for number in seats {
            let berth = &self.berths[number as usize];
            let Berth { takes, room, .. } = *berth;
            if !takes || room.slots == 0 || room.cpu < *cpu || room.memory < *memory {
                continue;
            }
            let order = best.map_or(Ordering::Less, |(than, _)| berth.cmp(than, strategy));
            if order.is_gt() || !able.is(self, berth.profile, shape) {
                continue;
            }
            let seat = self.seats.get(number);
            let first = order.is_lt() || best.is_some_and(|(_, than)| seat.runner.id < than.runner.id);
            let fits = || other.is_empty() || fit::room(shape, &seat.runner.offer, &seat.held).is_none();
            if first && fits() && may(seat) {
                best = Some((berth, seat));
            }
        }
        best.map(|(_, seat)| seat)
    }

    /// Whether any ready runner has the cpu and the memory for a task of `shape` now.
    pub(in crate::core) fn any_room(&self, shape: &Shape, able: &mut Able) -> bool {
        let Resources { cpu, memory, .. } = shape.resources;
        self.profiles.iter().zip(0..).any(|(profile, number)| {
            profile.members > 0 && profile.ready.any(cpu, memory) && able.is(self, number, shape)
        })
    }
}
