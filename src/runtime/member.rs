//! A member of a pool: follows its table, leads when that falls to it, and follows again.
//!
//! Law: the log is the lease. A member that has seen no turn for the take-over time tries the next one itself,
//! and one that sees a turn `released` tries at once; whether it leads is the table's answer and nothing else.
//! It never decides on a state that anything but committed turns was applied to.
//!
//! What is read is the committed state, whether the member leads or follows. A table that lost turns it had
//! acknowledged is neither followed nor led: reads go on, everything else stops and says why. An inbox that lost
//! what it had acknowledged leaves the table without a leader in the same way, until it is back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::{Call, Handle, Role, Status, View};
use super::replica::Replica;
use super::turn_loop::{Report, Stopped, TurnLoop};
use crate::core::{Settings, State};
use crate::model::{Change, Row, RunnerId, TurnRecord};
use crate::ports::{Clock, Follow, Inbox, Outbox, Table, TableError};

/// The pause before a table that cannot be read is read again.
const AGAIN: Duration = Duration::from_millis(500);

/// The pause for each replica that should rather lead than this one.
const FOR_EACH_BEFORE: Duration = Duration::from_millis(250);

/// How a member stands among the others of its pool. It only decides who tries first, never who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rank {
    /// How many others should rather take over.
    pub place: u32,
    /// It leads more pools than its share: this one is let go.
    pub hand_over: bool,
}

/// What a member is put together from.
pub struct Parts {
    /// This process.
    pub replica: Uuid,
    pub table: Arc<dyn Table>,
    pub settings: Arc<Settings>,
    pub clock: Arc<dyn Clock>,
    /// Told of every turn this member commits as leader, in order.
    pub report: Report,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// A replica with everything around it.
pub struct Member {
    pub(super) table: Arc<dyn Table>,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) report: Report,
    pub(super) calls: mpsc::UnboundedReceiver<Call>,
    pub(super) view: View,
    pub(super) turns: broadcast::Sender<Arc<TurnRecord>>,
    pub(super) status: watch::Sender<Status>,
    /// How often a turn is written though nothing is to be done; never where nobody watches.
    pub(super) pulse: Option<Duration>,
    pub(super) rank: watch::Receiver<Rank>,
    /// How many turns this process has decided; no turn id is used twice.
    pub(super) counter: u64,
    settings: Arc<Settings>,
    released: bool,
    /// Whether it has seen a turn being written since it was started.
    has_watched: bool,
    inbox_gone: bool,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// The inbox of a process that has no other: reports come through the door, so what follows them through it
/// follows them.
#[derive(Debug)]
pub struct DoorInbox(pub Handle);

impl Inbox for DoorInbox {
    fn read_reports(&self, mark: u64) {
        self.0.tell(vec![crate::core::input::Input::ReportsRead { mark }]);
    }
}

/// Why following ended.
enum Turned {
    /// Nothing was written for so long, or the leader has gone of its own accord.
    Leaderless {
        /// Since when nothing was written; nothing if nobody here knows.
        silence: Option<Duration>,
    },
    Stopped,
}

impl Member {
    /// Loads the table. `around` makes the inbox and the outbox with the door and the window.
    pub async fn open(
        parts: Parts,
        around: impl FnOnce(&Handle) -> (Arc<dyn Inbox>, Arc<dyn Outbox>),
    ) -> Result<(Self, Handle), TableError> {
        let load = parts.table.load().await?;
        let head = load.head;
        let state = State::load(parts.settings.clone(), load.table, load.head, load.rows);
        let view = View::new(state);
        let (door, calls) = mpsc::unbounded_channel();
        let (turns, _) = broadcast::channel(1_024);
        let status = Status {
            replica: parts.replica,
            role: Role::Claiming,
            leader: None,
            turn: head.number,
            trouble: None,
            stopping: false,
        };
        let (status, statuses) = watch::channel(status);
        let handle = Handle::new(door, view.clone(), turns.clone(), statuses, parts.table.newest());
        let (inbox, outbox) = around(&handle);
        let member = Self {
            table: parts.table,
            inbox,
            outbox,
            clock: parts.clock,
            report: parts.report,
            calls,
            view,
            turns,
            status,
            pulse: None,
            rank: watch::channel(Rank::default()).1,
            counter: 0,
            settings: parts.settings,
            released: head.released,
            has_watched: false,
            inbox_gone: false,
        };
        Ok((member, handle))
    }

    /// Leads until `stop` is cancelled: for a table nobody else writes to.
    pub async fn lead(mut self, stop: CancellationToken) -> Stopped {
        TurnLoop::begin(&mut self, None).run(&stop).await
    }

