//! The turn loop: one leadership, carried out on a real table.
//!
//! Law: commit, then send effects, then report facts, then acknowledge the inputs. Inputs that arrive while a
//! turn is on its way make the next turn larger. A stop finishes the turn, takes what has arrived, writes a last
//! turn `released`, and only then returns. A leader others watch writes a turn every `pulse` even if it is
//! empty, from this very loop: one whose inbox does not answer writes none but a last one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::handle::{Call, Role};
use super::log_time::LogTime;
use super::member::Member;
use super::replica::{Replica, Settled};
use crate::core::Effect;
use crate::core::input::{Answer, Arrived, Ticket};
use crate::model::TurnRecord;
use crate::ports::Commit;

/// Told of every turn committed here, in order.
pub type Report = Box<dyn Fn(&TurnRecord, Took) + Send + Sync>;

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

/// The answers of one call, as they come in.
struct Open {
    answers: Vec<Option<Answer>>,
    left: usize,
    reply: oneshot::Sender<Vec<Answer>>,
}

type CommitFuture = Pin<Box<dyn Future<Output = Commit> + Send>>;

/// A leader on its table.
pub(super) struct TurnLoop<'a> {
    member: &'a mut Member,
    replica: Replica,
    time: LogTime,
    open: FxHashMap<u64, Open>,
    next_call: u64,
    retry: Duration,
    since_compaction: u64,
    /// How long the turn on its way took to decide, and when it was first handed to the table.
    decided: (Duration, Duration),
    /// When the last turn was committed, by the monotonic clock.
    committed: Duration,
    /// When it was last seen whether it should go on leading, by the same clock.
    looked: Duration,
}

/// A call's place within a ticket: the lowest 16 bits are the input's place within the call.
const PLACE_BITS: u32 = 16;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Turns between two compactions of the log.
const COMPACT_EVERY: u64 = 1_000;

impl<'a> TurnLoop<'a> {
    /// Begins to lead on the committed state, after a silence of `silence` if one was watched.
    pub(super) fn begin(member: &'a mut Member, silence: Option<Duration>) -> Self {
        let mut replica = member.candidate();
        let clock = &*member.clock;
        let time = LogTime::begin(clock, replica.state().now(), silence);
        replica.lead(time.now(clock));
        let committed = clock.monotonic();
        Self {
            member,
            replica,
            time,
            open: FxHashMap::default(),
            next_call: 0,
            retry: RETRY_FIRST,
            since_compaction: 0,
            decided: Default::default(),
            committed,
            looked: committed,
        }
    }

