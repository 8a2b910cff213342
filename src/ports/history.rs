//! History: what happened, turn by turn, after the table has long forgotten the turn itself.
//!
//! Law: the facts of a committed turn are there as soon as the turn is, and stay until so many newer turns
//! have been committed that they fall off the old end; never a gap in the middle. Nothing is decided from it.

use async_trait::async_trait;

use super::TableError;
use crate::model::{Fact, TaskId, Time};

/// Which facts are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only facts about this task.
    pub id: Option<TaskId>,
    /// The first turns *after* this one; `None` asks for the last turns there are.
    pub since: Option<u64>,
    /// At most so many turns.
    pub limit: usize,
}

/// What happened in one turn. A turn in which nothing happened does not appear.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnEvents {
    pub turn: u64,
    pub at: Time,
    pub events: Vec<Fact>,
}

/// A record of facts that can be asked.
#[async_trait]
pub trait History: Send + Sync {
    /// The turns asked for, oldest first.
    async fn events(&self, query: HistoryQuery) -> Result<Vec<TurnEvents>, TableError>;
}

/// The task a fact is about, if it is about one.
pub fn task_of(fact: &Fact) -> Option<&TaskId> {
    match fact {
        Fact::Task(lifecycle) => Some(&lifecycle.id),
        Fact::SubmissionRefused { id, .. }
        | Fact::StopAsked { id, .. }
        | Fact::StaleReport { id, .. }
        | Fact::LeaseOver { id, .. }
        | Fact::Locality { id, .. }
        | Fact::CancelRemembered { id } => Some(id),
        Fact::BuildsUnsafe { build } => Some(build),
        Fact::Reserved { task, .. }
        | Fact::ReservationOver { task, .. }
        | Fact::GroupStopped { task, .. } => Some(task),
        Fact::RunnerRegistered { .. }
        | Fact::RunnerLeft { .. }
        | Fact::RunnerLost { .. }
        | Fact::RunnerHeld { .. }
        | Fact::RunnerDraining { .. }
        | Fact::RunnerResumed { .. }
        | Fact::RunnerForgotten { .. }
        | Fact::RunnerDismissed { .. }
        | Fact::ClassForgotten { .. }
        | Fact::Subscribed { .. }
        | Fact::Unsubscribed { .. }
        | Fact::RunnerBound { .. }
        | Fact::RunnerUnbound { .. }
        | Fact::Intent { .. }
        | Fact::QueuePaused { .. }
        | Fact::QueueUnpaused { .. }
        | Fact::PoolPaused
        | Fact::PoolUnpaused
        | Fact::BuildsSafe
        | Fact::SweepFound { .. }
        | Fact::TookOver { .. }
        | Fact::Frozen { .. }
        | Fact::Unfrozen => None,
    }
}
