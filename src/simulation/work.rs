//! The work itself: it begins, it writes down when it began and stopped, and it ends.
//!
//! Law: the marks the checkers read are written here, at the world's true time, and nowhere else. A build ends
//! only when every job it submitted from inside has ended, as far as it can read.

use std::sync::Arc;
use std::time::Duration;

use super::runners::RunnerSide;
use super::schedule::Event;
use super::world::World;
use crate::model::{AssignmentMessage, AttemptOutcome, End, Held, Kind, RunnerId, TaskId, WorkOrder};
use crate::runner::session::Input as Word;

/// One attempt in the hands of its runner's back end.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub kind: Kind,
    pub order: Arc<WorkOrder>,
    pub executes: bool,
    /// The end that is planned: others before it are void.
    planned: u64,
    ends_at: Option<u64>,
    outcome: AttemptOutcome,
    /// It is ended without grace.
    over: bool,
    /// The jobs a build waits for.
    jobs: Vec<TaskId>,
}

impl RunnerSide {
    /// What executes here.
    pub fn executing(&self) -> impl Iterator<Item = Held> {
        self.work.iter().filter(|(_, work)| work.executes).map(|(held, _)| held.clone())
    }
}

impl World {
    fn work(&mut self, runner: &RunnerId, held: &Held) -> Option<&mut Work> {
        self.runners.get_mut(runner)?.work.get_mut(held)
    }

    pub(super) fn start_work(
        &mut self,
        id: &RunnerId,
        assignment: &AssignmentMessage,
        order: &Arc<WorkOrder>,
    ) {
        let held = Held { id: assignment.id.clone(), token: assignment.token };
        let work = Work {
            kind: assignment.kind,
            order: order.clone(),
            executes: false,
            planned: 0,
            ends_at: None,
            outcome: AttemptOutcome::Succeeded,
            over: false,
            jobs: Vec::new(),
        };
        let now = self.now;
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        runner.work.insert(held.clone(), work);
        self.checkers.work_taken(&held);
        let incarnation = runner.incarnation;
        let at = now + self.random.between(5, 200);
        self.schedule.put(at, Event::WorkBegins { runner: id.clone(), incarnation, held });
    }

    pub(super) fn work_begins(&mut self, id: &RunnerId, held: &Held) {
        let now = self.now;
        let failed = self.random.chance(self.faults.start_failed);
        let refused = self.random.chance(self.faults.refused);
        // A stop that is quicker than the start leaves nothing to begin.
        let Some(work) = self.work(id, held).filter(|work| work.ends_at.is_none()) else { return };
        if failed || refused {
            work.outcome = if refused { AttemptOutcome::Refused } else { AttemptOutcome::StartFailed };
            self.statistics.starts_failed += 1;
            return self.finish_work(id, held);
        }
        work.executes = true;
        let work = work.clone();
        self.statistics.started += 1;
        self.checkers.work_began(now, id, held, &work);
        self.tell(|| format!("{} under {} begins on {id}", held.id, held.token));
        let plan = self.plans.get(&held.id);
        let jobs = plan.map(|plan| plan.jobs.clone()).unwrap_or_default();
        let endless = plan.is_some_and(|plan| plan.endless);
        let span = self.random.between(50, self.options.longest_work);
        let timeout = work.order.timeout.map(|span| u64::try_from(span.as_millis()).expect("a few seconds"));
        let span = timeout.map_or(span, |timeout| span.min(timeout));
        let fails = self.random.chance(self.faults.work_failed);
        let incarnation = self.runners[id].incarnation;
        let work = self.work(id, held).expect("it just began");
        work.outcome = if fails { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded };
        if work.kind == Kind::Build {
            work.jobs.clone_from(&jobs);
            for job in jobs {
                self.submit_from_inside(id, held, &job);
            }
            let (runner, held) = (id.clone(), held.clone());
            self.schedule.put(now + span.min(1_000), Event::BuildLooks { runner, incarnation, held });
        } else if !endless {
            self.plan_end(id, held, now + span);
        }
        self.hear(id, Word::Started(held.clone()));
    }

