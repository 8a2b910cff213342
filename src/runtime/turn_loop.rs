//! The turn loop: carries out what the replica decides, on a real table.
//!
//! Law: commit, then send effects, then report facts, then acknowledge the inputs. Inputs that arrive while a
//! turn is on its way make the next turn larger. A stop finishes the turn, takes what has arrived, writes a last
//! turn `released`, and only then returns.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::{Call, Handle, Status, View};
use super::log_time::LogTime;
use super::replica::{Replica, Settled};
use crate::core::input::{Answer, Arrived, Input, Ticket};
use crate::core::{Effect, Settings};
use crate::model::TurnRecord;
use crate::ports::{Clock, Commit, Inbox, Outbox, Table, TableError};

/// Told of every committed turn, in order.
pub type Report = Box<dyn Fn(&TurnRecord, Took) + Send>;

/// How long a turn took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Took {
    /// To decide it.
    pub decide: Duration,
    /// From handing it to the table until it was durable, repetitions included.
    pub commit: Duration,
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to, and everything that had arrived is committed.
    Released,
    /// Another process leads on the same table.
    Deposed,
    /// It was asked to while the table took nothing; what was not committed was not acknowledged either.
    InTrouble(String),
}

/// The embedded inbox: reports come through the door, so whatever follows them through it follows them.
#[derive(Debug)]
struct Door(mpsc::UnboundedSender<Call>);

impl Inbox for Door {
    fn read_reports(&self, mark: u64) {
        // A closed door means the loop has ended: nobody waits for the mark.
        let _ = self.0.send(Call { inputs: vec![Input::ReportsRead { mark }], reply: None });
    }
}

/// The answers of one call, as they come in.
struct Open {
    answers: Vec<Option<Answer>>,
    left: usize,
    reply: oneshot::Sender<Vec<Answer>>,
}

type CommitFuture = Pin<Box<dyn Future<Output = Commit> + Send>>;

/// A leader on its table.
pub struct TurnLoop {
    replica: Replica,
    table: Arc<dyn Table>,
    inbox: Box<dyn Inbox>,
    outbox: Arc<dyn Outbox>,
    clock: Arc<dyn Clock>,
    time: LogTime,
    report: Report,
    calls: mpsc::UnboundedReceiver<Call>,
    view: View,
    turns: broadcast::Sender<Arc<TurnRecord>>,
    status: watch::Sender<Status>,
    open: FxHashMap<u64, Open>,
    next_call: u64,
    retry: Duration,
    since_compaction: u64,
    /// How long the turn on its way took to decide, and when it was first handed to the table.
    decided: (Duration, Duration),
}

impl std::fmt::Debug for TurnLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnLoop").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// A call's place within a ticket: the lowest 16 bits are the input's place within the call.
const PLACE_BITS: u32 = 16;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Turns between two compactions of the log.
const COMPACT_EVERY: u64 = 1_000;

impl TurnLoop {
    /// Loads the table and begins to lead. `outbox` is made with the window on committed turns.
    pub async fn open(
        table: Arc<dyn Table>,
        settings: Arc<Settings>,
        clock: Arc<dyn Clock>,
        report: Report,
        outbox: impl FnOnce(&View) -> Arc<dyn Outbox>,
    ) -> Result<(Self, Handle), TableError> {
        let load = table.load().await?;
        let head = load.head;
        let id = Uuid::now_v7();
        let mut replica = Replica::new(id, settings, load);
        let view = View::new(replica.state().clone());
        let time = LogTime::begin(&*clock, head.at, None);
        replica.lead(time.now(&*clock));
        let (door, calls) = mpsc::unbounded_channel();
        let (turns, _) = broadcast::channel(1_024);
        let status =
            Status { replica: id, leading: false, turn: head.number, trouble: None, stopping: false };
        let (status, statuses) = watch::channel(status);
        let handle = Handle::new(door.clone(), view.clone(), turns.clone(), statuses);
        let outbox = outbox(&view);
        let turn_loop = Self {
            replica,
            table,
            inbox: Box::new(Door(door)),
            outbox,
            clock,
            time,
            report,
            calls,
            view,
            turns,
            status,
            open: FxHashMap::default(),
            next_call: 0,
            retry: RETRY_FIRST,
            since_compaction: 0,
            decided: Default::default(),
        };
        Ok((turn_loop, handle))
    }

