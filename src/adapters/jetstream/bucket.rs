//! The bucket: the stream that holds a table, how it is made, and single questions to it.
//!
//! Law: a bucket is made once and never anew. It refuses what does not fit instead of dropping what is old, and
//! forgets nothing by itself; whose table it is stands in its metadata. One that is set up otherwise is not
//! opened: it could lose turns without a word.

use std::collections::HashMap;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream};
use uuid::Uuid;

use super::Options;
use super::trouble::{Trouble, in_time};
use crate::broker::{Connection, chain};
use crate::wire::subject::Names;

/// Where the table's id stands in the metadata.
const TABLE: &str = "longshore.table";

/// The largest message the bucket takes, in bytes: half of what servers take unless told otherwise.
pub(super) const MESSAGE_BYTES: usize = 512 << 10;

/// The key of the pointer to the snapshot's pages.
pub(super) const POINTER: &str = "snapshot";

/// A message of the bucket that was asked for by its key.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) sequence: u64,
    pub(super) key: String,
    pub(super) bytes: Vec<u8>,
}

/// The bucket of a table.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) connection: Connection,
    pub(super) names: Names,
    pub(super) stream: Stream<()>,
    pub(super) table: Uuid,
    pub(super) replicas: usize,
    /// How messages to people call it.
    pub(super) what: String,
}

impl Bucket {
    /// Makes an empty bucket with a table id of its own. Fails if there is one.
    pub(super) async fn create(
        connection: &Connection,
        names: &Names,
        options: &Options,
    ) -> Result<(), Trouble> {
        let config = config(names, options, Uuid::now_v7());
        let made = in_time("create", connection.jetstream.create_stream(config)).await?;
        made.map(drop).map_err(|why| match why.kind() {
            CreateStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                Trouble::Unusable("it is there already; open it".to_owned())
            }
            CreateStreamErrorKind::JetStream(said) => Trouble::Unusable(format!(
                "the server does not make it with {} replicas of at most {} bytes: {said}",
                options.replicas, options.max_bytes
            )),
            _ => Trouble::Unclear(chain(&why)),
        })
    }

    /// Opens the bucket that is there.
    pub(super) async fn open(connection: &Connection, names: &Names) -> Result<Self, Trouble> {
        let stream = connection
            .jetstream
            .get_stream_no_info(names.bucket_stream())
            .await
            .map_err(|why| Trouble::of_stream(&why))?;
        let mut bucket = Self {
            connection: connection.clone(),
            names: names.clone(),
            stream,
            table: Uuid::nil(),
            replicas: 1,
            what: what(connection, names),
        };
        let info = bucket.ask().await?;
        bucket.table = usable(&info.config, names)?;
        bucket.replicas = info.config.num_replicas;
        Ok(bucket)
    }

    /// The last sequence there ever was in it, as its leader says; makes sure that it is still the same table.
    pub(super) async fn last_sequence(&self) -> Result<u64, Trouble> {
        let info = self.ask().await?;
        match usable(&info.config, &self.names)? {
            table if table == self.table => Ok(info.state.last_sequence),
            table => Err(Trouble::Lost(format!(
                "it holds table {table} and no longer {}: somebody has replaced it",
                self.table
            ))),
        }
    }

    /// The last message under `key`, in which a `*` may stand for one part. Asked of the bucket's leader: what it
    /// has stands there; what it does not have may only not have got there yet.
    pub(super) async fn last(&self, key: &str) -> Result<Option<Found>, Trouble> {
        let subject = self.names.key(key);
        match in_time("read a message", self.stream.get_last_raw_message_by_subject(&subject)).await? {
            Ok(message) => Ok(self.key_of(&message.subject).map(|key| Found {
                sequence: message.sequence,
                key: key.to_owned(),
                bytes: message.payload.to_vec(),
            })),
            Err(why) => Trouble::of_message(&why).map_or(Ok(None), Err),
        }
    }

    /// Drops what stands under `key`, in which a `*` may stand for one part; all of it, or what lies before
    /// sequence `before`.
    pub(super) async fn drop_messages(&self, key: &str, before: Option<u64>) -> Result<(), Trouble> {
        let purge = self.stream.purge().filter(self.names.key(key));
        let done = match before {
            Some(sequence) => in_time("purge", purge.sequence(sequence).into_future()).await?,
            None => in_time("purge", purge.into_future()).await?,
        };
        done.map(drop).map_err(|why| Trouble::unclear("purge", &why))
    }

    /// The key a subject stands for.
    pub(super) fn key_of<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix("$KV.")?.strip_prefix(self.names.prefix())?.strip_prefix('.')
    }

    async fn ask(&self) -> Result<Info, Trouble> {
        let asked = self.connection.jetstream.get_stream(self.names.bucket_stream());
        let asked = in_time("ask for the bucket", asked).await?;
        asked.map(|stream| stream.cached_info().clone()).map_err(|why| Trouble::of_stream(&why))
    }
}

/// The key of a turn.
pub(super) fn turn_key(number: u64) -> String {
    format!("turn.{number}")
}

/// The turn that stands under a key, if it is a turn's.
pub(super) fn turn_number(key: &str) -> Option<u64> {
    key.strip_prefix("turn.")?.parse().ok()
}

/// How messages to people call the bucket of a pool.
pub(super) fn what(connection: &Connection, names: &Names) -> String {
    format!("table {} (stream {}) at {}", names.prefix(), names.bucket_stream(), connection.url)
}

/// The stream behind a bucket: what `nats kv` reads as one, without anything that forgets.
fn config(names: &Names, options: &Options, table: Uuid) -> Config {
    Config {
        name: names.bucket_stream(),
        description: Some("Longshore's table: turns, and the snapshot's pages".to_owned()),
        subjects: vec![names.key(">")],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: options.replicas,
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: i64::try_from(options.max_bytes).unwrap_or(i64::MAX),
        max_message_size: i32::try_from(MESSAGE_BYTES).expect("half a mebibyte"),
        max_consumers: options.max_consumers,
        deny_delete: true,
        allow_rollup: true,
        allow_direct: true,
        metadata: HashMap::from([(TABLE.to_owned(), table.to_string())]),
        ..Config::default()
    }
}

/// Whose table a bucket holds, if it keeps what is written to it.
fn usable(config: &Config, names: &Names) -> Result<Uuid, Trouble> {
    let Some(named) = config.metadata.get(TABLE) else {
        return Err(Trouble::Unusable(format!(
            "its metadata names no table ({TABLE}): it was not made by longshore; name another pool, or remove the bucket"
        )));
    };
    let wrong = if config.discard != DiscardPolicy::New {
        Some("discards what is old (discard must be new)")
    } else if config.retention != RetentionPolicy::Limits {
        Some("has another retention than limits")
    } else if !config.max_age.is_zero() {
        Some("forgets what is old (max_age must be 0)")
    } else if config.max_messages > 0 {
        Some("counts messages (max_msgs must be -1)")
    } else if config.max_messages_per_subject != 1 {
        Some("keeps another history than 1")
    } else if config.subjects != [names.key(">")] {
        Some("takes other subjects than its keys")
    } else {
        None
    };
    match wrong {
        Some(wrong) => Err(Trouble::Unusable(format!("it {wrong}; set it back (nats stream edit)"))),
        None => Uuid::parse_str(named)
            .map_err(|why| Trouble::Damaged(format!("its metadata names no table ({named}: {why})"))),
    }
}
