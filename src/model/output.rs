//! Output: what the work of an attempt writes, piece by piece.

use std::sync::Arc;

use super::{TaskId, Token};

/// A piece of what an attempt wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPiece {
    pub id: TaskId,
    pub token: Token,
    /// How many bytes of the attempt's output came before it.
    pub from: u64,
    pub text: Arc<str>,
    /// Whether nothing follows.
    pub last: bool,
}
