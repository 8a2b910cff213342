//! The embedded dispatcher, put together: a table in a file, the turn loop on it, HTTP before it.
//!
//! Law: a stop goes in one order. HTTP takes nothing new and answers what is being decided; the loop commits
//! what has arrived and writes a last turn `released`; the table is closed. `serve`, `demo` and the tests all
//! run this.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::adapters::jetstream::SetupError;
use crate::adapters::{OutputFiles, RedbTable, SystemClock};
use crate::broker::ConnectError;
use crate::config;
use crate::core::Settings;
use crate::http::{self, Context, LocalOutbox};
use crate::ports::{Clock, History, Inbox, Outbox, OutputStore, Table, TableError};
use crate::runtime::member::{self, DoorInbox};
use crate::runtime::{Handle, Member, Report, Stopped};
use crate::telemetry::{Metrics, logs};
use crate::wire::subject::DEFAULT_POOL;

/// A dispatcher that runs in this process.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    pub handle: Handle,
    pub metrics: Arc<Metrics>,
    pub outbox: Arc<LocalOutbox>,
    /// Ends when the table is closed.
    pub(super) finished: JoinHandle<Stopped>,
}

impl Running {
    /// The base of its addresses.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until everything is over and the table is closed.
    pub async fn finished(self) -> Stopped {
        self.finished.await.expect("the dispatcher does not panic")
    }
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("listen on {address}: {why}; stop what listens there or choose another address (server.listen)")]
    Listen { address: SocketAddr, why: io::Error },
}

/// Starts the dispatcher on the table in the data directory. It runs until `stop` is cancelled, or until the
/// table is taken over by another process.
pub async fn start(settings: &config::Settings, stop: CancellationToken) -> Result<Running, StartError> {
    let address = settings.server.listen;
    let listener = TcpListener::bind(address).await.map_err(|why| StartError::Listen { address, why })?;
    let data = settings.server.data.clone();
    let opened = tokio::task::spawn_blocking(move || RedbTable::open(&data)).await;
    let table = Arc::new(opened.expect("opening a table does not panic")?);
    let output = OutputFiles::new(settings.server.data.join("output"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    tokio::spawn(prune(output.clone(), settings.server.clone(), clock.clone(), stop.clone()));
    let parts = Parts {
        table: table.clone(),
        history: table,
        output: Arc::new(output),
        clock,
        decisions: Arc::new(settings.decisions.clone()),
    };
    compose(parts, listener, stop).await
}

/// How often old output is removed.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Removes old output now and again, for as long as the dispatcher runs.
async fn prune(output: OutputFiles, server: config::Server, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        let (output, bytes, age, now) =
            (output.clone(), server.output_bytes, server.output_age, clock.wall());
        let pruned = tokio::task::spawn_blocking(move || output.prune(bytes, age, now)).await;
        if let Err(why) = pruned.expect("pruning does not panic") {
            tracing::warn!(%why, "old output was not removed");
        }
        tokio::select! {
            () = tokio::time::sleep(PRUNE_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What a dispatcher is put together from.
#[expect(missing_debug_implementations, reason = "ports do not ask for it")]
pub struct Parts {
    pub table: Arc<dyn Table>,
    pub history: Arc<dyn History>,
    pub output: Arc<dyn OutputStore>,
    pub clock: Arc<dyn Clock>,
    pub decisions: Arc<Settings>,
}

/// Starts a dispatcher of the given parts.
pub async fn compose(
    parts: Parts,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let address = listener.local_addr().map_err(|why| StartError::Listen { address: unknown, why })?;
    let metrics = Arc::new(Metrics::new());
    let member = member::Parts {
        replica: uuid::Uuid::now_v7(),
        table: parts.table,
        settings: parts.decisions.clone(),
        clock: parts.clock.clone(),
        report: report(&metrics),
    };
    let mut made = None;
    let (member, handle) = Member::open(member, |handle| {
        let outbox = made.insert(Arc::new(LocalOutbox::new(handle.view()))).clone();
        let inbox: Arc<dyn Inbox> = Arc::new(DoorInbox(handle.clone()));
        (inbox, outbox as Arc<dyn Outbox>)
    })
    .await?;
    let outbox = made.expect("the member was opened with it");
    let context = Context {
        pool: DEFAULT_POOL.to_owned(),
        handle: handle.clone(),
        door: Arc::new(handle.clone()),
        outbox: outbox.clone(),
        history: parts.history,
        output: parts.output,
        metrics: metrics.clone(),
        settings: parts.decisions,
        clock: parts.clock,
        board: None,
    };
    tracing::info!(%address, "dispatcher started");
    let finished = tokio::spawn(run(member, context, listener, stop));
    Ok(Running { address, handle, metrics, outbox, finished })
}

async fn run(member: Member, context: Context, listener: TcpListener, stop: CancellationToken) -> Stopped {
    // The loop has a stop of its own: it ends after HTTP does. If it ends by itself, so does HTTP.
    let (stop_http, stop_loop) = (stop.child_token(), CancellationToken::new());
    let mut deciding = tokio::spawn({
        let (stop_http, stop_loop) = (stop_http.clone(), stop_loop.clone());
        async move {
            let stopped = member.lead(stop_loop).await;
            stop_http.cancel();
            stopped
        }
    });
    if let Err(why) = http::serve(listener, vec![context], stop_http).await {
        tracing::error!(%why, "http ended");
    }
    stop_loop.cancel();
    let stopped = (&mut deciding).await.expect("the turn loop does not panic");
    tracing::info!(?stopped, "dispatcher stopped");
    stopped
}

/// Logs and counts each committed turn.
pub(super) fn report(metrics: &Arc<Metrics>) -> Report {
    let counted = metrics.clone();
    Box::new(move |turn, took| {
        logs::log(&turn.facts);
        counted.record(&turn.facts);
        counted.turn_committed(turn.changes.len(), took.decide, took.commit);
        let (number, changes, facts) = (turn.number, turn.changes.len(), turn.facts.len());
        tracing::debug!(turn = number, changes, facts, ?took, "turn committed");
    })
}
