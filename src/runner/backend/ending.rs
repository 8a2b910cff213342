//! How work is made to end, and what is said of how it ended: the same for every back end.
//!
//! Law: TERM first and KILL when the grace is over; a grace of zero is KILL at once. Of several wishes the one that
//! leaves the least time holds. What was made to end says by what.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use super::output::{KEPT_BYTES, Tail};
use crate::model::{AttemptOutcome, End, resources::amount_text, time::format_span};

/// Work that was made to end: why, and how hard.
#[derive(Debug, Clone, Copy)]
struct Made {
    timed_out: bool,
    grace: Duration,
    /// When it is ended by KILL; `None` once it was.
    end_at: Option<Instant>,
}

/// What it is called when work ends as it was asked to, and when it is made to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways {
    pub asked: &'static str,
    pub forced: &'static str,
}

const SIGNALS: Ways = Ways { asked: "ended by TERM", forced: "ended by KILL" };

/// The wishes that one attempt end.
#[derive(Debug)]
pub(super) struct Ending {
    /// How long it may run, and until when that is.
    limit: Option<(Duration, Instant)>,
    timeout_grace: Duration,
    made: Option<Made>,
}

/// How the first process of an attempt ended.
#[derive(Debug, Default)]
pub(super) struct Exit {
    pub code: Option<i32>,
    /// What is said if nobody made it end and it did not end well.
    pub by_itself: Option<String>,
}

impl Ending {
    /// Of work that begins now.
    pub(super) fn new(limit: Option<Duration>, timeout_grace: Duration) -> Self {
        Self::since(limit, timeout_grace, Duration::ZERO)
    }

    /// Of work that began so long ago.
    pub(super) fn since(limit: Option<Duration>, timeout_grace: Duration, ran: Duration) -> Self {
        let at = |limit: Duration| (limit, Instant::now() + limit.saturating_sub(ran));
        Self { limit: limit.map(at), timeout_grace, made: None }
    }

    /// Takes in that it is to end within `grace`, and says which signal that means now.
    pub(super) fn ask(&mut self, grace: Duration) -> Option<Signal> {
        self.make(false, grace)
    }

    /// Waits until time alone demands a signal, and says which; may be dropped and called again.
    pub(super) async fn due(&mut self) -> Signal {
        let at = match &self.made {
            None => self.limit.map(|(_, at)| at),
            Some(made) => made.end_at,
        };
        match at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
        match &mut self.made {
            None => self.make(true, self.timeout_grace).unwrap_or(Signal::KILL),
            Some(made) => {
                made.end_at = None;
                Signal::KILL
            }
        }
    }

    /// Takes in that somebody else has ended it, because its runner's right to it was over.
    pub(super) fn was_over(&mut self) {
        self.made.get_or_insert(Made { timed_out: false, grace: Duration::ZERO, end_at: None });
    }

    /// Whether it was asked, or made, to end.
    #[cfg(feature = "kubernetes")]
    pub(super) fn is_made(&self) -> bool {
        self.made.is_some()
    }

    /// How long work that has run out of its time is given.
    pub(super) fn timeout_grace(&self) -> Duration {
        self.timeout_grace
    }

    fn make(&mut self, timed_out: bool, grace: Duration) -> Option<Signal> {
        let now = Instant::now();
        let first = self.made.is_none();
        let made = self.made.get_or_insert(Made { timed_out, grace, end_at: Some(now + grace) });
        if grace.is_zero() {
            made.grace = grace;
            made.end_at = None;
            return Some(Signal::KILL);
        }
        if first {
            return Some(Signal::TERM);
        }
        if made.end_at.is_some_and(|end_at| now + grace < end_at) {
            made.grace = grace;
            made.end_at = Some(now + grace);
        }
        None
    }

    /// What it means that it was made to end, if it was, and why and how that happened.
    pub(super) fn reason(&self, ways: Ways) -> Option<(AttemptOutcome, String)> {
        let made = self.made.as_ref()?;
        let how = made.how(ways);
        if !made.timed_out {
            return Some((AttemptOutcome::Cancelled, format!("stopped: {how}")));
        }
        let limit = self.limit.map(|(limit, _)| limit).unwrap_or_default();
        Some((AttemptOutcome::Failed, format!("timed out after {}, {how}", format_span(limit))))
    }

    /// What is said of an attempt that has ended, with the last lines it wrote.
    pub(super) fn end(&self, exit: Exit, tail: &Tail) -> End {
        let (outcome, reason) = match self.reason(SIGNALS) {
            Some((outcome, reason)) => (outcome, Some(reason)),
            None if exit.code == Some(0) => (AttemptOutcome::Succeeded, None),
            None => (AttemptOutcome::Failed, exit.by_itself),
        };
        end(outcome, exit.code, reason, tail)
    }
}

/// An end with a reason, and the last lines that were written.
pub(super) fn end(
    outcome: AttemptOutcome,
    exit_code: Option<i32>,
    reason: Option<String>,
    tail: &Tail,
) -> End {
    let room = KEPT_BYTES - reason.as_ref().map_or(0, |reason| (reason.len() + 1).min(KEPT_BYTES));
    let message = match (reason, tail.text(room)) {
        (None, tail) if tail.is_empty() => None,
        (None, tail) => Some(tail),
        (Some(reason), tail) if tail.is_empty() => Some(reason),
        (Some(reason), tail) => Some(format!("{reason}\n{tail}")),
    };
    End { outcome, exit_code, message: message.map(Into::into), artifacts: Vec::new() }
}

impl Made {
    fn how(&self, ways: Ways) -> String {
        let Ways { asked, forced } = ways;
        match self.end_at {
            Some(_) => format!("{asked} within a grace of {}", format_span(self.grace)),
            None if self.grace.is_zero() => format!("{forced} without a grace"),
            None => format!("{forced} after a grace of {}", format_span(self.grace)),
        }
    }
}

/// What is said of work that wanted more memory than the bytes it named, or than there were if it named none.
pub(super) fn out_of_memory(named: u64) -> String {
    let limit = match named {
        0 => "all the machine had".to_owned(),
        limit => format!("its limit of {}", amount_text("memory", limit)),
    };
    format!("out of memory: the kernel ended it at {limit}")
}

/// `signal 9 (KILL)`.
pub(super) fn signal_text(signal: i32) -> String {
    let name = match signal {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        5 => "TRAP",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        9 => "KILL",
        10 => "USR1",
        11 => "SEGV",
        12 => "USR2",
        13 => "PIPE",
        14 => "ALRM",
        15 => "TERM",
        24 => "XCPU",
        25 => "XFSZ",
        31 => "SYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}
