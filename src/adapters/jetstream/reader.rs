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
use super::trouble::{Trouble, in_time};

/// How often the server says that it is there while nothing is new; two missed ones end the consumer, well before
/// anybody takes the silence for a leader that is gone.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long one request for more stays open.
const REQUEST: Duration = Duration::from_secs(30);
/// How many messages are asked for at once; each may have half a mebibyte.
const BATCH: usize = 64;
/// How long the server keeps a consumer that nobody asks.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// How long is waited before a consumer is replaced.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How long a message that must be there is waited for.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// One message of the bucket.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) key: String,
    /// How many messages stood behind it under the same keys when it was delivered.
    pub(super) pending: u64,
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
    keys: Vec<String>,
    /// Every message before this one that stands under the keys was yielded.
    from: u64,
    consumer: Consumer,
}

/// A consumer that is deleted when it is no longer read.
struct Consumer {
    context: jetstream::Context,
    stream: String,
    name: String,
    messages: Option<pull::Stream>,
    /// How many of its messages were read.
    read: u64,
}

impl<'a> Reader<'a> {
    /// Reads what stands under `keys` from sequence `from` on; everything if no key is named.
    pub(super) async fn start(bucket: &'a Bucket, keys: &[&str], from: u64) -> Result<Self, Trouble> {
        let keys: Vec<String> = keys.iter().map(|key| bucket.names.key(key)).collect();
        let consumer = Consumer::start(bucket, &keys, from).await?;
        Ok(Self { bucket, keys, from, consumer })
    }

    /// The next message, however long it takes to be written. Fails when the server is not heard of, and can be
    /// given up at any time.
    pub(super) async fn next(&mut self) -> Result<Entry, Trouble> {
        loop {
            let (message, sequence, pending) = self.consumer.next().await?;
            self.from = sequence + 1;
            if let Some(key) = self.bucket.key_of(&message.subject) {
                return Ok(Entry { sequence, key: key.to_owned(), pending, message });
            }
        }
    }

    /// The next message, which is known to stand there. A consumer that fails is replaced by one that goes on
    /// where it was: in a cluster a new one is not heard of everywhere at once.
    pub(super) async fn next_standing(&mut self) -> Result<Entry, Trouble> {
        let mut last = None;
        let next = async {
            loop {
                match self.next().await {
                    Ok(entry) => return entry,
                    Err(why) => last = Some(why),
                }
                tokio::time::sleep(AGAIN_AFTER).await;
                match Consumer::start(self.bucket, &self.keys, self.from).await {
                    Ok(consumer) => self.consumer = consumer,
                    Err(why) => last = Some(why),
                }
            }
        };
        match timeout(STALLED_AFTER, next).await {
            Ok(entry) => Ok(entry),
            Err(_) => Err(last.unwrap_or_else(|| {
                Trouble::Unclear(format!(
                    "read: nothing came for {STALLED_AFTER:?}, though there is more; was something purged by hand?"
                ))
            })),
        }
    }
}

impl Consumer {
    async fn start(bucket: &Bucket, keys: &[String], from: u64) -> Result<Self, Trouble> {
        let name = format!("longshore-{}", Uuid::now_v7().simple());
        let config = pull::Config {
            name: Some(name.clone()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            filter_subjects: keys.to_vec(),
            inactive_threshold: FORGOTTEN_AFTER,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        // From here on it is deleted, also if only the answer to its creation is lost.
        let mut consumer = Self {
            context: bucket.connection.jetstream.clone(),
            stream: bucket.names.bucket_stream(),
            name,
            messages: None,
            read: 0,
        };
        let made = in_time("create a consumer", bucket.stream.create_consumer(config)).await?;
        let made: PullConsumer = made.map_err(|why| Trouble::unclear("create a consumer", &why))?;
        let messages =
            made.stream().max_messages_per_batch(BATCH).expires(REQUEST).heartbeat(HEARTBEAT).messages();
        let messages = in_time("read", messages).await?;
        consumer.messages = Some(messages.map_err(|why| Trouble::unclear("read", &why))?);
        Ok(consumer)
    }

    /// The next message, its sequence in the bucket, and how many stood behind it.
    async fn next(&mut self) -> Result<(jetstream::Message, u64, u64), Trouble> {
        let ended = || Trouble::Unclear("read: the consumer ended".to_owned());
        let message = match self.messages.as_mut().ok_or_else(ended)?.next().await {
            Some(Ok(message)) => message,
            Some(Err(why)) => {
                self.messages = None;
                return Err(Trouble::unclear("read", &why));
            }
            None => return Err(ended()),
        };
        let about = message.info().map_err(|why| Trouble::Unclear(format!("read: {why}")))?;
        let (sequence, place, pending) = (about.stream_sequence, about.consumer_sequence, about.pending);
        if place != self.read + 1 {
            self.messages = None;
            return Err(Trouble::Unclear(format!(
                "read: message {} of {} is missing",
                self.read + 1,
                self.name
            )));
        }
        self.read = place;
        Ok((message, sequence, pending))
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
