//! The pace: whatever can be done about a job is done within a bound.
//!
//! Progress is a task entering a state, as the facts of committed turns say. At every look this checker computes
//! for each open job which step is due with it. Law: no step is due for longer than the bound while neither a
//! turn nor the world changes anything about the job. So no span of the bound is without progress in which there
//! could have been any, and no job is passed over while others move.
//!
//! Nothing is due only: while the table refuses or nobody leads; before a job's time, or the back-off of a failed
//! attempt, and before its waits for runners that hold something of it are over; while no runner that may be given work has room for it; with a runner that hears nothing and has not
//! heard of it. A runner that is gone, and work that runs, excuse nothing: in a world that is judged, a lease
//! with its margin, the longest work and an unanswered registration are each shorter than the bound.
//!
//! Reads what reached the inbox, the facts, the marks of the work and how machines truly are; never a row.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::super::producers::could_run;
use crate::core::Settings;
use crate::model::{
    AttemptOutcome, Fact, Held, IfUnplaceable, Lifecycle, LifecycleState, NewTask, Offer, Resources,
    RunnerId, TaskId, Time,
};

/// How a machine truly is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Well,
    /// It hears nothing, and is heard.
    Deaf,
    /// Nothing it says arrives: it is down, stands still or is mute.
    Silent,
}

/// What a machine truly has of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hand {
    Nothing,
    Begins,
    Executes,
    /// It has ended, and its end is still to be taken.
    Ended,
}

/// A machine at one moment.
#[derive(Debug)]
pub(crate) struct Machine {
    pub condition: Condition,
    pub has: BTreeMap<Held, Hand>,
}

/// The world at one moment.
#[derive(Debug)]
pub(crate) struct Scene {
    pub now: u64,
    /// Log time where a turn can be committed; nothing while none can.
    pub log_now: Option<Time>,
    pub machines: BTreeMap<RunnerId, Machine>,
}

/// What is to be done with a job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Admit,
    Cancel,
    Expire,
    Reject,
    Place,
    /// It was given to a runner: it begins, says so, ends, or is taken back.
    Attempt(Condition, Hand),
}

/// Where a job stands, as the facts say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stands {
    /// Its submission is in the inbox.
    Submitted,
    Pending,
    With(RunnerId, Held),
}

/// An open job.
#[derive(Debug)]
struct Course {
    task: Arc<NewTask>,
    stands: Stands,
    admitted: Time,
    /// A cancel reached the inbox after it.
    cancelled: bool,
    /// Attempts that reached a machine: no more than these can have been spent.
    taken: u32,
    /// Attempts whose work failed.
    failed: u32,
    last_end: Option<(Held, AttemptOutcome)>,
    /// Its own time, or the end of its back-off.
    not_before: Time,
    /// The step that is due, and since when.
    due: Option<(u64, Step)>,
}

impl Course {
    /// When any runner may have it at the latest.
    fn open_at(&self, settings: &Settings) -> Time {
        let waits = settings.locality.get(&self.task.shape.queue);
        let waited = waits.map_or(self.admitted, |waits| {
            let began = self.task.limits.not_before.unwrap_or_default().max(self.admitted);
            began + waits.cache_wait + waits.deps_wait
        });
        waited.max(self.not_before)
    }
}

/// What was said of a runner.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    here: bool,
    held: bool,
}

/// Every open job, and which step is due with it.
#[derive(Debug)]
pub(super) struct Pace {
    settings: Arc<Settings>,
    offers: BTreeMap<RunnerId, Offer>,
    runners: BTreeMap<RunnerId, Said>,
    open: BTreeMap<TaskId, Course>,
    ended: BTreeSet<TaskId>,
}

impl Pace {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            offers: BTreeMap::new(),
            runners: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    pub fn has_runner(&mut self, runner: &RunnerId, offer: &Offer) {
        self.offers.insert(runner.clone(), offer.clone());
    }

