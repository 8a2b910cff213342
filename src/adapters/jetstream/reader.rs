//! Reading the bucket in order.
//!
//! Law: what is yielded after sequence s is the next message that stands there, never a later one: every message
//! of the consumer is counted, and one that is missing ends the reader. The consumer is the server's to forget:
//! it is deleted with the reader, and by the server once nobody has asked it for half a minute.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::StreamExt;
use tokio::time::timeout;
use uuid::Uuid;

use super::bucket::Bucket;
use super::trouble::Trouble;

/// How often the server says that it is there while nothing is new; two missed ones end the reader.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long one request for more stays open.
const REQUEST: Duration = Duration::from_secs(30);
/// How many messages are asked for at once; each may have half a mebibyte.
const BATCH: usize = 64;
/// How long the server keeps a consumer that nobody asks.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// How long a message that must be there is waited for.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// One message of the bucket.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) key: String,
    message: jetstream::Message,
}

impl Entry {
    /// What it holds.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.message.payload
    }
}

/// Reads messages in the order of their sequences.
pub(super) struct Reader<'a> {
    bucket: &'a Bucket,
    messages: pull::Stream,
    consumer: Consumer,
    read: u64,
}

/// A consumer that is deleted when it is no longer read.
#[derive(Debug)]
struct Consumer {
    context: jetstream::Context,
    stream: String,
    name: String,
}

impl<'a> Reader<'a> {
    /// Reads what stands under `keys` from sequence `from` on; everything if no key is named.
    pub(super) async fn start(bucket: &'a Bucket, keys: &[&str], from: u64) -> Result<Self, Trouble> {
        let name = format!("longshore-{}", Uuid::now_v7().simple());
        let config = pull::Config {
            name: Some(name.clone()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            filter_subjects: keys.iter().map(|key| bucket.names.key(key)).collect(),
            inactive_threshold: FORGOTTEN_AFTER,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        // Deleted also if only the answer to its creation is lost.
        let consumer = Consumer {
            context: bucket.connection.jetstream.clone(),
            stream: bucket.names.bucket_stream(),
            name,
        };
        let made: PullConsumer = bucket
            .stream
            .create_consumer(config)
            .await
            .map_err(|why| Trouble::unclear("create a consumer", &why))?;
        let messages = made
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(REQUEST)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|why| Trouble::unclear("read", &why))?;
        Ok(Self { bucket, messages, consumer, read: 0 })
    }

    /// The next message, however long it takes to be written. Fails when the server is not heard of, and can be
    /// given up at any time.
    pub(super) async fn next(&mut self) -> Result<Entry, Trouble> {
        loop {
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(why)) => return Err(Trouble::unclear("read", &why)),
                None => return Err(Trouble::Unclear("read: the consumer ended".to_owned())),
            };
            let about = message.info().map_err(|why| Trouble::Unclear(format!("read: {why}")))?;
            let (sequence, place) = (about.stream_sequence, about.consumer_sequence);
            if place != self.read + 1 {
                let why = format!("read: message {} of {} is missing", self.read + 1, self.consumer.name);
                return Err(Trouble::Unclear(why));
            }
            self.read = place;
            if let Some(key) = self.bucket.key_of(&message.subject) {
                return Ok(Entry { sequence, key: key.to_owned(), message });
            }
        }
    }

    /// The next message, which is known to stand there.
    pub(super) async fn next_standing(&mut self) -> Result<Entry, Trouble> {
        timeout(STALLED_AFTER, self.next()).await.unwrap_or_else(|_| {
            Err(Trouble::Unclear(format!(
                "read: nothing came for {STALLED_AFTER:?}, though there is more; was something purged by hand?"
            )))
        })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (context, stream) = (self.context.clone(), std::mem::take(&mut self.stream));
        let name = std::mem::take(&mut self.name);
        runtime.spawn(async move {
            // One that stays is forgotten by the server.
            let _ = context.delete_consumer_from_stream(name, stream).await;
        });
    }
}