    /// Takes turns until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) -> Stopped {
        let mut committing: Option<CommitFuture> = None;
        loop {
            if stop.is_cancelled() && committing.is_none() {
                return self.finish().await;
            }
            if committing.is_none()
                && let Some(record) = self.decide()
            {
                committing = Some(self.commit(record, Duration::ZERO));
            }
            let wait = self.time.until(&*self.clock, self.replica.next_due());
            tokio::select! {
                biased;
                answer = async { committing.as_mut().expect("guarded").await }, if committing.is_some() => {
                    committing = None;
                    match self.settle(answer) {
                        Settled::Again { .. } | Settled::Refused { .. } if stop.is_cancelled() => {
                            let why = self.status.borrow().trouble.clone().unwrap_or_default();
                            return Stopped::InTrouble(why);
                        }
                        Settled::Again { .. } | Settled::Refused { .. } => {
                            committing = self.again();
                        }
                        Settled::Deposed { .. } => return Stopped::Deposed,
                        Settled::Committed { .. } => {}
                    }
                }
                call = self.calls.recv() => {
                    let Some(call) = call else { return self.finish().await };
                    self.take_in(call);
                    self.take_in_arrived();
                }
                () = tokio::time::sleep(wait), if committing.is_none() => {}
                () = stop.cancelled(), if committing.is_none() => {}
            }
        }
    }

    fn decide(&mut self) -> Option<Arc<TurnRecord>> {
        let began = self.clock.monotonic();
        let record = self.replica.decide(self.time.now(&*self.clock), self.table.budget())?;
        let now = self.clock.monotonic();
        self.decided = (now.saturating_sub(began), now);
        Some(record)
    }

    fn release(&mut self) -> Option<Arc<TurnRecord>> {
        self.decided = (Duration::ZERO, self.clock.monotonic());
        self.replica.release(self.time.now(&*self.clock), self.table.budget())
    }

    fn commit(&self, record: Arc<TurnRecord>, after: Duration) -> CommitFuture {
        let table = self.table.clone();
        Box::pin(async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            table.commit(&record).await
        })
    }

    /// Offers the record on its way again, after a pause that grows.
    fn again(&mut self) -> Option<CommitFuture> {
        let record = self.replica.on_its_way()?;
        let pause = self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        Some(self.commit(record, pause))
    }

    fn settle(&mut self, answer: Commit) -> Settled {
        let settled = self.replica.settle(answer);
        match &settled {
            Settled::Committed { record, effects } => {
                self.retry = RETRY_FIRST;
                self.view.apply(record);
                self.send(effects);
                let (decide, handed_over) = self.decided;
                let commit = self.clock.monotonic().saturating_sub(handed_over);
                (self.report)(record, Took { decide, commit });
                // Nobody listening is fine.
                let _ = self.turns.send(record.clone());
                self.acknowledge(effects);
                self.status.send_modify(|status| {
                    status.leading = !record.released;
                    status.turn = record.number;
                    status.trouble = None;
                });
                self.compact_now_and_then();
            }
            Settled::Again { why } | Settled::Refused { why } => {
                tracing::error!(turn = self.replica.state().turn(), why, "table did not take a turn");
                self.status.send_modify(|status| status.trouble = Some(why.clone()));
            }
            Settled::Deposed { .. } => {
                self.open.clear();
                self.status.send_modify(|status| status.leading = false);
            }
        }
        settled
    }

    fn send(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Deliver { runner } => self.outbox.deliver(runner),
                Effect::ReadReports { mark } => self.inbox.read_reports(*mark),
                Effect::Answer { .. } => {}
            }
        }
    }

    fn acknowledge(&mut self, effects: &[Effect]) {
        for effect in effects {
            let Effect::Answer { to: Ticket(ticket), answer } = effect else { continue };
            let call = ticket >> PLACE_BITS;
            let place = usize::try_from(ticket & ((1 << PLACE_BITS) - 1)).expect("16 bits");
            let Some(open) = self.open.get_mut(&call) else { continue };
            open.answers[place] = Some(answer.clone());
            open.left -= 1;
            if open.left == 0 {
                let open = self.open.remove(&call).expect("it was just there");
                // Whoever asked may have gone; what was decided stands.
                let _ = open.reply.send(open.answers.into_iter().flatten().collect());
            }
        }
    }

    fn take_in(&mut self, call: Call) {
        let number = self.next_call;
        self.next_call += 1;
        let count = call.inputs.len();
        assert!(count < 1 << PLACE_BITS, "a call has fewer than 65,536 inputs");
        for (place, input) in call.inputs.into_iter().enumerate() {
            let ticket = Ticket((number << PLACE_BITS) | place as u64);
            self.replica.push(Arrived { ticket, input });
        }
        match call.reply {
            Some(reply) if count == 0 => drop(reply.send(Vec::new())),
            Some(reply) => {
                self.open.insert(number, Open { answers: vec![None; count], left: count, reply });
            }
            None => {}
        }
    }

    fn take_in_arrived(&mut self) {
        while let Ok(call) = self.calls.try_recv() {
            self.take_in(call);
        }
    }

    fn compact_now_and_then(&mut self) {
        self.since_compaction += 1;
        if self.since_compaction < COMPACT_EVERY {
            return;
        }
        self.since_compaction = 0;
        let table = self.table.clone();
        tokio::spawn(async move {
            if let Err(why) = table.compact().await {
                tracing::warn!(%why, "log of turns was not compacted");
            }
        });
    }

    /// Commits everything that has arrived, the last turn `released`.
    async fn finish(mut self) -> Stopped {
        self.status.send_modify(|status| status.stopping = true);
        self.calls.close();
        self.take_in_arrived();
        loop {
            let last = self.replica.waiting() == 0;
            let record = if last { self.release() } else { self.decide() };
            let Some(record) = record else { return Stopped::Released };
            let mut answer = self.table.commit(&record).await;
            for pause in [RETRY_FIRST, RETRY_FIRST * 4, RETRY_MAX] {
                if matches!(answer, Commit::Done | Commit::Deposed { .. }) {
                    break;
                }
                tokio::time::sleep(pause).await;
                answer = self.table.commit(&record).await;
            }
            match self.settle(answer) {
                Settled::Committed { .. } if last => return Stopped::Released,
                Settled::Committed { .. } => {}
                Settled::Deposed { .. } => return Stopped::Deposed,
                Settled::Again { why } | Settled::Refused { why } => return Stopped::InTrouble(why),
            }
        }
    }
}
