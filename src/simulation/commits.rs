//! Turns on their way to the table: answers that are lost, records that come late or twice, a table that refuses.
//!
//! Law: the table below never goes wrong; only the way to it and back does. Every turn that stands there is read
//! once, in order, by the checkers.

use std::sync::Arc;

use super::schedule::Event;
use super::world::World;
use crate::adapters::faulty::Fault;
use crate::model::{Fact, TurnRecord};

impl World {
    /// Sends a turn on its way to the table.
    pub(super) fn offer(&mut self, replica: usize, record: Arc<TurnRecord>, after: u64) {
        let Some(_) = self.dispatchers[replica].process else { return };
        let life = self.dispatchers[replica].life;
        let at = self.now.max(self.dispatchers[replica].still_until) + after + self.random.between(1, 8);
        self.schedule.put(at, Event::CommitArrives { replica, life, record });
    }

    pub(super) fn commit_arrives(&mut self, replica: usize, life: u64, record: &Arc<TurnRecord>) {
        let cut = self.dispatchers[replica].cut_until > self.now;
        let fault = if self.table_refuses_until > self.now {
            Fault::Full
        } else if cut {
            Fault::LostOnTheWay
        } else if self.random.chance(self.faults.commit) {
            self.statistics.commit_faults += 1;
            *self.random.pick(&[Fault::AnswerLost, Fault::LostOnTheWay, Fault::AnswerLost, Fault::Full])
        } else {
            Fault::None
        };
        if fault == Fault::LostOnTheWay && !cut && self.random.chance(500) {
            // It was not lost after all: it comes when nobody waits for it any more.
            let at = self.now + self.random.between(10, 6_000);
            self.schedule.put(at, Event::StrayCommit { record: record.clone() });
        }
        self.table.script([fault]);
        let answer = self.table.try_commit(record);
        self.read_the_log();
        let at = self.now + self.random.between(1, 8);
        self.schedule.put(at, Event::CommitAnswered { replica, life, answer });
    }

    pub(super) fn stray_commit(&mut self, record: &Arc<TurnRecord>) {
        self.table.inner().try_commit(record);
        self.read_the_log();
    }

    fn read_the_log(&mut self) {
        for turn in self.table.turns_after(self.checkers.turn()).expect("nothing is compacted") {
            self.statistics.committed += 1;
            self.tell_facts(&turn);
            self.checkers.committed(self.now, &turn);
        }
    }

    fn tell_facts(&mut self, turn: &TurnRecord) {
        for fact in &turn.facts {
            self.tell(|| match fact {
                Fact::Task(task) => format!(
                    "turn {}: {} is {} {:?} {} {}",
                    turn.number,
                    task.id,
                    task.state.as_str(),
                    task.outcome,
                    task.runner.as_ref().map_or("", |runner| runner.as_str()),
                    task.reason.as_deref().unwrap_or_default()
                ),
                other => format!("turn {}: {other:?}", turn.number),
            });
        }
    }
}
