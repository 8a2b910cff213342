//! The floor: what a server and its clients need for the messages of tasks alone, with nobody who decides anything.
//!
//! Law: the messages a loaded dispatcher sends for tasks in packs, as many and as long, over streams set up alike, and
//! each waited for where a dispatcher must wait. What is left out is the work: reading, deciding, keeping, writing.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SEQUENCE;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::broker::{Connection, Server, chain};
use crate::cli::failure::Failure;

/// Bytes that a task takes in each message it is part of, as counted at a loaded dispatcher.
const ASSIGNMENT: usize = 245;
const START: usize = 125;
const END: usize = 160;
/// In the turn that admits and assigns it, and in the one that takes in its start and its end.
const TURNS: [usize; 2] = [1_000, 850];
/// In the history of each.
const HISTORY: usize = 380;
/// The most bytes of one turn, and the most messages taken in at once.
const TURN: usize = 300 << 10;
const CHUNK: usize = 256;

/// Where its messages go.
struct Floor {
    connection: Connection,
    prefix: String,
    /// The last sequence of the table.
    last: u64,
}

/// Tasks a second, from the first publication of `packs` (each of `pack` tasks) until all their ends are taken in.
pub(super) async fn rate(
    server: &Server,
    prefix: &str,
    packs: Vec<Vec<u8>>,
    pack: usize,
) -> Result<f64, Failure> {
    let tasks = packs.len() * pack;
    let connection = Connection::open(server).await?;
    let mut floor = Floor { connection, prefix: format!("{prefix}-floor"), last: 0 };
    let work = floor.stream("work", RetentionPolicy::WorkQueue).await?;
    let reports = floor.stream("report", RetentionPolicy::WorkQueue).await?;
    for name in ["turn", "history"] {
        floor.stream(name, RetentionPolicy::Limits).await?;
    }
    let runner = Connection::open(server).await?;
    let assigned = runner.client.subscribe(floor.subject("assign")).await;
    let running = tokio::spawn(run(runner, assigned.map_err(|why| broken(&why))?, floor.subject("report")));
    let producer = Connection::open(server).await?;
    let began = Instant::now();
    let producing = tokio::spawn(produce(producer, floor.subject("work"), packs));
    let done = floor.dispatch(work, reports, tasks, pack).await;
    let took = began.elapsed();
    running.abort();
    producing.abort();
    for name in ["work", "report", "turn", "history"] {
        let stream = floor.name(name);
        floor.connection.jetstream.delete_stream(&stream).await.map_err(|why| broken(&why))?;
    }
    done.map(|()| tasks as f64 / took.as_secs_f64())
}

impl Floor {
    fn subject(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn name(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix).to_uppercase()
    }

    /// Makes a stream and a consumer of it.
    async fn stream(&self, name: &str, retention: RetentionPolicy) -> Result<PullConsumer, Failure> {
        let config = Config {
            name: self.name(name),
            subjects: vec![self.subject(name)],
            retention,
            ..Config::default()
        };
        let stream = self.connection.jetstream.create_stream(config).await.map_err(|why| broken(&why))?;
        let config = pull::Config {
            durable_name: Some("floor".to_owned()),
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.map_err(|why| broken(&why))
    }

    /// Takes in submissions and ends as they come, a turn for each chunk.
    async fn dispatch(
        &mut self,
        work: PullConsumer,
        reports: PullConsumer,
        tasks: usize,
        pack: usize,
    ) -> Result<(), Failure> {
        let mut submitted = work.messages().await.map_err(|why| broken(&why))?;
        let mut reported = reports.messages().await.map_err(|why| broken(&why))?;
        let (mut ended, mut said) = (0, 0);
        while ended < tasks {
            let (first, is_work) = tokio::select! {
                message = submitted.next() => (message, true),
                message = reported.next() => (message, false),
            };
            let stream = if is_work { &mut submitted } else { &mut reported };
            let gone = || Failure::Broken("a consumer of the floor ended".to_owned());
            let mut chunk: Vec<Message> = vec![first.ok_or_else(gone)?.map_err(|why| broken(&why))?];
            while chunk.len() < CHUNK
                && let Some(Some(Ok(more))) = stream.next().now_or_never()
            {
                chunk.push(more);
            }
            if is_work {
                self.turns(chunk.len() * pack, TURNS[0], true).await?;
            } else {
                said += chunk.iter().map(|message| message.payload.len()).sum::<usize>();
                let more = said / (START + END) - ended;
                self.turns(more, TURNS[1], false).await?;
                ended += more;
            }
            for message in chunk {
                message.ack().await.map_err(|why| Failure::Broken(why.to_string()))?;
            }
        }
        Ok(())
    }

    /// Writes turns about so many tasks, each directly after the one before it, with their history and assignments.
    async fn turns(&mut self, tasks: usize, bytes: usize, assigns: bool) -> Result<(), Failure> {
        let mut left = tasks;
        while left > 0 {
            let now = left.min(TURN / bytes);
            left -= now;
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_LAST_SEQUENCE, self.last.to_string());
            let js = &self.connection.jetstream;
            let sent = js.publish_with_headers(self.subject("turn"), headers, filler(now, bytes)).await;
            self.last = sent.map_err(|why| broken(&why))?.await.map_err(|why| broken(&why))?.sequence;
            if assigns {
                let sent = self.connection.client.publish(self.subject("assign"), filler(now, ASSIGNMENT));
                sent.await.map_err(|why| broken(&why))?;
            }
            // Nothing waits for the history.
            let told = js.publish(self.subject("history"), filler(now, HISTORY)).await;
            drop(told.map_err(|why| broken(&why))?);
        }
        Ok(())
    }
}

/// Publishes all packs, as many on their way at once as the bench's producer has.
async fn produce(producer: Connection, subject: String, packs: Vec<Vec<u8>>) {
    let mut sent: Vec<PublishAckFuture> = Vec::new();
    for pack in packs {
        let Ok(on_its_way) = producer.jetstream.publish(subject.clone(), pack.into()).await else { return };
        sent.push(on_its_way);
        if sent.len() == super::nats::ON_THE_WAY && super::nats::acknowledged(sent.drain(..)).await.is_err() {
            return;
        }
    }
    // Whoever counts the ends sees what did not arrive.
    let _ = super::nats::acknowledged(sent.drain(..)).await;
}

/// Reports the start and the end of all that is assigned.
async fn run(runner: Connection, mut assigned: async_nats::Subscriber, subject: String) {
    while let Some(delivery) = assigned.next().await {
        let tasks = delivery.payload.len() / ASSIGNMENT;
        for bytes in [START, END] {
            let _ = runner.jetstream.publish(subject.clone(), filler(tasks, bytes)).await;
        }
    }
}

fn filler(tasks: usize, bytes: usize) -> Bytes {
    vec![b'x'; tasks * bytes].into()
}

fn broken(why: &dyn std::error::Error) -> Failure {
    Failure::Broken(chain(why))
}
