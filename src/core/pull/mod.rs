//! Pulling: tasks that are asked for one by one, and what is pushed to nobody because of it.
//!
//! Laws: a subscription is a runner's row with a mark, so admission, fit, planning and `why` know nothing new. It has
//! room only while a request is open (`requests`), and each task is its puller's under a lease of its own (`leases`).
//! A queue with a subscription is pushed to nobody, unless the settings say so. One that was ended takes nothing
//! more: what was not started is pending again, what was started runs on, and its row goes with the last of it.

mod bindings;
mod index;
mod leases;
mod requests;

use std::sync::Arc;

pub(super) use bindings::{bind, release_forgotten, unbind};
pub(super) use index::Pullers;
pub(super) use leases::{TaskLeases, end_leases, say};
pub(super) use requests::{OpenRequests, answer_impatient, ask, give, withdraw};

use super::draft::Draft;
use super::fit::Misfit;
use super::fleet::Seat;
use super::group::Members;
use super::input::Commanded;
use super::registration::{remember_class, tasks_of};
use super::state::State;
use crate::model::{
    Fact, Key, Outcome, Pull, Pulled, QueueId, Runner, RunnerId, Shape, Standing, StopCause, Subscription,
    Task, TaskState, Time,
};

impl State {
    /// Whether nothing of this shape is pushed: its queue has a subscription, or its group is bound by hand.
    pub fn is_pulled(&self, shape: &Shape) -> bool {
        self.settings.guards.pulled_alone
            && (self.group_pulled(shape).is_some() || self.is_pulled_queue(&shape.queue))
    }

    /// Whether nothing on a queue is pushed: what waits there waits for whoever asks, and not for capacity.
    pub fn is_pulled_queue(&self, queue: &QueueId) -> bool {
        self.pullers.are_on(queue) && !self.settings.delivered_to_any.contains(queue)
    }

    fn group_pulled(&self, shape: &Shape) -> Option<&Members> {
        self.groups().get(shape.group.as_ref()?).filter(|group| group.is_pulled())
    }

    /// The runners that tasks of this shape are left to, where they are pulled.
    pub fn pullers_of(&self, shape: &Shape) -> Vec<&RunnerId> {
        match self.group_pulled(shape) {
            Some(group) => group.by_hand().collect(),
            None => self.pullers.on(&shape.queue).collect(),
        }
    }
}

/// What keeps a task of `shape` from `seat` because it is pulled, or because `seat` pulls other things.
pub(super) fn misfit(state: &State, shape: &Shape, seat: &Seat) -> Option<Misfit> {
    if let Some(takes) = seat.runner.bound_to().filter(|takes| shape.group.as_ref() != Some(*takes)) {
        return Some(Misfit::Group { takes: takes.clone() });
    }
    if !state.settings.guards.pulled_alone {
        return None;
    }
    if let Some(group) = state.group_pulled(shape) {
        let others = || shape.group.clone().map(|group| Misfit::GroupPulled { group });
        return if group.is_bound_by_hand(&seat.runner.id) { None } else { others() };
    }
    let pushed = seat.runner.pull.is_none() && state.is_pulled_queue(&shape.queue);
    pushed.then(|| Misfit::Pulled { queue: shape.queue.clone() })
}

/// What a task waits for whose queue is pulled.
pub(super) fn waiting_reason(state: &State, shape: &Shape) -> Option<String> {
    if !state.is_pulled(shape) {
        return None;
    }
    let pullers = state.pullers_of(shape);
    let asking = pullers.iter().filter_map(|id| state.fleet().get(id)).any(|seat| seat.asking > 0);
    let open = if asking { "" } else { "; nobody asks at the moment" };
    let plural = if pullers.len() == 1 { "" } else { "s" };
    Some(match (state.group_pulled(shape), &shape.group) {
        (Some(_), Some(group)) => {
            format!("group {group} is pulled by the {} runner{plural} bound to it{open}", pullers.len())
        }
        _ => format!("queue {} is pulled by {} subscription{plural}{open}", shape.queue, pullers.len()),
    })
}

