//! NATS: the door for producers, runners and operators over subjects, and the voice of the leader.
//!
//! Law: only the leader pulls, answers and tells; every other replica is silent here until the table makes it the
//! leader. What was read from a stream is acknowledged once the turn that took it is committed, handed back where
//! this replica ceases to lead, and never dropped. Nothing is published to a subject a client has made up.
//!
//! Files by topic: what producers send (`pull`, `submissions`, `letters`, `pause`), what runners report and ask
//! (`reports`, `requests`), what pullers ask (`pulls`), what the leader says (`assignments`, `events` to `listeners`, `history`); `door` is how any replica
//! asks whoever leads; `streams` watches that what was promised is still there.

mod assignments;
mod chunk;
mod door;
mod events;
mod history;
mod letters;
mod listeners;
mod pause;
pub mod presence;
mod pull;
mod pulls;
mod reports;
mod requests;
mod streams;
mod submissions;

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::Connection;
use crate::core::Settings;
use crate::model::{RunnerId, TurnRecord};
use crate::ports::{Clock, Inbox, Outbox, Table};
use crate::runtime::credit::Board;
use crate::runtime::{Handle, Role};
use crate::telemetry::Metrics;
use crate::wire::subject::Names;
use assignments::Woken;
pub use door::NatsDoor;

/// What the door is made of.
#[derive(Clone)]
pub struct Context {
    pub connection: Connection,
    pub names: Names,
    pub handle: Handle,
    pub table: Arc<dyn Table>,
    pub settings: Arc<Settings>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    pub board: Board,
    /// After so long without a sign of a leader another takes over.
    pub take_over: Duration,
    /// How many tasks must wait before a window is paused for want of capacity; the pool's slots if not said.
    pub ahead: Option<usize>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Marks and runners that the turn loop has something to say about, on their way to whoever serves them.
#[derive(Debug)]
pub struct Words {
    marks: Mutex<Option<mpsc::UnboundedReceiver<u64>>>,
    runners: Mutex<Option<mpsc::UnboundedReceiver<Woken>>>,
}

/// The inbox of a replica on NATS: reports come from a stream.
#[derive(Debug, Clone)]
pub struct NatsInbox {
    marks: mpsc::UnboundedSender<u64>,
    pulls: Arc<pull::Pulse>,
    gone: streams::Gone,
}

/// The outbox of a replica on NATS: assignments go to a subject of each runner.
#[derive(Debug, Clone)]
pub struct NatsOutbox {
    runners: mpsc::UnboundedSender<Woken>,
}

/// The two ends the turn loop speaks to, and the words that come out of them.
pub fn ends(clock: Arc<dyn Clock>, take_over: Duration) -> (NatsInbox, NatsOutbox, Words) {
    let (marks, asked) = mpsc::unbounded_channel();
    let (runners, woken) = mpsc::unbounded_channel();
    let words = Words { marks: Mutex::new(Some(asked)), runners: Mutex::new(Some(woken)) };
    let pulls = Arc::new(pull::Pulse::new(clock, take_over));
    (NatsInbox { marks, pulls, gone: streams::Gone::default() }, NatsOutbox { runners }, words)
}

impl Inbox for NatsInbox {
    fn read_reports(&self, mark: u64) {
        // A receiver that is gone belongs to a process that is stopping.
        let _ = self.marks.send(mark);
    }

    fn trouble(&self) -> Option<String> {
        self.pulls.trouble()
    }

    fn gone(&self) -> Option<String> {
        self.gone.why()
    }
}

impl Outbox for NatsOutbox {
    fn deliver(&self, runner: &RunnerId, turn: &Arc<TurnRecord>) {
        let _ = self.runners.send(Woken { runner: runner.clone(), turn: turn.clone() });
    }
}

/// Does the leader's part on NATS whenever this replica leads, until `stop` is cancelled: then pulls nothing
/// more, hands back what was not decided, and returns.
pub async fn serve(context: Context, inbox: NatsInbox, words: Words, stop: CancellationToken) {
    let context = Arc::new(context);
    let take = |slot: &Mutex<Option<_>>| slot.lock().expect("nobody panics with it").take();
    let mut marks = take(&words.marks).expect("served once");
    let slot = &words.runners;
    let mut runners = slot.lock().expect("nobody panics with it").take().expect("served once");
    let mut status = context.handle.status_changes();
    let watching = streams::watch(context.clone(), inbox.gone.clone(), stop.clone());
    let _watching = AbortOnDropHandle::new(tokio::spawn(watching));
    loop {
        let leads = async {
            // The sender goes with the process.
            let _ = status.wait_for(|status| status.role == Role::Leading).await;
        };
        tokio::select! {
            () = leads => {}
            () = stop.cancelled() => return,
            // Whoever leads next looks at every runner anyway.
            Some(_) = runners.recv() => continue,
        }
        let leading = stop.child_token();
        let mut duties = JoinSet::new();
        inbox.pulls.begin();
        submissions::start(&mut duties, &context, &inbox.pulls, &leading);
        pause::start(&mut duties, &context, &leading);
        reports::start(&mut duties, &context, &inbox.pulls, &leading);
        requests::start(&mut duties, &context, &leading);
        pulls::start(&mut duties, &context, &leading);
        events::start(&mut duties, &context, &leading);
        history::start(&mut duties, &context, &leading);
        let over = async {
            let _ = status.wait_for(|status| status.role != Role::Leading).await;
        };
        tokio::select! {
            () = over => {}
            () = stop.cancelled() => {}
            () = assignments::send(&context, &mut runners) => {}
            () = reports::answer_marks(&context, &mut marks) => {}
        }
        leading.cancel();
        while let Some(ended) = duties.join_next().await {
            ended.expect("a duty does not panic");
        }
    }
}
