//! Getting ready on a server: is it one we can trust, and is everything there that was there before?
//!
//! Law: streams and the bucket are made when none of them ever was. Once they were all there, one that is missing
//! is lost data and never made again in silence. What is there must be set up as it was made; each thing wrong is
//! one clear error that says what to do.
//!
//! The bucket is made first and marked complete last, so a start that was cut off is taken up again.

mod sound;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};

use self::sound::{check, check_bucket};
use super::bucket::MESSAGE_BYTES;
use super::{JetStreamTable, Options};
use crate::broker::{Connection, chain};
use crate::ports::TableError;
use crate::wire::subject::{Names, OF_TABLE as TABLE};

/// In the metadata of the bucket, once everything is there.
const COMPLETE: &str = "longshore.complete";
/// How many consumers a stream may have: the leader's own and what operators look with.
const CONSUMERS: i32 = 64;
/// How long a message with an id is recognised when it is sent again.
const DUPLICATES: Duration = Duration::from_secs(120);
/// The largest message of a stream, in bytes: the protocol's largest with what a dead letter says around it.
const LARGEST: i32 = 1 << 20;

/// What the streams may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes each.
    pub submit: u64,
    pub report: u64,
    pub history: u64,
    /// How long history is kept.
    pub history_age: Duration,
}

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("nats-server {version} at {url} is too old: 2.12.14 or 2.14.4 is needed")]
    TooOld { version: String, url: String },
    #[error(
        "nats-server at {url} has no JetStream for us: {why}; turn it on (jetstream {{}} in its configuration) or give this account some"
    )]
    NoJetStream { url: String, why: String },
    #[error(
        "nats-server at {url} lets this user do too little: {why}; allow it $JS.API.>, $JS.ACK.>, $KV.> and the pool's own subjects (longshore.>), and to hear its inbox, or connect as another user"
    )]
    NotPermitted { url: String, why: String },
    #[error(
        "stream {stream} is missing, though table {table} had it: it is not made again, because what it held would be lost in silence; bring it back from a backup, or remove bucket {bucket} and the other streams of this pool to begin anew"
    )]
    Gone { stream: String, table: String, bucket: String },
    #[error("stream {stream} {what}; nothing was changed")]
    Foreign { stream: String, what: String },
    #[error("{what}: {why}")]
    Refused { what: String, why: String },
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Whether a server of this version keeps its promises: older ones drop settings they do not know.
pub fn is_new_enough(version: &str) -> bool {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = numbers.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        (2, 12, patch) => patch >= 14,
        (2, 14, patch) => patch >= 4,
        (2, minor, _) => minor > 14,
        (major, ..) => major > 2,
    }
}

/// Opens the table of a pool and sees that its streams are there; makes them all where none ever was.
pub async fn prepare(
    connection: &Connection,
    names: &Names,
    options: Options,
    room: Room,
) -> Result<JetStreamTable, SetupError> {
    check_server(connection).await?;
    let bucket = find(connection, &names.bucket_stream()).await?;
    let streams = streams(names, options.replicas, room);
    let table = match &bucket {
        Some(_) => open(connection, names, options).await?,
        None => {
            for stream in &streams {
                if let Some(there) = find(connection, &stream.name).await? {
                    let table = sound::table_of(&there.config)?;
                    let (stream, bucket) = (names.bucket_stream(), names.prefix().to_owned());
                    return Err(SetupError::Gone { stream, table, bucket });
                }
            }
            match JetStreamTable::create(connection, names, options).await {
                Ok(made) => made,
                // Another replica may have been faster.
                Err(_) if find(connection, &names.bucket_stream()).await?.is_some() => {
                    open(connection, names, options).await?
                }
                Err(why) => return Err(said(connection, why)),
            }
        }
    };
    // As the server says it is, also where it was only just made.
    if let Some(there) = find(connection, &names.bucket_stream()).await? {
        check_bucket(&there.config, options.replicas, MESSAGE_BYTES)?;
    }
    let complete = bucket.is_some_and(|bucket| bucket.config.metadata.contains_key(COMPLETE));
    let id = table.table().to_string();
    for mut stream in streams {
        stream.metadata.insert(TABLE.to_owned(), id.clone());
        match find(connection, &stream.name).await? {
            Some(there) => check(&stream, &there.config)?,
            None if complete => {
                let bucket = names.prefix().to_owned();
                return Err(SetupError::Gone { stream: stream.name, table: id, bucket });
            }
            None => make(connection, &stream).await?,
        }
    }
    if !complete {
        mark_complete(connection, &names.bucket_stream()).await?;
    }
    Ok(table)
}

