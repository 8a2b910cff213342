//! Loading: the snapshot's pages and the turns after it, as one state.
//!
//! Law: the bucket is read up to a last sequence, in order and without a gap, so what was gathered is what stood
//! there at that moment. It is the table if the newest pointer's pages are all there, none older than the
//! pointer says, and the turns follow from the pointer's to the last one without a gap. If not, somebody was
//! writing meanwhile: what has been written since is read on top, and it is judged again. No page is believed
//! before the turns are read up to where it stands: it has what they say.
//!
//! A row's value is its last change in the turns after the pointer's, else what its page says. That is right
//! also while the next snapshot is half written, because a row leaves its page only after it has changed, and
//! because a new leader writes pages of its own and touches none of the pointer's (see `pages`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Shared;
use super::bucket::{Bucket, POINTER, turn_number};
use super::known::Known;
use super::page_id;
use super::reader::{Entry, Reader};
use super::trouble::Trouble;
use crate::model::{Change, Head, Key, Row, TurnId, TurnRecord};
use crate::ports::Load;
use crate::wire::snapshot::{Page, Pointer, decode_page, decode_pointer};
use crate::wire::turn;

/// How long a load may take.
const LOAD_WITHIN: Duration = Duration::from_secs(60);
/// How long is waited before what is missing is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often what does not fit together is looked at again while nothing more is written.
const LOOKS: u32 = 5;

/// A table as it stood at one sequence.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) sequence: u64,
    pub(super) head: Head,
    /// In the order of their keys.
    pub(super) rows: Vec<Row>,
    /// The turns that were read and where they stand, the head last.
    pub(super) turns: VecDeque<(TurnId, u64)>,
}

/// Reads the whole table, and what it says about its end into what is known.
pub(super) async fn load(shared: &Shared) -> Result<Load, Trouble> {
    let seen = shared.seen();
    let loaded = timeout(LOAD_WITHIN, read(shared))
        .await
        .unwrap_or_else(|_| Err(Trouble::Unclear(format!("it was not read within {LOAD_WITHIN:?}"))))?;
    if let Some((_, head)) = seen.filter(|(_, head)| loaded.head.number < head.number) {
        let why = format!("it ends with turn {}, and turn {} was seen", loaded.head.number, head.number);
        return Err(shared.doubt(why));
    }
    let Loaded { sequence, head, rows, turns } = loaded;
    let mut known = shared.known();
    if known.as_ref().is_none_or(|known| known.head.number < head.number) {
        *known = Some(Known::new(sequence, head, turns, rows.clone()));
    }
    Ok(Load { table: shared.bucket.table, head, rows })
}

