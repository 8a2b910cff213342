//! Leases and what is taken from runners.
//!
//! Law: nothing is taken from a runner — because its lease is over, it left, it restarted, or it stopped listing
//! a task — before the reports that had arrived when the cause arose were read: finished work whose report is on
//! its way is not lost work. An unconfirmed assignment is asked back past its deadline and stays where it is
//! until the runner answers or its lease is over.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::attempt;
use super::blame;
use super::draft::Draft;
use super::pull;
use super::registration::{remember_class, suspect, tasks_of};
use super::state::State;
use super::watch::Cause;
use crate::model::{
    Fact, Key, Kind, Outcome, Runner, RunnerId, Standing, Stop, StopCause, Task, TaskId, TaskState, Time,
};

impl State {
    /// Makes this the state of a leader: every lease in full, nobody judged until the fleet has shown itself,
    /// everything looked at once.
    pub fn take_over(&mut self, now: Time) {
        self.advance(now);
        let now = self.now();
        self.watch = Default::default();
        self.fleet.nobody_asks();
        // A mark asked for in an earlier leadership may still come back: it reaches none of this one.
        self.watch.marks = self.turn << 20;
        self.watch.leading = true;
        self.watch.took_over = now;
        self.watch.sweep_at = now + self.settings.sweep;
        self.watch.rule_changed = true;
        self.watch.groups_forgotten = true;
        self.watch.judge.all = true;
        let present: Vec<RunnerId> = self
            .fleet()
            .seats()
            .filter(|seat| seat.runner.lost.is_none() && !seat.runner.is_unregistered())
            .map(|seat| seat.runner.id.clone())
            .collect();
        if !self.settings.classes_complete {
            self.watch.settle_until = Some(now + self.settings.settle);
        }
        let lease = if self.settings.guards.rearm_leases {
            self.settings.lease + self.settings.lease_margin
        } else {
            Default::default()
        };
        for runner in present {
            self.watch.arm(&runner, now + lease);
            self.watch.unheard.insert(runner);
        }
        self.arm_pullers(now);
        self.watch.losing = self
            .fleet()
            .seats()
            .filter(|seat| seat.runner.lost.is_some() && !seat.tasks.is_empty())
            .map(|seat| (seat.runner.id.clone(), Arc::from("its runner is lost")))
            .collect();
        let waiting = self.ladder.waiting_for_cache();
        let outputs = waiting.filter_map(|task| task.artifacts.as_ref()?.output.clone());
        self.watch.fewer_holders = outputs.collect();
        let builds = self.tasks().filter(|task| task.kind() == Kind::Build && !task.is_ended());
        self.watch.beyond = builds.map(|build| build.id.clone()).collect();
        self.review_reservations();
        self.wakes.everything(super::wake::Wake::Everything);
    }
}

/// Suspects the runners whose lease is over.
pub(super) fn end_leases(draft: &mut Draft) {
    while let Some((until, runner)) = draft.state.watch.lease_ends.first().cloned() {
        if until > draft.now || !draft.state.settings.guards.leases_end {
            return;
        }
        draft.state.watch.disarm(&runner);
        if draft.state.runner(&runner).is_some_and(|row| row.is_unregistered()) {
            pull::forget(draft, &runner);
        } else if !draft.state.watch.suspicions.contains_key(&runner) {
            suspect(draft, &runner, Cause::LeaseOver);
        }
    }
}

