//! A dispatcher that shares its table over NATS, put together: one member of each pool it takes part in.
//!
//! Law: a stop goes in one order. HTTP takes nothing new; nothing more is pulled, and what was pulled and not
//! decided is handed back; the loop commits what has arrived and writes a last turn `released`, so that another
//! replica leads at once.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::embedded::{Running, StartError, report};
use crate::adapters::SystemClock;
use crate::adapters::jetstream::{JetStreamHistory, Options, Room, prepare};
use crate::broker::Connection;
use crate::config;
use crate::http::{self, Context, LocalOutbox};
use crate::model::RunnerId;
use crate::nats::{self, NatsDoor, NatsOutbox};
use crate::ports::{Clock, Inbox, Outbox};
use crate::runtime::credit::Board;
use crate::runtime::member;
use crate::runtime::{Member, Stopped};
use crate::telemetry::Metrics;
use crate::wire::subject::Names;

/// Long polls on this replica, and the subjects of runners while it leads.
struct Both(Arc<LocalOutbox>, NatsOutbox);

impl Outbox for Both {
    fn deliver(&self, runner: &RunnerId) {
        self.0.deliver(runner);
        self.1.deliver(runner);
    }
}

/// Starts a replica. It takes part until `stop` is cancelled.
pub async fn start(
    settings: &config::Settings,
    shared: &config::Nats,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let address = settings.server.listen;
    let listener = TcpListener::bind(address).await.map_err(|why| StartError::Listen { address, why })?;
    let connection = Connection::open(&shared.server).await?;
    let names = Names::of_pool(shared.pools.first().expect("validated: there is one").as_str());
    let options = Options { replicas: shared.replicas, max_bytes: shared.table_bytes, ..Options::default() };
    let room = Room {
        submit: shared.submit_bytes,
        report: shared.report_bytes,
        history: shared.history_bytes,
        history_age: shared.history_age,
    };
    let table = Arc::new(prepare(&connection, &names, options, room).await?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Arc::new(Metrics::new());
    let decisions = Arc::new(settings.decisions.clone());
    let parts = member::Parts {
        replica: Uuid::now_v7(),
        table: table.clone(),
        settings: decisions.clone(),
        clock: clock.clone(),
        report: report(&metrics),
    };
    tokio::spawn(count_weather(connection.clone(), metrics.clone()));
    let (inbox, outbox, words) = nats::ends(clock.clone(), shared.take_over);
    let mut polls = None;
    let (member, handle) = Member::open(parts, |handle| {
        let local = polls.insert(Arc::new(LocalOutbox::new(handle.view()))).clone();
        let inbox: Arc<dyn Inbox> = Arc::new(inbox.clone());
        (inbox, Arc::new(Both(local, outbox)) as Arc<dyn Outbox>)
    })
    .await?;
    let polls = polls.expect("the member was opened with it");
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
        handle: handle.clone(),
        door: Arc::new(NatsDoor::new(&connection, &names, &handle)),
        outbox: polls.clone(),
        history: Arc::new(JetStreamHistory::new(&connection, &names)),
        metrics: metrics.clone(),
        settings: decisions,
        clock,
        board: Some(board),
    };
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let address = listener.local_addr().map_err(|why| StartError::Listen { address: unknown, why })?;
    tracing::info!(%address, nats = %connection.url, pool = names.prefix(), "dispatcher started");
    let part = Part { member, server, inbox, words };
    let finished = tokio::spawn(part.run(context, listener, shared.take_over, stop));
    Ok(Running { address, handle, metrics, outbox: polls, finished })
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

/// A member with what it serves.
struct Part {
    member: Member,
    server: nats::Context,
    inbox: nats::NatsInbox,
    words: nats::Words,
}

impl Part {
    async fn run(
        self,
        context: Context,
        listener: TcpListener,
        take_over: std::time::Duration,
        stop: CancellationToken,
    ) -> Stopped {
        let (stop_serving, stop_loop) = (stop.child_token(), CancellationToken::new());
        let deciding = tokio::spawn({
            let (stop_serving, stop_loop, member) = (stop_serving.clone(), stop_loop.clone(), self.member);
            async move {
                let stopped = member.take_part(take_over, stop_loop).await;
                stop_serving.cancel();
                stopped
            }
        });
        let serving = nats::serve(self.server, self.inbox, self.words, stop_serving.clone());
        let (served, ()) = tokio::join!(http::serve(listener, context, stop_serving), serving);
        if let Err(why) = served {
            tracing::error!(%why, "http ended");
        }
        stop_loop.cancel();
        let stopped = deciding.await.expect("the turn loop does not panic");
        tracing::info!(?stopped, "dispatcher stopped");
        stopped
    }
}
