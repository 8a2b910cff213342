//! What the world is like at a moment, for the checker of the pace.
//!
//! Law: nothing here changes anything or draws lots, so a run is the same whether its pace is looked at or not.

use std::collections::BTreeMap;

use super::checkers::{Condition, Hand, Machine, Scene};
use super::runners::RunnerSide;
use super::schedule::Event;
use super::world::World;
use crate::model::{Held, Reported};

/// How often the pace is looked at, in milliseconds.
const LOOK_EVERY: u64 = 250;

impl World {
    /// Looks at the pace, if this world has to keep one.
    pub(super) fn look_at_pace(&mut self) {
        let Some(within) = self.options.step_within else { return };
        self.schedule.put(self.now + LOOK_EVERY, Event::LookAtPace);
        let scene = self.scene();
        self.checkers.look_at_pace(&scene, within);
    }

    fn scene(&self) -> Scene {
        let refuses = self.table_refuses_until > self.now;
        let leader = self.dispatchers.iter().find(|one| one.leads());
        let machine = |side: &RunnerSide| Machine { condition: side.condition(self.now), has: side.has() };
        Scene {
            now: self.now,
            log_now: leader.filter(|_| !refuses).and_then(|leader| leader.log_now(self.now)),
            machines: self.runners.iter().map(|(id, side)| (id.clone(), machine(side))).collect(),
        }
    }
}

impl RunnerSide {
    fn condition(&self, now: u64) -> Condition {
        if self.session.is_none() || self.still_until > now || self.mute_until > now {
            Condition::Silent
        } else if self.deaf_until > now {
            Condition::Deaf
        } else {
            Condition::Well
        }
    }

    fn has(&self) -> BTreeMap<Held, Hand> {
        let ends = self.unsaid().filter(|report| matches!(report.what, Reported::End(_)));
        let ends = ends.map(|report| (Held { id: report.id.clone(), token: report.token }, Hand::Ended));
        let work = self.work.iter().map(|(held, work)| {
            let hand = if work.executes { Hand::Executes } else { Hand::Begins };
            (held.clone(), hand)
        });
        ends.chain(work).collect()
    }
}
