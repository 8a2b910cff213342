//! The lease, as the cluster knows it: whole seconds since a Job's start after which the cluster ends it.
//!
//! Law: nothing of a Job runs before its deadline stands, and no deadline lies after what the runner holds. A Job begins
//! to count when its controller first sees it, which says so in the Job's status, and runs nothing while its
//! parallelism is 0; only a runner that has seen that start gives it a parallelism and a deadline, in one change. A
//! start is seen after it was: counted from then, a deadline is early rather than late.
//!
//! A deadline is moved when half of what it gave is gone, so that a lease is renewed more often than every Job of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::KILL_GRACE;
use super::cluster::{Cluster, Trouble};
use crate::runner::boottime;

/// The most changes on their way at once.
const AT_ONCE: usize = 16;
/// How soon a change that was not taken is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// The longest sleep: timers do not count suspension, leases do.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// What the cluster may need to act, and the part of a second it does not tell.
const ABOUT_THEN: Duration = Duration::from_secs(1);
/// Where nobody holds anything, a deadline of some thirty years.
const NEVER: i64 = 1_000_000_000;

/// When one Job is ended by its cluster.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    /// When its start was seen; all times are since this machine started.
    seen: Duration,
    at: Duration,
    /// How much it gave when it was set.
    gave: Duration,
}

/// The deadlines of all Jobs of one start of a runner.
#[derive(Debug, Clone)]
pub(super) struct Deadlines {
    cluster: Cluster,
    until: watch::Sender<Duration>,
    all: Arc<Mutex<BTreeMap<String, Deadline>>>,
    begun: Arc<Notify>,
}

impl Deadlines {
    pub(super) fn new(cluster: Cluster) -> Self {
        let until = watch::Sender::new(Duration::MAX);
        Self { cluster, until, all: Arc::default(), begun: Arc::default() }
    }

    /// Lets all Jobs run until then.
    pub(super) fn hold_until(&self, until: Duration) {
        self.until.send_if_modified(|before| std::mem::replace(before, until) != until);
    }

    /// Lets a Job whose start was seen at `seen` begin, once what is held leaves it time to. Tried until the cluster
    /// took or refused it; once it was tried, the Job may run.
    pub(super) async fn begin(&self, job: &str, seen: Duration) -> Result<(), String> {
        let mut until = self.until.subscribe();
        loop {
            let seconds = seconds(seen, *until.borrow_and_update());
            let at = seen + duration(seconds);
            if at <= boottime() + ABOUT_THEN {
                // Too late for what is held now: it is renewed, or this is stopped.
                let _ = until.changed().await;
                continue;
            }
            match self.cluster.let_run(job, seconds).await {
                Ok(()) => {
                    let gave = at.saturating_sub(boottime());
                    self.all().insert(job.to_owned(), Deadline { seen, at, gave });
                    self.begun.notify_one();
                    return Ok(());
                }
                Err(Trouble::Refused { said, .. }) => return Err(said),
                Err(Trouble::Silent(_)) => sleep(TRY_AGAIN).await,
            }
        }
    }

    /// Whether the cluster has ended the Job by now, or is about to.
    pub(super) fn is_over(&self, job: &str) -> bool {
        self.all().get(job).is_some_and(|deadline| boottime() + ABOUT_THEN >= deadline.at)
    }

    pub(super) fn forget(&self, job: &str) {
        self.all().remove(job);
    }

    /// Moves deadlines for as long as it is polled.
    pub(super) async fn keep(self) {
        let mut until = self.until.subscribe();
        loop {
            let held = *until.borrow_and_update();
            let due = self.due(held, boottime());
            let again = if due.is_empty() { LONGEST_SLEEP } else { TRY_AGAIN };
            stream::iter(due)
                .for_each_concurrent(AT_ONCE, |(job, seen)| self.move_one(job, seen, held))
                .await;
            tokio::select! {
                _ = until.changed() => {}
                () = self.begun.notified() => {}
                () = sleep(again) => {}
            }
        }
    }

    /// The Jobs of which half of the time is gone, and which may be given more.
    fn due(&self, held: Duration, now: Duration) -> Vec<(String, Duration)> {
        let due = |deadline: &Deadline| {
            deadline.at.saturating_sub(now) <= deadline.gave / 2
                && deadline.seen + duration(seconds(deadline.seen, held)) > deadline.at
        };
        let all = self.all();
        all.iter().filter(|(_, deadline)| due(deadline)).map(|(job, one)| (job.clone(), one.seen)).collect()
    }

    async fn move_one(&self, job: String, seen: Duration, held: Duration) {
        let seconds = seconds(seen, held);
        match self.cluster.move_deadline(&job, seconds).await {
            Ok(()) => {
                if let Some(deadline) = self.all().get_mut(&job) {
                    deadline.at = seen + duration(seconds);
                    deadline.gave = deadline.at.saturating_sub(boottime());
                }
            }
            // It is gone; whoever waits for its end hears of that.
            Err(Trouble::Refused { code: 404, .. }) => self.forget(&job),
            Err(why) => {
                tracing::warn!(job, %why, "the deadline of a Job was not moved; it is tried again until the cluster ends the Job");
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Deadline>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole seconds after a start that was seen at `seen`, such that what the cluster asks to end then is dead at `until`.
fn seconds(seen: Duration, until: Duration) -> i64 {
    let left = until.saturating_sub(KILL_GRACE).saturating_sub(seen);
    // A Job takes no deadline of 0.
    i64::try_from(left.as_secs()).unwrap_or(NEVER).clamp(1, NEVER)
}

fn duration(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_later_than_what_is_held() {
        let second = Duration::from_secs(1);
        for millis in [0, 1, 499, 500, 999] {
            let (seen, until) = (100 * second + Duration::from_millis(millis), 115 * second);
            let dead = seen + duration(seconds(seen, until)) + KILL_GRACE;
            assert!(dead <= until && dead + second > until, "{seen:?}");
        }
        assert_eq!(seconds(100 * second, 90 * second), 1, "what was held is over: begin() does not begin it");
        assert_eq!(seconds(100 * second, Duration::MAX), NEVER);
    }
}
