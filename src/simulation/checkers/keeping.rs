//! A job that waits too long has a runner kept for it, and what is kept is kept.
//!
//! Reads what was submitted, the facts of committed turns, and from rows only which runners are ready and what they
//! offer. Laws: once a job has waited `reserve_after` for room, and one more runner may be kept, one that could run it
//! is kept soon; at most a quarter of the ready runners, and at least one, are kept; on a kept runner nothing starts
//! that comes later and would still be in the way when the task is to fit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::super::producers::could_run;
use crate::core::Settings;
use crate::core::settings::Order;
use crate::model::{
    Change, Fact, Key, Kind, Lifecycle, LifecycleState, NewTask, QueueId, Resources, Row, Runner, RunnerId,
    RunnerState, TaskId, Time, TurnRecord,
};

/// So long, and for so many looks at one leader's turns, a runner may not be kept that should be.
const KEPT_WITHIN: Duration = Duration::from_secs(20);
const KEPT_WITHIN_LOOKS: u32 = 10;
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A task that was admitted and has not ended.
#[derive(Debug)]
struct Course {
    task: Arc<NewTask>,
    /// Its place in the order of admission.
    place: usize,
    since: Time,
    /// Who has it, and since when.
    with: Option<(RunnerId, Time)>,
    was_placed: bool,
}

