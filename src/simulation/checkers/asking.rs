//! Runners are asked for once, and never more of a class than it may have.
//!
//! Reads the facts of committed turns alone. Law: whenever runners are asked for, those of the class that are here,
//! starting and asked for are at most its `max`, and all that are starting and asked for are at most one for each
//! pending task and one for the jobs of each build. Any task of such a world that fits one of its classes fits them all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::Settings;
use crate::model::{
    ClassId, Fact, IntentChange, IntentId, Kind, Lifecycle, LifecycleState, RunnerId, TaskId,
};

/// What was asked for, as it was said.
#[derive(Debug)]
pub(super) struct Asking {
    settings: Arc<Settings>,
    intents: BTreeMap<IntentId, (ClassId, u32, u32)>,
    pending: BTreeSet<TaskId>,
    /// Builds that have not ended.
    builds: BTreeSet<TaskId>,
    here: BTreeSet<RunnerId>,
}

impl Asking {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            intents: BTreeMap::new(),
            pending: BTreeSet::new(),
            builds: BTreeSet::new(),
            here: BTreeSet::new(),
        }
    }

    /// Takes in the facts of one turn.
    pub fn said(&mut self, facts: &[Fact]) -> Vec<String> {
        let mut asked = false;
        for fact in facts {
            match fact {
                Fact::Task(task) => self.entered(task),
                Fact::RunnerRegistered { runner, .. } => drop(self.here.insert(runner.clone())),
                Fact::RunnerLeft { runner } | Fact::RunnerLost { runner, .. } => {
                    self.here.remove(runner);
                }
                Fact::Intent { intent, class, change, runners, reason } => {
                    asked |= *change == IntentChange::Asked;
                    let unanswered = reason.as_ref().is_some_and(|reason| reason.starts_with("nobody"));
                    self.changed(intent, class, *change, *runners, unanswered);
                }
                _ => {}
            }
        }
        if asked { self.judge() } else { Vec::new() }
    }

    fn entered(&mut self, task: &Lifecycle) {
        match task.state {
            LifecycleState::Pending => self.pending.insert(task.id.clone()),
            _ => self.pending.remove(&task.id),
        };
        if task.kind == Kind::Build {
            match task.state {
                LifecycleState::Ended => self.builds.remove(&task.id),
                _ => self.builds.insert(task.id.clone()),
            };
        }
    }

    fn changed(
        &mut self,
        id: &IntentId,
        class: &ClassId,
        change: IntentChange,
        runners: u32,
        unanswered: bool,
    ) {
        let (_, asked, starting) = self.intents.entry(id.clone()).or_insert((class.clone(), 0, 0));
        match change {
            IntentChange::Asked => *asked = runners,
            IntentChange::Acknowledged => {
                *asked -= runners;
                *starting += runners;
            }
            IntentChange::Declined => (*asked, *starting) = (0, 0),
            IntentChange::Withdrawn => *asked = 0,
            IntentChange::Expired if unanswered => *asked = 0,
            IntentChange::Expired => *starting = 0,
            IntentChange::Arrived if *starting > 0 => *starting -= 1,
            IntentChange::Arrived => *asked = asked.saturating_sub(1),
        }
        if *asked + *starting == 0 {
            self.intents.remove(id);
        }
    }

    fn judge(&self) -> Vec<String> {
        let mut found = Vec::new();
        let coming: u32 = self.intents.values().map(|(_, asked, starting)| asked + starting).sum();
        let needed = self.pending.len() + self.builds.len();
        if coming as usize > needed {
            found.push(format!("{coming} runners are to come for {needed} tasks and builds"));
        }
        for class in &self.settings.classes {
            let of_class = || self.intents.values().filter(|(of, ..)| *of == class.id);
            if of_class().all(|(_, asked, _)| *asked == 0) {
                continue;
            }
            let coming: u32 = of_class().map(|(_, asked, starting)| asked + starting).sum();
            let prefix = format!("{}-", class.id);
            let here = self.here.iter().filter(|runner| runner.as_str().starts_with(&prefix)).count();
            if coming as usize + here > class.max as usize {
                let (id, max) = (&class.id, class.max);
                found.push(format!(
                    "{here} runners of class {id} are here and {coming} to come; {max} may be"
                ));
            }
        }
        found
    }
}