    /// A submission reached the inbox.
    pub fn submitted(&mut self, task: &Arc<NewTask>) {
        if self.ended.contains(&task.id) || self.open.contains_key(&task.id) {
            return;
        }
        let course = Course {
            task: task.clone(),
            stands: Stands::Submitted,
            admitted: Time(0),
            cancelled: false,
            taken: 0,
            failed: 0,
            last_end: None,
            not_before: task.limits.not_before.unwrap_or_default(),
            due: None,
        };
        self.open.insert(task.id.clone(), course);
    }

    /// A cancel reached the inbox.
    pub fn cancelled(&mut self, id: &TaskId) {
        if let Some(course) = self.open.get_mut(id) {
            course.cancelled = true;
        }
    }

    /// An attempt reached its machine.
    pub fn taken(&mut self, held: &Held) {
        if let Some(course) = self.open.get_mut(&held.id) {
            course.taken += 1;
        }
    }

    /// An attempt ended on its machine.
    pub fn attempt_ended(&mut self, held: &Held, how: AttemptOutcome) {
        if let Some(course) = self.open.get_mut(&held.id) {
            course.failed += u32::from(how == AttemptOutcome::Failed);
            course.last_end = Some((held.clone(), how));
        }
    }

    /// Takes in a fact of a committed turn.
    pub fn said(&mut self, fact: &Fact) {
        match fact {
            Fact::Task(lifecycle) => self.entered(lifecycle),
            Fact::RunnerRegistered { runner, .. } => self.runner(runner).here = true,
            Fact::RunnerLost { runner, .. } | Fact::RunnerLeft { runner } => self.runner(runner).here = false,
            Fact::RunnerHeld { runner, .. } | Fact::RunnerDraining { runner } => {
                self.runner(runner).held = true;
            }
            Fact::RunnerResumed { runner } => self.runner(runner).held = false,
            _ => {}
        }
    }

    fn runner(&mut self, id: &RunnerId) -> &mut Said {
        self.runners.entry(id.clone()).or_default()
    }

    fn entered(&mut self, fact: &Lifecycle) {
        if fact.state == LifecycleState::Ended {
            self.open.remove(&fact.id);
            self.ended.insert(fact.id.clone());
            return;
        }
        let settings = &self.settings;
        let backoff = |times: u32| {
            let doubled = settings.retry_backoff * (1 << (times.clamp(1, 17) - 1));
            doubled.min(settings.retry_backoff_max)
        };
        let Some(course) = self.open.get_mut(&fact.id) else { return };
        course.due = None;
        let before = std::mem::replace(&mut course.stands, Stands::Pending);
        match (before, &fact.runner, fact.token) {
            (_, Some(runner), Some(token)) => {
                course.stands = Stands::With(runner.clone(), Held { id: fact.id.clone(), token });
            }
            (Stands::Submitted, ..) => course.admitted = fact.at,
            (Stands::With(_, held), ..) => match course.last_end.as_ref().filter(|(ended, _)| *ended == held)
            {
                Some((_, AttemptOutcome::StartFailed)) => {
                    course.not_before = fact.at + backoff(course.taken);
                }
                Some((_, AttemptOutcome::Failed)) => course.not_before = fact.at + backoff(course.failed),
                _ => {}
            },
            (Stands::Pending, ..) => {}
        }
    }

    /// Looks which steps are due; says which have been for longer than `within`, in milliseconds.
    pub fn look(&mut self, scene: &Scene, within: u64) -> Vec<String> {
        let room = self.room();
        let due = |course: &Course| self.step(course, scene, scene.log_now?, &room);
        let steps: Vec<Option<Step>> = self.open.values().map(due).collect();
        let mut found = Vec::new();
        for ((id, course), step) in self.open.iter_mut().zip(steps) {
            let same = course.due.filter(|(_, before)| Some(*before) == step);
            course.due = same.or_else(|| step.map(|step| (scene.now, step)));
            if let Some((since, step)) = course.due
                && scene.now - since > within
            {
                found.push(format!("{id} ({}): {step} is due since {since} ms", course.stands));
            }
        }
        found
    }

