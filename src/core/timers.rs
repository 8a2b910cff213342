//! What time alone brings about, and what is worked off over several turns.
//!
//! Law: everything here follows from the rows and log time, so a successor goes on where the last leader stopped.

use std::sync::Arc;

use super::commands::ask_to_cancel;
use super::draft::Draft;
use super::state::State;
use super::{admission, builds, group, intent, lease, locality, planner, pull, reservation, verdict};
use crate::model::{ClassId, Fact, Key, Outcome, TaskId, TaskState, Time};

/// How many tombstones one turn forgets.
const FORGET_AT_ONCE: usize = 1_000;

/// Does everything that is due, as far as the budget goes.
pub(super) fn run(draft: &mut Draft) {
    lease::end_leases(draft);
    pull::end_leases(draft);
    pull::release_forgotten(draft);
    pull::work_off_ended(draft);
    lease::take_from_suspects(draft);
    lease::work_off_lost(draft);
    locality::take_in_news(draft);
    locality::forget_absent(draft);
    locality::end_vain_waits(draft);
    locality::begin_waits(draft);
    admission::end_jobs_beyond(draft);
    work_off_builds(draft);
    end_deadlines(draft);
    settle(draft);
    // Before anybody is judged: what is forgotten will not come back for what waits.
    forget_runners(draft);
    verdict::judge(draft);
    verdict::end_impatient(draft);
    ask_again(draft);
    forget_ended(draft);
    group::work_off(draft);
    if draft.state.families.next_to_work_off().is_some() {
        draft.more();
    }
    intent::expire(draft);
    builds::watch_rule(draft);
    reservation::review(draft);
    if draft.state.watch.sweep_at <= draft.now {
        draft.state.watch.sweep_at = draft.now + draft.state.settings.sweep;
        draft.state.intern.sweep();
        draft.state.backlog.sweep();
        draft.state.ladder.sweep();
        planner::sweep(draft);
    }
}

/// Ends the jobs of builds that have ended or are being cancelled.
fn work_off_builds(draft: &mut Draft) {
    while let Some((build, job)) = draft.state.families.next_to_work_off() {
        let reason: Arc<str> = format!("its build {build} has ended").into();
        let job = draft.task(job).expect("a family names only jobs that are there");
        if draft.is_full() {
            draft.more();
            return;
        }
        if job.is_pending() {
            draft.end_undone(&job, Outcome::Cancelled, &reason);
        } else {
            ask_to_cancel(draft, &job, &reason);
        }
    }
}

/// Ends what expired, and asks back what was not confirmed in time.
fn end_deadlines(draft: &mut Draft) {
    while let Some((at, sequence)) = draft.state.deadlines.first().copied() {
        if at > draft.now {
            return;
        }
        if draft.is_full() {
            draft.more();
            return;
        }
        let task = draft.state.shelves().live(sequence).cloned();
        let task = task.expect("only tasks that are there and live have a deadline");
        if task.is_pending() {
            let span = task.limits.expires_in.unwrap_or_default();
            let reason = format!("not placed within {}", crate::model::time::format_span(span));
            draft.end_undone(&task, Outcome::Expired, &reason);
        } else {
            lease::ask_back(draft, &task);
        }
    }
}

/// Ends the settling when its time is over or every runner known at the start has reported.
fn settle(draft: &mut Draft) {
    let watch = &mut draft.state.watch;
    let Some(until) = watch.settle_until else { return };
    let all_here = watch.unheard.is_empty() && !draft.state.fleet.is_empty();
    if until <= draft.now || all_here {
        watch.settle_until = None;
        watch.judge.all = true;
    }
}

/// Lets runners be asked again that refused a task.
fn ask_again(draft: &mut Draft) {
    while let Some((at, task, runner)) = draft.state.watch.refusal_ends.first().cloned() {
        if at > draft.now {
            return;
        }
        draft.state.watch.refusal_ends.remove(&(at, task, runner.clone()));
        draft.state.wakes.runner(&runner, super::wake::Wake::RefusalOver);
    }
}

