//! Requests that are open: each is room for one task on its subscription, the oldest first.
//!
//! Law: the leader's own. A request is answered once: with a task in the turn that placed one for it, with nothing
//! when it is withdrawn. One that was withdrawn takes nothing from that turn on. A repeated one is answered with what
//! it was given before, as long as that was not started.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::super::draft::Draft;
use super::super::input::{Answer, Ticket};
use super::super::registration::tasks_of;
use super::super::state::State;
use super::super::wake::Wake;
use super::give_back;
use crate::model::{
    Given, Id, LeaseId, PullRequest, Pulled, Puller, RunnerId, RunnerState, Standing, StopOrder, Task,
    TaskState,
};

/// A request that waits for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    ticket: Ticket,
    pub puller: Puller,
}

/// The requests that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenRequests {
    next: u64,
    open: BTreeMap<(RunnerId, u64), Open>,
    places: BTreeMap<Uuid, (RunnerId, u64)>,
    names: BTreeMap<(RunnerId, Id), Uuid>,
    /// To be answered in this turn, whatever it brings.
    impatient: BTreeSet<Uuid>,
}

impl OpenRequests {
    fn put(&mut self, runner: &RunnerId, open: Open) {
        let place = (runner.clone(), self.next);
        self.next += 1;
        self.places.insert(open.puller.request, place.clone());
        if let Some(name) = &open.puller.name {
            self.names.insert((runner.clone(), name.clone()), open.puller.request);
        }
        self.open.insert(place, open);
    }

    fn take(&mut self, request: Uuid) -> Option<(RunnerId, Open)> {
        let place = self.places.remove(&request)?;
        let open = self.open.remove(&place).expect("its place was noted");
        if let Some(name) = &open.puller.name {
            self.names.remove(&(place.0.clone(), name.clone()));
        }
        self.impatient.remove(&request);
        Some((place.0, open))
    }

    fn oldest(&self, runner: &RunnerId) -> Option<Uuid> {
        if self.open.is_empty() {
            return None;
        }
        let from = (runner.clone(), 0);
        let (place, open) = self.open.range(from..).next()?;
        (place.0 == *runner).then_some(open.puller.request)
    }
}

impl State {
    fn open_request(&mut self, runner: &RunnerId, open: Open) {
        self.watch.requests.put(runner, open);
        self.fleet.ask(runner, true);
        self.wakes.runner(runner, Wake::Request);
    }

    fn close_request(&mut self, request: Uuid) -> Option<Open> {
        let (runner, open) = self.watch.requests.take(request)?;
        self.fleet.ask(&runner, false);
        Some(open)
    }

    /// The request that a task placed on this runner is for.
    pub(in super::super) fn serve_request(&mut self, runner: &RunnerId) -> Option<Open> {
        self.close_request(self.watch.requests.oldest(runner)?)
    }

    /// How many requests wait for a task.
    pub fn open_requests(&self) -> usize {
        self.watch.requests.open.len()
    }
}

/// Takes in a request: answered at once where that can be, or left open.
pub fn ask(draft: &mut Draft, ticket: Ticket, asked: &PullRequest) -> Option<Answer> {
    let known = draft.runner(&asked.runner).filter(|row| {
        row.pull.as_ref().is_some_and(|pull| pull.group == asked.group) && row.standing != Standing::Dismissed
    });
    if known.is_none() {
        return Some(Answer::Pulled(Pulled::Unknown));
    }
    draft.state.remember_puller(&asked.runner);
    if asked.group.is_some()
        && let Some(answer) = of_group(draft, asked)
    {
        return Some(Answer::Pulled(answer));
    }
    if let Some(task) = given_before(draft, asked) {
        draft.state.arm_task(&task);
        return Some(given(draft, &task));
    }
    // A name asks once at a time: whoever asked before under it is gone.
    let before = asked.puller.as_ref().and_then(|name| {
        let named = (asked.runner.clone(), name.clone());
        draft.state.watch.requests.names.get(&named).copied()
    });
    for request in [before, Some(asked.request)].into_iter().flatten() {
        close(draft, request, &Pulled::Nothing);
    }
    if !asked.patient {
        draft.state.watch.requests.impatient.insert(asked.request);
    }
    let puller = Puller { name: asked.puller.clone(), request: asked.request };
    draft.state.open_request(&asked.runner, Open { ticket, puller });
    None
}

