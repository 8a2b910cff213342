//! Committing a turn: one message directly after everything that is known.
//!
//! Law: `Done` and `Deposed` are only said of what stands in the bucket at the turn's number; what moved the last
//! sequence is read before anything is concluded from it, so a page of the snapshot, or an answer that was lost,
//! never deposes. The same record may be tried again at any time: it is stored once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::acceptance;
use super::bucket::turn_key;
use super::log;
use super::publish::{Published, publish};
use super::trouble::Trouble;
use super::{Shared, load};
use crate::model::{Head, TurnId, TurnRecord};
use crate::ports::Commit;
use crate::wire::turn::encode;

/// How often one commit tries before it says that it does not know.
const TRIES: u32 = 12;
/// How long it waits after the server was busy, times the tries so far.
const BUSY: Duration = Duration::from_millis(2);

/// What is known when a turn is tried.
struct Seen {
    sequence: u64,
    head: Head,
    standing: Option<TurnId>,
}

/// Writes one turn.
pub(super) async fn commit(shared: &Shared, turn: &Arc<TurnRecord>) -> Commit {
    let _writing = shared.writing.lock().await;
    if let Some(why) = shared.lost() {
        return Commit::Refused { why: why.to_string() };
    }
    if shared.is_unchecked()
        && let Err(why) = shared.last_sequence().await
    {
        return answer(why);
    }
    settle(shared, turn).await.unwrap_or_else(answer)
}

async fn settle(shared: &Shared, turn: &Arc<TurnRecord>) -> Result<Commit, Trouble> {
    let bytes = Bytes::from(encode(turn).into_bytes());
    let excess = acceptance::excess(shared.budget(), turn, || bytes.len());
    let mut up_to_date = false;
    let mut last_why = String::new();
    for tries in 1..=TRIES {
        let Some(Seen { sequence, head, standing }) = seen(shared, turn.number) else {
            load::load(shared).await?;
            up_to_date = true;
            continue;
        };
        if turn.number <= head.number {
            let standing = match standing {
                None => log::find(shared, turn.number, head.number).await?,
                known => known,
            };
            return Ok(acceptance::answer(turn, standing, &head));
        }
        if turn.number > head.number + 1 || excess.is_some() {
            if !up_to_date {
                log::catch_up(shared, shared.last_sequence().await?).await?;
                up_to_date = true;
                continue;
            }
            return Ok(match excess {
                Some(excess) if turn.number == head.number + 1 => excess,
                _ => acceptance::answer(turn, None, &head),
            });
        }
        shared.known().iter_mut().for_each(|known| known.tries(turn.id));
        match publish(&shared.bucket, &turn_key(turn.number), bytes.clone(), sequence).await {
            Published::At(place) => {
                shared.take_in(place, turn)?;
                return Ok(Commit::Done);
            }
            Published::Elsewhere(last) if last < sequence => {
                return Err(shared.ends_before(last, sequence));
            }
            Published::Elsewhere(last) if last > sequence => log::catch_up(shared, last).await?,
            Published::Elsewhere(last) => last_why = format!("the server expects what it has, {last}"),
            Published::Busy(why) => {
                last_why = why;
                log::catch_up(shared, shared.last_sequence().await?).await?;
            }
            Published::Refused(why) => {
                log::catch_up(shared, shared.last_sequence().await?).await?;
                if seen(shared, turn.number).is_some_and(|seen| seen.head.number == head.number) {
                    return Ok(Commit::Refused { why });
                }
            }
            Published::Nobody(why) => {
                // Whether it is still there is for the servers to say, and is believed only in time.
                shared.last_sequence().await?;
                return Ok(Commit::Unknown { why });
            }
            Published::Unknown(why) => return Ok(Commit::Unknown { why }),
        }
        if !last_why.is_empty() {
            tokio::time::sleep(BUSY * tries).await;
        }
    }
    Ok(Commit::Unknown { why: format!("turn {} was not settled in {TRIES} tries: {last_why}", turn.number) })
}

fn seen(shared: &Shared, number: u64) -> Option<Seen> {
    let known = shared.known();
    let known = known.as_ref()?;
    let standing = known.standing(number).map(|(id, _)| id);
    Some(Seen { sequence: known.sequence, head: known.head, standing })
}

/// What trouble on the way means for the turn: it certainly does not stand where turns were lost, or where one
/// stands that this version cannot read.
fn answer(why: Trouble) -> Commit {
    match why {
        Trouble::Lost(why) | Trouble::Newer(why) => Commit::Refused { why },
        other => Commit::Unknown { why: other.why() },
    }
}
