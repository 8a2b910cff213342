//! The door over NATS: a pool of the kit's own, whose runner asks, reports and is sent to over its subjects.
//!
//! Law: it decides nothing. Until it is opened nobody answers and there is no stream to report to; what it made at the
//! server is removed.

use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::dispatcher::{Dispatcher, Reply, Weather};
use crate::broker::Connection;
use crate::model::RunnerId;
use crate::wire::message::Said;
use crate::wire::refusal::{self, FROZEN, Refusal};
use crate::wire::subject::{Ask, Names};

/// How often it looks for reports and for what is to be sent again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long reports are waited for at once.
const FETCH: Duration = Duration::from_millis(200);

/// A pool, and what answers there.
#[derive(Debug)]
pub struct Door {
    way: Way,
    serving: Vec<AbortOnDropHandle<()>>,
}

#[derive(Debug, Clone)]
struct Way {
    connection: Connection,
    names: Names,
    runner: RunnerId,
    dispatcher: Dispatcher,
}

impl Door {
    /// A closed door of `pool`, for the runner called `id`.
    pub fn new(connection: Connection, pool: &str, id: &str, dispatcher: Dispatcher) -> Self {
        let runner = id.parse().expect("names of the kit are legal");
        let way = Way { connection, names: Names::of_pool(pool), runner, dispatcher };
        Self { way, serving: Vec::new() }
    }

    /// Opens it. Fails with what the server says.
    pub async fn open(&mut self) -> Result<(), String> {
        let client = &self.way.connection.client;
        let mut asks = Vec::new();
        for ask in Ask::ALL {
            let subject = self.way.names.asks(ask);
            let asked = client.subscribe(subject.clone()).await;
            let asked = asked.map_err(|why| format!("subscribe to {subject}: {why}"))?;
            asks.push(asked.map(move |message| (ask, message)));
        }
        client.flush().await.map_err(|why| why.to_string())?;
        self.way.make_stream().await?;
        let serving = [
            tokio::spawn(self.way.clone().answer(stream::select_all(asks))),
            tokio::spawn(self.way.clone().read()),
            tokio::spawn(self.way.clone().deliver()),
        ];
        self.serving = serving.map(AbortOnDropHandle::new).into();
        Ok(())
    }

    /// Makes it so that reports can be stored, or cannot, as the dispatcher takes them.
    pub async fn follow_reports(&self) -> Result<(), String> {
        if self.way.dispatcher.takes_reports() {
            return self.way.make_stream().await;
        }
        let stream = self.way.names.report_stream();
        let deleted = self.way.connection.jetstream.delete_stream(&stream).await;
        deleted.map(drop).map_err(|why| format!("delete stream {stream}: {why}"))
    }

    /// Removes what it made at the server.
    pub async fn remove(&self) {
        // Where it was never opened, or is closed to reports, there is nothing to remove.
        let _ = self.way.connection.jetstream.delete_stream(self.way.names.report_stream()).await;
    }
}

impl Way {
    async fn make_stream(&self) -> Result<(), String> {
        let name = self.names.report_stream();
        let config = Config {
            name: name.clone(),
            description: Some("Longshore: reports to the conformance kit".to_owned()),
            subjects: self.names.report_filters(),
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::Memory,
            ..Config::default()
        };
        let made = self.connection.jetstream.create_stream(config).await;
        made.map(drop).map_err(|why| format!("create stream {name}: {why}"))
    }

    async fn answer(self, mut asked: impl Stream<Item = (Ask, Message)> + Unpin) {
        while let Some((ask, message)) = asked.next().await {
            let runner = self.names.asking(ask, &message.subject);
            let body = match self.dispatcher.answer(ask, runner.as_ref(), &message.payload) {
                Reply::Taken(body) => body,
                Reply::Refused(refusal) => refusal::write(&refusal),
                Reply::Away => refusal::write(&Refusal::new(FROZEN, "nothing is taken at the moment")),
                Reply::Silence => continue,
            };
            if let Some(to) = message.reply {
                // Who asked asks again if this is lost.
                let _ = self.connection.client.publish(to, body.into()).await;
            }
        }
    }

    async fn deliver(self) {
        let mut changes = self.dispatcher.changes();
        loop {
            let fair = self.dispatcher.weather() == Weather::Fair;
            if fair
                && self.dispatcher.knows_its_runner()
                && let Some(delivery) = self.dispatcher.delivery()
            {
                // What is not confirmed is sent again.
                let _ =
                    self.connection.client.publish(self.names.assign(&self.runner), delivery.into()).await;
            }
            // A change and the time to look again are both reasons to go on.
            let _ = timeout(LOOK_AGAIN * 10, changes.changed()).await;
        }
    }

    async fn read(self) {
        loop {
            if self.dispatcher.weather() == Weather::Fair
                && self.dispatcher.takes_reports()
                && let Some(consumer) = self.consumer().await
                && let Ok(mut batch) = consumer.fetch().max_messages(100).expires(FETCH).messages().await
            {
                while let Some(Ok(message)) = batch.next().await {
                    let says = self.names.reporting(&message.subject);
                    let said = says.as_ref().map_or_else(Said::default, |says| Said {
                        runner: Some(&says.runner),
                        kind: Some(says.kind),
                        report: Some(says.report),
                    });
                    let taken = match self.dispatcher.report(said, &message.payload) {
                        Reply::Away | Reply::Silence => AckKind::Nak(None),
                        Reply::Taken(_) | Reply::Refused(_) => AckKind::Ack,
                    };
                    // One that could not be acknowledged comes again, which a dispatcher must bear too.
                    let _ = message.ack_with(taken).await;
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn consumer(&self) -> Option<PullConsumer> {
        let config = pull::Config { durable_name: Some("reports".to_owned()), ..pull::Config::default() };
        let stream = self.connection.jetstream.get_stream(self.names.report_stream()).await.ok()?;
        stream.get_or_create_consumer("reports", config).await.ok()
    }
}
