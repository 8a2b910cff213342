//! Runners' rows: what changes with them besides the fleet.
//!
//! Law: every change of a runner's row wakes that runner, and whatever may be pushed or pulled differently since.

use std::sync::Arc;

use super::super::wake::Wake;
use super::State;
use crate::model::Runner;

impl State {
    pub(super) fn put_runner(&mut self, runner: Arc<Runner>) {
        if let Some(at) = self.runner(&runner.id).and_then(|old| old.lost) {
            self.lost.remove(&(at, runner.id.clone()));
        }
        if let Some(at) = runner.lost {
            self.lost.insert((at, runner.id.clone()));
        }
        self.wakes.runner(&runner.id, Wake::Runner);
        let id = runner.id.clone();
        self.note_runner_change(&id);
        let old = self.runner(&id).cloned();
        self.intents.runner_changed(old.as_deref(), Some(&runner));
        let before = old.as_ref().map(|old| (old.state(), old.offer.clone()));
        let after = (runner.state(), runner.offer.clone());
        self.fleet.put(runner.clone());
        self.artifacts.seat(&id, self.fleet.number(&id));
        self.pullers_changed(old.as_deref(), Some(&runner));
        if before.is_some_and(|before| before != after) {
            self.no_more_waiting_for(&id);
        }
        self.note_absence(&id);
        self.wake_build_lines();
    }

    /// Looks at everything again where another queue is pulled than before, or a group is bound to fewer runners.
    pub(super) fn pullers_changed(&mut self, old: Option<&Runner>, new: Option<&Runner>) {
        let group = |row: Option<&Runner>| Some((row?.bound_to()?.clone(), row?.id.clone()));
        let (before, after) = (group(old), group(new));
        if before != after {
            if let Some((group, runner)) = before {
                self.groups.bind(&group, &runner, false);
                self.wake_group(&group);
                self.watch.judge.lines.extend(self.backlog.lines_of(&group).cloned());
            }
            if let Some((group, runner)) = after {
                self.groups.bind(&group, &runner, true);
                self.review_reservations();
            }
        }
        if self.pullers.change(old, new) {
            self.wakes.everything(Wake::Subscribed);
            self.watch.judge.all = true;
            self.review_reservations();
        }
    }
}
