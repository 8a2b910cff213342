//! Nothing goes to a runner that holds nothing of it before its waits are over, and nobody is said to hold what he
//! was never given and never made.
//!
//! Takes the rows of runners and holdings as what was known, and judges by the facts, the submissions and the marks
//! of the work; never by a task's row. What happens within one turn is given the benefit of the doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::producers::could_run;
use crate::core::Settings;
use crate::core::settings::Locality as Waits;
use crate::model::{
    ArtifactId, Change, Fact, Key, Lifecycle, LifecycleState, NewTask, Row, Runner, RunnerId, RunnerState,
    TaskId, Time, TurnRecord,
};

/// A task that has not ended, of a queue with locality.
#[derive(Debug)]
struct Course {
    task: Arc<NewTask>,
    waits: Waits,
    /// When it could first have been placed.
    began: Option<Time>,
    /// When its output was first not known since then.
    unknown: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Locality {
    settings: Arc<Settings>,
    submitted: BTreeMap<TaskId, Arc<NewTask>>,
    runners: BTreeMap<RunnerId, Arc<Runner>>,
    holdings: BTreeSet<(ArtifactId, RunnerId)>,
    /// What a runner was given, or made.
    true_ones: BTreeSet<(ArtifactId, RunnerId)>,
    open: BTreeMap<TaskId, Course>,
}

impl Locality {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            submitted: BTreeMap::new(),
            runners: BTreeMap::new(),
            holdings: BTreeSet::new(),
            true_ones: BTreeSet::new(),
            open: BTreeMap::new(),
        }
    }

    pub fn has(&mut self, runner: &RunnerId, artifact: &ArtifactId) {
        self.true_ones.insert((artifact.clone(), runner.clone()));
    }

    pub fn submitted(&mut self, task: &Arc<NewTask>) {
        self.submitted.insert(task.id.clone(), task.clone());
    }

    pub fn committed(&mut self, turn: &TurnRecord) -> Vec<String> {
        let mut found = Vec::new();
        let known_before: BTreeSet<TaskId> =
            self.submitted.values().filter(|task| self.is_known(task)).map(|task| task.id.clone()).collect();
        for change in &turn.changes {
            found.extend(self.change(change));
        }
        for fact in &turn.facts {
            if let Fact::Task(lifecycle) = fact {
                self.entered(lifecycle, turn.at, &known_before);
                if lifecycle.state == LifecycleState::Assigned {
                    self.move_on(turn.at);
                    found.extend(self.assigned(lifecycle, turn.at));
                }
            }
        }
        self.move_on(turn.at);
        found
    }

    fn change(&mut self, change: &Change) -> Option<String> {
        match change {
            Change::Put(Row::Runner(runner)) => {
                self.runners.insert(runner.id.clone(), runner.clone());
            }
            Change::Delete(Key::Runner(runner)) => {
                self.runners.remove(runner);
            }
            Change::Put(Row::Holding(holding)) => {
                let pair = (holding.artifact.clone(), holding.runner.clone());
                if !self.true_ones.contains(&pair) {
                    return Some(format!("{} is said to hold {}", holding.runner, holding.artifact));
                }
                self.holdings.insert(pair);
            }
            Change::Delete(Key::Holding(runner, artifact)) => {
                self.holdings.remove(&(artifact.clone(), runner.clone()));
            }
            _ => {}
        }
        None
    }

    fn entered(&mut self, fact: &Lifecycle, now: Time, known_before: &BTreeSet<TaskId>) {
        if fact.state == LifecycleState::Ended {
            self.open.remove(&fact.id);
            return;
        }
        let Some(waits) = self.settings.locality.get(&fact.queue) else { return };
        if fact.state != LifecycleState::Pending || self.open.contains_key(&fact.id) {
            return;
        }
        let task = self.submitted[&fact.id].clone();
        let later = task.limits.not_before.filter(|at| *at > now);
        let doubtful = later.is_some() || !known_before.contains(&fact.id);
        let began = later.or(Some(now));
        let unknown = if doubtful { began } else { None };
        self.open.insert(fact.id.clone(), Course { task, waits: *waits, began, unknown });
    }

    fn is_known(&self, task: &NewTask) -> bool {
        let Some(output) = task.artifacts.as_ref().and_then(|own| own.output.as_ref()) else { return false };
        self.runners.values().any(|runner| {
            runner.state() == RunnerState::Ready
                && could_run(&runner.offer, task)
                && self.holdings.contains(&(output.clone(), runner.id.clone()))
        })
    }

    fn move_on(&mut self, now: Time) {
        let unknown: Vec<TaskId> = self
            .open
            .values()
            .filter(|course| course.unknown.is_none() && !self.is_known(&course.task))
            .map(|course| course.task.id.clone())
            .collect();
        for id in unknown {
            self.open.get_mut(&id).expect("it was just there").unknown = Some(now);
        }
    }

    fn assigned(&self, fact: &Lifecycle, now: Time) -> Option<String> {
        let course = self.open.get(&fact.id)?;
        let (runner, began) = (fact.runner.as_ref()?, course.began?);
        let own = course.task.artifacts.as_deref();
        let holds = |artifact: &&ArtifactId| self.holdings.contains(&((*artifact).clone(), runner.clone()));
        if own.and_then(|own| own.output.as_ref()).as_ref().is_some_and(holds) {
            return None;
        }
        let cache_ends = began + course.waits.cache_wait;
        let cache_ends = course.unknown.map_or(cache_ends, |unknown| cache_ends.min(unknown.max(began)));
        let dependency = own.is_some_and(|own| own.inputs.iter().any(|input| holds(&input)));
        let ends = if dependency { cache_ends } else { cache_ends + course.waits.deps_wait };
        (now < ends)
            .then(|| format!("{} went to {runner} at {now}, which may have it from {ends} on", fact.id))
    }
}
