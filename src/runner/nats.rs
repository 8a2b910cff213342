//! The link over NATS: questions are requests to the leader, assignments come on a subject of this runner's own,
//! reports go to a stream.
//!
//! Law: what was sent while the connection was away is gone, so after every reconnect the runner is told to
//! register again, and gets its open assignments again. A report counts as taken when the stream has said that it
//! has it; one that is sent twice carries the same `Nats-Msg-Id`.
//!
//! A call on a connection that is down fails at once: what the client would keep until it is up again is old by
//! then, and the caller sends it again anyway.

mod arrived;
mod packs;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Message;
use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::connection::State;
use async_nats::jetstream::message::PublishMessage;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::arrived::Arrived;
use self::packs::{Pack, packs};
use super::link::{Link, LinkError};
use crate::broker::{Connection, Weather, chain, shown};
use crate::model::{
    Delivery, Heartbeat, HeartbeatAnswer, Leave, OutputPiece, Registered, Registration, Report, RunnerId,
    time::format_span,
};
use crate::wire::refusal::{self, Refusal};
use crate::wire::subject::{Ask, Names};
use crate::wire::{Malformed, message, output};

/// How long an answer of the leader is waited for: it commits a turn first.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A leader that dies takes the questions before it along, and nobody says so: the same one is asked after each of
/// these, together `ANSWER_WITHIN`. Asking twice changes nothing, and a lease runs from the first.
const ASKED_AGAIN_AFTER: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// Where nobody listens, somebody may be taking over: it is asked again so often, with this pause.
const NOBODY_TRIES: u32 = 6;
const NOBODY: Duration = Duration::from_millis(500);
/// How long the first word about the connection is waited for.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Speaks NATS to the dispatcher of one pool, for one runner.
#[derive(Debug)]
pub struct NatsLink {
    connection: Connection,
    /// The server's address, fit to be shown.
    server: String,
    names: Names,
    /// Where the dispatcher answers over HTTP, if somebody said so.
    url: Option<Arc<str>>,
    arrived: Arc<Arrived>,
    /// The connections up to this one are known to have been followed by a registration.
    registered_on: AtomicU64,
    _reading: AbortOnDropHandle<()>,
}

impl NatsLink {
    /// A link for `runner`, which listens for its assignments from now on.
    ///
    /// `url` is where the dispatcher answers over HTTP; the link does not use it, the work is told.
    pub async fn open(
        connection: Connection,
        names: Names,
        runner: &RunnerId,
        url: Option<Arc<str>>,
    ) -> Result<Self, LinkError> {
        let server = shown(&connection.url);
        let mut weather = connection.weather();
        // The connection is there; that its first event is late would only cost one more registration.
        let _ = timeout(SETTLED_WITHIN, weather.wait_for(|weather| weather.connects > 0)).await;
        let registered_on = AtomicU64::new(connects(&weather));
        let subject = names.assign(runner);
        let subscription =
            connection.client.subscribe(subject.clone()).await.map_err(|why| {
                retry(format!("subscribe to {subject} on NATS at {server}: {}", chain(&why)))
            })?;
        let arrived = Arc::new(Arrived::default());
        let reading = tokio::spawn(arrived::read(subscription, arrived.clone()));
        Ok(Self {
            connection,
            server,
            names,
            url,
            arrived,
            registered_on,
            _reading: AbortOnDropHandle::new(reading),
        })
    }

    /// Asks the leader, and waits for its answer as long as the connection lasts.
    async fn ask(&self, ask: Ask, runner: &RunnerId, body: Vec<u8>) -> Result<Answer, LinkError> {
        let subject = self.names.ask(ask, runner);
        let answered = self.while_connected(&subject, self.ask_again(&subject, body)).await?;
        let reply = answered.map_err(|why| match why.kind() {
            RequestErrorKind::NoResponders => {
                retry(format!("{subject}: no dispatcher listens on NATS at {}", self.server))
            }
            RequestErrorKind::TimedOut => {
                let within = format_span(ANSWER_WITHIN);
                retry(format!("{subject}: no answer within {within}{}", self.refused_lately()))
            }
            _ => retry(format!("{subject}: {}", chain(&why))),
        })?;
        match refusal::read(&reply.payload) {
            Some(why) => Err(refused(&subject, &why)),
            None => Ok(Answer { subject, body: reply.payload.to_vec() }),
        }
    }

    async fn ask_again(&self, subject: &str, body: Vec<u8>) -> Result<Message, RequestError> {
        let body = Bytes::from(body);
        let mut waits = ASKED_AGAIN_AFTER.into_iter().peekable();
        let mut nobody = 0;
        loop {
            let wait = *waits.peek().unwrap_or(&ANSWER_WITHIN);
            let request = async_nats::Request::new().payload(body.clone()).timeout(Some(wait));
            match self.connection.client.send_request(subject.to_owned(), request).await {
                Err(why) if why.kind() == RequestErrorKind::NoResponders && nobody < NOBODY_TRIES => {
                    nobody += 1;
                    sleep(NOBODY).await;
                }
                Err(why) if why.kind() == RequestErrorKind::TimedOut && waits.len() > 1 => {
                    waits.next();
                }
                answered => return answered,
            }
        }
    }

