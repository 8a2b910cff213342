//! Pulling: tasks that are asked for one by one, each under a lease of its own.
//!
//! Law: whoever pulls owns a task from the answer until its lease is over, and no longer. It starts the work only
//! after the start was taken, and stops it when a lease is answered as over. The lease's id is made of the task and
//! its token, so it stands nowhere but in the task's row.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::time::span;
use super::{AttemptOutcome, GroupId, Id, Kind, Offer, QueueId, RunnerId, StopOrder, TaskId, Time, Token};

/// How long a task is its puller's where nobody said otherwise.
pub const LEASE: Duration = Duration::from_secs(60);

/// In the row of a runner whose tasks are asked for and never sent: a subscription, or a runner bound to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// How long a task is its puller's without a word.
    #[serde(with = "span")]
    pub lease: Duration,
    /// The group it is bound to; none for a subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
}

/// In an assignment: for whom it was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Puller {
    /// The name it gave itself, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Id>,
    /// The request that was answered with it. One that is repeated is answered the same.
    pub request: Uuid,
}

/// What a subscription says.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub id: RunnerId,
    /// Its only queue is the topic.
    pub offer: Arc<Offer>,
    pub cost: f64,
    pub lease: Duration,
}

/// A runner and a group, to be bound or parted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub group: GroupId,
    pub runner: RunnerId,
    /// The `modification_count` of the group as whoever asks has seen it; any, if it does not say.
    pub seen: Option<u64>,
    /// How long a task is its puller's without a word.
    pub lease: Duration,
}

/// One request for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// The subscription, or the runner bound to `group`.
    pub runner: RunnerId,
    pub group: Option<GroupId>,
    /// A name under which an unstarted task is given again.
    pub puller: Option<Id>,
    /// Names the request until it is answered; one that is repeated keeps it.
    pub request: Uuid,
    /// It stays open until there is a task; otherwise it is answered in its own turn.
    pub patient: bool,
}

/// What a request for a task is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    Given(Box<Given>),
    Nothing,
    /// There is no such subscription, or the runner is not bound to the group.
    Unknown,
    /// The runner has started this task of the group already.
    Busy {
        task: TaskId,
    },
    /// The runner is to take nothing more.
    Draining,
    /// This is to be stopped first.
    Stop(StopOrder),
}

/// A task, and the lease under which it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub lease: LeaseId,
    pub kind: Kind,
    pub queue: QueueId,
    pub attempt: u32,
    /// How long the lease runs, from when the request was sent.
    pub runs: Duration,
    /// When it is over by log time.
    pub deadline: Time,
    /// The task as it was submitted, as JSON.
    pub task: Arc<str>,
}

/// The name of a lease: `1-3118-0-build-42` is the lease of task `build-42` under token `1.3118.0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    pub task: TaskId,
    pub token: Token,
}

/// What is said of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseWord {
    /// The work begins. Taken once.
    Start,
    /// It goes on: the lease runs anew.
    Extend,
    /// The work has ended.
    Ack { outcome: AttemptOutcome, exit_code: Option<i32>, message: Option<Arc<str>> },
    /// It is given back, to be placed again after `delay`. No attempt is spent.
    Nack { delay: Duration, reason: Arc<str> },
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Token { epoch, turn, index } = self.token;
        write!(f, "{epoch}-{turn}-{index}-{}", self.task)
    }
}

/// The text names no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not the id of a lease, like 1-3118-0-build-42: send it as the answer to the pull says it")]
pub struct LeaseIdError;

impl FromStr for LeaseId {
    type Err = LeaseIdError;

    fn from_str(text: &str) -> Result<Self, LeaseIdError> {
        let mut parts = text.splitn(4, '-');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let token = (|| {
            Some(Token {
                epoch: number()?.try_into().ok()?,
                turn: number()?,
                index: number()?.try_into().ok()?,
            })
        })();
        let task = parts.next().and_then(|task| Id::parse(task).ok());
        token.zip(task).map(|(token, task)| Self { task, token }).ok_or(LeaseIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_back_from_its_name_whatever_its_task_is_called() {
        for task in ["t1", "build-42-test-7", "-", "1-2-3"] {
            let task = Id::parse(task).expect("a name");
            let lease = LeaseId { task, token: Token { epoch: 1, turn: 3118, index: 20 } };
            assert_eq!(lease.to_string().parse(), Ok(lease));
        }
        for text in ["", "t1", "1-2-t1", "1-2-3-", "1-2-3-a.b", "x-2-3-t1"] {
            assert_eq!(text.parse::<LeaseId>(), Err(LeaseIdError), "{text}");
        }
    }
}
