//! A provisioner: it answers intents, starts runners for them, and ends those that are idle.
//!
//! Law: it knows what a replica shows and nothing else, and starts what it acknowledged, once. It is slow, says no,
//! and dies: what it had promised then never comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::producers::named;
use super::runners::RunnerSide;
use super::schedule::{Event, Request};
use super::world::World;
use crate::core::State;
use crate::core::input::Command;
use crate::model::{Intent, IntentId, IntentState, Offer, RunnerId};
use crate::runner::session::Input as Word;

/// How often it looks, in milliseconds.
const LOOK_EVERY: u64 = 1_000;
/// After how long without work it ends a runner, in milliseconds.
const IDLE: u64 = 15_000;

/// What it remembers while it lives.
#[derive(Debug, Default)]
pub(super) struct Provisioner {
    /// Runners it started, or gave up, for each intent.
    started: BTreeMap<IntentId, u32>,
    idle_since: BTreeMap<RunnerId, u64>,
    /// It was down, and does not know what it had promised.
    forgetful: bool,
    down_until: u64,
    runners: u64,
}

impl World {
    pub(super) fn provisioner_looks(&mut self) {
        self.schedule.put(self.now + LOOK_EVERY, Event::ProvisionerLooks);
        if !self.calm && self.random.chance(10) {
            self.provisioner.down_until = self.now + self.random.between(2_000, 60_000);
            self.provisioner.forgetful = true;
            self.tell(|| "the provisioner dies".to_owned());
        }
        let down = !self.calm && self.provisioner.down_until > self.now;
        let Some(state) = self.dispatchers.iter().find(|one| one.leads()).and_then(|one| one.shows()) else {
            return;
        };
        if down {
            return;
        }
        let intents: Vec<Arc<Intent>> = state.intents().iter().cloned().collect();
        let idle = idle_runners(state, &self.runners);
        for intent in &intents {
            self.start_acknowledged(intent);
            if intent.state() == IntentState::Asked {
                self.answer_intent(intent);
            }
        }
        self.provisioner.forgetful = false;
        self.end_idle(&idle);
    }

    /// Starts what was acknowledged since it looked last.
    fn start_acknowledged(&mut self, intent: &Intent) {
        let acknowledged = intent.arrived + intent.starting;
        let before = self.provisioner.started.insert(intent.id.clone(), acknowledged).unwrap_or(0);
        if self.provisioner.forgetful {
            return;
        }
        for _ in before..acknowledged {
            self.provisioner.runners += 1;
            let id = named(&format!("{}-{}", intent.class, self.provisioner.runners));
            let class = self.settings.classes.iter().find(|class| class.id == intent.class);
            let offer: Offer = Offer::clone(&class.expect("a declared class").offer);
            self.checkers.has_runner(&id, &offer);
            let mut side = RunnerSide::new(offer, 1.0, 1_000);
            side.started_for = Some((intent.class.clone(), intent.id.clone()));
            self.runners.insert(id.clone(), side);
            self.tell(|| format!("{id} is started for {}", intent.id));
            let at = self.now + self.random.between(200, 12_000);
            self.schedule.put(at, Event::RunnerStarts { runner: id });
        }
    }

    fn answer_intent(&mut self, intent: &Intent) {
        let id = intent.id.clone();
        let command = match self.random.below(10) {
            0 | 1 if !self.calm => return,
            2 if !self.calm => Command::DeclineIntent { intent: id, reason: "no machine is left".into() },
            3 => Command::AcknowledgeIntent { intent: id, count: Some(1) },
            _ => Command::AcknowledgeIntent { intent: id, count: Some(intent.asked) },
        };
        self.tell(|| format!("the provisioner says {command:?}"));
        self.send_to_leaders(None, &Request::Operator(command));
    }

    fn end_idle(&mut self, idle: &[RunnerId]) {
        self.provisioner.idle_since.retain(|runner, _| idle.contains(runner));
        for id in idle {
            let since = *self.provisioner.idle_since.entry(id.clone()).or_insert(self.now);
            let runner = self.runners.get_mut(id).expect("a runner of this world");
            if self.now - since >= IDLE && runner.still_until <= self.now && !runner.retired {
                runner.retired = true;
                self.tell(|| format!("the provisioner ends {id}"));
                self.hear(id, Word::Leave { wait: std::time::Duration::ZERO });
            }
        }
    }
}

/// Runners it started that have nothing to do, as a replica shows it.
fn idle_runners(state: &State, runners: &BTreeMap<RunnerId, RunnerSide>) -> Vec<RunnerId> {
    let ours = |id: &RunnerId| runners.get(id).is_some_and(|side| side.started_for.is_some());
    let idle = state.fleet().seats().filter(|seat| seat.tasks.is_empty() && ours(&seat.runner.id));
    idle.map(|seat| seat.runner.id.clone()).collect()
}
