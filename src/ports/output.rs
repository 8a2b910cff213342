//! Output: what attempts wrote, kept for a while after they and their runners are gone.
//!
//! Law: a piece that is kept twice is there once. What is kept is bounded in size and time; the oldest goes first.
//! Nothing is decided from it, and it may be lost.

use async_trait::async_trait;

use crate::model::{OutputPiece, RunnerId, TaskId, Token};

/// What an attempt wrote, from one place on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputPage {
    pub text: String,
    /// Where the next page begins.
    pub next: u64,
    /// Whether this was all and nothing will follow.
    pub over: bool,
}

/// Output cannot be kept or read now. The message says where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct OutputError {
    pub what: String,
    pub why: String,
}

/// Where output is kept.
#[async_trait]
pub trait OutputStore: Send + Sync {
    /// Keeps pieces a runner sent.
    async fn keep(&self, runner: &RunnerId, pieces: &[OutputPiece]) -> Result<(), OutputError>;

    /// The attempts of a task of which something is kept, the oldest first.
    async fn attempts(&self, task: &TaskId) -> Result<Vec<Token>, OutputError>;

    /// What an attempt wrote; from the beginning at 0, or from where a page ended.
    async fn read(&self, task: &TaskId, token: Token, from: u64) -> Result<OutputPage, OutputError>;
}
