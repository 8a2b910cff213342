//! May this user do what a dispatcher does?
//!
//! Law: each thing is tried in a way that changes nothing. What goes to a stream names another stream than it
//! reaches, so the server refuses to store it; a request carries a body that cannot be read; a purge names a key
//! nobody has; an assignment is for a runner that nobody is. The server says what is not permitted without
//! naming the request, so one thing is tried at a time.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use tokio::time::timeout;

use super::Findings;
use crate::broker::{Connection, chain};
use crate::model::{Kind, RunnerId};
use crate::wire::subject::{Ask, Names};

/// How long a refusal is waited for where nothing else answers.
const REFUSED_WITHIN: Duration = Duration::from_millis(100);
const REMEDY: &str = "let this user do it, or run the dispatcher as another";
/// A name that no stream, consumer, key or runner of anybody has.
const NOBODY: &str = "longshore-doctor-tries";

/// Tries everything, and says what is not permitted.
pub(super) async fn look(found: &mut Findings, connection: &Connection, names: &Names) {
    let tries = Tries { connection, names };
    let mut refused = Vec::new();
    let runner = RunnerId::parse(NOBODY).expect("letters and dashes");
    let queue = RunnerId::parse("default").expect("letters");
    for subject in Ask::ALL.map(|ask| names.asks(ask)).into_iter().chain([names.command(), names.pull()]) {
        refused.extend(tries.hear(subject).await);
    }
    refused.extend(tries.say(names.assign(&runner)).await);
    refused.extend(tries.say(format!("$JS.ACK.{}.{NOBODY}.1.1.1.1.0", names.submit_stream())).await);
    for subject in [
        names.key(NOBODY),
        names.pending(Kind::Job, &queue, None),
        names.cancel(),
        names.report(Kind::Job, "end", &runner),
        names.history(),
        names.dead(NOBODY),
    ] {
        refused.extend(tries.store(subject).await);
    }
    for stream in [names.submit_stream(), names.report_stream()] {
        refused.extend(tries.request(format!("$JS.API.CONSUMER.CREATE.{stream}.{NOBODY}")).await);
        refused.extend(tries.request(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{NOBODY}")).await);
    }
    let pause = format!("$JS.API.CONSUMER.PAUSE.{}.{NOBODY}", names.submit_stream());
    refused.extend(tries.request(pause).await);
    refused.extend(tries.purge().await);
    if refused.is_empty() {
        found.ok("permissions", "all that a dispatcher does was tried, and none of it was refused");
    }
    refused.into_iter().for_each(|why| found.fail("permissions", why, REMEDY));
}

struct Tries<'a> {
    connection: &'a Connection,
    names: &'a Names,
}

impl Tries<'_> {
    /// Listens for a moment.
    async fn hear(&self, subject: String) -> Option<String> {
        let before = self.connection.refusals();
        let heard = match self.connection.client.subscribe(subject.clone()).await {
            Ok(heard) => heard,
            Err(why) => return Some(format!("subscribe to {subject}: {}", chain(&why))),
        };
        let refused = self.settled(before).await;
        drop(heard);
        refused.map(|why| format!("subscribe to {subject}: {why}"))
    }

    /// Says something nobody listens to.
    async fn say(&self, subject: String) -> Option<String> {
        let before = self.connection.refusals();
        if let Err(why) = self.connection.client.publish(subject.clone(), Bytes::new()).await {
            return Some(format!("publish to {subject}: {}", chain(&why)));
        }
        self.settled(before).await.map(|why| format!("publish to {subject}: {why}"))
    }

    /// Publishes to a stream what the stream will not take.
    async fn store(&self, subject: String) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", NOBODY);
        self.ask(subject, Some(headers), Bytes::new()).await
    }

    /// Purges what stood under a key nobody has before the first sequence there is.
    async fn purge(&self) -> Option<String> {
        let body = serde_json::json!({"filter": self.names.key(NOBODY), "seq": 1}).to_string();
        self.ask(format!("$JS.API.STREAM.PURGE.{}", self.names.bucket_stream()), None, body.into()).await
    }

    /// Asks what the server cannot read.
    async fn request(&self, subject: String) -> Option<String> {
        self.ask(subject, None, Bytes::from_static(b"-")).await
    }

    async fn ask(&self, subject: String, headers: Option<HeaderMap>, body: Bytes) -> Option<String> {
        let before = self.connection.refusals();
        let mut request = async_nats::Request::new().payload(body);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let asked = tokio::select! {
            asked = self.connection.client.send_request(subject.clone(), request) => asked,
            why = self.refused(before) => return Some(format!("publish to {subject}: {why}")),
        };
        match asked {
            Ok(_) => None,
            // Nobody answers to a name nobody has; that it was not permitted is said before that.
            Err(why) if why.kind() == RequestErrorKind::NoResponders => None,
            Err(why) => {
                let pool = self.names.prefix();
                Some(format!("publish to {subject} (pool {pool}): {}", chain(&why)))
            }
        }
    }

    /// What the server refused of what was sent since `before`, once it has seen all of it.
    async fn settled(&self, before: u64) -> Option<String> {
        // An answer to what was asked later comes after the refusal; what it says is no matter.
        let _ = self.connection.jetstream.query_account().await;
        timeout(REFUSED_WITHIN, self.refused(before)).await.ok()
    }

    async fn refused(&self, before: u64) -> String {
        let mut weather = self.connection.weather();
        while self.connection.refusals() == before {
            if weather.changed().await.is_err() {
                return "the connection is gone".to_owned();
            }
        }
        // Counted first and told right after: wait for the words as well.
        let told = weather.wait_for(|weather| weather.refused.is_some()).await;
        told.ok().and_then(|weather| weather.refused.clone()).unwrap_or_default()
    }
}
