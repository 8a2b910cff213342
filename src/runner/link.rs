//! How a runner speaks to its dispatcher, whatever carries the words.
//!
//! Law: a call that returns `Ok` was answered by the dispatcher after its turn was committed. A call that fails
//! says whether the same words may be tried again; nothing is concluded from silence.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::{
    Delivery, Heartbeat, HeartbeatAnswer, Leave, OutputPiece, Registered, Registration, Report, RunnerId,
};

/// Why a call had no answer that helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The dispatcher cannot be reached, has no leader or is too busy: try again, after a pause if it names one.
    #[error("{message}")]
    Retry { message: String, after: Option<Duration> },
    /// The dispatcher does not know this runner or its incarnation: register.
    #[error("{message}")]
    Unknown { message: String },
    /// The same words will never be taken.
    #[error("{message}")]
    Refused { message: String },
}

impl LinkError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, LinkError::Retry { .. })
    }
}

/// The way to the dispatcher.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// Registers.
    async fn register(&self, registration: &Registration) -> Result<Registered, LinkError>;

    /// Sends one heartbeat.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, LinkError>;

    /// Waits up to `wait` for something to do; an empty delivery says there was nothing.
    async fn next_delivery(&self, runner: &RunnerId, wait: Duration) -> Result<Delivery, LinkError>;

    /// Hands over reports, all or none of them.
    async fn report(&self, runner: &RunnerId, reports: &[Report]) -> Result<(), LinkError>;

    /// Hands over what work wrote. What has come before is not kept twice.
    async fn output(&self, runner: &RunnerId, pieces: &[OutputPiece]) -> Result<(), LinkError>;

    /// Says farewell.
    async fn leave(&self, leave: &Leave) -> Result<(), LinkError>;

    /// Where the dispatcher answers over HTTP, if it does: what work is told as `LONGSHORE_URL`.
    fn url(&self) -> Option<std::sync::Arc<str>> {
        None
    }
}
