//! Which line a pending task stands in, and when it enters and leaves it.
//!
//! Law: a task stands in its line when its time has come and nothing of its group keeps it from starting; a task
//! that waits for its turn stands in none and holds nobody back. The line of a task whose turn comes is woken.

use std::sync::Arc;

use super::super::backlog::{LineKey, Rank};
use super::super::wake::Wake;
use super::State;
use crate::model::{Group, GroupId, Kind, Task, TaskId, TaskState, Time};

impl State {
    /// Moves tasks whose time has come into their lines.
    pub(in crate::core) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        while let Some((at, _)) = self.delayed.first() {
            if *at > self.now {
                break;
            }
            let (_, id) = self.delayed.pop_first().expect("it was just seen");
            let task = self.task(id.as_str()).expect("only tasks that are there wait for their time").clone();
            self.enter_line(&task, Wake::TimeCame);
        }
    }

    /// Puts a pending task whose time has come into its line, if it has its turn.
    pub(super) fn enter_line(&mut self, task: &Task, wake: Wake) {
        if !self.groups.has_turn(task) {
            return;
        }
        let (key, rank) = self.place_of(task);
        self.wakes.line(&key, wake);
        if wake != Wake::Pending {
            self.watch.judge.lines.insert(key.clone());
        }
        self.backlog.insert(&key, rank);
    }

    /// Takes a pending task out of its line, if it stands in it.
    pub(super) fn leave_line(&mut self, task: &Task) {
        let (key, rank) = self.place_of(task);
        self.backlog.remove(&key, rank);
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
            self.leave_line(&task);
        }
        if let Some(task) = other(after).and_then(|id| self.ready(&id)) {
            self.enter_line(&task, Wake::GroupTurn);
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
            self.leave_line(task);
        }
        self.groups.put(id, row);
        for task in &waiting {
            self.enter_line(task, Wake::GroupSlot);
        }
    }

    /// Wakes every line of a group that may be bound to one more runner.
    pub(super) fn wake_group(&mut self, group: &GroupId) {
        let lines: Vec<LineKey> = self.backlog.lines_of(group).cloned().collect();
        for key in lines {
            self.wakes.line(&key, Wake::GroupSlot);
        }
    }

    /// Moves the waiting jobs of a build between the lines of running builds and the others.
    pub(super) fn move_members(&mut self, build: &TaskId, running: bool) {
        let members: Vec<TaskId> = self.families.live(build).cloned().collect();
        for id in members {
            let Some(task) = self.ready(&id).filter(|task| self.groups.has_turn(task)) else { continue };
            let (old_key, old_rank) = self.place_with(&task, !running);
            let (key, rank) = self.place_with(&task, running);
            self.backlog.remove(&old_key, old_rank);
            self.wakes.line(&key, Wake::BuildStarted);
            self.backlog.insert(&key, rank);
        }
    }

    /// The line a pending task belongs to, and its rank.
    pub(in crate::core) fn place_of(&self, task: &Task) -> (LineKey, Rank) {
        self.place_with(task, self.is_of_running_build(task))
    }

    fn place_with(&self, task: &Task, of_running_build: bool) -> (LineKey, Rank) {
        let key = LineKey { of_running_build, shape: task.shape.clone(), jobs: task.jobs.clone() };
        (key, Rank::of(task, of_running_build, self.settings.order))
    }

    /// Whether the task belongs to a build that holds a runner.
    pub fn is_of_running_build(&self, task: &Task) -> bool {
        task.build.as_ref().is_some_and(|build| self.is_running_build(build))
    }

    /// Whether `build` is a build that holds a runner.
    pub fn is_running_build(&self, build: &TaskId) -> bool {
        self.task(build.as_str())
            .is_some_and(|task| task.kind() == Kind::Build && task.assignment().is_some())
    }
}
