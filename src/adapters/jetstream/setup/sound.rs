//! Is a stream set up so that it keeps what it is given?
//!
//! Law: everything that could lose a message, or refuse a legal one, is looked at as the server says it is, not
//! as it was asked for. Limits an operator may choose (bytes, age of history, more servers) are left alone.

use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};

use super::{SetupError, TABLE};

/// How many consumers a stream must allow at least: the leader's own, its successor's and one to look with.
const FEWEST_CONSUMERS: i32 = 8;

/// Whether a stream is as we would make it, in everything safety rests on.
pub(super) fn check(wanted: &Config, there: &Config) -> Result<(), SetupError> {
    table_of(there)?;
    match wrong(wanted, there).or_else(|| loses(wanted, there)) {
        Some(what) => Err(SetupError::Foreign { stream: wanted.name.clone(), what }),
        None => Ok(()),
    }
}

/// Whether the bucket keeps what is written to it, besides what opening the table looks at.
pub(super) fn check_bucket(there: &Config, replicas: usize, message: usize) -> Result<(), SetupError> {
    let wanted = Config {
        name: there.name.clone(),
        num_replicas: replicas,
        max_message_size: i32::try_from(message).unwrap_or(i32::MAX),
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    let purges = || there.deny_purge.then(|| "denies purges, so old turns could never go".to_owned());
    match loses(&wanted, there).or_else(purges) {
        Some(what) => Err(SetupError::Foreign { stream: there.name.clone(), what }),
        None => Ok(()),
    }
}

/// The table a stream belongs to. Fails if it is none of ours.
pub(super) fn table_of(there: &Config) -> Result<String, SetupError> {
    there.metadata.get(TABLE).cloned().ok_or_else(|| SetupError::Foreign {
        stream: there.name.clone(),
        what: format!("was not made by longshore: its metadata names no {TABLE}; name another pool"),
    })
}

/// What makes it another stream than the one wanted.
fn wrong(wanted: &Config, there: &Config) -> Option<String> {
    let (ours, theirs) = (wanted.metadata.get(TABLE)?, there.metadata.get(TABLE)?);
    if ours != theirs {
        return Some(format!(
            "belongs to table {theirs} and not to {ours}: bucket and streams must be restored together"
        ));
    }
    let mut subjects = [wanted.subjects.clone(), there.subjects.clone()];
    subjects.iter_mut().for_each(|subjects| subjects.sort());
    if subjects[0] != subjects[1] {
        return Some(format!("takes {:?}, and should take {:?}", there.subjects, wanted.subjects));
    }
    if wanted.retention != there.retention {
        return Some(format!(
            "keeps messages by {:?}, and should by {:?}",
            there.retention, wanted.retention
        ));
    }
    if wanted.discard != there.discard {
        return Some(format!(
            "discards {:?} messages when full, and should {:?}",
            there.discard, wanted.discard
        ));
    }
    (there.max_messages_per_subject > 0).then(|| {
        format!(
            "keeps {} messages of each subject, and should keep all (max_msgs_per_subject -1)",
            there.max_messages_per_subject
        )
    })
}

/// What would make it lose what it has acknowledged, or refuse what is legal.
fn loses(wanted: &Config, there: &Config) -> Option<String> {
    if wanted.retention == RetentionPolicy::WorkQueue && !there.max_age.is_zero() {
        return Some(format!("forgets messages after {:?}, and should keep them (max_age 0)", there.max_age));
    }
    if there.storage != StorageType::File {
        return Some("is kept in memory, and should be in files".to_owned());
    }
    if there.no_ack || there.persist_mode == Some(PersistenceMode::Async) {
        return Some("does not acknowledge what it has stored (no_ack, persist_mode)".to_owned());
    }
    if there.sealed {
        return Some("is sealed and takes nothing more".to_owned());
    }
    if there.mirror.is_some() || there.sources.as_ref().is_some_and(|from| !from.is_empty()) {
        return Some("copies another stream (mirror, sources), and should stand alone".to_owned());
    }
    if there.subject_transform.is_some() {
        return Some("renames what it takes (subject_transform)".to_owned());
    }
    if (1..wanted.max_message_size).contains(&there.max_message_size) {
        return Some(format!(
            "takes messages of up to {} bytes, and should of up to {} (max_msg_size)",
            there.max_message_size, wanted.max_message_size
        ));
    }
    if (1..FEWEST_CONSUMERS).contains(&there.max_consumers) {
        return Some(format!(
            "allows {} consumers, and should {FEWEST_CONSUMERS} at least (max_consumers)",
            there.max_consumers
        ));
    }
    (there.num_replicas < wanted.num_replicas).then(|| {
        format!(
            "is kept by {} servers, and should be by {} (nats.replicas)",
            there.num_replicas, wanted.num_replicas
        )
    })
}
