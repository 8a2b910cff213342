//! The ladder: pending tasks of queues with locality, by the step of their wait.
//!
//! Law: derived from the tasks' rows and log time alone, through `State::put` and `advance`. A step that waits keeps
//! its task out of its shape's line; the last step puts it there. On whatever step, a task is also found by what it
//! wants: by its output from the first step on, by its inputs from the second.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, LazyLock};

use rustc_hash::FxHashMap;

use super::artifacts::{ArtifactIndex, Number};
use super::backlog::{LineKey, Place, Rank, Tier};
use crate::model::{ArtifactId, Id, Kind, Resources, Shape, Task, TaskId, Time};

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

/// Tasks of one line that want the same artifact in the same way: they fit on the same of its holders.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub artifact: Number,
    pub tier: Tier,
    pub line: LineKey,
}

/// All pending tasks of queues with locality whose time has come.
#[derive(Debug, Clone, Default)]
pub struct Ladder {
    steps: FxHashMap<TaskId, Step>,
    ends: BTreeSet<(Time, TaskId)>,
    unbegun: BTreeSet<TaskId>,
    groups: BTreeSet<(Group, Rank)>,
    /// Builds that want something: what they wait for may also be the rule for builds.
    builds: BTreeSet<TaskId>,
    /// How many tasks that want something ask for so many thousandths of a core.
    asked_cpu: BTreeMap<u64, usize>,
}

impl Ladder {
    /// Whether no queue with locality has such a task.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Puts a task on a step.
    pub(super) fn insert(
        &mut self,
        task: &Task,
        step: Step,
        line: &LineKey,
        rank: Rank,
        artifacts: &mut ArtifactIndex,
    ) {
        self.steps.insert(task.id.clone(), step);
        if step == Step::Unbegun {
            self.unbegun.insert(task.id.clone());
        }
        if let Some(end) = step.ends(task) {
            self.ends.insert((end, task.id.clone()));
        }
        for (name, tier) in wanted(task, step) {
            let artifact = artifacts.want(name, rank.at(tier));
            self.groups.insert((Group { artifact, tier, line: line.clone() }, rank));
        }
        if task.artifacts.is_some() {
            *self.asked_cpu.entry(task.shape.resources.cpu).or_default() += 1;
            if task.kind() == Kind::Build {
                self.builds.insert(task.id.clone());
            }
        }
    }

    /// Takes a task off its step, and says which that was.
    pub(super) fn remove(
        &mut self,
        task: &Task,
        line: &LineKey,
        rank: Rank,
        artifacts: &mut ArtifactIndex,
    ) -> Option<Step> {
        let step = self.steps.remove(&task.id)?;
        self.unbegun.remove(&task.id);
        if let Some(end) = step.ends(task) {
            self.ends.remove(&(end, task.id.clone()));
        }
        for (name, tier) in wanted(task, step) {
            if let Some(artifact) = artifacts.find(name) {
                self.groups.remove(&(Group { artifact, tier, line: line.clone() }, rank));
            }
            artifacts.unwant(name);
        }
        if task.artifacts.is_some() {
            let cpu = task.shape.resources.cpu;
            let asked = self.asked_cpu.get_mut(&cpu).expect("it was counted when it was put here");
            *asked -= 1;
            if *asked == 0 {
                self.asked_cpu.remove(&cpu);
            }
            self.builds.remove(&task.id);
        }
        Some(step)
    }

    /// The step a task stands on; nothing if its queue has no locality, or its time has not come.
    pub fn step(&self, task: &TaskId) -> Option<Step> {
        self.steps.get(task).copied()
    }

    /// The task whose step ends next, and when.
    pub(super) fn next_end(&self) -> Option<&(Time, TaskId)> {
        self.ends.first()
    }

    /// A task whose wait is to begin.
    pub(super) fn next_unbegun(&self) -> Option<&TaskId> {
        self.unbegun.first()
    }

