//! Where a pending task stands: delayed until its time, nowhere until its turn in its group, on the ladder of its queue's
//! locality, or in its line.
//!
//! Law: follows from the rows of the task and its group, the settings and log time alone. A task stands in its line
//! exactly when any runner that fits may have it; one that waits for its turn holds nobody back. The line of a task
//! whose turn comes is woken.

use std::sync::Arc;

use super::super::backlog::{LineKey, Rank};
use super::super::ladder::{Ladder, Step};
use super::super::wake::Wake;
use super::State;
use crate::model::{
    ArtifactId, Group, GroupId, Holding, RunnerId, RunnerState, Task, TaskId, TaskState, Time,
};

impl State {
    /// Moves the tasks whose time has come, and those of which a step of their wait is over.
    pub(in super::super) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        while let Some((at, _)) = self.delayed.first() {
            if *at > self.now {
                break;
            }
            let (_, id) = self.delayed.pop_first().expect("it was just seen");
            let task = self.task(id.as_str()).expect("only tasks that are there wait for their time").clone();
            self.stand(&task, Wake::TimeCame);
        }
        while let Some((at, task)) = self.ladder.next_end() {
            if at > self.now {
                break;
            }
            let task = task.clone();
            self.unstand(&task);
            self.stand(&task, Wake::WaitOver);
        }
    }

    /// Puts a pending task whose time has come to its place, if it has its turn.
    pub(super) fn stand(&mut self, task: &Arc<Task>, wake: Wake) {
        self.stand_with(task, self.is_of_running_build(task), wake);
    }

    /// Takes a pending task whose time has come from its place.
    pub(super) fn unstand(&mut self, task: &Arc<Task>) {
        self.unstand_with(task, self.is_of_running_build(task));
    }

    fn stand_with(&mut self, task: &Arc<Task>, of_running_build: bool, wake: Wake) {
        if !self.groups.has_turn(task) {
            return;
        }
        let (key, rank) = self.place_with(task, of_running_build);
        let step = self.settings.locality.contains_key(&task.shape.queue).then(|| Step::at(task, self.now));
        if let Some(step) = step {
            self.ladder.insert(task, step, &key, rank, &mut self.artifacts);
            if task.artifacts.is_some() {
                self.wakes.task(&task.id, wake);
            }
            // Who held its output when its wait began may hold it no more.
            if step == Step::Cache && (task.attempt > 0 || task.shape.group.is_some()) {
                let output = task.artifacts.as_ref().and_then(|own| own.output.clone());
                self.watch.fewer_holders.extend(output);
            }
        }
        if step.is_none_or(|step| step == Step::Open) {
            // What comes into its line later than into the table, or again, was not judged when it was admitted.
            if step.is_some() || wake != Wake::Pending || task.attempt > 0 {
                self.watch.judge.lines.insert(key.clone());
            }
            self.wakes.line(&key, wake);
            self.backlog.insert(&key, rank);
        }
    }

    fn unstand_with(&mut self, task: &Arc<Task>, of_running_build: bool) {
        self.note_leaving(&task.id);
        let step = self.ladder.remove(task, &mut self.artifacts);
        if step.is_none_or(|step| step == Step::Open) {
            let (key, rank) = self.place_with(task, of_running_build);
            self.backlog.remove(&key, rank);
        }
    }

    /// A pending task that does not wait for its time.
    fn ready(&self, id: &TaskId) -> Option<Arc<Task>> {
        let task = self.task(id.as_str())?;
        let TaskState::Pending { not_before, .. } = &task.state else { return None };
        (!self.delayed.contains(&(not_before.unwrap_or_default(), id.clone()))).then(|| task.clone())
    }

    /// Lets the task whose turn it is now take the place of the one whose turn it was, where a row of `changed`
    /// brought that about; `changed` itself has moved already.
    pub(super) fn pass_turn(&mut self, changed: &Task, before: Option<TaskId>) {
        let after = self.groups.head(changed.shape.group.as_ref());
        if before == after {
            return;
        }
        let other = |id: Option<TaskId>| id.filter(|id| *id != changed.id);
        if let Some(task) = other(before).and_then(|id| self.ready(&id)) {
            self.unstand(&task);
        }
        if let Some(task) = other(after).and_then(|id| self.ready(&id)) {
            self.stand(&task, Wake::GroupTurn);
        }
    }

    /// Takes in a group's row. Where it changes who may start, the waiting tasks of the group are placed anew.
    pub(super) fn put_group(&mut self, id: &GroupId, row: Option<Arc<Group>>) {
        let says = |row: Option<&Arc<Group>>| row.map(|row| (row.terms, row.stopped.clone()));
        let old = self.groups.get(id).and_then(|group| group.row());
        if says(old) == says(row.as_ref()) {
            return self.groups.put(id, row);
        }
        let live: Vec<TaskId> =
            self.groups.get(id).into_iter().flat_map(|group| group.live()).cloned().collect();
        let waiting: Vec<Arc<Task>> = live.iter().filter_map(|task| self.ready(task)).collect();
        for task in &waiting {
            self.unstand(task);
        }
        self.groups.put(id, row);
        for task in &waiting {
            self.stand(task, Wake::GroupSlot);
        }
    }

    /// Wakes every line of a group that may be bound to one more runner, and its tasks that want artifacts.
    pub(super) fn wake_group(&mut self, group: &GroupId) {
        let lines: Vec<LineKey> = self.backlog.lines_of(group).cloned().collect();
        for key in lines {
            self.wakes.line(&key, Wake::GroupSlot);
        }
        if self.ladder.is_empty() {
            return;
        }
        let climbs = |id: &&TaskId| {
            let task = self.entries.get(*id).and_then(|entry| entry.task.as_ref());
            task.is_some_and(|task| self.ladder.step(task).is_some())
        };
        for task in self.groups.get(group).into_iter().flat_map(|group| group.live()).filter(climbs) {
            self.wakes.task(task, Wake::GroupSlot);
        }
    }

    /// Moves the waiting jobs of a build between the places of running builds' jobs and of the others.
    pub(super) fn move_members(&mut self, build: &TaskId, running: bool) {
        let members: Vec<TaskId> = self.families.live(build).cloned().collect();
        for task in members.iter().filter_map(|id| self.ready(id)).collect::<Vec<_>>() {
            self.unstand_with(&task, !running);
            self.stand_with(&task, running, Wake::BuildStarted);
        }
    }

    /// The line a pending task belongs to, and its rank.
    pub(in super::super) fn place_of(&self, task: &Task) -> (LineKey, Rank) {
        self.place_with(task, self.is_of_running_build(task))
    }

    fn place_with(&self, task: &Task, of_running_build: bool) -> (LineKey, Rank) {
        let key = LineKey { of_running_build, shape: task.shape.clone(), jobs: task.jobs.clone() };
        (key, Rank::of(task, of_running_build, self.settings.order))
    }

    /// Pending tasks of queues with locality, by the step of their wait.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// The ready runners that hold an artifact, in the order of their ids.
    pub fn ready_holders(&self, artifact: &str) -> impl Iterator<Item = &RunnerId> {
        let ready =
            |id: &&RunnerId| self.fleet.get(id).is_some_and(|seat| seat.runner.state() == RunnerState::Ready);
        self.artifacts.holders(artifact).filter(ready)
    }

    pub(super) fn put_holding(&mut self, holding: &Holding) {
        let seat = self.fleet.number(&holding.runner);
        let artifact = self.artifacts.hold(holding, seat);
        if let Some(place) = self.artifacts.first_place(artifact) {
            self.artifacts.relist(&holding.runner, artifact, Some(place));
            self.wakes.runner(&holding.runner, Wake::Artifact);
        }
        self.note_absence(&holding.runner);
    }

    pub(super) fn delete_holding(&mut self, runner: &RunnerId, artifact: &ArtifactId) {
        self.artifacts.release(runner, artifact);
        self.watch.fewer_holders.insert(artifact.clone());
        self.note_absence(runner);
    }

    /// Notes that a runner's artifacts can no longer be waited for.
    pub(super) fn no_more_waiting_for(&mut self, runner: &RunnerId) {
        let listed: Vec<ArtifactId> = self
            .artifacts
            .listed(runner)
            .map(|(_, artifact)| self.artifacts.name(artifact).clone())
            .collect();
        self.watch.fewer_holders.extend(listed);
    }

    /// Notes whether a runner that is away still has artifacts in the rows.
    pub(super) fn note_absence(&mut self, runner: &RunnerId) {
        let is_here = self.fleet.get(runner).is_some_and(|seat| seat.runner.lost.is_none());
        if is_here || self.artifacts.count(runner) == 0 {
            self.absent_holders.remove(runner);
        } else if !self.absent_holders.contains(runner) {
            self.absent_holders.insert(runner.clone());
        }
    }
}
