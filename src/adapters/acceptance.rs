//! What a table answers to a turn that it does not write.
//!
//! Law: a turn is the writer's own exactly when its id stands at its number. Whether somebody else's turn stands
//! there comes before whether this one is too large: who is deposed must learn that first.

use crate::model::{Head, TurnId, TurnRecord};
use crate::ports::{Budget, Commit};

/// The answer to a turn that is not the next one: whose turn stands at its number?
pub(super) fn answer(turn: &TurnRecord, standing: Option<TurnId>, head: &Head) -> Commit {
    match standing {
        Some(id) if id == turn.id => Commit::Done,
        Some(by) => Commit::Deposed { by },
        None => Commit::Deposed { by: head.id },
    }
}

/// Why a turn is more than the table takes, if it is.
pub(super) fn excess(budget: Budget, turn: &TurnRecord, bytes: impl FnOnce() -> usize) -> Option<Commit> {
    let over = |what, has, most| Commit::Refused {
        why: format!("turn {} has {has} {what}; the table takes at most {most} in one turn", turn.number),
    };
    if turn.changes.len() > budget.rows {
        return Some(over("rows", turn.changes.len(), budget.rows));
    }
    let bytes = bytes();
    (bytes > budget.bytes).then(|| over("bytes", bytes, budget.bytes))
}
