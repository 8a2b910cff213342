//! What this process knows of the bucket without asking.
//!
//! Law: `head` is the last turn among all messages up to `sequence`. So a turn that is accepted directly after
//! `sequence` stands directly after `head`. It only ever grows, turn by turn, whoever has read or written the
//! turn; and so it is also the mark below which the bucket can never end.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Head, Row, TurnId, TurnRecord};
use crate::ports::table::TURNS_KEPT;

/// How many turns are known by id: more than a log keeps after compaction.
const IDS: usize = 4 * 1_000;
const _: () = assert!(IDS as u64 > TURNS_KEPT);

/// The end of the bucket, as far as it is known.
#[derive(Debug)]
pub(super) struct Known {
    /// The last sequence that was read or written.
    pub(super) sequence: u64,
    pub(super) head: Head,
    /// The turn that this process tried last.
    tried: Option<TurnId>,
    /// Whether this process wrote `head`.
    wrote_head: bool,
    /// The latest turns and where they stand, the head last.
    turns: VecDeque<(TurnId, u64)>,
    /// What the snapshot has not heard of yet.
    news: News,
}

/// What has become known since somebody last asked.
#[derive(Debug, Default)]
pub(super) struct News {
    /// All rows as they stood before `turns`; nothing if what was said before still holds.
    pub(super) rows: Option<(Head, Vec<Row>)>,
    pub(super) turns: Vec<Arc<TurnRecord>>,
    /// Whether any of it was written by another process.
    pub(super) of_others: bool,
}

/// What a turn that was read means for what is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is the next one, or one that is known.
    Known,
    /// Turns before it are missing.
    Gap,
    /// Another turn is known to stand at its number, or at its place: the bucket went back.
    Contradiction(String),
}

impl Known {
    /// Everything there is, just loaded.
    pub(super) fn new(sequence: u64, head: Head, turns: VecDeque<(TurnId, u64)>, rows: Vec<Row>) -> Self {
        let news = News { rows: Some((head, rows)), turns: Vec::new(), of_others: true };
        Self { sequence, head, tried: None, wrote_head: false, turns, news }
    }

    /// Takes in a turn that was read or written at `sequence`.
    pub(super) fn turn(&mut self, sequence: u64, turn: &Arc<TurnRecord>) -> Step {
        let next = self.head.number + 1;
        if turn.number > next {
            return Step::Gap;
        }
        if turn.number == next && sequence > self.sequence {
            self.sequence = sequence;
            self.head = turn.head();
            self.turns.push_back((turn.id, sequence));
            if self.turns.len() > IDS {
                self.turns.pop_front();
            }
            self.news.turns.push(turn.clone());
            self.wrote_head = self.is_ours();
            self.news.of_others |= !self.wrote_head;
            return Step::Known;
        }
        match self.standing(turn.number) {
            Some(known) if known == (turn.id, sequence) => Step::Known,
            // A head that a snapshot named was not read itself, and may be the last message that is known.
            None if turn.id == self.head.id && sequence <= self.sequence => Step::Known,
            None if turn.number < self.head.number && sequence < self.sequence => Step::Known,
            _ => Step::Contradiction(format!(
                "turn {} stands at sequence {sequence}, after turn {} at {} was seen",
                turn.number, self.head.number, self.sequence
            )),
        }
    }

    /// Takes in that there is no further turn up to `sequence`.
    pub(super) fn no_turn_until(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }

    /// The turn that is known to stand at a number, and its sequence.
    pub(super) fn standing(&self, number: u64) -> Option<(TurnId, u64)> {
        let back = self.head.number.checked_sub(number)?;
        let place = self.turns.len().checked_sub(1 + usize::try_from(back).ok()?)?;
        self.turns.get(place).copied()
    }

    /// Forgets the ids of turns that were dropped from the log.
    pub(super) fn dropped_before(&mut self, number: u64) {
        let kept = usize::try_from((self.head.number + 1).saturating_sub(number)).unwrap_or(usize::MAX);
        self.turns.drain(..self.turns.len().saturating_sub(kept));
    }

    /// What has become known since the last time.
    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Notes that this process tries a turn: if it comes to stand there, it is ours.
    pub(super) fn tries(&mut self, turn: TurnId) {
        self.tried = Some(turn);
    }

    /// The last sequence, if this process wrote the last turn; it may be trying the next one meanwhile.
    pub(super) fn written_up_to(&self) -> Option<u64> {
        self.wrote_head.then_some(self.sequence)
    }

    /// Whether this process wrote the last turn, and tries none after it.
    pub(super) fn is_ours(&self) -> bool {
        self.tried == Some(self.head.id)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{Time, turn::FORMAT};

    fn turn(number: u64, leader: u128) -> Arc<TurnRecord> {
        Arc::new(TurnRecord {
            format: FORMAT,
            number,
            id: TurnId { leader: Uuid::from_u128(leader), counter: number },
            epoch: 1,
            at: Time(number),
            released: false,
            changes: Vec::new(),
            facts: Vec::new(),
        })
    }

    #[test]
    fn the_head_that_a_snapshot_named_is_recognised_when_it_is_read() {
        let named = || Known::new(46, turn(44, 1).head(), VecDeque::new(), Vec::new());
        assert_eq!(named().turn(46, &turn(44, 1)), Step::Known);
        assert_eq!(named().turn(45, &turn(43, 2)), Step::Known);
        assert!(
            matches!(named().turn(46, &turn(44, 2)), Step::Contradiction(_)),
            "another turn at its number"
        );
        assert!(
            matches!(named().turn(47, &turn(44, 1)), Step::Contradiction(_)),
            "the same at another place"
        );
        assert!(
            matches!(named().turn(46, &turn(43, 2)), Step::Contradiction(_)),
            "another turn at its place"
        );
    }
}
