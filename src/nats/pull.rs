//! Pulling from a durable consumer, in pulls that end within a second.
//!
//! Law: no pull without credit, and never more outstanding than the credit. What has arrived is passed on in
//! chunks as large as what is there, so that a busy stream packs itself and a quiet one waits for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::broker::{Connection, chain};
use crate::ports::Clock;

/// How long one pull waits for messages.
const PULL: Duration = Duration::from_secs(1);
/// How much longer than its pull an answer may take.
const SLACK: Duration = Duration::from_secs(1);
/// The most messages passed on at once.
const CHUNK: usize = 256;
/// The most bytes of one pull: beyond the largest message, so that none is too large for a pull.
const BYTES: usize = 2 << 20;
/// How a server says that a pull has brought as much as it may: no failure, though the client calls it one.
const FULL: [&str; 2] = ["Message Size Exceeds MaxBytes", "Batch Completed"];
/// The pause after a pull that failed; it doubles up to the longest.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// How often a pause is looked at though nothing seems to have changed.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// When the stream last answered a pull.
pub(super) struct Pulse {
    clock: Arc<dyn Clock>,
    /// Milliseconds on the monotonic clock.
    answered: AtomicU64,
    patience: Duration,
    why: Mutex<String>,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").field("answered", &self.answered).finish_non_exhaustive()
    }
}

impl Pulse {
    /// Patience is counted from one pull's answer to the next, and a pull itself waits for a second.
    pub fn new(clock: Arc<dyn Clock>, take_over: Duration) -> Self {
        let patience = take_over + PULL;
        let pulse = Self { clock, answered: AtomicU64::new(0), patience, why: Mutex::default() };
        pulse.begin();
        pulse
    }

    /// Begins to count anew.
    pub fn begin(&self) {
        self.answered.store(self.now(), Ordering::Relaxed);
    }

    fn failed(&self, why: String) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why nothing was read for too long, if so.
    pub fn trouble(&self) -> Option<String> {
        let silence = self.now().saturating_sub(self.answered.load(Ordering::Relaxed));
        (u128::from(silence) > self.patience.as_millis()).then(|| {
            let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
            format!("no pull was answered for {silence} ms: {why}")
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Waits while the table takes nothing, and does not count that against the stream.
pub(super) async fn untroubled(context: &Context, pulse: &Pulse) {
    while context.handle.status().trouble.is_some() {
        tokio::time::sleep(LOOK).await;
        pulse.begin();
    }
}

/// Whoever the messages of a consumer are for.
#[async_trait]
pub(super) trait Taker: Send {
    /// How many messages the next pull may bring; waits until there is credit.
    async fn credit(&mut self) -> usize;

    /// Takes a chunk, and may wait.
    async fn take(&mut self, messages: Vec<Message>);
}

/// How pulling failed last, and the pause that follows.
struct Failed {
    pause: Duration,
    why: String,
}

/// A durable consumer, made when it is missing.
pub(super) struct Source {
    connection: Connection,
    stream: String,
    name: &'static str,
    filters: Vec<String>,
    ack_wait: Duration,
    pulse: Arc<Pulse>,
}

impl Source {
    /// `name` is the consumer's; messages that were not acknowledged within `ack_wait` come again.
    pub fn new(
        connection: &Connection,
        stream: String,
        name: &'static str,
        filters: Vec<String>,
        ack_wait: Duration,
        pulse: &Arc<Pulse>,
    ) -> Self {
        Self { connection: connection.clone(), stream, name, filters, ack_wait, pulse: pulse.clone() }
    }

    /// What is told of its answers.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    async fn consumer(&self) -> Result<PullConsumer, String> {
        let config = Config {
            durable_name: Some(self.name.to_owned()),
            filter_subjects: self.filters.clone(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            max_ack_pending: -1,
            max_batch: 10_000,
            ..Config::default()
        };
        let js = &self.connection.jetstream;
        let made = js.create_consumer_on_stream(config, &*self.stream).await;
        made.map_err(|why| format!("consumer {} of stream {}: {}", self.name, self.stream, chain(&why)))
    }

    /// Pulls until `stop` is cancelled.
    pub async fn pull(&self, taker: &mut dyn Taker, stop: &CancellationToken) {
        let (mut consumer, mut failed) = (None, Failed { pause: AGAIN, why: String::new() });
        while !stop.is_cancelled() {
            let messages = tokio::select! {
                messages = taker.credit() => messages,
                () = stop.cancelled() => return,
            };
            let ready = match &consumer {
                Some(ready) => ready,
                None => match self.consumer().await {
                    Ok(made) => consumer.insert(made),
                    Err(why) => {
                        self.failed(why, &mut failed, stop).await;
                        continue;
                    }
                },
            };
            match self.pull_once(ready, messages, taker, stop).await {
                Ok(()) => failed = Failed { pause: AGAIN, why: String::new() },
                Err(why) => {
                    consumer = None;
                    self.failed(why, &mut failed, stop).await;
                }
            }
        }
    }

    async fn failed(&self, why: String, failed: &mut Failed, stop: &CancellationToken) {
        match failed.why == why {
            false => tracing::warn!(consumer = self.name, why, "pull failed"),
            true => tracing::debug!(consumer = self.name, why, "pull failed again"),
        }
        failed.why.clone_from(&why);
        self.pulse.failed(why);
        // Either way the loop looks whether it is to stop.
        let _ = tokio::time::timeout(failed.pause, stop.cancelled()).await;
        failed.pause = (failed.pause * 2).min(AGAIN_MAX);
    }

    async fn pull_once(
        &self,
        consumer: &PullConsumer,
        messages: usize,
        taker: &mut dyn Taker,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let batch = consumer.batch().max_messages(messages).max_bytes(BYTES).expires(PULL).messages();
        let mut batch = batch.await.map_err(|why| chain(&why))?;
        let too_late = tokio::time::sleep(PULL + SLACK);
        tokio::pin!(too_late);
        loop {
            let first = tokio::select! {
                biased;
                // What still arrives is not acknowledged and comes again.
                () = stop.cancelled() => return Ok(()),
                // What is there was answered in time, however long the chunk before it took.
                first = batch.next() => first,
                () = &mut too_late => return Err("a pull was not answered".to_owned()),
            };
            self.pulse.begin();
            let mut chunk = match first.transpose().map_err(|why| why.to_string()) {
                Ok(Some(first)) => vec![first],
                Ok(None) => return Ok(()),
                Err(why) if FULL.iter().any(|full| why.contains(full)) => return Ok(()),
                Err(why) => return Err(why),
            };
            let mut over = false;
            while chunk.len() < CHUNK && !over {
                match batch.next().now_or_never() {
                    Some(Some(Ok(more))) => chunk.push(more),
                    Some(Some(Err(_)) | None) => over = true,
                    None => break,
                }
            }
            taker.take(chunk).await;
            if over {
                return Ok(());
            }
        }
    }
}
