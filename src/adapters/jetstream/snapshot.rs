//! The snapshot: written beside the turns by whoever writes them, so that old turns can be dropped.
//!
//! Laws: only a process whose own turn is the last one writes, and each write names the last sequence it knows,
//! so one that leads no longer writes nothing. The pages come first, the pointer to them last, and what neither
//! names is dropped after that; of the log, only turns that the pointer covers, and never the last 1,000. A name
//! is dropped for good: pages carry the turn they were made for, and nobody drops a page that is younger than
//! its own snapshot, so a leader that slept cannot hurt the next one.
//!
//! A turn waits for at most one page that is on its way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::bucket::{POINTER, turn_key};
use super::known::News;
use super::log::TURNS;
use super::page_id::{Folder, PageId};
use super::pages::Pages;
use super::publish::{Published, publish};
use super::trouble::{Trouble, in_time};
use crate::model::turn::FORMAT;
use crate::ports::table::TURNS_KEPT;
use crate::wire::snapshot::{decode_pointer, encode_pointer};

/// How often it is looked whether there is anything to write, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long no page is written after each snapshot, at least: whoever loads meanwhile finds one that stays.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// How many turns without a change make a new pointer worth writing: the log would only grow.
const EMPTY_TURNS: u64 = TURNS_KEPT / 2;
/// How often a write is tried that the server is too busy for.
const TRIES: u32 = 8;
/// How long is waited before that, times the tries so far.
const BUSY: Duration = Duration::from_millis(5);
const DEPOSED: &str = "another process writes the turns now";

/// What this process knows of the snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Nothing until the table was loaded once.
    pages: Option<Arc<Mutex<Pages>>>,
    /// The turn of the last pointer this leadership has written.
    pointer: Option<u64>,
    /// The last sequence known with the last turn that the pages have taken in, if this process wrote that turn.
    ours: Option<u64>,
    /// Whether the pages were begun and the pointer to them not written.
    unfinished: bool,
    /// Whether pages may lie around that no pointer names.
    untidy: bool,
    tried: Option<Instant>,
}

/// Keeps the snapshot young for as long as the table is open.
pub(super) async fn keep(table: Weak<Shared>) {
    let mut wrote = Instant::now();
    loop {
        let Some(shared) = table.upgrade() else { return };
        let (every, news) = (shared.options.snapshot_every, shared.news.clone());
        drop(shared);
        let pause = (every / 4).clamp(SHORTEST_PAUSE, LOOK_EVERY);
        // Turns are taken in as they come: those that wait for it are kept in memory.
        let _ = timeout(pause, news.notified()).await;
        let Some(shared) = table.upgrade() else { return };
        let mut snapshot = shared.snapshot.lock().await;
        snapshot.hear(&shared);
        if wrote.elapsed() >= pause && snapshot.is_due(every) {
            snapshot.tried = Some(Instant::now());
            match snapshot.write(&shared).await {
                Ok(()) => {}
                Err(Trouble::Unclear(why)) => tracing::debug!(%why, "snapshot was not finished"),
                Err(why) => tracing::warn!(why = why.why(), "snapshot was not written"),
            }
            wrote = Instant::now();
        }
    }
}

/// Drops the turns that the snapshot covers from the log, but never the last 1,000. Who writes the turns first
/// brings the snapshot up to where it covers them.
pub(super) async fn compact(shared: &Arc<Shared>) -> Result<(), Trouble> {
    let mut snapshot = shared.snapshot.lock().await;
    snapshot.hear(shared);
    let Some(wanted) = shared.seen().and_then(|(_, head)| head.number.checked_sub(TURNS_KEPT)) else {
        return Ok(());
    };
    if snapshot.ours.is_some() && snapshot.pointer.is_none_or(|covered| covered < wanted) {
        snapshot.write(shared).await?;
    }
    let bucket = &shared.bucket;
    let covered = match bucket.last(POINTER).await? {
        Some(pointer) => decode_pointer(&pointer.bytes)?.turn,
        None => return Ok(()),
    };
    let first_kept = wanted.min(covered) + 1;
    let first = bucket.last(&turn_key(first_kept)).await?;
    let before = bucket.last(&turn_key(first_kept - 1)).await?;
    if let (Some(first), Some(_)) = (first, before) {
        bucket.drop_messages(TURNS, Some(first.sequence)).await?;
    }
    if let Some(known) = shared.known().as_mut() {
        known.dropped_before(first_kept);
    }
    Ok(())
}

impl Snapshot {
    /// Takes in what has become known since the last time. Says whether the pages are still those of before.
    fn hear(&mut self, shared: &Shared) -> bool {
        let (News { rows, turns, of_others }, ours) = match shared.known().as_mut() {
            Some(known) => (known.take_news(), known.written_up_to()),
            None => return true,
        };
        let kept = rows.is_none() && !of_others;
        self.ours = ours;
        if of_others {
            (self.pointer, self.untidy) = (None, true);
        }
        if let Some((head, rows)) = rows {
            self.pages = Some(Arc::new(Mutex::new(Pages::of(head, rows))));
        }
        let Some(mut pages) = self.pages.as_deref().map(hold) else { return kept };
        if of_others {
            pages.begin_anew();
        }
        turns.iter().for_each(|turn| pages.turn(turn));
        kept
    }

