//! The log of turns: finding one, reading some, and catching up with its end.
//!
//! Law: that a turn is *not* there is only believed of a reader that has gone past its place; a single question
//! may be answered by a server that has not heard of it yet.

use super::bucket::{turn_key, turn_number};
use super::known::Step;
use super::load::{self, decode_turn};
use super::reader::Reader;
use super::trouble::Trouble;
use super::{Shared, bucket};
use crate::model::{TurnId, TurnRecord};

/// Every turn's key.
pub(super) const TURNS: &str = "turn.*";

/// The number of the last turn in the log, as the bucket's leader says; 0 if there is none.
pub(super) async fn last_number(bucket: &bucket::Bucket) -> Result<u64, Trouble> {
    let last = bucket.last(TURNS).await?;
    Ok(last.and_then(|last| turn_number(&last.key)).unwrap_or(0))
}

/// Whose turn stands at a number that is not beyond `last`, a turn known to be in the log; nothing if it was
/// dropped.
pub(super) async fn find(shared: &Shared, number: u64, last: u64) -> Result<Option<TurnId>, Trouble> {
    if let Some(found) = shared.bucket.last(&turn_key(number)).await? {
        return Ok(Some(decode_turn(number, &found.bytes)?.id));
    }
    let mut reader = Reader::start(&shared.bucket, &[TURNS], 1).await?;
    loop {
        let entry = reader.next_standing().await?;
        match turn_number(&entry.key) {
            Some(found) if found == number => return Ok(Some(decode_turn(number, entry.bytes())?.id)),
            Some(found) if found > number || found >= last => return Ok(None),
            _ => {}
        }
    }
}

/// Up to `limit` turns after number `after`; nothing if the log cannot continue from there.
pub(super) async fn turns(
    shared: &Shared,
    after: u64,
    limit: usize,
) -> Result<Option<Vec<TurnRecord>>, Trouble> {
    let last = last_number(&shared.bucket).await?;
    if after >= last {
        return Ok((after == last).then(Vec::new));
    }
    let mut turns: Vec<TurnRecord> = Vec::new();
    let mut reader = Reader::start(&shared.bucket, &[TURNS], start(shared, after).await?).await?;
    while turns.len() < limit && turns.last().is_none_or(|turn| turn.number < last) {
        let entry = reader.next_standing().await?;
        let Some(number) = turn_number(&entry.key) else { continue };
        let next = turns.last().map_or(after, |turn| turn.number) + 1;
        if number > next {
            return Ok(None); // dropped, before or while this was read
        }
        if number == next {
            turns.push(TurnRecord::clone(&*decode_turn(number, entry.bytes())?));
        }
    }
    Ok(Some(turns))
}

/// A sequence from which on the turns after number `after` are found.
async fn start(shared: &Shared, after: u64) -> Result<u64, Trouble> {
    if after == 0 {
        return Ok(1);
    }
    let known = shared.bucket.last(&turn_key(after)).await?;
    Ok(known.map_or(1, |turn| turn.sequence + 1))
}

/// Reads everything after what is known, up to sequence `until` at least.
pub(super) async fn catch_up(shared: &Shared, until: u64) -> Result<(), Trouble> {
    let Some((mut reached, _)) = shared.seen() else { return load::load(shared).await.map(drop) };
    if reached >= until {
        return Ok(());
    }
    let mut reader = Reader::start(&shared.bucket, &[], reached + 1).await?;
    while reached < until {
        let entry = reader.next_standing().await?;
        reached = entry.sequence;
        if let Some(number) = turn_number(&entry.key) {
            let turn = decode_turn(number, entry.bytes())?;
            if shared.take_in(reached, &turn)? == Step::Gap {
                return load::load(shared).await.map(drop); // dropped while we were away
            }
        } else if let Some(known) = shared.known().as_mut() {
            known.no_turn_until(reached);
        }
    }
    Ok(())
}
