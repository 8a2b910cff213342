//! Leases on tasks: what a puller says of the task it has, and what becomes of one it says nothing of.
//!
//! Law: a word counts only under the live token. When a lease ends, the task is taken from its puller: one that was
//! started spends an attempt, as with a runner that is lost. Nothing is on its way that could say otherwise: what
//! pullers say is decided by the leader itself. When a lease ends is the leader's own; a successor arms all in full.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::super::attempt;
use super::super::draft::Draft;
use super::super::input::Commanded;
use super::super::state::State;
use super::give_back;
use crate::model::time::format_span;
use crate::model::{
    Assignment, End, Fact, Id, LeaseId, LeaseWord, Puller, RunnerId, Task, TaskId, TaskState, Time, Token,
};

/// A lease that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Armed {
    until: Time,
    token: Token,
    runner: RunnerId,
    puller: Puller,
}

/// When which lease ends, and who was given what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskLeases {
    by_task: BTreeMap<TaskId, Armed>,
    ends: BTreeSet<(Time, TaskId)>,
    requests: BTreeMap<Uuid, TaskId>,
    names: BTreeSet<(RunnerId, Id, TaskId)>,
}

impl TaskLeases {
    fn arm(&mut self, task: &TaskId, held: &Assignment, until: Time) {
        self.disarm(task);
        let Some(puller) = held.pulled.clone() else { return };
        self.requests.insert(puller.request, task.clone());
        if let Some(name) = &puller.name {
            self.names.insert((held.runner.clone(), name.clone(), task.clone()));
        }
        self.ends.insert((until, task.clone()));
        let armed = Armed { until, token: held.token, runner: held.runner.clone(), puller: *puller };
        self.by_task.insert(task.clone(), armed);
    }

    /// The task's lease is over, or was never armed.
    pub fn disarm(&mut self, task: &TaskId) {
        let Some(Armed { until, runner, puller, .. }) = self.by_task.remove(task) else { return };
        self.ends.remove(&(until, task.clone()));
        self.requests.remove(&puller.request);
        if let Some(name) = puller.name {
            self.names.remove(&(runner, name, task.clone()));
        }
    }

    /// What may have been given to a request, or to whoever asks under a name: the rows say whether it still is.
    pub fn given_to(&self, runner: &RunnerId, name: Option<&Id>, request: Uuid) -> BTreeSet<TaskId> {
        let named = name.map(|name| {
            let from = (runner.clone(), name.clone(), smallest());
            self.names.range(from..).take_while(move |(its, under, _)| its == runner && under == name)
        });
        let named = named.into_iter().flatten().map(|(.., task)| task);
        named.chain(self.requests.get(&request)).cloned().collect()
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<Time> {
        self.ends.first().map(|(at, _)| *at)
    }
}

impl State {
    /// How long what is pulled by way of this runner is its puller's.
    pub(super) fn lease_of(&self, runner: &RunnerId) -> Duration {
        self.runner(runner).and_then(|row| row.pull.as_ref()).map_or(self.settings.lease, |pull| pull.lease)
    }

    /// Begins a task's lease anew. Says when it ends.
    pub(super) fn arm_task(&mut self, task: &Task) -> Option<Time> {
        let held = task.assignment().filter(|held| held.pulled.is_some())?;
        let until = self.now + self.lease_of(&held.runner);
        self.watch.task_leases.arm(&task.id, held, until);
        Some(until)
    }

    pub(super) fn arm_tasks_of(&mut self, runner: &RunnerId, now: Time) {
        let seat = self.fleet().get(runner).into_iter();
        let tasks: Vec<Arc<Task>> = seat.flat_map(|seat| seat.tasks.values()).cloned().collect();
        for task in tasks {
            match task.assignment() {
                Some(held) if held.pulled.is_some() && !self.settings.guards.rearm_leases => {
                    self.watch.task_leases.arm(&task.id, held, now);
                }
                _ => drop(self.arm_task(&task)),
            }
        }
    }
}

/// Takes in what a puller says of its lease.
pub fn say(draft: &mut Draft, lease: &LeaseId, word: &LeaseWord) -> Commanded {
    let known = draft.task(&lease.task);
    let live = known.clone().filter(|task| {
        task.assignment().is_some_and(|held| {
            held.pulled.is_some() && (held.token == lease.token || !draft.state.settings.guards.token_match)
        })
    });
    let Some(task) = live else {
        return Commanded::LeaseOver { reason: what_became(known.as_deref(), lease) };
    };
    let held = task.assignment().expect("it was just seen").clone();
    draft.state.remember_puller(&held.runner);
    let stop = held.stop.as_ref().map(|stop| stop.reason.clone());
    match word {
        LeaseWord::Start if held.started.is_some() => {
            let reason =
                format!("{} was started already under lease {lease}: it must not run twice", task.id);
            return Commanded::PullRefused { reason: reason.into() };
        }
        LeaseWord::Start => {
            if let Some(reason) = stop.clone() {
                give_back(draft, &task, &reason);
                let reason = format!("{} is not to be started any more: {reason}", task.id).into();
                return Commanded::LeaseOver { reason };
            }
            attempt::start(draft, &task, held.clone());
        }
        LeaseWord::Extend => {}
        LeaseWord::Ack { outcome, exit_code, message } => {
            let end = End {
                outcome: *outcome,
                exit_code: *exit_code,
                message: message.clone(),
                artifacts: Vec::new(),
            };
            attempt::end(draft, &task, &held, &end);
            return Commanded::Done;
        }
        LeaseWord::Nack { delay, reason } => {
            let not_before = (!delay.is_zero()).then(|| draft.now + *delay);
            match stop {
                Some(_) => give_back(draft, &task, reason),
                None => draft.return_task(&task, &format!("given back by its puller: {reason}"), not_before),
            }
            return Commanded::Done;
        }
    }
    let task = draft.task(&lease.task).expect("it was only changed");
    let deadline = draft.state.arm_task(&task).expect("it is pulled");
    let runs = draft.state.lease_of(&held.runner);
    Commanded::Leased { deadline, runs, stop }
}

fn what_became(task: Option<&Task>, lease: &LeaseId) -> Arc<str> {
    let now = match task {
        None => format!("task {} is not known any more", lease.task),
        Some(task) => match (&task.state, task.ending()) {
            (_, Some(ending)) => format!("task {} ended {}", task.id, ending.outcome),
            (TaskState::Pending { reason: Some(reason), .. }, _) => {
                format!("task {} is pending again: {reason}", task.id)
            }
            _ => format!("task {} is {} under another lease", task.id, task.state_word()),
        },
    };
    format!("lease {lease} is over: {now}; stop its work").into()
}

/// Takes the tasks whose leases are over from their pullers.
pub fn end_leases(draft: &mut Draft) {
    while let Some((until, id)) = draft.state.watch.task_leases.ends.first().cloned() {
        if until > draft.now || !draft.state.settings.guards.task_leases_end {
            return;
        }
        if draft.is_full() {
            return draft.more();
        }
        let token = draft.state.watch.task_leases.by_task[&id].token;
        draft.state.watch.task_leases.disarm(&id);
        let Some(task) = draft.task(&id) else { continue };
        let Some(held) = task.assignment().filter(|held| held.token == token) else { continue };
        let runner = held.runner.clone();
        let reason =
            format!("the lease of {} on it ended without a word", format_span(draft.state.lease_of(&runner)));
        draft.fact(Fact::LeaseOver { id: id.clone(), runner, token });
        attempt::lose(draft, &task, &reason);
    }
}

fn smallest() -> TaskId {
    TaskId::parse("-").expect("a legal name")
}