    /// Follows and leads in turn until `stop` is cancelled. Without a turn for `take_over` it tries to lead, a
    /// little later for each that is ranked before it; as leader it writes a turn at least three times as often.
    pub async fn take_part(
        mut self,
        take_over: Duration,
        rank: watch::Receiver<Rank>,
        stop: CancellationToken,
    ) -> Stopped {
        self.pulse = Some(take_over / 3);
        self.rank = rank;
        self.status.send_modify(|status| status.role = Role::Following);
        loop {
            let silence = match self.follow(take_over, &stop).await {
                Turned::Leaderless { silence } => silence,
                Turned::Stopped => {
                    self.status.send_modify(|status| status.stopping = true);
                    return Stopped::Released;
                }
            };
            let turn = self.view.read(State::turn);
            let silence_ms = silence.map(|silence| silence.as_millis());
            tracing::info!(turn, silence_ms, "nobody leads; taking over");
            let stopped = TurnLoop::begin(&mut self, silence).run(&stop).await;
            if stop.is_cancelled() {
                return stopped;
            }
            tracing::warn!(?stopped, "leads no longer; following");
            // A pool that was let go is for others first.
            self.released = false;
            self.has_watched = true;
            self.status.send_modify(|status| status.role = Role::Following);
        }
    }

    /// A replica that may lead from the committed state on.
    pub(super) fn candidate(&self) -> Replica {
        Replica::resume(self.status.borrow().replica, self.counter, self.view.read(State::clone))
    }

    async fn follow(&mut self, take_over: Duration, stop: &CancellationToken) -> Turned {
        let mut heard = self.clock.monotonic();
        'reading: loop {
            let after = self.view.read(State::turn);
            let mut turns = match self.table.follow(after).await {
                Ok(turns) => turns,
                Err(why) => {
                    self.in_trouble(&why.to_string());
                    if self.pause(stop).await {
                        return Turned::Stopped;
                    }
                    continue;
                }
            };
            loop {
                let silence = self.clock.monotonic().saturating_sub(heard);
                let others_first = FOR_EACH_BEFORE * self.rank.borrow().place;
                let patience = match self.is_inbox_gone() {
                    true => silence + AGAIN,
                    false if self.released => others_first,
                    false => take_over + others_first,
                };
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Turned::Stopped,
                    followed = turns.next() => match followed {
                        Some(Follow::Turn(record)) => {
                            heard = self.clock.monotonic();
                            self.has_watched = true;
                            self.take_over_from(&record);
                        }
                        Some(Follow::Behind) => {
                            if self.load_again().await.is_err() && self.pause(stop).await {
                                return Turned::Stopped;
                            }
                            heard = self.clock.monotonic();
                            continue 'reading;
                        }
                        Some(Follow::Lost { why }) => return self.stand_still(&why, stop).await,
                        None => {
                            if self.pause(stop).await {
                                return Turned::Stopped;
                            }
                            continue 'reading;
                        }
                    },
                    call = self.calls.recv() => drop(call), // its asker learns that nobody leads here
                    () = tokio::time::sleep(patience.saturating_sub(silence)) => {
                        if !self.is_inbox_gone() {
                            let silence = self.clock.monotonic().saturating_sub(heard);
                            return Turned::Leaderless { silence: self.has_watched.then_some(silence) };
                        }
                    }
                }
            }
        }
    }

    /// Applies a turn somebody else has committed.
    fn take_over_from(&mut self, record: &Arc<TurnRecord>) {
        self.view.apply(record);
        self.released = record.released;
        for runner in runners_of(record) {
            self.outbox.deliver(runner, record);
        }
        // Nobody listening is fine.
        let _ = self.turns.send(record.clone());
        self.status.send_modify(|status| {
            status.leader = (!record.released).then_some(record.id.leader);
            status.turn = record.number;
            status.trouble = None;
        });
    }

    async fn load_again(&mut self) -> Result<(), ()> {
        match self.table.load().await {
            Ok(load) => {
                self.released = load.head.released;
                let turn = load.head.number;
                self.view.replace(State::load(self.settings.clone(), load.table, load.head, load.rows));
                self.status.send_modify(|status| {
                    status.turn = turn;
                    status.trouble = None;
                });
                tracing::info!(turn, "table loaded again: its log no longer reached back far enough");
                Ok(())
            }
            Err(why) => {
                self.in_trouble(&why.to_string());
                Err(())
            }
        }
    }

    /// Whether nobody may lead, for want of what the inbox held; says so while it is.
    fn is_inbox_gone(&mut self) -> bool {
        let gone = self.inbox.gone();
        let is_gone = gone.is_some();
        if is_gone || std::mem::replace(&mut self.inbox_gone, is_gone) {
            self.status.send_if_modified(|status| {
                let before = std::mem::replace(&mut status.trouble, gone);
                before != status.trouble
            });
        }
        self.inbox_gone = is_gone;
        is_gone
    }

    async fn stand_still(&mut self, why: &str, stop: &CancellationToken) -> Turned {
        self.in_trouble(why);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Turned::Stopped,
                call = self.calls.recv() => drop(call),
            }
        }
    }

    fn in_trouble(&self, why: &str) {
        tracing::error!(why, "table cannot be followed");
        self.status.send_modify(|status| status.trouble = Some(why.to_owned()));
    }

    /// Waits a little; whether a stop was asked for meanwhile.
    async fn pause(&self, stop: &CancellationToken) -> bool {
        tokio::time::timeout(AGAIN, stop.cancelled()).await.is_ok()
    }
}

/// The runners a turn may have something for.
fn runners_of(record: &TurnRecord) -> impl Iterator<Item = &RunnerId> {
    record.changes.iter().filter_map(|change| match change {
        Change::Put(Row::Task(task)) => task.assignment().map(|held| &held.runner),
        Change::Put(_) | Change::Delete(_) => None,
    })
}