    fn plan_end(&mut self, id: &RunnerId, held: &Held, at: u64) {
        let incarnation = self.runners[id].incarnation;
        let Some(work) = self.work(id, held) else { return };
        if work.ends_at.is_some_and(|before| before <= at) {
            return;
        }
        work.ends_at = Some(at);
        work.planned += 1;
        let order = work.planned;
        let (runner, held) = (id.clone(), held.clone());
        self.schedule.put(at, Event::WorkEnds { runner, incarnation, held, order });
    }

    /// A build looks whether its jobs have ended, and ends if so.
    pub(super) fn build_looks(&mut self, id: &RunnerId, held: &Held) {
        let now = self.now;
        let Some(work) = self.work(id, held).filter(|work| work.executes) else { return };
        if work.ends_at.is_some() {
            return;
        }
        let jobs = work.jobs.clone();
        let replica = self.random.place(self.dispatchers.len());
        let shown = self.dispatchers[replica].shows();
        let ended = |job: &TaskId| {
            shown.is_some_and(|state| state.task(job.as_str()).is_some_and(|task| task.is_ended()))
        };
        if jobs.iter().all(ended) {
            return self.plan_end(id, held, now + 1);
        }
        let incarnation = self.runners[id].incarnation;
        let (runner, held) = (id.clone(), held.clone());
        self.schedule.put(now + 700, Event::BuildLooks { runner, incarnation, held });
    }

    /// Whether this attempt executes at the moment.
    pub(super) fn is_at_work(&self, runner: &RunnerId, held: &Held) -> bool {
        let work = self.runners.get(runner).and_then(|runner| runner.work.get(held));
        work.is_some_and(|work| work.executes)
    }

    pub(super) fn stop_work(&mut self, id: &RunnerId, held: &Held, grace: Duration) {
        let grace = u64::try_from(grace.as_millis()).expect("a few seconds");
        let after = match grace {
            // Whoever wakes from standing still ends what is over before anything goes on.
            0 if self.thawing => return self.stop_now(id, held),
            0 => self.random.below(800),
            _ if self.random.chance(800) => self.random.below(grace.min(1_500)),
            _ => grace,
        };
        let at = self.now + after;
        let Some(work) = self.work(id, held) else { return };
        work.over |= grace == 0;
        if work.ends_at.is_none_or(|before| at < before) {
            work.outcome = AttemptOutcome::Cancelled;
        }
        self.plan_end(id, held, at);
    }

    /// A machine that wakes has ended what it was about to end at once, before anything goes on.
    pub(super) fn stop_what_is_over(&mut self, id: &RunnerId) {
        let over = self.runners[id].work.iter().filter(|(_, work)| work.over && work.executes);
        let over: Vec<Held> = over.map(|(held, _)| held.clone()).collect();
        for held in over {
            self.stop_now(id, &held);
        }
    }

    fn stop_now(&mut self, id: &RunnerId, held: &Held) {
        let Some(work) = self.work(id, held) else { return };
        work.executes = false;
        work.outcome = AttemptOutcome::Cancelled;
        work.ends_at = None;
        self.plan_end(id, held, self.now);
    }

    pub(super) fn work_ends(&mut self, id: &RunnerId, held: &Held, order: u64) {
        if self.work(id, held).is_some_and(|work| work.planned == order) {
            self.finish_work(id, held);
        }
    }

    fn finish_work(&mut self, id: &RunnerId, held: &Held) {
        let runner = self.runners.get_mut(id).expect("a runner of this world");
        let Some(work) = runner.work.remove(held) else { return };
        let outcome = work.outcome;
        self.checkers.work_ended(held, outcome);
        if work.executes {
            self.checkers.work_stopped(self.now, id, held, Some(outcome));
            let made = work.order.output.as_ref().filter(|_| outcome == AttemptOutcome::Succeeded);
            made.into_iter().for_each(|artifact| self.checkers.holds(id, artifact));
        }
        self.tell(|| format!("{} under {} ends on {id}: {}", held.id, held.token, outcome.as_str()));
        let exit_code = match outcome {
            AttemptOutcome::Succeeded => Some(0),
            AttemptOutcome::Failed => Some(1),
            _ => None,
        };
        self.hear(
            id,
            Word::Ended {
                held: held.clone(),
                end: End { outcome, exit_code, message: None, artifacts: Vec::new() },
            },
        );
    }
}
