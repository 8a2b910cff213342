//! Tokens that are over for this runner: ended here, or asked back before they came.
//!
//! Law: a token that is over stays over. Memory is bounded: beyond the limit the oldest are forgotten one by
//! one and every unheard token of their turn or an older one is refused instead.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Registered, Token};

/// How a token came to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// It was had and ended; its end was reported.
    Ended,
    /// It was asked back or refused.
    GivenBack,
    /// It is older than what this runner may still take.
    TooOld { before_turn: u64 },
}

/// The memory of one session within one table.
#[derive(Debug, Clone, Default)]
pub(super) struct Spent {
    tokens: BTreeMap<Token, Over>,
    /// Tokens of an older turn are refused, unless the registration's answer listed them.
    floor: u64,
    /// The newest epoch seen; tokens of an older one are refused.
    epoch: u32,
    listed: BTreeSet<Token>,
}

impl Spent {
    /// Whether `token` is over.
    pub(super) fn over(&self, token: Token) -> Option<Over> {
        if let Some(over) = self.tokens.get(&token) {
            return Some(*over);
        }
        let old = token.turn < self.floor || token.epoch < self.epoch;
        (old && !self.listed.contains(&token)).then_some(Over::TooOld { before_turn: self.floor })
    }

    /// Notes that a token of this epoch is live.
    pub(super) fn saw(&mut self, token: Token) {
        self.epoch = self.epoch.max(token.epoch);
    }

    /// Remembers a token as over, and at most `most` of them.
    pub(super) fn remember(&mut self, token: Token, over: Over, most: usize) {
        self.tokens.entry(token).or_insert(over);
        while self.tokens.len() > most.max(1) {
            let Some((oldest, _)) = self.tokens.pop_first() else { return };
            self.floor = self.floor.max(oldest.turn + 1);
            self.listed.remove(&oldest);
        }
    }

    /// Draws the line a registration's answer draws: what is older and not listed is refused for ever.
    pub(super) fn draw_line(&mut self, registered: &Registered) {
        self.floor = registered.turn;
        self.listed = registered.assignments.iter().map(|held| held.token).collect();
        let (floor, listed) = (self.floor, &self.listed);
        self.tokens.retain(|token, _| token.turn >= floor || listed.contains(token));
    }
}
