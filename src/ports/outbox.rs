//! Where the turn loop says that there is something for a runner.
//!
//! Law: a call only says where to look; what is to be said stands in the committed rows and is said again from there
//! until the runner confirms it. So a lost call costs time and never a task.

use std::sync::Arc;

use crate::model::{RunnerId, TurnRecord};

/// The side that speaks to runners.
pub trait Outbox: Send + Sync {
    /// The committed rows hold something new for `runner`, since this turn.
    fn deliver(&self, runner: &RunnerId, turn: &Arc<TurnRecord>);
}