/// A runner that is kept for a task.
#[derive(Debug)]
struct Kept {
    runner: RunnerId,
    fits_by: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Keeping {
    settings: Arc<Settings>,
    submitted: BTreeMap<TaskId, Arc<NewTask>>,
    admitted: usize,
    open: BTreeMap<TaskId, Course>,
    runners: BTreeMap<RunnerId, Arc<Runner>>,
    kept: BTreeMap<TaskId, Kept>,
    paused: BTreeSet<QueueId>,
    pool_paused: bool,
    leader: Uuid,
    look_at: Time,
    /// Since when, and for how many looks, a runner should have been kept for a task.
    due: BTreeMap<TaskId, (Time, u32)>,
}

impl Keeping {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            submitted: BTreeMap::new(),
            admitted: 0,
            open: BTreeMap::new(),
            runners: BTreeMap::new(),
            kept: BTreeMap::new(),
            paused: BTreeSet::new(),
            pool_paused: false,
            leader: Uuid::nil(),
            look_at: Time(0),
            due: BTreeMap::new(),
        }
    }

    pub fn submitted(&mut self, task: &Arc<NewTask>) {
        self.submitted.insert(task.id.clone(), task.clone());
    }

    pub fn committed(&mut self, turn: &TurnRecord) -> Vec<String> {
        for change in &turn.changes {
            match change {
                Change::Put(Row::Runner(runner)) => {
                    self.runners.insert(runner.id.clone(), runner.clone());
                }
                Change::Delete(Key::Runner(runner)) => {
                    self.runners.remove(runner);
                }
                _ => {}
            }
        }
        let mut found: Vec<String> = turn.facts.iter().filter_map(|fact| self.said(fact)).collect();
        if self.leader != turn.id.leader {
            self.leader = turn.id.leader;
            self.due.clear();
        }
        if self.look_at <= turn.at {
            self.look_at = turn.at + LOOK_EVERY;
            found.extend(self.look(turn.at));
        }
        found
    }

    fn said(&mut self, fact: &Fact) -> Option<String> {
        match fact {
            Fact::Reserved { task, runner, fits_by } => {
                self.kept.insert(task.clone(), Kept { runner: runner.clone(), fits_by: *fits_by });
                let (kept, most) = (self.kept.len(), self.most(true));
                return (kept > most).then(|| format!("{kept} runners are kept, and at most {most} may be"));
            }
            Fact::ReservationOver { task, .. } => drop(self.kept.remove(task)),
            Fact::QueuePaused { queue } => drop(self.paused.insert(queue.clone())),
            Fact::QueueUnpaused { queue } => drop(self.paused.remove(queue)),
            Fact::PoolPaused => self.pool_paused = true,
            Fact::PoolUnpaused => self.pool_paused = false,
            Fact::Task(event) => return self.entered(event),
            _ => {}
        }
        None
    }

    fn is_ready(runner: &Runner) -> bool {
        runner.state() == RunnerState::Ready
    }

    /// Whether it is a subscription, of which nothing is kept.
    fn is_pulled(runner: &Runner) -> bool {
        runner.pull.is_some()
    }

    /// How many runners may be kept. A subscription counts while somebody asks, which no row says.
    fn most(&self, with_pulled: bool) -> usize {
        let counts =
            |runner: &&Arc<Runner>| Self::is_ready(runner) && (with_pulled || !Self::is_pulled(runner));
        (self.runners.values().filter(counts).count() / 4).max(1)
    }

    fn entered(&mut self, event: &Lifecycle) -> Option<String> {
        if event.state == LifecycleState::Ended {
            self.open.remove(&event.id);
            return None;
        }
        let found = (event.state == LifecycleState::Assigned).then(|| self.in_the_way(event)).flatten();
        let task = self.submitted.get(&event.id)?.clone();
        let since = task.limits.not_before.map_or(event.at, |at| at.max(event.at));
        let place = self.admitted;
        let course = self.open.entry(event.id.clone()).or_insert_with(|| {
            self.admitted += 1;
            Course { task, place, since, with: None, was_placed: false }
        });
        match event.state {
            LifecycleState::Pending => course.with = None,
            _ => {
                course.was_placed = true;
                let assigned = course.with.as_ref().map_or(event.at, |(_, at)| *at);
                course.with = event.runner.clone().map(|runner| (runner, assigned));
            }
        }
        found
    }

    /// What starts on a runner that is kept for another, and would still be in its way.
    fn in_the_way(&self, event: &Lifecycle) -> Option<String> {
        let runner = event.runner.as_ref()?;
        let (keeper, kept) =
            self.kept.iter().find(|(task, kept)| kept.runner == *runner && **task != event.id)?;
        let (keeper, late) = (self.open.get(keeper)?, self.open.get(&event.id)?);
        let goes_before = late.place < keeper.place
            || (self.settings.order == Order::Priority && late.task.priority > keeper.task.priority);
        if goes_before || late.task.build.is_some() {
            return None;
        }
        let passes = kept.fits_by.is_some_and(|fits_by| {
            let ends = late.task.limits.timeout.map(|timeout| event.at + timeout);
            ends.is_some_and(|end| end <= fits_by) || self.leaves_room(runner, keeper, late, fits_by)
        });
        let (late, keeper) = (&late.task.id, &keeper.task.id);
        (!passes).then(|| format!("{late} starts on {runner}, which is kept for {keeper}"))
    }

    fn leaves_room(&self, runner: &RunnerId, keeper: &Course, late: &Course, fits_by: Time) -> bool {
        let Some(offer) = self.runners.get(runner).map(|runner| &runner.offer) else { return false };
        let stays = |course: &&Course| {
            let (Some((with, since)), timeout) = (&course.with, course.task.limits.timeout) else {
                return false;
            };
            with == runner && timeout.is_none_or(|timeout| *since + timeout > fits_by)
        };
        let mut used = Resources::default();
        let mut slots = 0;
        for course in self.open.values().filter(stays).chain([late, keeper]) {
            used.add(&course.task.shape.resources);
            slots += 1;
        }
        slots <= offer.slots && offer.resources.as_ref().is_none_or(|has| used.within(has))
    }

    /// Looks for jobs that have waited too long while a runner could be kept for them.
    fn look(&mut self, now: Time) -> Vec<String> {
        let missing: Vec<TaskId> = self
            .open
            .values()
            .filter(|course| self.is_due(course, now))
            .map(|course| course.task.id.clone())
            .collect();
        self.due.retain(|task, _| missing.contains(task));
        let mut found = Vec::new();
        for task in missing {
            let (since, looks) = self.due.entry(task.clone()).or_insert((now, 0));
            *looks += 1;
            if now > *since + KEPT_WITHIN && *looks > KEPT_WITHIN_LOOKS {
                found.push(format!("no runner has been kept for {task} since {since}"));
            }
        }
        found
    }

    /// Whether a runner should be kept for a job that nothing but room has ever been in the way of.
    fn is_due(&self, course: &Course, now: Time) -> bool {
        let shape = &course.task.shape;
        let waits_for_room = course.with.is_none()
            && !course.was_placed
            && shape.kind == Kind::Job
            && shape.group.is_none()
            && course.task.build.is_none()
            && !self.settings.locality.contains_key(&shape.queue)
            && !self.pool_paused
            && !self.paused.contains(&shape.queue);
        let of_its_shape =
            |task: &TaskId| self.open.get(task).is_some_and(|other| other.task.shape == *shape);
        let could_be_kept = |runner: &Runner| {
            Self::is_ready(runner)
                && !Self::is_pulled(runner)
                && could_run(&runner.offer, &course.task)
                && !self.kept.values().any(|kept| kept.runner == runner.id)
        };
        let is_pulled =
            |runner: &Arc<Runner>| Self::is_pulled(runner) && runner.offer.queues.contains(&shape.queue);
        waits_for_room
            && !self.runners.values().any(is_pulled)
            && course.since + self.settings.reserve_after <= now
            && self.kept.len() < self.most(false)
            && !self.kept.keys().any(of_its_shape)
            && self.runners.values().any(|runner| could_be_kept(runner))
    }
}