/// Removes the streams and the bucket of a pool with all that is in them.
pub async fn remove(connection: &Connection, names: &Names) -> Result<(), SetupError> {
    for stream in
        [names.submit_stream(), names.report_stream(), names.history_stream(), names.bucket_stream()]
    {
        if find(connection, &stream).await?.is_some() {
            let removed = connection.jetstream.delete_stream(&stream).await;
            removed.map_err(|why| refused(connection, format!("remove stream {stream}"), &why))?;
        }
    }
    Ok(())
}

/// What was found of a stream, or of the bucket.
#[derive(Debug)]
pub struct Found {
    pub stream: String,
    pub there: Option<Info>,
    /// What is wrong with it, and what to do.
    pub wrong: Option<SetupError>,
}

/// Looks at the bucket and the streams of a pool and changes nothing. The bucket comes first.
pub async fn inspect(connection: &Connection, names: &Names) -> Result<Vec<Found>, SetupError> {
    let bucket = find(connection, &names.bucket_stream()).await?;
    let metadata = |name: &str| bucket.as_ref().and_then(|bucket| bucket.config.metadata.get(name).cloned());
    let (table, complete) = (metadata(TABLE).unwrap_or_default(), metadata(COMPLETE).is_some());
    let gone = |stream: &str| SetupError::Gone {
        stream: stream.to_owned(),
        table: table.clone(),
        bucket: names.prefix().to_owned(),
    };
    let room = Room { submit: 0, report: 0, history: 0, history_age: Duration::ZERO };
    let mut found = Vec::new();
    for mut stream in streams(names, 1, room) {
        stream.metadata.insert(TABLE.to_owned(), table.clone());
        let there = find(connection, &stream.name).await?;
        let wrong = match &there {
            Some(there) if bucket.is_some() => check(&stream, &there.config).err(),
            None if complete => Some(gone(&stream.name)),
            Some(_) | None => None,
        };
        found.push(Found { stream: stream.name, there, wrong });
    }
    let wrong = match &bucket {
        Some(there) => match open(connection, names, Options::default()).await {
            Ok(_) => check_bucket(&there.config, 1, MESSAGE_BYTES).err(),
            Err(why) => Some(why),
        },
        None => found.iter().any(|stream| stream.there.is_some()).then(|| gone(&names.bucket_stream())),
    };
    found.insert(0, Found { stream: names.bucket_stream(), there: bucket, wrong });
    Ok(found)
}

/// Whether the server is one that can be used at all.
pub async fn check_server(connection: &Connection) -> Result<(), SetupError> {
    let (info, url) = (connection.client.server_info(), connection.url.to_string());
    if !is_new_enough(&info.version) {
        return Err(SetupError::TooOld { version: info.version, url });
    }
    match connection.jetstream.query_account().await {
        Ok(_) => Ok(()),
        Err(why) => Err(match connection.weather().borrow().refused.clone() {
            Some(why) => SetupError::NotPermitted { url, why },
            None => SetupError::NoJetStream { url, why: chain(&why) },
        }),
    }
}

