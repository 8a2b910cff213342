//! A dispatcher on NATS that decides nothing: it answers runners as its script says, keeps what it was told, and
//! reads the stream of reports. Its words are those of `wire`.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use futures_util::{StreamExt, stream};
use longshore::broker::{Connection, Server};
use longshore::model::*;
use longshore::wire::message::*;
use longshore::wire::refusal::{self, Refusal};
use longshore::wire::subject::{Ask, DEFAULT_POOL, Names};
use tokio_util::task::AbortOnDropHandle;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// What the dispatcher heard, and what it is to answer.
#[derive(Debug, Default)]
pub struct Heard {
    pub registrations: Vec<Registration>,
    pub heartbeats: u64,
    pub reports: Vec<Report>,
    /// The subject of each message in the stream of reports.
    pub subjects: Vec<String>,
    pub leaves: Vec<Leave>,
    /// Which messages of the stream were read.
    read: BTreeSet<u64>,
    /// What is assigned and not ended, sent to who registers.
    pub open: Vec<AssignmentMessage>,
    /// So many questions are heard and not answered, as by a dispatcher that dies over them.
    pub unanswered: u32,
    /// The answer to everything.
    pub refuse: Option<Refusal>,
    pub lease: Option<Duration>,
}

/// The dispatcher of the default pool.
#[derive(Debug)]
pub struct Dispatcher {
    pub connection: Connection,
    pub names: Names,
    heard: Arc<Mutex<Heard>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// A connection to the server at `url`.
pub async fn connect(url: &str) -> Connection {
    let server = Server { url: url.to_owned(), name: "test".to_owned(), ..Server::default() };
    Connection::open(&server).await.expect("the server is there")
}

/// A job that runs `script` in a shell.
pub fn job(id: &str, token: &str, script: &str) -> AssignmentMessage {
    let spec = serde_json::json!({"command": ["sh", "-c", script]});
    work(Kind::Job, id, token, &serde_json::json!({"id": id, "spec": spec}))
}

/// Any work.
pub fn work(kind: Kind, id: &str, token: &str, task: &serde_json::Value) -> AssignmentMessage {
    AssignmentMessage {
        id: id.parse().expect("a name"),
        kind,
        queue: "default".parse().expect("a name"),
        attempt: 1,
        token: token.parse().expect("a token"),
        deadline: Duration::from_secs(30),
        task: task.to_string().into(),
    }
}

impl Dispatcher {
    /// Answers and reads from now on.
    pub async fn start(url: &str) -> Self {
        let (connection, names) = (connect(url).await, Names::of_pool(DEFAULT_POOL));
        let heard = Arc::<Mutex<Heard>>::default();
        let mut asks = Vec::new();
        for ask in Ask::ALL {
            let asked = connection.client.subscribe(names.asks(ask)).await.expect("a subscription");
            asks.push(asked.map(move |message| (ask, message)));
        }
        connection.client.flush().await.expect("the server has them");
        let config = Config {
            name: names.report_stream(),
            subjects: names.report_filters(),
            retention: RetentionPolicy::WorkQueue,
            ..Config::default()
        };
        connection.jetstream.create_stream(config).await.expect("a stream");
        let answering = answer(stream::select_all(asks), heard.clone(), connection.clone(), names.clone());
        let reading = read(heard.clone(), connection.clone(), names.clone());
        let tasks = [tokio::spawn(answering), tokio::spawn(reading)].map(AbortOnDropHandle::new);
        Self { connection, names, heard, _tasks: tasks.into() }
    }

    /// Looks at what it heard, or changes its script.
    pub fn with<T>(&self, look: impl FnOnce(&mut Heard) -> T) -> T {
        look(&mut self.heard.lock().expect("no panic while held"))
    }

    /// Waits for a fact.
    pub async fn until(&self, what: &str, fact: impl Fn(&Heard) -> bool) {
        let seen = async {
            while !self.with(|heard| fact(heard)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, seen).await.is_err() {
            panic!("not within {PATIENCE:?}: {what}; heard {:?}", self.with(|heard| heard.outcomes()));
        }
    }

    /// Assigns work to `r1`: sent once now, and again when it registers.
    pub async fn assign(&self, assignment: AssignmentMessage) {
        self.with(|heard| heard.open.push(assignment.clone()));
        self.deliver(&Delivery { assignments: vec![assignment], stop: Vec::new() }).await;
    }

    /// Asks `r1` to stop an attempt.
    pub async fn stop(&self, id: &str, token: &str) {
        let (id, token) = (id.parse().expect("a name"), token.parse().expect("a token"));
        let stop = vec![StopOrder { id, token, reason: "asked to".into() }];
        self.deliver(&Delivery { assignments: Vec::new(), stop }).await;
    }

    /// Sends `r1` something, once.
    pub async fn deliver(&self, delivery: &Delivery) {
        self.publish(write_delivery(delivery)).await;
    }

    /// Sends `r1` any bytes.
    pub async fn publish(&self, body: Vec<u8>) {
        let subject = self.names.assign(&"r1".parse().expect("a name"));
        self.connection.client.publish(subject, body.into()).await.expect("it is sent");
    }

    /// What was reported, in order, as `id outcome`.
    pub fn outcomes(&self) -> Vec<String> {
        self.with(|heard| heard.outcomes())
    }
}

impl Heard {
    /// What was reported, in order, as `id outcome`.
    pub fn outcomes(&self) -> Vec<String> {
        let word = |report: &Report| match &report.what {
            Reported::Start => "start",
            Reported::End(end) => end.outcome.as_str(),
        };
        self.reports.iter().map(|report| format!("{} {}", report.id, word(report))).collect()
    }

