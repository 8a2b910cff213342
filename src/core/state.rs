//! The state: the rows of one pool and everything derived from them.
//!
//! Law: `put` and `delete` are the only writers. Each takes out the old row's share of every index and adds the
//! new row's, so putting twice changes nothing. `invariant::check` rebuilds everything and compares.
//!
//! The leader's state runs one turn ahead of the table; readers and followers hold a state to which only
//! committed turns were applied. Both share their rows.

mod reading;
mod runners;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use uuid::Uuid;

use super::artifacts::ArtifactIndex;
use super::backlog::{Backlog, LineKey};
use super::families::Families;
use super::fleet::Fleet;
use super::group::Groups;
use super::intents::Intents;
use super::intern::Intern;
use super::ladder::Ladder;
use super::pull::Pullers;
use super::reservation::Reservations;
use super::settings::Settings;
use super::shelves::Shelves;
use super::wake::{Wake, Wakes};
use super::watch::Watch;
use crate::model::{
    Change, Class, ClassId, EarlyCancel, Head, Key, Kind, Pool, Queue, QueueId, Row, RunnerId, StopCause,
    Task, TaskId, TaskState, Time, TurnId, TurnRecord,
};

/// Which window a pending task counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    Builds,
    Jobs,
    JobsOfBuilds,
}

impl Window {
    /// The window of a task.
    pub fn of(kind: Kind, names_build: bool) -> Self {
        match (kind, names_build) {
            (Kind::Build, _) => Window::Builds,
            (Kind::Job, false) => Window::Jobs,
            (Kind::Job, true) => Window::JobsOfBuilds,
        }
    }

    /// Whether nothing is pulled into it while the pool is paused. Jobs of builds are pulled on: a build that runs
    /// may be waiting for them, and must be able to end.
    pub fn is_held_by_pause(self) -> bool {
        self != Window::JobsOfBuilds
    }

    /// The word in status and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Window::Builds => "builds",
            Window::Jobs => "jobs",
            Window::JobsOfBuilds => "jobs_of_builds",
        }
    }
}

/// Numbers that are kept as rows change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub pending: BTreeMap<Window, usize>,
    /// Pending tasks by window and queue; what is 0 is left out.
    pub queued: FxHashMap<(Window, QueueId), usize>,
    pub assigned: usize,
    pub running: usize,
    pub ended: usize,
    /// Bytes of the bodies of tasks that have not ended.
    pub body_bytes: usize,
}

/// The two rows under one task id. They come and go separately, in any order; an entry has at least one.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub task: Option<Arc<Task>>,
    pub body: Option<Arc<str>>,
}

impl Counts {
    fn join(&mut self, window: Window, queue: &QueueId) {
        *self.pending.entry(window).or_default() += 1;
        *self.queued.entry((window, queue.clone())).or_default() += 1;
    }

    fn leave(&mut self, window: Window, queue: &QueueId) {
        *self.pending.entry(window).or_default() -= 1;
        let key = (window, queue.clone());
        let queued = self.queued.get_mut(&key).expect("it was counted when it joined");
        *queued -= 1;
        if *queued == 0 {
            self.queued.remove(&key);
        }
    }
}

/// The rows of one pool with their indexes.
#[derive(Debug, Clone)]
pub struct State {
    pub settings: Arc<Settings>,
    /// The table this state is of.
    pub table: Uuid,
    pub(super) epoch: u32,
    pub(super) turn: u64,
    pub(super) last_id: TurnId,
    pub(super) now: Time,
    pub(super) entries: FxHashMap<TaskId, Entry>,
    pub(super) queues: BTreeMap<QueueId, Queue>,
    pub(super) classes: BTreeMap<ClassId, Arc<Class>>,
    pub(super) early_cancels: BTreeMap<TaskId, EarlyCancel>,
    pub(super) reservations: Reservations,
    pub(super) intents: Intents,
    pub(super) pool: Pool,
    // Derived from the rows:
    pub(super) fleet: Fleet,
    pub(super) pullers: Pullers,
    pub(super) backlog: Backlog,
    pub(super) families: Families,
    pub(super) groups: Groups,
    /// Pending tasks whose time has not come.
    pub(super) delayed: BTreeSet<(Time, TaskId)>,
    /// When a pending task expires, or an unconfirmed assignment is asked back, by the task's place in the order of
    /// admission.
    pub(super) deadlines: BTreeSet<(Time, u64)>,
    /// By when they ended, and the place in the order of admission.
    pub(super) ended: BTreeMap<(Time, u64), TaskId>,
    pub(super) lost: BTreeSet<(Time, RunnerId)>,
    pub(super) shelves: Shelves,
    pub(super) artifacts: ArtifactIndex,
    pub(super) ladder: Ladder,
    /// Runners that are away and still have artifacts in the rows.
    pub(super) absent_holders: BTreeSet<RunnerId>,
    pub(super) counts: Counts,
    // The leader's own:
    pub(super) wakes: Wakes,
    pub(super) watch: Watch,
    pub(super) intern: Intern,
}