    fn is_due(&self, every: Duration) -> bool {
        let Some(pages) = self.pages.as_deref().filter(|_| self.ours.is_some()).map(hold) else {
            return false;
        };
        let old = self.tried.is_none_or(|tried| tried.elapsed() >= every);
        let covered = self.pointer.unwrap_or(0);
        old && (self.unfinished || pages.changed() || pages.head().number >= covered + EMPTY_TURNS)
    }

    /// Writes the pages that have changed, then the pointer, then drops what it no longer names. Turns go on meanwhile
    /// and are taken in: the pointer is to the turn after which rows were put on pages, and the log has the rest.
    async fn write(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let Some(sequence) = self.ours else { return Ok(()) };
        let Some(pages) = self.pages.clone() else { return Ok(()) };
        self.unfinished = true;
        // A page may come to be stored although nobody says so.
        let untidy = std::mem::replace(&mut self.untidy, true);
        // All rows are looked through: off the asynchronous threads.
        let arranged = pages.clone();
        let arranging = move || {
            let mut pages = hold(&arranged);
            pages.arrange();
            pages.stale()
        };
        let stale = match spawn_blocking(arranging).await {
            Ok(stale) => stale,
            Err(why) => {
                hold(&pages).begin_anew();
                return Err(Trouble::unclear("arrange the snapshot", &why));
            }
        };
        for (page, keys) in stale {
            if !self.hear(shared) {
                return Err(Trouble::Unclear(DEPOSED.to_owned()));
            }
            let bytes = hold(&pages).encode(page, &keys);
            write(shared, &page.to_string(), bytes).await?;
            hold(&pages).wrote(page);
        }
        if !self.hear(shared) {
            return Err(Trouble::Unclear(DEPOSED.to_owned()));
        }
        let pointer = hold(&pages).pointer(FORMAT, sequence);
        write(shared, POINTER, encode_pointer(&pointer)).await?;
        (self.pointer, self.unfinished) = (Some(pointer.turn), false);

        let empty = hold(&pages).drop_empty();
        for page in empty {
            shared.bucket.drop_messages(&page.to_string(), None).await?;
        }
        if untidy {
            tidy(shared, &pages, pointer.turn).await?;
        }
        self.untidy = false;
        Ok(())
    }
}

fn hold(pages: &Mutex<Pages>) -> MutexGuard<'_, Pages> {
    pages.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one part, directly after everything that is known, if this process still wrote the last turn.
async fn write(shared: &Shared, key: &str, bytes: Vec<u8>) -> Result<(), Trouble> {
    let bytes = Bytes::from(bytes);
    for tries in 1..=TRIES {
        let _writing = shared.writing.lock().await;
        if let Some(why) = shared.lost() {
            return Err(Trouble::Lost(why.to_string()));
        }
        let after = shared.known().as_ref().and_then(|known| known.is_ours().then_some(known.sequence));
        let Some(after) = after else {
            return Err(Trouble::Unclear(DEPOSED.to_owned()));
        };
        match publish(&shared.bucket, key, bytes.clone(), after).await {
            Published::At(sequence) => {
                if let Some(known) = shared.known().as_mut() {
                    known.no_turn_until(sequence);
                }
                return Ok(());
            }
            Published::Elsewhere(last) if last < after => return Err(shared.ends_before(last, after)),
            Published::Elsewhere(last) => {
                return Err(Trouble::Unclear(format!(
                    "{key}: the last sequence is {last}, {after} was expected"
                )));
            }
            Published::Busy(why) if tries == TRIES => return Err(Trouble::Unclear(why)),
            Published::Busy(_) => {}
            Published::Refused(why) => return Err(Trouble::Unusable(format!("{key}: {why}"))),
            Published::Nobody(why) | Published::Unknown(why) => return Err(Trouble::Unclear(why)),
        }
        drop(_writing);
        tokio::time::sleep(BUSY * tries).await;
    }
    Ok(())
}

/// Drops the pages that earlier leaderships have left behind.
async fn tidy(shared: &Shared, pages: &Mutex<Pages>, turn: u64) -> Result<(), Trouble> {
    const LIST: &str = "list the pages";
    for folder in Folder::ALL {
        let filter = shared.bucket.names.key(&format!("{}.*", folder.as_str()));
        let listed = in_time(LIST, shared.bucket.stream.info_with_subjects(filter)).await?;
        let listed = listed.map_err(|why| Trouble::unclear(LIST, &why))?;
        let subjects: Result<Vec<(String, usize)>, _> = in_time(LIST, listed.try_collect()).await?;
        let subjects = subjects.map_err(|why| Trouble::unclear(LIST, &why))?;
        for (subject, _) in subjects {
            let id = shared.bucket.key_of(&subject).and_then(PageId::parse);
            if let Some(id) = id.filter(|id| id.made < turn && !hold(pages).has(*id)) {
                shared.bucket.drop_messages(&id.to_string(), None).await?;
            }
        }
    }
    Ok(())
}