    /// Takes turns until `stop` is cancelled, or another leads.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Stopped {
        let stopped = self.lead(stop).await;
        self.member.counter = self.replica.counter();
        stopped
    }

    async fn lead(&mut self, stop: &CancellationToken) -> Stopped {
        let mut committing: Option<CommitFuture> = None;
        loop {
            if committing.is_none() {
                if stop.is_cancelled() {
                    return self.finish().await;
                }
                if self.look_due() && self.should_step_down() {
                    return self.step_down().await;
                }
                if let Some(record) = self.decide() {
                    committing = Some(self.commit(record, Duration::ZERO));
                }
            }
            let wait = self.until_due();
            tokio::select! {
                biased;
                answer = async { committing.as_mut().expect("guarded").await }, if committing.is_some() => {
                    committing = None;
                    match self.settle(answer) {
                        Settled::Again { .. } | Settled::Refused { .. } if stop.is_cancelled() => {
                            let why = self.member.status.borrow().trouble.clone().unwrap_or_default();
                            return Stopped::InTrouble(why);
                        }
                        Settled::Again { .. } | Settled::Refused { .. } => {
                            committing = self.again();
                        }
                        Settled::Deposed { .. } => return Stopped::Deposed,
                        Settled::Committed { .. } => {}
                    }
                }
                call = self.member.calls.recv() => {
                    let Some(call) = call else { return self.finish().await };
                    self.take_in(call);
                    self.take_in_arrived();
                }
                () = tokio::time::sleep(wait), if committing.is_none() => {}
                () = stop.cancelled(), if committing.is_none() => {}
            }
        }
    }

    /// When something is to be done though nothing arrives.
    fn until_due(&self) -> Duration {
        let wait = self.time.until(&*self.member.clock, self.replica.next_due());
        match self.member.pulse {
            Some(pulse) => wait.min((self.committed + pulse).saturating_sub(self.member.clock.monotonic())),
            None => wait,
        }
    }

    /// Whether it is time to look around, however busy the loop is.
    fn look_due(&mut self) -> bool {
        let now = self.member.clock.monotonic();
        let due = self.member.pulse.is_some_and(|pulse| now.saturating_sub(self.looked) >= pulse);
        if due {
            self.looked = now;
        }
        due
    }

    fn should_step_down(&self) -> bool {
        if let Some(why) = self.member.inbox.gone().or_else(|| self.member.inbox.trouble()) {
            tracing::error!(%why, "leader steps down: its inbox does not answer");
            return true;
        }
        let hands_over = self.member.rank.borrow().hand_over;
        if hands_over {
            tracing::info!("leader lets this pool go: it leads more than its share");
        }
        hands_over
    }

    fn pulse_due(&self) -> bool {
        let since = self.member.clock.monotonic().saturating_sub(self.committed);
        self.member.pulse.is_some_and(|pulse| since >= pulse)
    }

    fn decide(&mut self) -> Option<Arc<TurnRecord>> {
        let (clock, budget) = (&*self.member.clock, self.member.table.budget());
        let began = clock.monotonic();
        let at = self.time.now(clock);
        let decided = self.replica.decide(at, budget);
        let record = match decided {
            None if self.pulse_due() => self.replica.pulse(at, budget)?,
            decided => decided?,
        };
        let now = clock.monotonic();
        self.decided = (now.saturating_sub(began), now);
        Some(record)
    }

    fn release(&mut self) -> Option<Arc<TurnRecord>> {
        let (clock, budget) = (&*self.member.clock, self.member.table.budget());
        self.decided = (Duration::ZERO, clock.monotonic());
        self.replica.release(self.time.now(clock), budget)
    }

    fn commit(&self, record: Arc<TurnRecord>, after: Duration) -> CommitFuture {
        let table = self.member.table.clone();
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
                self.member.view.apply(record);
                self.send(record, effects);
                let (decide, handed_over) = self.decided;
                self.committed = self.member.clock.monotonic();
                let commit = self.committed.saturating_sub(handed_over);
                (self.member.report)(record, Took { decide, commit });
                // Nobody listening is fine.
                let _ = self.member.turns.send(record.clone());
                self.acknowledge(effects);
                self.member.status.send_modify(|status| {
                    status.role = if record.released { Role::Following } else { Role::Leading };
                    status.leader = (!record.released).then_some(record.id.leader);
                    status.turn = record.number;
                    status.trouble = None;
                });
                self.compact_now_and_then();
            }
            Settled::Again { why } | Settled::Refused { why } => {
                tracing::error!(turn = self.replica.state().turn(), why, "table did not take a turn");
                self.member.status.send_modify(|status| status.trouble = Some(why.clone()));
            }
            Settled::Deposed { .. } => {
                self.open.clear();
                self.member.status.send_modify(|status| {
                    status.role = Role::Following;
                    status.leader = None;
                    status.trouble = None;
                });
            }
        }
        settled
    }

    fn send(&self, record: &Arc<TurnRecord>, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Deliver { runner } => self.member.outbox.deliver(runner, record),
                Effect::ReadReports { mark } => self.member.inbox.read_reports(*mark),
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
        while let Ok(call) = self.member.calls.try_recv() {
            self.take_in(call);
        }
    }

    fn compact_now_and_then(&mut self) {
        self.since_compaction += 1;
        if self.since_compaction < COMPACT_EVERY {
            return;
        }
        self.since_compaction = 0;
        let table = self.member.table.clone();
        tokio::spawn(async move {
            if let Err(why) = table.compact().await {
                tracing::warn!(%why, "log of turns was not compacted");
            }
        });
    }

    /// Commits everything that has arrived, the last turn `released`, and takes nothing more.
    async fn finish(&mut self) -> Stopped {
        self.member.status.send_modify(|status| status.stopping = true);
        self.member.calls.close();
        self.step_down().await
    }

    /// Commits everything that has arrived, the last turn `released`.
    async fn step_down(&mut self) -> Stopped {
        self.take_in_arrived();
        loop {
            let last = self.replica.waiting() == 0;
            let record = if last { self.release() } else { self.decide() };
            let Some(record) = record else { return Stopped::Released };
            let mut answer = self.member.table.commit(&record).await;
            for pause in [RETRY_FIRST, RETRY_FIRST * 4, RETRY_MAX] {
                if matches!(answer, Commit::Done | Commit::Deposed { .. }) {
                    break;
                }
                tokio::time::sleep(pause).await;
                answer = self.member.table.commit(&record).await;
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