impl State {
    /// The state of an empty table.
    pub fn new(settings: Arc<Settings>, table: Uuid) -> Self {
        let fleet = Fleet::new(settings.guards.capacity);
        let groups = Groups::new(settings.guards.group_order, settings.guards.group_bound);
        Self {
            settings,
            table,
            epoch: 1,
            turn: 0,
            last_id: Head::empty().id,
            now: Time(0),
            entries: FxHashMap::default(),
            queues: BTreeMap::new(),
            classes: BTreeMap::new(),
            early_cancels: BTreeMap::new(),
            reservations: Reservations::default(),
            intents: Intents::default(),
            pool: Pool::default(),
            fleet,
            pullers: Pullers::default(),
            backlog: Backlog::default(),
            families: Families::default(),
            groups,
            delayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            ended: BTreeMap::new(),
            lost: BTreeSet::new(),
            shelves: Shelves::default(),
            artifacts: ArtifactIndex::default(),
            ladder: Ladder::default(),
            absent_holders: BTreeSet::new(),
            counts: Counts::default(),
            wakes: Wakes::default(),
            watch: Watch::default(),
            intern: Intern::default(),
        }
    }

    /// The state that `rows` make at `head`.
    pub fn load(settings: Arc<Settings>, table: Uuid, head: Head, rows: Vec<Row>) -> Self {
        let mut state = Self::new(settings, table);
        state.set_head(head);
        // What a task holds is counted on its runner, and its group says whose turn it is: they are there first.
        let (first, others): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| matches!(row, Row::Runner(_) | Row::Group(_)));
        for row in first.into_iter().chain(others) {
            state.put(row);
        }
        state.groups.clear_changed();
        state.forget_news();
        state
    }

    /// Applies a committed turn, as followers and readers do.
    pub fn apply(&mut self, turn: &TurnRecord) {
        self.set_head(turn.head());
        self.advance(turn.at);
        for change in &turn.changes {
            match change {
                Change::Put(row) => self.put(row.clone()),
                Change::Delete(key) => self.delete(key),
            }
        }
        self.groups.clear_changed();
        self.forget_news();
    }

    /// Forgets what is only of use to a leader: a follower plans nothing.
    fn forget_news(&mut self) {
        self.wakes.clear();
        self.watch.fewer_holders.clear();
        self.watch.considered.changed.clear();
        self.backlog.sweep();
        self.ladder.sweep();
    }

    pub(super) fn set_head(&mut self, head: Head) {
        self.epoch = head.epoch;
        self.turn = head.number;
        self.last_id = head.id;
        self.now = self.now.max(head.at);
    }

    /// Puts a row in place of what stood under its key.
    pub fn put(&mut self, row: Row) {
        match row {
            Row::Task(task) => self.put_task(task),
            Row::Spec { id, body } => {
                self.count_body(&id, false);
                self.entries.entry(id.clone()).or_default().body = Some(body);
                self.count_body(&id, true);
            }
            Row::Runner(runner) => self.put_runner(runner),
            Row::Holding(holding) => self.put_holding(&holding),
            Row::Queue(queue) => {
                if queue.paused {
                    self.review_reservations();
                } else {
                    self.wakes.everything(Wake::Unpaused);
                }
                self.queues.insert(queue.id.clone(), queue);
            }
            Row::Class(class) => {
                self.classes.insert(class.id.clone(), class);
            }
            Row::Intent(intent) => self.intents.put(intent),
            Row::EarlyCancel(cancel) => {
                self.early_cancels.insert(cancel.id.clone(), cancel);
            }
            Row::Group(group) => self.put_group(&group.id.clone(), Some(group)),
            Row::Reservation(reservation) => self.reservations.put(reservation),
            Row::Pool(pool) => self.put_pool(pool),
        }
    }

    /// Takes out the row under `key`, if there is one.
    pub fn delete(&mut self, key: &Key) {
        match key {
            Key::Task(id) => {
                self.count_body(id, false);
                if let Some(task) = self.change_entry(id, |entry| entry.task.take()) {
                    let turn = self.groups.head(task.shape.group.as_ref());
                    self.take_out(&task, false);
                    let freed = self.groups.change(Some(&task), None);
                    self.shelves.change(Some(&task), None);
                    self.pass_turn(&task, turn);
                    self.holding_changed(Some(&task), None, freed);
                }
                self.count_body(id, true);
            }
            Key::Spec(id) => {
                self.count_body(id, false);
                self.change_entry(id, |entry| entry.body.take());
            }
            Key::Runner(id) => {
                self.note_runner_change(id);
                if let Some(at) = self.runner(id).and_then(|runner| runner.lost) {
                    self.lost.remove(&(at, id.clone()));
                }
                self.no_more_waiting_for(id);
                let old = self.runner(id).cloned();
                self.intents.runner_changed(old.as_deref(), None);
                self.fleet.remove(id);
                self.artifacts.seat(id, None);
                self.pullers_changed(old.as_deref(), None);
                self.note_absence(id);
                self.wake_build_lines();
            }
            Key::Holding(runner, artifact) => self.delete_holding(runner, artifact),
            Key::Queue(id) => {
                self.queues.remove(id);
            }
            Key::Class(id) => {
                self.classes.remove(id);
            }
            Key::Intent(id) => self.intents.remove(id),
            Key::EarlyCancel(id) => {
                self.early_cancels.remove(id);
            }
            Key::Group(id) => self.put_group(id, None),
            Key::Reservation(task) => {
                self.reservations.remove(task);
            }
            Key::Pool => self.put_pool(Pool::default()),
        }
    }

    fn put_pool(&mut self, pool: Pool) {
        match (self.pool.is_paused(), pool.is_paused()) {
            (true, false) => self.wakes.everything(Wake::Unpaused),
            (false, true) => self.review_reservations(),
            _ => {}
        }
        self.pool = pool;
    }

    fn put_task(&mut self, mut task: Arc<Task>) {
        if let Some(fresh) = Arc::get_mut(&mut task) {
            self.intern.share(fresh);
        }
        let (old, body) = self.replace_task(&task);
        let was_ended = old.as_ref().is_some_and(|old| old.is_ended());
        let turn = self.groups.head(task.shape.group.as_ref());
        let stays = old.as_deref().is_some_and(|old| holds_the_same(old, &task));
        if let Some(old) = &old {
            self.take_out(old, stays);
        }
        let freed = self.groups.change(old.as_deref(), Some(&task));
        self.bring_in(&task, stays);
        self.shelves.change(old.as_ref(), Some(&task));
        match (was_ended, task.is_ended()) {
            (false, true) => self.counts.body_bytes -= body,
            (true, false) => self.counts.body_bytes += body,
            _ => {}
        }
        self.pass_turn(&task, turn);
        self.holding_changed(old.as_deref(), Some(&task), freed);
    }

    /// Writes a task's row into its entry. Gives back the row it had, and how long its body is.
    fn replace_task(&mut self, task: &Arc<Task>) -> (Option<Arc<Task>>, usize) {
        if let Some(Entry { task: old, body }) = self.entries.get_mut(&task.id)
            && old.as_ref().is_none_or(|old| old.shape.group == task.shape.group)
        {
            return (old.replace(task.clone()), body.as_ref().map_or(0, |body| body.len()));
        }
        // Another task of this id belongs to another group: it leaves that first.
        self.delete(&Key::Task(task.id.clone()));
        let entry = self.entries.entry(task.id.clone()).or_default();
        entry.task = Some(task.clone());
        (None, entry.body.as_ref().map_or(0, |body| body.len()))
    }

    /// Wakes what a runner gained or lost, or what a group may place elsewhere now that it let a runner go, and
    /// moves the jobs of a build that began or ceased to hold one.
    fn holding_changed(&mut self, old: Option<&Task>, new: Option<&Task>, freed: bool) {
        let (before, after) = (runner_of(old), runner_of(new));
        if before == after {
            return;
        }
        if let Some(runner) = before {
            self.wakes.runner(runner, Wake::End);
        }
        if let Some(group) = old.and_then(|task| task.shape.group.as_ref()).filter(|_| freed) {
            self.wake_group(group);
        }
        let Some(build) = old.or(new).filter(|task| task.kind() == Kind::Build) else { return };
        if before.is_some() != after.is_some() {
            self.move_members(&build.id, after.is_some());
        }
        self.wake_build_lines();
    }

    /// Takes an old row's share out of every index; where it `stays`, not out of what its runner holds.
    fn take_out(&mut self, task: &Arc<Task>, stays: bool) {
        match &task.state {
            TaskState::Pending { not_before, .. } => {
                let is_delayed = not_before.is_some_and(|at| self.delayed.remove(&(at, task.id.clone())));
                if !is_delayed {
                    self.unstand(task);
                }
                self.counts.leave(window_of(task), &task.shape.queue);
            }
            TaskState::Assigned(assignment) | TaskState::Running(assignment) => {
                if !stays {
                    self.fleet.free(&assignment.runner, task);
                }
                match task.state {
                    TaskState::Running(_) => self.counts.running -= 1,
                    _ => self.counts.assigned -= 1,
                }
            }
            TaskState::Ended(ending) => {
                self.ended.remove(&(ending.ended, task.sequence));
                self.counts.ended -= 1;
            }
        }
        if let Some(due) = deadline(task) {
            self.deadlines.remove(&(due, task.sequence));
        }
        self.leave_family(task);
    }

    /// Adds a new row's share to every index; where it `stays`, its runner has it already.
    fn bring_in(&mut self, task: &Arc<Task>, stays: bool) {
        match &task.state {
            TaskState::Pending { not_before, .. } => {
                match not_before.filter(|at| *at > self.now) {
                    Some(at) => {
                        self.delayed.insert((at, task.id.clone()));
                    }
                    None => self.stand(task, Wake::Pending),
                }
                self.counts.join(window_of(task), &task.shape.queue);
            }
            TaskState::Assigned(assignment) | TaskState::Running(assignment) => {
                if stays {
                    self.fleet.renew(&assignment.runner, task);
                } else {
                    self.fleet.hold(&assignment.runner, task);
                }
                match task.state {
                    TaskState::Running(_) => self.counts.running += 1,
                    _ => self.counts.assigned += 1,
                }
            }
            TaskState::Ended(ending) => {
                self.ended.insert((ending.ended, task.sequence), task.id.clone());
                self.counts.ended += 1;
            }
        }
        if let Some(due) = deadline(task) {
            self.deadlines.insert((due, task.sequence));
        }
        self.join_family(task);
    }

    fn join_family(&mut self, task: &Arc<Task>) {
        if let Some(build) = &task.build {
            let unasked = !task.is_ended() && !asked_to_cancel(task);
            self.families.join(build, &task.id, !task.is_ended(), unasked);
        }
        if task.kind() == Kind::Build {
            if task.assignment().is_some() {
                self.families.add_shapes(&task.jobs);
            }
            self.families.set_cancelling(&task.id, task.is_ended() || asked_to_cancel(task));
        }
    }

    fn leave_family(&mut self, task: &Arc<Task>) {
        if let Some(build) = &task.build {
            self.families.leave(build, &task.id);
        }
        if task.kind() == Kind::Build {
            if task.assignment().is_some() {
                self.families.remove_shapes(&task.jobs);
            }
            self.families.set_cancelling(&task.id, false);
        }
    }

    pub(super) fn wake_build_lines(&mut self) {
        let lines: Vec<LineKey> = self.backlog.build_lines().cloned().collect();
        for key in lines {
            self.wakes.line(&key, Wake::BuildRule);
        }
        if self.ladder.builds().next().is_some() {
            self.wakes.builds.get_or_insert(Wake::BuildRule);
        }
        self.watch.rule_changed = true;
    }

    /// Takes something out of an entry, and the entry with it if nothing is left.
    fn change_entry<T>(&mut self, id: &TaskId, take: impl FnOnce(&mut Entry) -> Option<T>) -> Option<T> {
        let entry = self.entries.get_mut(id)?;
        let taken = take(entry);
        if entry.task.is_none() && entry.body.is_none() {
            self.entries.remove(id);
        }
        taken
    }

    fn count_body(&mut self, id: &TaskId, add: bool) {
        let Some(Entry { task, body: Some(body) }) = self.entries.get(id) else { return };
        if task.as_ref().is_some_and(|task| task.is_ended()) {
            return;
        }
        let bytes = body.len();
        if add {
            self.counts.body_bytes += bytes;
        } else {
            self.counts.body_bytes -= bytes;
        }
    }
}