/// What a runner of a group is told before it gets anything: one task at a time, and none while it drains.
fn of_group(draft: &mut Draft, asked: &PullRequest) -> Option<Pulled> {
    for task in tasks_of(draft, &asked.runner) {
        let Some(held) = task.assignment() else { continue };
        let stop = held.stop.as_ref().map(|stop| {
            let (id, token, reason) = (task.id.clone(), held.token, stop.reason.clone());
            Pulled::Stop(StopOrder { id, token, reason })
        });
        match (&task.state, stop) {
            (TaskState::Running(_), None) => return Some(Pulled::Busy { task: task.id.clone() }),
            (TaskState::Running(_), Some(stop)) => return Some(stop),
            (_, Some(stop)) => {
                give_back(draft, &task, "it was asked back before it was started");
                return Some(stop);
            }
            (_, None) => {}
        }
    }
    let ready = draft.runner(&asked.runner).is_some_and(|row| row.state() == RunnerState::Ready);
    (!ready).then_some(Pulled::Draining)
}

/// What this puller, or this very request, was given and has not started. What was cancelled meanwhile ends here:
/// whoever asks has not begun it.
fn given_before(draft: &mut Draft, asked: &PullRequest) -> Option<Arc<Task>> {
    for task in unstarted(draft, &asked.runner, asked.puller.as_ref(), asked.request) {
        if task.assignment().is_some_and(|held| held.stop.is_none()) {
            return Some(task);
        }
        give_back(draft, &task, "it was asked back before it was started");
    }
    None
}

/// What was given to a request, or to whoever asks under a name, and is not started.
fn unstarted(draft: &Draft, runner: &RunnerId, name: Option<&Id>, request: Uuid) -> Vec<Arc<Task>> {
    let is_its = |task: &Arc<Task>| {
        let TaskState::Assigned(held) = &task.state else { return false };
        let Some(puller) = held.pulled.as_ref().filter(|_| held.runner == *runner) else { return false };
        (name.is_some() && puller.name.as_ref() == name) || puller.request == request
    };
    let given = draft.state.watch.task_leases.given_to(runner, name, request);
    given.iter().filter_map(|id| draft.task(id)).filter(is_its).collect()
}

/// A request is withdrawn. Where whoever asked is `gone`, what it was given and cannot have heard of is pending again.
pub fn withdraw(draft: &mut Draft, asked: &PullRequest, gone: bool) {
    close(draft, asked.request, &Pulled::Nothing);
    if !gone {
        return;
    }
    for task in unstarted(draft, &asked.runner, None, asked.request) {
        give_back(draft, &task, "whoever pulled it was gone before it was given");
    }
}

/// Answers, at the end of a turn, the requests that do not wait.
pub fn answer_impatient(draft: &mut Draft) {
    for request in std::mem::take(&mut draft.state.watch.requests.impatient) {
        close(draft, request, &Pulled::Nothing);
    }
}

/// Answers every request that is open on a runner.
pub(super) fn close_all(draft: &mut Draft, runner: &RunnerId, answer: &Pulled) {
    while let Some(request) = draft.state.watch.requests.oldest(runner) {
        close(draft, request, answer);
    }
}

fn close(draft: &mut Draft, request: Uuid, answer: &Pulled) {
    if let Some(open) = draft.state.close_request(request) {
        draft.answer(open.ticket, Answer::Pulled(answer.clone()));
    }
}

/// Answers a request with the task that was just placed for it: its lease begins.
pub fn give(draft: &mut Draft, open: &Open, task: &Task) {
    draft.state.arm_task(task);
    let answer = given(draft, task);
    draft.answer(open.ticket, answer);
}

fn given(draft: &Draft, task: &Task) -> Answer {
    let held = task.assignment().expect("what is given is assigned");
    let runs = draft.state.lease_of(&held.runner);
    let body = draft.state.body(task.id.as_str()).expect("the body of a live task stands beside its row");
    Answer::Pulled(Pulled::Given(Box::new(Given {
        lease: LeaseId { task: task.id.clone(), token: held.token },
        kind: task.kind(),
        queue: task.shape.queue.clone(),
        attempt: task.attempt,
        runs,
        deadline: draft.now + runs,
        task: body.clone(),
    })))
}