    /// Puts a pack into the stream of reports, and waits until it is there.
    async fn publish(&self, Pack { subject, id, body }: &Pack) -> Result<(), LinkError> {
        let words = PublishMessage::build().payload(body.clone().into()).message_id(id);
        let stored = self.while_connected(subject, async {
            self.connection.jetstream.send_publish(subject.clone(), words).await?.await
        });
        let stored = stored.await?;
        stored.map(|_| ()).map_err(|why| {
            retry(format!("{subject}: it was not stored: {}{}", chain(&why), self.refused_lately()))
        })
    }

    /// Waits for `answer`, but not beyond the connection it would come on.
    async fn while_connected<T>(
        &self,
        subject: &str,
        answer: impl Future<Output = T>,
    ) -> Result<T, LinkError> {
        let mut weather = self.connection.weather();
        let before = connects(&weather);
        let is_down = || self.connection.client.connection_state() != State::Connected;
        tokio::select! {
            biased;
            Ok(_) = weather.wait_for(|weather| is_down() || weather.connects > before) => {
                Err(retry(format!("{subject}: no connection to NATS at {}", self.server)))
            }
            answer = answer => Ok(answer),
        }
    }

    /// What the server refused last: it does not say whom that was meant for.
    fn refused_lately(&self) -> String {
        let weather = self.connection.weather();
        let refused = weather.borrow().refused.clone();
        refused.map_or_else(String::new, |why| format!("; the last thing the NATS server refused: {why}"))
    }
}

/// How often the connection was made; a link is only ever opened on one that was.
fn connects(weather: &watch::Receiver<Weather>) -> u64 {
    weather.borrow().connects.max(1)
}

fn retry(message: String) -> LinkError {
    LinkError::Retry { message, after: None }
}

fn refused(subject: &str, why: &Refusal) -> LinkError {
    let message = format!("{subject} was answered: {why}");
    match why.code.as_str() {
        refusal::MALFORMED => LinkError::Refused { message },
        // A conflict means that another incarnation of this runner, or none, is known.
        refusal::UNKNOWN_RUNNER | refusal::CONFLICT => LinkError::Unknown { message },
        _ => retry(message),
    }
}

/// The good answer to a question.
struct Answer {
    subject: String,
    body: Vec<u8>,
}

impl Answer {
    /// An answer this version cannot read is not taken for one.
    fn read<T>(&self, read: impl Fn(&[u8]) -> Result<T, Malformed>) -> Result<T, LinkError> {
        read(&self.body).map_err(|why| retry(format!("{}: the answer: {why}", self.subject)))
    }
}

#[async_trait]
impl Link for NatsLink {
    async fn register(&self, registration: &Registration) -> Result<Registered, LinkError> {
        let on = connects(&self.connection.weather());
        // What came before may be another table's; what is still meant is sent again to who registers.
        self.arrived.forget();
        let body = message::write_registration(registration);
        match self.ask(Ask::Register, &registration.runner, body).await {
            Ok(answer) => {
                let registered = answer.read(message::read_registered)?;
                self.registered_on.fetch_max(on, Ordering::Relaxed);
                Ok(registered)
            }
            // What stands against it now (another start of this runner) may pass.
            Err(LinkError::Unknown { message }) => Err(retry(message)),
            Err(why) => Err(why),
        }
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, LinkError> {
        let body = message::write_heartbeat(heartbeat);
        match self.ask(Ask::Heartbeat, &heartbeat.runner, body).await {
            Ok(answer) => answer.read(message::read_heartbeat_answer),
            // A dispatcher that cannot read it may want other words: registering settles it.
            Err(LinkError::Refused { message }) => Err(LinkError::Unknown { message }),
            Err(why) => Err(why),
        }
    }

    async fn next_delivery(&self, _: &RunnerId, wait: Duration) -> Result<Delivery, LinkError> {
        let mut weather = self.connection.weather();
        let mut over = std::pin::pin!(sleep(wait));
        loop {
            let connects = weather.borrow_and_update().connects;
            if connects > self.registered_on.fetch_max(connects, Ordering::Relaxed) {
                let message = format!("connected again to NATS at {}; messages were missed", self.server);
                return Err(LinkError::Unknown { message });
            }
            if let Some(delivery) = self.arrived.take() {
                return Ok(delivery);
            }
            tokio::select! {
                () = self.arrived.news() => {}
                Ok(()) = weather.changed() => {}
                () = &mut over => return Ok(Delivery::default()),
            }
        }
    }

    async fn report(&self, runner: &RunnerId, reports: &[Report]) -> Result<(), LinkError> {
        for together in packs(&self.names, runner, reports) {
            try_join_all(together.iter().map(|pack| self.publish(pack))).await?;
        }
        Ok(())
    }

    async fn output(&self, runner: &RunnerId, pieces: &[OutputPiece]) -> Result<(), LinkError> {
        for piece in pieces {
            let subject = format!("{}.{}", self.names.output_of(runner.as_str(), &piece.id), piece.token);
            let id = format!("output {} {} {}", piece.id, piece.token, piece.from);
            self.publish(&Pack { subject, id, body: output::write_piece(piece) }).await?;
        }
        Ok(())
    }

    async fn leave(&self, leave: &Leave) -> Result<(), LinkError> {
        self.ask(Ask::Leave, &leave.runner, message::write_leave(leave)).await.map(|_| ())
    }

    fn url(&self) -> Option<Arc<str>> {
        self.url.clone()
    }
}
