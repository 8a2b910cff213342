//! What work that is given as a function sees: the attempt it is to make, and what becomes of it meanwhile.
//!
//! Law: when [`Updates::next`] has returned `None`, the attempt belongs to nobody here any more, and whoever holds a
//! clone of its updates ends. The dispatcher is told of an end only when all clones are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::backend::Start;
use super::output::OutputWriter;
use super::{boottime, environment};
use crate::model::{Kind, TaskId, Token, WorkOrder};

/// One attempt of a task, as the function gets it that is to make it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    pub task: TaskId,
    pub kind: Kind,
    /// Counts from 1.
    pub number: u32,
    /// Tells this attempt from every other. Later ones are greater: whoever is written to can refuse an older one.
    pub token: Token,
    /// What the task asks for.
    pub order: Arc<WorkOrder>,
    /// Where the dispatcher answers over HTTP, if that is known.
    pub url: Option<Arc<str>>,
    /// What becomes of it.
    pub updates: Updates,
    /// Where what it writes goes.
    pub output: OutputWriter,
}

impl Attempt {
    pub(super) fn of(start: Start, updates: Updates) -> Self {
        let Start { held, kind, attempt, url, order, output, .. } = start;
        Self { task: held.id, kind, number: attempt, token: held.token, order, url, updates, output }
    }

    /// The variables work is told of: those of its order, `TRACEPARENT` and `LONGSHORE_*`.
    pub fn environment(&self) -> BTreeMap<String, String> {
        environment::of(&self.task, self.token, self.kind, self.number, self.url.as_deref(), &self.order)
    }
}

/// Something that became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// It is to end by itself; after `grace` its function is dropped. Comes again if the grace is shortened.
    Stop { grace: Duration },
}

/// What its work has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Stop(Duration),
    Over,
}

/// What becomes of an attempt while it is made. Whatever the function starts beside itself (tasks, threads) holds a
/// clone, and ends when it closes.
#[derive(Debug, Clone)]
pub struct Updates {
    told: watch::Receiver<Told>,
    seen: Told,
    heard: Arc<AtomicBool>,
    until: Arc<AtomicU64>,
}

impl Updates {
    /// `heard` becomes true when a stop was seen; `until` is when the runner's right to its work ends, in nanoseconds.
    pub(super) fn new(told: watch::Receiver<Told>, heard: Arc<AtomicBool>, until: Arc<AtomicU64>) -> Self {
        Self { told, seen: Told::Nothing, heard, until }
    }

    /// Waits for what comes next; `None` when the attempt was taken away, its grace is over, or its function has ended.
    /// May be dropped and called again; nothing is missed.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            let told = *self.told.borrow_and_update();
            match told {
                Told::Over => return None,
                Told::Stop(grace) if told != self.seen => {
                    self.seen = told;
                    self.heard.store(true, Ordering::Release);
                    return Some(Update::Stop { grace });
                }
                Told::Stop(_) | Told::Nothing => {}
            }
            if self.told.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Whether it was asked to stop, or taken away: for work that looks now and then and does not wait.
    pub fn stop_asked(&self) -> bool {
        let asked = *self.told.borrow() != Told::Nothing || self.told.has_changed().is_err();
        self.heard.fetch_or(asked, Ordering::AcqRel);
        asked
    }

    /// Until when its runner has the right to this attempt, counted from when the machine started, suspension included
    /// (`CLOCK_BOOTTIME`). Moves on with every heartbeat that is answered.
    pub fn hold_until(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// Whether its runner has the right to this attempt at this very moment: it was not taken away, and the lease is not
    /// over. Asked just before what must not be done twice, it also sees what nobody could say: that this process was
    /// stopped for longer than its lease.
    pub fn is_held(&self) -> bool {
        let over = *self.told.borrow() == Told::Over || self.told.has_changed().is_err();
        !over && boottime() < self.hold_until()
    }
}