    /// Whether `what` (`id outcome`) was reported.
    pub fn has(&self, what: &str) -> bool {
        self.outcomes().iter().any(|outcome| outcome == what)
    }
}

async fn answer(
    mut asked: impl futures_util::Stream<Item = (Ask, Message)> + Unpin,
    heard: Arc<Mutex<Heard>>,
    connection: Connection,
    names: Names,
) {
    while let Some((ask, message)) = asked.next().await {
        let runner = names.asking(ask, &message.subject).expect("a runner asks");
        let mut open = Vec::new();
        let reply = {
            let mut heard = heard.lock().expect("no panic while held");
            if heard.unanswered > 0 {
                heard.unanswered -= 1;
                continue;
            }
            if ask == Ask::Register {
                open.clone_from(&heard.open);
            }
            reply(&mut heard, ask, &runner, &message.payload)
        };
        let to = message.reply.expect("who asks wants an answer");
        connection.client.publish(to, reply.into()).await.expect("it is sent");
        if !open.is_empty() {
            let body = write_delivery(&Delivery { assignments: open, stop: Vec::new() });
            connection.client.publish(names.assign(&runner), body.into()).await.expect("it is sent");
        }
    }
}

fn reply(heard: &mut Heard, ask: Ask, runner: &RunnerId, body: &[u8]) -> Vec<u8> {
    if let Some(why) = &heard.refuse {
        return refusal::write(why);
    }
    match ask {
        Ask::Register => {
            let registration = read_registration(body, Some(runner)).expect("well-formed");
            heard.registrations.push(registration);
            let lease = heard.lease.unwrap_or(Duration::from_secs(15));
            let held = heard.open.iter();
            write_registered(&Registered {
                table: uuid::Uuid::from_u128(1),
                turn: 5,
                lease,
                heartbeat: lease / 10,
                assignments: held.map(|open| Held { id: open.id.clone(), token: open.token }).collect(),
            })
        }
        Ask::Heartbeat => {
            let beat = read_heartbeat(body, Some(runner)).expect("well-formed");
            heard.heartbeats += 1;
            write_heartbeat_answer(&HeartbeatAnswer { number: beat.number, ..HeartbeatAnswer::default() })
        }
        Ask::Leave => {
            heard.leaves.push(read_leave(body, Some(runner)).expect("well-formed"));
            b"{}".to_vec()
        }
    }
}

/// Reads reports for as long as it is let, through whatever happens to the server.
async fn read(heard: Arc<Mutex<Heard>>, connection: Connection, names: Names) {
    loop {
        if let Some(consumer) = consumer(&connection, &names).await
            && let Ok(mut batch) = consumer.fetch().max_messages(100).messages().await
        {
            while let Some(Ok(message)) = batch.next().await {
                let says = names.reporting(&message.subject).expect("a report's subject");
                let said =
                    Said { runner: Some(&says.runner), kind: Some(says.kind), report: Some(says.report) };
                let reports = read_reports(&message.payload, said).expect("well-formed, as the subject says");
                let sequence = message.info().expect("it is from a stream").stream_sequence;
                // One that could not be acknowledged comes again.
                let _ = message.double_ack().await;
                let mut heard = heard.lock().expect("no panic while held");
                if !heard.read.insert(sequence) {
                    continue;
                }
                heard.subjects.push(message.subject.to_string());
                heard.open.retain(|open| {
                    let is_its_end = |report: &Report| {
                        report.token == open.token && matches!(report.what, Reported::End(_))
                    };
                    !reports.iter().any(is_its_end)
                });
                heard.reports.extend(reports);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn consumer(connection: &Connection, names: &Names) -> Option<PullConsumer> {
    let config = pull::Config { durable_name: Some("reports".to_owned()), ..pull::Config::default() };
    let stream = connection.jetstream.get_stream(names.report_stream()).await.ok()?;
    stream.get_or_create_consumer("reports", config).await.ok()
}
