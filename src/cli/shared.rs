//! A dispatcher that shares its table over NATS, put together: one member of each pool it takes part in.
//!
//! Law: a stop goes in one order. HTTP takes nothing new; nothing more is pulled, and what was pulled and not
//! decided is handed back; the loop commits what has arrived and writes a last turn `released`, so that another
//! replica leads at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::embedded::{Running, StartError, report};
use crate::adapters::SystemClock;
use crate::adapters::jetstream::{JetStreamHistory, JetStreamOutput, Options, Room, prepare};
use crate::broker::Connection;
use crate::config;
use crate::http::{self, Context, LocalOutbox};
use crate::model::{Id, RunnerId, TurnRecord};
use crate::nats::presence::{self, Share};
use crate::nats::{self, NatsDoor, NatsOutbox};
use crate::ports::{Clock, Inbox, Outbox};
use crate::runtime::credit::Board;
use crate::runtime::member::{self, Rank};
use crate::runtime::{Member, Stopped};
use crate::telemetry::Metrics;
use crate::wire::subject::Names;

/// Long polls on this replica, and the subjects of runners while it leads.
struct Both(Arc<LocalOutbox>, NatsOutbox);

impl Outbox for Both {
    fn deliver(&self, runner: &RunnerId, turn: &Arc<TurnRecord>) {
        self.0.deliver(runner, turn);
        self.1.deliver(runner, turn);
    }
}

/// Starts a replica. It takes part in its pools until `stop` is cancelled; what it says of itself as one
/// dispatcher is of the first of them.
pub async fn start(
    settings: &config::Settings,
    shared: &config::Nats,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let address = settings.server.listen;
    let listener = TcpListener::bind(address).await.map_err(|why| StartError::Listen { address, why })?;
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let address = listener.local_addr().map_err(|why| StartError::Listen { address: unknown, why })?;
    let connection = Connection::open(&shared.server).await?;
    let replica = Uuid::now_v7();
    let mut parts = Vec::with_capacity(shared.pools.len());
    for pool in &shared.pools {
        parts.push(Part::open(settings, shared, &connection, replica, pool).await?);
    }
    let first = &parts.first().expect("validated: there is one").context;
    let (handle, metrics, outbox) = (first.handle.clone(), first.metrics.clone(), first.outbox.clone());
    tokio::spawn(count_weather(connection.clone(), metrics.clone()));
    let pools: Vec<&str> = shared.pools.iter().map(|pool| pool.as_str()).collect();
    tracing::info!(%address, nats = %connection.url, pools = pools.join(","), "dispatcher started");
    let spread = spread(connection, replica, &mut parts, shared.take_over);
    let finished = tokio::spawn(run(parts, spread, listener, shared.take_over, stop));
    Ok(Running { address, handle, metrics, outbox, finished })
}

fn spread(
    connection: Connection,
    replica: Uuid,
    parts: &mut [Part],
    take_over: Duration,
) -> impl Future<Output = ()> + Send + 'static {
    let shares = parts.iter_mut().map(|part| {
        let (rank, ranked) = watch::channel(Rank::default());
        part.rank = ranked;
        Share { status: part.context.handle.status_changes(), rank }
    });
    presence::spread(connection, replica, shares.collect(), take_over)
}

/// Counts what happens to the connection, for as long as it is there.
async fn count_weather(connection: Connection, metrics: Arc<Metrics>) {
    let mut weather = connection.weather();
    let (mut connects, mut refusals) = (0, 0);
    loop {
        let now = (weather.borrow_and_update().connects, connection.refusals());
        metrics.nats(now.0 - connects, now.1 - refusals);
        (connects, refusals) = now;
        if weather.changed().await.is_err() {
            return;
        }
    }
}

/// A member of one pool with what it serves.
struct Part {
    member: Member,
    rank: watch::Receiver<Rank>,
    server: nats::Context,
    inbox: nats::NatsInbox,
    words: nats::Words,
    context: Context,
}

impl Part {
    async fn open(
        settings: &config::Settings,
        shared: &config::Nats,
        connection: &Connection,
        replica: Uuid,
        pool: &Id,
    ) -> Result<Self, StartError> {
        let names = Names::of_pool(pool.as_str());
        let options =
            Options { replicas: shared.replicas, max_bytes: shared.table_bytes, ..Options::default() };
        let room = Room {
            submit: shared.submit_bytes,
            report: shared.report_bytes,
            history: shared.history_bytes,
            history_age: shared.history_age,
        };
        let table = Arc::new(prepare(connection, &names, options, room).await?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Arc::new(Metrics::new());
        let decisions = Arc::new(settings.decisions.clone());
        let parts = member::Parts {
            replica,
            table: table.clone(),
            settings: decisions.clone(),
            clock: clock.clone(),
            report: report(&metrics),
        };
        let (inbox, outbox, words) = nats::ends(clock.clone(), shared.take_over);
        let mut polls = None;
        let (member, handle) = Member::open(parts, |handle| {
            let local = polls.insert(Arc::new(LocalOutbox::new(handle.view()))).clone();
            let inbox: Arc<dyn Inbox> = Arc::new(inbox.clone());
            (inbox, Arc::new(Both(local, outbox)) as Arc<dyn Outbox>)
        })
        .await?;
        let board = Board::default();
        let server = nats::Context {
            connection: connection.clone(),
            names: names.clone(),
            handle: handle.clone(),
            table,
            settings: decisions.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            board: board.clone(),
            take_over: shared.take_over,
            ahead: shared.ahead,
        };
        let context = Context {
            pool: pool.to_string(),
            handle: handle.clone(),
            door: Arc::new(NatsDoor::new(connection, &names, &handle)),
            outbox: polls.expect("the member was opened with it"),
            history: Arc::new(JetStreamHistory::new(connection, &names)),
            output: Arc::new(JetStreamOutput::new(connection, &names)),
            metrics,
            settings: decisions,
            clock,
            board: Some(board),
        };
        Ok(Self { member, rank: watch::channel(Rank::default()).1, server, inbox, words, context })
    }
}

async fn run(
    parts: Vec<Part>,
    spread: impl Future<Output = ()> + Send,
    listener: TcpListener,
    take_over: Duration,
    stop: CancellationToken,
) -> Stopped {
    let (stop_serving, stop_loops) = (stop.child_token(), CancellationToken::new());
    let mut deciding = JoinSet::new();
    let mut serving = Vec::new();
    let mut contexts = Vec::new();
    for part in parts {
        let (stop_serving, stop_loops) = (stop_serving.clone(), stop_loops.clone());
        serving.push(nats::serve(part.server, part.inbox, part.words, stop_serving.clone()));
        contexts.push(part.context);
        deciding.spawn(async move {
            let stopped = part.member.take_part(take_over, part.rank, stop_loops).await;
            // A member only ends when it is told to: one that ends by itself takes the process along.
            stop_serving.cancel();
            stopped
        });
    }
    let served = async {
        let (served, _) = tokio::join!(http::serve(listener, contexts, stop_serving), join_all(serving));
        served
    };
    let served = tokio::select! {
        served = served => served,
        () = async { spread.await; std::future::pending().await } => unreachable!("it is pending"),
    };
    if let Err(why) = served {
        tracing::error!(%why, "http ended");
    }
    stop_loops.cancel();
    let mut last = Stopped::Released;
    while let Some(stopped) = deciding.join_next().await {
        let stopped = stopped.expect("the turn loop does not panic");
        tracing::info!(?stopped, "dispatcher stopped");
        if stopped != Stopped::Released {
            last = stopped;
        }
    }
    last
}