/// When something is due for the task that only time brings about, besides its not-before time.
fn deadline(task: &Task) -> Option<Time> {
    match &task.state {
        TaskState::Pending { .. } => task.limits.expires_in.map(|span| task.submitted + span),
        // A lease of its own takes back what was pulled.
        TaskState::Assigned(held) if held.pulled.is_some() => None,
        TaskState::Assigned(assignment) if !assignment.confirmed && assignment.stop.is_none() => {
            Some(assignment.deadline)
        }
        _ => None,
    }
}

fn runner_of(task: Option<&Task>) -> Option<&RunnerId> {
    Some(&task?.assignment()?.runner)
}

/// Whether a task takes of its runner, in its new row, what it took in its old one.
fn holds_the_same(old: &Task, new: &Task) -> bool {
    let runner = runner_of(Some(new));
    runner.is_some()
        && runner_of(Some(old)) == runner
        && old.sequence == new.sequence
        && old.shape == new.shape
}

fn window_of(task: &Task) -> Window {
    Window::of(task.kind(), task.build.is_some())
}

fn asked_to_cancel(task: &Task) -> bool {
    let stop = task.assignment().and_then(|assignment| assignment.stop.as_ref());
    stop.is_some_and(|stop| stop.cause == StopCause::Cancelled)
}