/// How the streams of a pool are to be, without whose they are.
pub fn streams(names: &Names, replicas: usize, room: Room) -> [Config; 3] {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let common = Config {
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: LARGEST,
        max_consumers: CONSUMERS,
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: DUPLICATES,
        ..Config::default()
    };
    let submit = Config {
        name: names.submit_stream(),
        description: Some("Longshore: submissions and cancels that were not decided yet".to_owned()),
        subjects: names.submit_filters(),
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_bytes: bytes(room.submit),
        ..common.clone()
    };
    let report = Config {
        name: names.report_stream(),
        description: Some("Longshore: reports of runners that were not taken yet".to_owned()),
        subjects: names.report_filters(),
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_bytes: bytes(room.report),
        ..common.clone()
    };
    let history = Config {
        name: names.history_stream(),
        description: Some(
            "Longshore: what happened, turn by turn, what work wrote, and dead letters".to_owned(),
        ),
        subjects: vec![names.history(), names.output_filter(), names.dead_filter()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_bytes: bytes(room.history),
        max_age: room.history_age,
        allow_direct: true,
        ..common
    };
    [submit, report, history]
}

async fn open(
    connection: &Connection,
    names: &Names,
    options: Options,
) -> Result<JetStreamTable, SetupError> {
    JetStreamTable::open(connection, names, options).await.map_err(|why| said(connection, why))
}

/// What a table that was not made or opened means: a refusal comes without the name of its request, which only
/// gets no answer.
fn said(connection: &Connection, why: TableError) -> SetupError {
    match connection.weather().borrow().refused.clone() {
        Some(refused) => {
            SetupError::NotPermitted { url: connection.url.to_string(), why: format!("{why}; {refused}") }
        }
        None => why.into(),
    }
}

/// The stream of that name, if there is one.
async fn find(connection: &Connection, stream: &str) -> Result<Option<Info>, SetupError> {
    match connection.jetstream.get_stream(stream).await {
        Ok(found) => Ok(Some(found.cached_info().clone())),
        Err(why) => match why.kind() {
            GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(refused(connection, format!("look for stream {stream}"), &why)),
        },
    }
}

async fn make(connection: &Connection, stream: &Config) -> Result<(), SetupError> {
    let made = connection.jetstream.create_stream(stream.clone()).await;
    let made = made.map_err(|why| refused(connection, format!("create stream {}", stream.name), &why))?;
    check(stream, &made.cached_info().config)?;
    tracing::info!(stream = stream.name, "stream made");
    Ok(())
}

async fn mark_complete(connection: &Connection, bucket: &str) -> Result<(), SetupError> {
    let Some(Info { mut config, .. }) = find(connection, bucket).await? else { return Ok(()) };
    let mark = HashMap::from([(COMPLETE.to_owned(), "true".to_owned())]);
    config.metadata.extend(mark);
    let marked = connection.jetstream.update_stream(config).await;
    marked.map(|_| ()).map_err(|why| refused(connection, format!("mark stream {bucket} complete"), &why))
}

/// What the server said, with the permission it named last if there is one.
fn refused(connection: &Connection, what: String, why: &dyn std::error::Error) -> SetupError {
    let permission = connection.weather().borrow().refused.clone();
    let mut why = match permission {
        Some(permission) => format!("{}; the server refused: {permission}", chain(why)),
        None => chain(why),
    };
    if why.contains("insufficient storage") {
        why += "; the servers set the room of each stream aside: lower nats.submit_bytes and the other *_bytes, or give JetStream more (max_file_store)";
    }
    SetupError::Refused { what, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_drop_what_they_do_not_know_are_too_old() {
        for old in ["2.9.10", "2.12.13", "2.13.9", "2.14.3", "1.4.1", "", "x.y"] {
            assert!(!is_new_enough(old), "{old}");
        }
        for new in ["2.12.14", "2.14.4", "2.15.1", "2.16.0-RC.1", "3.0.0"] {
            assert!(is_new_enough(new), "{new}");
        }
    }
}