/// Takes what the suspicions and omissions say, where the reports were read past them.
pub(super) fn take_from_suspects(draft: &mut Draft) {
    let read =
        if draft.state.settings.guards.read_reports_first { draft.state.watch.marks_read } else { u64::MAX };
    let due: Vec<RunnerId> = draft
        .state
        .watch
        .suspicions
        .iter()
        .filter(|(_, suspicion)| suspicion.mark <= read)
        .map(|(runner, _)| runner.clone())
        .collect();
    for runner in due {
        if draft.is_full() {
            return draft.more();
        }
        let mut suspicion = draft.state.watch.suspicions.remove(&runner).expect("it was just listed");
        if !take_what_it_says(draft, &runner, &mut suspicion.cause) {
            draft.state.watch.suspicions.insert(runner, suspicion);
            return draft.more();
        }
    }
    let forgotten: Vec<(RunnerId, TaskId)> = draft
        .state
        .watch
        .omissions
        .iter()
        .filter(|(_, omission)| omission.beats >= 2 && omission.mark <= read)
        .map(|(key, _)| key.clone())
        .collect();
    for (runner, id) in forgotten {
        if draft.is_full() {
            return draft.more();
        }
        draft.state.watch.omissions.remove(&(runner.clone(), id.clone()));
        let held_there = |task: &Arc<Task>| task.assignment().is_some_and(|held| held.runner == runner);
        if let Some(task) = draft.task(&id).filter(held_there) {
            attempt::lose(draft, &task, &format!("{runner} does not list it any more"));
        }
    }
}

/// Takes from a runner what a cause says; false if the turn was full before all was taken. What was taken is
/// found no more the next time.
fn take_what_it_says(draft: &mut Draft, runner: &RunnerId, cause: &mut Cause) -> bool {
    match cause {
        Cause::LeaseOver => {
            lose_runner(draft, runner);
            true
        }
        Cause::Left { handback } => {
            let lost = |draft: &mut Draft, task: &Arc<Task>| {
                attempt::lose(draft, task, "its runner left without handing it back");
            };
            let all =
                hand_back_all(draft, runner, handback) && for_each_task(draft, tasks_of(draft, runner), lost);
            if all {
                say_goodbye(draft, runner);
            }
            all
        }
        Cause::Restarted { unlisted, handback, blamed } => {
            if !hand_back_all(draft, runner, handback) {
                return false;
            }
            let gone = gone_with_predecessor(draft, runner, unlisted);
            if !std::mem::replace(blamed, true) {
                blame_crash(draft, runner, &gone);
            }
            let lost = |draft: &mut Draft, task: &Arc<Task>| {
                attempt::lose(draft, task, &format!("{runner} restarted without it"));
            };
            for_each_task(draft, gone, lost)
        }
    }
}

/// Does something to each task as long as the turn is not full; false if it was before the last.
fn for_each_task(
    draft: &mut Draft,
    tasks: Vec<Arc<Task>>,
    mut take: impl FnMut(&mut Draft, &Arc<Task>),
) -> bool {
    for task in tasks {
        if draft.is_full() {
            return false;
        }
        // What was done to another may have ended it.
        if let Some(task) = draft.task(&task.id) {
            take(draft, &task);
        }
    }
    true
}

fn hand_back_all(draft: &mut Draft, runner: &RunnerId, handback: &BTreeSet<TaskId>) -> bool {
    let tasks = handback.iter().filter_map(|id| draft.task(id)).collect();
    for_each_task(draft, tasks, |draft, task| hand_back(draft, runner, task))
}

fn hand_back(draft: &mut Draft, runner: &RunnerId, task: &Arc<Task>) {
    let Some(held) = task.assignment().filter(|held| held.runner == *runner) else { return };
    match &held.stop {
        Some(stop) if stop.cause == StopCause::Cancelled => {
            let reason = stop.reason.clone();
            draft.end_undone(task, Outcome::Cancelled, &reason);
        }
        _ => draft.return_task(task, &format!("handed back by {runner}, which left"), None),
    }
}

fn gone_with_predecessor(draft: &Draft, runner: &RunnerId, unlisted: &BTreeSet<TaskId>) -> Vec<Arc<Task>> {
    let incarnation = draft.runner(runner).map(|row| row.incarnation.clone());
    let gone = |task: &Arc<Task>| {
        let held = task.assignment().filter(|held| held.runner == *runner);
        held.is_some_and(|held| Some(&held.incarnation) != incarnation.as_ref())
    };
    unlisted.iter().filter_map(|id| draft.task(id)).filter(gone).collect()
}