/// Forgets runners and classes that have been away for `class_memory`.
fn forget_runners(draft: &mut Draft) {
    let memory = draft.state.settings.class_memory;
    while let Some((since, runner)) = draft.state.lost.first().cloned() {
        let empty = draft.state.fleet().get(&runner).is_none_or(|seat| seat.tasks.is_empty());
        if since + memory > draft.now || !empty {
            break;
        }
        if draft.is_full() {
            return draft.more();
        }
        draft.delete(Key::Runner(runner.clone()));
        draft.fact(Fact::RunnerForgotten { runner });
        draft.state.watch.judge.all = true;
    }
    let gone: Vec<ClassId> = draft
        .state
        .classes()
        .filter(|class| class.last_seen + memory <= draft.now)
        .map(|class| class.id.clone())
        .collect();
    for class in gone {
        draft.delete(Key::Class(class.clone()));
        draft.fact(Fact::ClassForgotten { class });
        draft.state.watch.judge.all = true;
    }
}

/// Forgets tombstones that are old, or too many. A build's outlives its jobs.
fn forget_ended(draft: &mut Draft) {
    let settings = draft.state.settings.clone();
    let excess = draft.state.ended.len().saturating_sub(settings.keep_ended_tasks);
    let old = |at: Time| at + settings.keep_ended <= draft.now;
    let due: Vec<TaskId> = draft
        .state
        .ended
        .iter()
        .enumerate()
        .take_while(|(place, ((at, _), _))| *place < excess || old(*at))
        .map(|(_, (_, id))| id.clone())
        .filter(|id| !draft.state.families.has_live(id))
        .take(FORGET_AT_ONCE)
        .collect();
    if due.len() == FORGET_AT_ONCE {
        draft.more();
    }
    for id in due {
        if draft.is_full() {
            return draft.more();
        }
        draft.delete(Key::Task(id.clone()));
        if draft.state.body(id.as_str()).is_some() {
            draft.delete(Key::Spec(id));
        }
    }
    let old = |at: Time| at + settings.keep_ended <= draft.now;
    let cancels: Vec<_> = draft
        .state
        .early_cancels
        .values()
        .filter(|cancel| old(cancel.at))
        .map(|cancel| cancel.id.clone())
        .collect();
    for id in cancels {
        if draft.is_full() {
            return draft.more();
        }
        draft.delete(Key::EarlyCancel(id));
    }
}

impl State {
    /// When time alone will next bring something about; never later than the next sweep.
    pub fn next_due(&self) -> Time {
        let settings = &self.settings;
        let class = self.classes().map(|class| class.last_seen + settings.class_memory).min();
        [
            Some(self.watch.sweep_at),
            self.delayed.first().map(|(at, _)| *at),
            self.ladder.next_end().map(|(at, _)| at),
            self.deadlines.first().map(|(at, ..)| *at),
            self.ended.keys().next().map(|(at, _)| *at + settings.keep_ended),
            self.lost.first().map(|(at, _)| *at + settings.class_memory),
            class,
            self.watch.lease_ends.first().map(|(at, _)| *at),
            self.watch.task_leases.next_end(),
            self.watch.refusal_ends.first().map(|(at, ..)| *at),
            self.watch.unplaceable.first().map(|(at, _)| *at),
            self.watch.settle_until,
            self.watch.considered.next_due(self.now),
            self.intents.first_due().map(|(at, _)| *at),
            self.next_ask(),
            self.pool.unsafe_since.map(|since| since + settings.unsafe_grace),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.watch.sweep_at)
        .min(self.watch.sweep_at)
    }
}

/// Whether a task waits for its time.
pub(super) fn waits_until(state: &State, task: &crate::model::Task) -> Option<Time> {
    match &task.state {
        TaskState::Pending { not_before: Some(at), .. } if *at > state.now() => Some(*at),
        _ => None,
    }
}
