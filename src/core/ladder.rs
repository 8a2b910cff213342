//! The ladder: pending tasks of queues with locality, by the step of their wait.
//!
//! Law: derived from the tasks' rows and log time alone, through `State::put` and `advance`. A step that waits keeps
//! its task out of its shape's line; the last step puts it there. On whatever step, a task also seeks what it wants:
//! its output from the first step on, its inputs from the second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::artifacts::ArtifactIndex;
use super::backlog::{LineKey, Rank, Tier};
use super::numbered::{Number, Numbered};
use super::seekers::Seeker;
use crate::model::{ArtifactId, Kind, Task, Time};

/// How far a task has come in its wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Its wait is to begin in this turn or the next.
    Unbegun,
    /// Only runners that hold its output may have it.
    Cache,
    /// Also runners that hold one of its inputs.
    Dependencies,
    /// Any runner.
    Open,
}

impl Step {
    /// The step of a task at log time `now`.
    pub fn at(task: &Task, now: Time) -> Self {
        match &task.wait {
            None => Step::Unbegun,
            Some(wait) if now < wait.cache_until => Step::Cache,
            Some(wait) if now < wait.deps_until => Step::Dependencies,
            Some(_) => Step::Open,
        }
    }

    fn ends(self, task: &Task) -> Option<Time> {
        let wait = task.wait.as_deref()?;
        match self {
            Step::Cache => Some(wait.cache_until),
            Step::Dependencies => Some(wait.deps_until),
            Step::Unbegun | Step::Open => None,
        }
    }
}

/// What `task` wants on this step, and how near a runner is that holds it.
fn wanted(task: &Task, step: Step) -> impl Iterator<Item = (&ArtifactId, Tier)> {
    let artifacts = task.artifacts.as_deref().filter(|_| step != Step::Unbegun);
    let output = artifacts.and_then(|own| own.output.as_ref());
    let inputs = artifacts.filter(|_| step >= Step::Dependencies).map_or(&[][..], |own| &own.inputs);
    let inputs = inputs.iter().map(|input| (input, Tier::Dependency));
    output.map(|output| (output, Tier::Cached)).into_iter().chain(inputs)
}

/// A task on the ladder.
#[derive(Debug, Clone)]
pub(super) struct Climber {
    pub task: Arc<Task>,
    pub step: Step,
    pub line: Number,
    pub rank: Rank,
    /// Whether the first of what it wants is its output.
    wants_output: bool,
    /// What it wants on its step: its output, if it names one, then its inputs.
    wants: SmallVec<[Number; 4]>,
}

impl Climber {
    /// What it wants on its step of runners of this nearness.
    pub fn wants(&self, tier: Tier) -> &[Number] {
        let outputs = usize::from(self.wants_output);
        match tier {
            Tier::Cached => &self.wants[..outputs],
            Tier::Dependency => &self.wants[outputs..],
            Tier::Rest => &[],
        }
    }
}

/// All pending tasks of queues with locality whose time has come.
#[derive(Debug, Clone, Default)]
pub struct Ladder {
    /// By their places in the order of admission, as everything else here.
    climbers: FxHashMap<u64, Climber>,
    /// How many climb for each line. A line without any is kept until the next sweep, so that its number stands for no
    /// other while something is planned.
    lines: Numbered<LineKey, usize>,
    ends: BTreeSet<(Time, u64)>,
    unbegun: BTreeSet<u64>,
    /// Builds that want something: what they wait for may also be the rule for builds.
    builds: BTreeSet<u64>,
    /// How many tasks that want something ask for so many thousandths of a core.
    asked_cpu: BTreeMap<u64, usize>,
}

impl Ladder {
    /// Whether no queue with locality has such a task.
    pub fn is_empty(&self) -> bool {
        self.climbers.is_empty()
    }

    /// Puts a task on a step.
    pub(super) fn insert(
        &mut self,
        task: &Arc<Task>,
        step: Step,
        line: &LineKey,
        rank: Rank,
        artifacts: &mut ArtifactIndex,
    ) {
        let line = self.lines.number(line, usize::default);
        *self.lines.get_mut(line) += 1;
        if step == Step::Unbegun {
            self.unbegun.insert(task.sequence);
        }
        if let Some(end) = step.ends(task) {
            self.ends.insert((end, task.sequence));
        }
        let seek = |(name, tier)| artifacts.seek(name, Seeker { tier, line, rank });
        let wants = wanted(task, step).filter_map(seek).collect();
        let wants_output = wanted(task, step).next().is_some_and(|(_, tier)| tier == Tier::Cached);
        if task.artifacts.is_some() {
            *self.asked_cpu.entry(task.shape.resources.cpu).or_default() += 1;
            if task.kind() == Kind::Build {
                self.builds.insert(task.sequence);
            }
        }
        self.climbers
            .insert(task.sequence, Climber { task: task.clone(), step, line, rank, wants_output, wants });
    }