fn blame_crash(draft: &mut Draft, runner: &RunnerId, gone: &[Arc<Task>]) {
    let running = gone.iter().filter(|task| matches!(task.state, TaskState::Running(_)));
    let started: Vec<TaskId> = running.map(|task| task.id.clone()).collect();
    if !started.is_empty() {
        blame::lost(draft, runner);
        blame::crashed(draft, runner, &started);
    }
}

/// A runner's lease is over: it is lost, and its tasks are worked off.
fn lose_runner(draft: &mut Draft, runner: &RunnerId) {
    let Some(row) = draft.runner(runner).filter(|row| row.lost.is_none()) else { return };
    let mut lost = Runner::clone(&row);
    lost.lost = Some(draft.now);
    // It may come back, and its place in its group may be another's by then.
    lost.pull = None;
    draft.put_runner(lost);
    let tasks = tasks_of(draft, runner).len();
    let lease = crate::model::time::format_span(draft.state.settings.lease);
    let reason: Arc<str> = format!("not heard of for longer than its lease of {lease}").into();
    draft.fact(Fact::RunnerLost { runner: runner.clone(), reason, tasks: tasks as u64 });
    if tasks > 0 {
        blame::lost(draft, runner);
        draft.state.watch.losing.insert(runner.clone(), format!("its runner {runner} is lost").into());
    }
}

/// Works off the tasks of lost runners, as far as the budget goes.
pub(super) fn work_off_lost(draft: &mut Draft) {
    while let Some((runner, reason)) = draft.state.watch.losing.first_key_value() {
        let (runner, reason) = (runner.clone(), reason.clone());
        let seat = draft.state.fleet().get(&runner);
        let Some((_, task)) = seat.and_then(|seat| seat.tasks.first_key_value()) else {
            draft.state.watch.losing.remove(&runner);
            continue;
        };
        if draft.is_full() {
            draft.more();
            return;
        }
        attempt::lose(draft, &task.clone(), &reason);
    }
}

/// Takes a runner's row out; what kind of runner it was is remembered. A hold outlives a leave.
fn say_goodbye(draft: &mut Draft, runner: &RunnerId) {
    let Some(row) = draft.runner(runner) else { return };
    draft.state.watch.disarm(runner);
    draft.state.watch.unheard.remove(runner);
    draft.state.watch.newest_beats.remove(runner);
    draft.fact(Fact::RunnerLeft { runner: runner.clone() });
    if matches!(row.standing, Standing::Held { .. }) {
        let mut away = Runner::clone(&row);
        away.lost = Some(draft.now);
        draft.put_runner(away);
        return;
    }
    remember_class(draft, &row.offer);
    draft.delete(Key::Runner(runner.clone()));
}

/// Asks an unconfirmed assignment back, past its deadline.
pub(super) fn ask_back(draft: &mut Draft, task: &Arc<Task>) {
    if !draft.state.settings.guards.ask_back {
        draft.return_task(task, "it was not confirmed in time", None);
        return;
    }
    let mut asked = Task::clone(task);
    let TaskState::Assigned(held) = &mut asked.state else { return };
    let waited = crate::model::time::format_span(draft.state.settings.assignment_deadline);
    let reason: Arc<str> = format!("{} did not confirm it within {waited}", held.runner).into();
    held.stop = Some(Box::new(Stop { cause: StopCause::AskedBack, reason: reason.clone(), at: draft.now }));
    let (runner, token) = (held.runner.clone(), held.token);
    draft.fact(Fact::StopAsked { id: task.id.clone(), runner: runner.clone(), token, reason });
    draft.put_task_quietly(asked);
    draft.deliver(&runner);
}