    /// Tasks on the first step.
    pub(super) fn waiting_for_cache(&self) -> impl Iterator<Item = &TaskId> {
        self.steps.iter().filter(|(_, step)| **step == Step::Cache).map(|(id, _)| id)
    }

    /// Builds that want something.
    pub(super) fn builds(&self) -> impl Iterator<Item = &TaskId> {
        self.builds.iter()
    }

    /// The least cpu any task asks for that wants something, in thousandths of a core.
    pub(super) fn least_cpu(&self) -> Option<u64> {
        self.asked_cpu.first_key_value().map(|(cpu, _)| *cpu)
    }

    /// How many tasks wait for a runner that holds something of their own, by step.
    pub fn waiting(&self) -> (usize, usize) {
        let count = |wanted| self.steps.values().filter(|step| **step == wanted).count();
        (count(Step::Cache), count(Step::Dependencies))
    }

    /// The first task of a group, or the first after `after`.
    pub(super) fn first(&self, group: &Group, after: Option<Rank>) -> Option<Rank> {
        let from = match after {
            None => Bound::Included((group.clone(), Rank::FIRST)),
            Some(after) => Bound::Excluded((group.clone(), after)),
        };
        let (found, rank) = self.groups.range((from, Bound::Unbounded)).next()?;
        (found == group).then_some(*rank)
    }

    /// The ranks of a group, in order.
    pub(super) fn ranks(&self, group: &Group) -> impl Iterator<Item = Rank> {
        let (first, last) = ((group.clone(), Rank::FIRST), (group.clone(), Rank::LAST));
        self.groups.range(first..=last).map(|(_, rank)| *rank)
    }

    /// The groups that want an artifact, each with its first task's rank.
    pub(super) fn groups_of(&self, artifact: Number) -> Vec<(Group, Rank)> {
        let least = Group { artifact, tier: Tier::Cached, line: smallest_line() };
        let mut from = Bound::Included((least, Rank::FIRST));
        let mut found = Vec::new();
        while let Some((group, rank)) = self.groups.range((from, Bound::Unbounded)).next() {
            if group.artifact != artifact {
                break;
            }
            found.push((group.clone(), *rank));
            from = Bound::Excluded((group.clone(), Rank::LAST));
        }
        found
    }

    /// The place of the first task that wants an artifact.
    pub(super) fn first_place(&self, artifact: Number) -> Option<Place> {
        self.groups_of(artifact).iter().map(|(group, rank)| rank.at(group.tier)).min()
    }

    /// Whether two ladders, each with its own numbers, hold the same.
    pub(super) fn same(&self, own: &ArtifactIndex, other: &Self, theirs: &ArtifactIndex) -> bool {
        let named =
            |ladder: &Self, artifacts: &ArtifactIndex| -> BTreeSet<(ArtifactId, Tier, LineKey, Rank)> {
                let name = |(group, rank): &(Group, Rank)| {
                    (artifacts.name(group.artifact).clone(), group.tier, group.line.clone(), *rank)
                };
                ladder.groups.iter().map(name).collect()
            };
        self.steps == other.steps
            && self.ends == other.ends
            && self.unbegun == other.unbegun
            && self.builds == other.builds
            && self.asked_cpu == other.asked_cpu
            && named(self, own) == named(other, theirs)
    }
}

/// A line that no other comes before.
fn smallest_line() -> LineKey {
    static SMALLEST: LazyLock<LineKey> = LazyLock::new(|| LineKey {
        of_running_build: false,
        shape: Arc::new(Shape {
            kind: Kind::Job.min(Kind::Build),
            queue: Id::parse("-").expect("a legal name"),
            resources: Resources::default(),
            arch: "".into(),
            os: "".into(),
            labels: Default::default(),
            tolerations: Default::default(),
            group: None,
        }),
        jobs: Arc::from([]),
    });
    SMALLEST.clone()
}