/// Reads the bucket up to its last sequence, and further for as long as that does not yield a table.
async fn read(shared: &Shared) -> Result<Loaded, Trouble> {
    let bucket = &shared.bucket;
    let mut last = shared.last_sequence().await?;
    let mut gathered = Gathered::default();
    if last == 0 {
        return gathered.judge(0).map_err(Trouble::Damaged);
    }
    let from = gathered.snapshot(bucket).await?;
    last = last.max(gathered.newest);
    let mut reader = Reader::start(bucket, &[], from).await?;
    let mut reached = from - 1;
    let mut looks = 0;
    loop {
        while reached < last {
            let entry = reader.next_standing().await?;
            reached = entry.sequence;
            gathered.take(&entry)?;
        }
        let missing = match gathered.judge(reached) {
            Ok(loaded) => return Ok(loaded),
            Err(missing) => missing,
        };
        looks += 1;
        if looks > LOOKS {
            return Err(Trouble::Damaged(missing));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        let more = shared.last_sequence().await?;
        if more > last {
            (last, looks) = (more, 0);
        }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
struct Gathered {
    pointer: Option<Pointer>,
    pages: HashMap<String, Page>,
    /// The last sequence of anything that was taken.
    newest: u64,
    /// The latest turns without a gap between them.
    turns: VecDeque<(u64, Arc<TurnRecord>)>,
}

impl Gathered {
    /// Reads the snapshot as it stands and says from which sequence on the rest is to be read. Saves reading the
    /// turns that it covers; what is written meanwhile comes with the rest.
    async fn snapshot(&mut self, bucket: &Bucket) -> Result<u64, Trouble> {
        let Some(pointer) = bucket.last(POINTER).await? else { return Ok(1) };
        decode_pointer(&pointer.bytes)?;
        let keys: Vec<String> =
            page_id::Folder::ALL.iter().map(|folder| format!("{}.*", folder.as_str())).collect();
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        keys.push(POINTER);
        let mut reader = Reader::start(bucket, &keys, 1).await?;
        loop {
            let entry = reader.next_standing().await?;
            self.take(&entry)?;
            if let Some(pointer) = &self.pointer {
                return Ok(pointer.sequence + 1);
            }
        }
    }

    fn take(&mut self, entry: &Entry) -> Result<(), Trouble> {
        self.newest = self.newest.max(entry.sequence);
        if let Some(number) = turn_number(&entry.key) {
            if self.pointer.as_ref().is_some_and(|pointer| number <= pointer.turn) {
                return Ok(());
            }
            let turn = decode_turn(number, entry.bytes())?;
            match self.turns.back() {
                Some((_, last)) if turn.number <= last.number => {
                    return Err(Trouble::Damaged(format!(
                        "turn {} stands after turn {}",
                        turn.number, last.number
                    )));
                }
                // The turns between have been dropped since; a newer pointer will say so.
                Some((_, last)) if turn.number > last.number + 1 => self.turns.clear(),
                _ => {}
            }
            self.turns.push_back((entry.sequence, turn));
        } else if entry.key == POINTER {
            let pointer = decode_pointer(entry.bytes())?;
            while self.turns.front().is_some_and(|(_, turn)| turn.number <= pointer.turn) {
                self.turns.pop_front();
            }
            self.pointer = Some(pointer);
        } else if page_id::is_page(&entry.key) {
            let page = decode_page(entry.bytes())?;
            self.pages.insert(entry.key.clone(), page);
        }
        Ok(())
    }

    /// The table after everything up to `sequence`, or what is missing for one.
    fn judge(&mut self, sequence: u64) -> Result<Loaded, String> {
        if sequence < self.newest {
            let newest = self.newest;
            return Err(format!("a page stands at {newest}, and turns were read up to {sequence}"));
        }
        let before = self.pointer.as_ref().map_or(Head::empty(), |pointer| pointer.head);
        for (key, turn) in self.pointer.iter().flat_map(|pointer| &pointer.pages) {
            match self.pages.get(key) {
                None => return Err(format!("page {key} of the snapshot is missing")),
                Some(page) if page.turn < *turn => {
                    let old = page.turn;
                    return Err(format!(
                        "page {key} is of turn {old}, the snapshot means that of turn {turn}"
                    ));
                }
                Some(_) => {}
            }
        }
        if let Some((_, first)) = self.turns.front().filter(|(_, first)| first.number != before.number + 1) {
            return Err(format!(
                "the snapshot is of turn {}, and the log goes on with turn {}",
                before.number, first.number
            ));
        }

        let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
        for key in self.pointer.iter().flat_map(|pointer| pointer.pages.keys()) {
            let page = self.pages.get_mut(key).map(|page| std::mem::take(&mut page.rows));
            rows.extend(page.into_iter().flatten().map(|row| (row.key(), row)));
        }
        for change in self.turns.iter().flat_map(|(_, turn)| &turn.changes) {
            match change {
                Change::Put(row) => rows.insert(row.key(), row.clone()),
                Change::Delete(key) => rows.remove(key),
            };
        }
        Ok(Loaded {
            sequence,
            head: self.turns.back().map_or(before, |(_, turn)| turn.head()),
            rows: rows.into_values().collect(),
            turns: self.turns.iter().map(|(sequence, turn)| (turn.id, *sequence)).collect(),
        })
    }
}

/// Reads a turn that stands under the key of turn `number`.
pub(super) fn decode_turn(number: u64, bytes: &[u8]) -> Result<Arc<TurnRecord>, Trouble> {
    if bytes.is_empty() {
        return Err(Trouble::Damaged(format!("turn {number} was deleted by hand")));
    }
    let turn = turn::decode(bytes)?;
    if turn.number == number {
        Ok(Arc::new(turn))
    } else {
        Err(Trouble::Damaged(format!("turn {} stands under the key of turn {number}", turn.number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_believed_before_the_turns_up_to_where_it_stands_are_read() {
        let mut gathered = Gathered { newest: 1_100, ..Gathered::default() };
        let why = gathered.judge(1_005).expect_err("the page has what turns after 1,005 say");
        assert_eq!(why, "a page stands at 1100, and turns were read up to 1005");
        assert_eq!(gathered.judge(1_100).expect("nothing is missing").sequence, 1_100);
    }
}