/// Takes in a subscription. Under an id that is known it says everything anew, and what was pulled stays pulled.
pub(super) fn subscribe(draft: &mut Draft, new: &Subscription) -> Commanded {
    let known = draft.runner(&new.id);
    if known.as_ref().is_some_and(|row| !row.is_subscription()) {
        let reason = format!("runner {} is no subscription: choose another id, or leave it out", new.id);
        return Commanded::PullRefused { reason: reason.into() };
    }
    let row = Runner {
        cost: new.cost,
        standing: match known.as_ref().map(|row| &row.standing) {
            None | Some(Standing::Dismissed) => Standing::Ready,
            Some(standing) => standing.clone(),
        },
        pull: Some(Pull { lease: new.lease, group: None }),
        extra: known.as_ref().map(|row| row.extra.clone()).unwrap_or_default(),
        ..Runner::new(new.id.clone(), "".into(), new.offer.clone(), draft.now)
    };
    let queue = new.offer.queues.first().expect("the topic of a subscription is its queue").clone();
    draft.put_runner(row);
    draft.fact(Fact::Subscribed { subscription: new.id.clone(), queue });
    draft.state.remember_puller(&new.id);
    Commanded::Done
}

/// Ends a subscription.
pub(super) fn unsubscribe(draft: &mut Draft, id: &RunnerId) -> Commanded {
    let known = draft.runner(id).filter(|row| row.is_subscription() && row.standing != Standing::Dismissed);
    let Some(row) = known else { return Commanded::UnknownRunner };
    remember_class(draft, &row.offer);
    let mut ended = Runner::clone(&row);
    ended.standing = Standing::Dismissed;
    draft.put_runner(ended);
    draft.fact(Fact::Unsubscribed { subscription: id.clone(), forgotten: false });
    requests::close_all(draft, id, &Pulled::Unknown);
    Commanded::Done
}

/// Gives back what ended subscriptions have not started, and takes out the rows of those that have nothing left.
pub(super) fn work_off_ended(draft: &mut Draft) {
    for id in draft.state.pullers.leaving().cloned().collect::<Vec<_>>() {
        for task in tasks_of(draft, &id).iter().filter(|task| matches!(task.state, TaskState::Assigned(_))) {
            if draft.is_full() {
                return draft.more();
            }
            give_back(draft, task, "its puller was sent away");
        }
        if draft.state.fleet().get(&id).is_none_or(|seat| seat.tasks.is_empty()) {
            draft.state.watch.disarm(&id);
            draft.delete(Key::Runner(id));
        }
    }
}

/// Makes a task that was not started pending again, or ends it if that was asked for. No attempt is spent.
fn give_back(draft: &mut Draft, task: &Arc<Task>, reason: &str) {
    let stop = task.assignment().and_then(|held| held.stop.clone());
    match stop.filter(|stop| stop.cause == StopCause::Cancelled) {
        Some(stop) => draft.end_undone(task, Outcome::Cancelled, &stop.reason),
        None => draft.return_task(task, reason, None),
    }
}

/// A subscription of which nothing was heard for `class_memory` is forgotten, unless somebody waits on it or has
/// something of it.
pub(super) fn forget(draft: &mut Draft, id: &RunnerId) {
    let Some(seat) = draft.state.fleet().get(id) else { return };
    if seat.asking > 0 || !seat.tasks.is_empty() {
        return draft.state.remember_puller(id);
    }
    let is_subscription = seat.runner.is_subscription();
    draft.delete(Key::Runner(id.clone()));
    draft.fact(match is_subscription {
        true => Fact::Unsubscribed { subscription: id.clone(), forgotten: true },
        false => Fact::RunnerForgotten { runner: id.clone() },
    });
    draft.state.watch.judge.all = true;
}

impl State {
    /// Somebody speaks for what never registered: it is not forgotten for a while.
    fn remember_puller(&mut self, id: &RunnerId) {
        if self.runner(id).is_some_and(|row| row.is_unregistered()) {
            self.watch.arm(id, self.now + self.settings.class_memory);
        }
    }

    /// Arms, in full, how long each subscription is remembered and how long each lease runs: a leader begins.
    pub(super) fn arm_pullers(&mut self, now: Time) {
        for id in self
            .fleet()
            .seats()
            .filter(|seat| seat.runner.pull.is_some())
            .map(|seat| seat.runner.id.clone())
            .collect::<Vec<_>>()
        {
            self.remember_puller(&id);
            self.arm_tasks_of(&id, now);
        }
    }
}
