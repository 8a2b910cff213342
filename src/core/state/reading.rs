//! Reading a state: what decisions, HTTP and the metrics may ask of it.
//!
//! Law: nothing here changes anything.

use std::sync::Arc;

use super::super::artifacts::ArtifactIndex;
use super::super::backlog::{Backlog, LineKey, Rank};
use super::super::fleet::Fleet;
use super::super::group::Groups;
use super::super::intents::Intents;
use super::super::shelves::{Shelf, Shelves};
use super::{Counts, State};
use crate::model::{
    Class, Kind, Pool, Queue, QueueId, Reservation, Row, Runner, RunnerId, Shape, Task, TaskId, Time,
};

impl State {
    /// The number of the last turn in it.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// The epoch of its table.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Log time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The task called `id`.
    pub fn task(&self, id: &str) -> Option<&Arc<Task>> {
        self.entries.get(id)?.task.as_ref()
    }

    /// All tasks, in no order.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.entries.values().filter_map(|entry| entry.task.as_ref())
    }

    /// The body a task was submitted with, while it is kept.
    pub fn body(&self, id: &str) -> Option<&Arc<str>> {
        self.entries.get(id)?.body.as_ref()
    }

    /// The runner called `id`.
    pub fn runner(&self, id: &RunnerId) -> Option<&Arc<Runner>> {
        self.fleet.get(id).map(|seat| &seat.runner)
    }

    /// All runners with what they hold.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Pending tasks whose time has come.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// The pending task of a line that has this rank.
    pub fn waiting(&self, line: &LineKey, rank: Rank) -> Option<&Arc<Task>> {
        self.shelves.at(Shelf::pending(line.shape.kind), rank.sequence())
    }

    /// Queues an operator said something of.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.values()
    }

    /// What an operator said of one queue.
    pub fn queue(&self, id: &QueueId) -> Option<&Queue> {
        self.queues.get(id)
    }

    /// Whether an operator has paused the queue: nothing on it is placed.
    pub fn is_paused(&self, queue: &QueueId) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.paused)
    }

    /// Whether tasks of a line may be placed: neither its queue nor the pool is paused. Jobs of running builds are
    /// not held back by a pause of the pool: what runs, runs on, and a build may be waiting for them.
    pub fn is_open(&self, line: &LineKey) -> bool {
        !self.is_paused(&line.shape.queue) && (!self.pool.is_paused() || line.of_running_build)
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

    /// Kinds of runner that left and may come back.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.classes.values()
    }

    /// Requests that somebody provide runners.
    pub fn intents(&self) -> &Intents {
        &self.intents
    }

    /// What holds for the whole pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Numbers of tasks.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Which runner holds which artifact.
    pub fn artifacts(&self) -> &ArtifactIndex {
        &self.artifacts
    }

    /// All tasks in the order of their admission, by where they stand.
    pub fn shelves(&self) -> &Shelves {
        &self.shelves
    }

    /// When the oldest pending task of a kind was submitted.
    pub fn oldest_pending(&self, kind: Kind) -> Option<Time> {
        self.shelves.oldest(Shelf::pending(kind)).map(|task| task.submitted)
    }

    /// The live jobs of a build.
    pub fn jobs_of(&self, build: &TaskId) -> impl Iterator<Item = &TaskId> {
        self.families.live(build)
    }

    /// All groups with their tasks and the runners they are bound to.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The shapes of the jobs that running builds may submit.
    pub fn job_shapes(&self) -> impl Iterator<Item = &Arc<Shape>> {
        self.families.shapes()
    }

    /// All rows, in the order of their keys.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.rows_in_any_order();
        rows.sort_by_key(Row::key);
        rows
    }

    /// All rows, as fast as they can be had.
    pub fn rows_in_any_order(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::with_capacity(self.entries.len() * 2 + self.fleet.len());
        for (id, entry) in &self.entries {
            rows.extend(entry.task.clone().map(Row::Task));
            rows.extend(entry.body.clone().map(|body| Row::Spec { id: id.clone(), body }));
        }
        rows.extend(self.fleet.seats().map(|seat| Row::Runner(seat.runner.clone())));
        rows.extend(self.artifacts.holdings().map(Row::Holding));
        rows.extend(self.queues.values().cloned().map(Row::Queue));
        rows.extend(self.classes.values().cloned().map(Row::Class));
        rows.extend(self.intents.iter().cloned().map(Row::Intent));
        rows.extend(self.early_cancels.values().cloned().map(Row::EarlyCancel));
        rows.extend(self.groups.after(None).filter_map(|(_, group)| group.row().cloned().map(Row::Group)));
        rows.extend(self.reservations.iter().map(|kept| Row::Reservation(Reservation::clone(kept))));
        if self.pool != Pool::default() {
            rows.push(Row::Pool(self.pool.clone()));
        }
        rows
    }
}