    fn step(&self, course: &Course, scene: &Scene, log_now: Time, room: &Room) -> Option<Step> {
        match &course.stands {
            Stands::Submitted => Some(Step::Admit),
            Stands::Pending => self.step_of_pending(course, scene, log_now, room),
            Stands::With(runner, held) => {
                let machine = &scene.machines[runner];
                let hand = machine.has.get(held).copied().unwrap_or(Hand::Nothing);
                let never_heard = machine.condition == Condition::Deaf && hand == Hand::Nothing;
                (!never_heard).then_some(Step::Attempt(machine.condition, hand))
            }
        }
    }

    fn step_of_pending(&self, course: &Course, scene: &Scene, log_now: Time, room: &Room) -> Option<Step> {
        let limits = &course.task.limits;
        let waited = |span| course.admitted + span <= log_now;
        if course.cancelled {
            return Some(Step::Cancel);
        }
        if limits.expires_in.is_some_and(waited) {
            return Some(Step::Expire);
        }
        if course.open_at(&self.settings) > log_now {
            return None;
        }
        let able = self.offers.iter().filter(|(_, offer)| could_run(offer, &course.task));
        let able: Vec<&RunnerId> = able.map(|(runner, _)| runner).collect();
        if able.is_empty() {
            let impatient = match limits.if_unplaceable {
                IfUnplaceable::Fail => true,
                IfUnplaceable::Hold => false,
                IfUnplaceable::FailAfter(span) => waited(span),
            };
            // While nobody has registered, nobody knows what there is.
            return (impatient && !self.runners.is_empty()).then_some(Step::Reject);
        }
        let takes = |runner: &&RunnerId| {
            let said = self.runners.get(*runner).copied().unwrap_or_default();
            // A machine that is well and not here is to register.
            let there = said.here || scene.machines[*runner].condition == Condition::Well;
            there && !said.held && room.has(runner, &course.task.shape.resources)
        };
        able.iter().any(takes).then_some(Step::Place)
    }

    /// What each runner has free, as the facts say who was given what.
    fn room(&self) -> Room {
        let free = |offer: &Offer| (offer.slots, offer.resources.clone());
        let mut room =
            Room(self.offers.iter().map(|(runner, offer)| (runner.clone(), free(offer))).collect());
        for course in self.open.values() {
            if let Stands::With(runner, _) = &course.stands {
                room.take(runner, &course.task.shape.resources);
            }
        }
        room
    }
}

/// The slots and resources each runner has free.
#[derive(Debug)]
struct Room(BTreeMap<RunnerId, (u32, Option<Resources>)>);

impl Room {
    fn has(&self, runner: &RunnerId, asked: &Resources) -> bool {
        let (slots, free) = &self.0[runner];
        *slots > 0 && free.as_ref().is_none_or(|free| asked.within(free))
    }

    fn take(&mut self, runner: &RunnerId, given: &Resources) {
        if let Some((slots, free)) = self.0.get_mut(runner) {
            *slots = slots.saturating_sub(1);
            *free = free.as_ref().map(|free| free.left_after(given));
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Admit => f.write_str("it is to be admitted"),
            Step::Cancel => f.write_str("it is to end cancelled"),
            Step::Expire => f.write_str("it is to expire"),
            Step::Reject => f.write_str("it is to be rejected"),
            Step::Place => f.write_str("some runner is to get it"),
            Step::Attempt(condition, hand) => {
                let has = match hand {
                    Hand::Nothing => "has nothing of it",
                    Hand::Begins => "begins it",
                    Hand::Executes => "executes it",
                    Hand::Ended => "has ended it",
                };
                let how = match condition {
                    Condition::Well => "well",
                    Condition::Deaf => "deaf",
                    Condition::Silent => "silent",
                };
                write!(f, "its runner is {how} and {has}")
            }
        }
    }
}

impl fmt::Display for Stands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stands::Submitted => f.write_str("submitted"),
            Stands::Pending => f.write_str("pending"),
            Stands::With(runner, held) => write!(f, "with {runner} under {}", held.token),
        }
    }
}