    /// Takes a task off its step, and says which that was.
    pub(super) fn remove(&mut self, task: &Task, artifacts: &mut ArtifactIndex) -> Option<Step> {
        let climber = self.climbers.remove(&task.sequence)?;
        let Climber { step, line, rank, .. } = climber;
        *self.lines.get_mut(line) -= 1;
        if step == Step::Unbegun {
            self.unbegun.remove(&task.sequence);
        }
        if let Some(end) = step.ends(&climber.task) {
            self.ends.remove(&(end, task.sequence));
        }
        for tier in [Tier::Cached, Tier::Dependency] {
            for artifact in climber.wants(tier) {
                artifacts.unseek(*artifact, Seeker { tier, line, rank });
            }
        }
        if task.artifacts.is_some() {
            let cpu = task.shape.resources.cpu;
            let asked = self.asked_cpu.get_mut(&cpu).expect("it was counted when it was put here");
            *asked -= 1;
            if *asked == 0 {
                self.asked_cpu.remove(&cpu);
            }
            if task.kind() == Kind::Build {
                self.builds.remove(&task.sequence);
            }
        }
        Some(step)
    }

    /// Forgets lines for which nobody climbs. Not while something is planned.
    pub(super) fn sweep(&mut self) {
        let idle = self.lines.iter().filter(|(.., climbers)| **climbers == 0).map(|(number, ..)| number);
        for number in idle.collect::<Vec<_>>() {
            self.lines.remove(number);
        }
    }

    /// The step a task stands on; nothing if its queue has no locality, or its time has not come.
    pub fn step(&self, task: &Task) -> Option<Step> {
        self.climbers.get(&task.sequence).map(|climber| climber.step)
    }

    /// The task with this place in the order of admission.
    pub(super) fn at(&self, sequence: u64) -> Option<&Climber> {
        self.climbers.get(&sequence)
    }

    /// All tasks here, in no order.
    pub(super) fn climbers(&self) -> impl ExactSizeIterator<Item = &Climber> {
        self.climbers.values()
    }

    /// What the tasks of a line here have in common.
    pub(super) fn line(&self, number: Number) -> &LineKey {
        self.lines.name(number)
    }

    /// The task whose step ends next, and when.
    pub(super) fn next_end(&self) -> Option<(Time, &Arc<Task>)> {
        self.ends.first().map(|(at, sequence)| (*at, &self.climbers[sequence].task))
    }

    /// A task whose wait is to begin.
    pub(super) fn next_unbegun(&self) -> Option<&Arc<Task>> {
        self.unbegun.first().map(|sequence| &self.climbers[sequence].task)
    }

    /// Tasks on the first step.
    pub(super) fn waiting_for_cache(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.climbers().filter(|climber| climber.step == Step::Cache).map(|climber| &climber.task)
    }

    /// Builds that want something.
    pub(super) fn builds(&self) -> impl Iterator<Item = &Climber> {
        self.builds.iter().map(|sequence| &self.climbers[sequence])
    }

    /// The least cpu any task asks for that wants something, in thousandths of a core.
    pub(super) fn least_cpu(&self) -> Option<u64> {
        self.asked_cpu.first_key_value().map(|(cpu, _)| *cpu)
    }

    /// How many tasks wait for a runner that holds something of their own, by step.
    pub fn waiting(&self) -> (usize, usize) {
        let count = |wanted| self.climbers().filter(|climber| climber.step == wanted).count();
        (count(Step::Cache), count(Step::Dependencies))
    }

    /// Whether two ladders, each with its own numbers, hold the same.
    pub(super) fn same(&self, own: &ArtifactIndex, other: &Self, theirs: &ArtifactIndex) -> bool {
        type Sought<'a> = BTreeSet<(&'a ArtifactId, Tier, &'a LineKey, Rank)>;
        fn sought<'a>(ladder: &'a Ladder, artifacts: &'a ArtifactIndex) -> Sought<'a> {
            let named = |(name, seeker): (&'a ArtifactId, &'a Seeker)| {
                (name, seeker.tier, ladder.line(seeker.line), seeker.rank)
            };
            artifacts.sought().map(named).collect()
        }
        let same = |ours: &Climber| {
            let theirs = other.at(ours.task.sequence).filter(|theirs| theirs.step == ours.step);
            theirs.is_some_and(|theirs| {
                theirs.task == ours.task
                    && theirs.rank == ours.rank
                    && self.line(ours.line) == other.line(theirs.line)
            })
        };
        self.climbers.len() == other.climbers.len()
            && self.climbers().all(same)
            && self.ends == other.ends
            && self.unbegun == other.unbegun
            && self.builds == other.builds
            && self.asked_cpu == other.asked_cpu
            && sought(self, own) == sought(other, theirs)
    }
}
