//! Writing one message, and what the server's answer means.
//!
//! Law: every write names the last sequence it was decided after, and the stream it is meant for; so it is
//! stored directly after what its writer knows, or not at all. Only an answer that says that nothing was stored
//! is called a refusal; everything else that is no acknowledgement is not known.

use async_nats::client::{Request, RequestErrorKind};
use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_STREAM};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Error, ErrorCode};
use bytes::Bytes;

use super::bucket::Bucket;
use super::trouble::in_time;
use crate::broker::{ANSWER_WITHIN, chain};

/// How a write went.
#[derive(Debug)]
pub(super) enum Published {
    /// It stands at this sequence.
    At(u64),
    /// The bucket's last sequence is another: this one, or a later one that is still on its way.
    Elsewhere(u64),
    /// Nothing was stored; the same can be tried again at once.
    Busy(String),
    /// Nothing was stored, and nothing will be until somebody acts.
    Refused(String),
    /// Nobody answers for the bucket: it is gone, or its servers are choosing a leader. Nothing was stored.
    Nobody(String),
    /// It may or may not stand there.
    Unknown(String),
}

/// Writes `bytes` under `key` if the bucket's last sequence is `after`. Answers within a few seconds.
pub(super) async fn publish(bucket: &Bucket, key: &str, bytes: Bytes, after: u64) -> Published {
    let subject = bucket.names.key(key);
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SEQUENCE, after.to_string());
    headers.insert(NATS_EXPECTED_STREAM, bucket.names.bucket_stream());
    let request = Request::new().headers(headers).payload(bytes).timeout(Some(ANSWER_WITHIN));
    let refusals = bucket.connection.refusals();
    let sent = in_time(key, bucket.connection.client.send_request(subject.clone(), request));
    let answer = match sent.await {
        Ok(answer) => answer,
        Err(why) => return Published::Unknown(why.why()),
    };
    match answer {
        Ok(answer) => match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok::<PublishAck>(stored)) => Published::At(stored.sequence),
            Ok(Response::Err { error }) => refused(bucket, &error),
            Err(why) => Published::Unknown(format!("the answer to {key} cannot be read: {why}")),
        },
        Err(why) if why.kind() == RequestErrorKind::MaxPayloadExceeded => {
            Published::Refused(format!("{}; raise max_payload on the server to at least 1 MiB", chain(&why)))
        }
        Err(why) if why.kind() == RequestErrorKind::NoResponders => {
            Published::Nobody(format!("no answer to {key}: {}", chain(&why)))
        }
        Err(why) => forbidden(bucket, &subject, refusals)
            .unwrap_or_else(|| Published::Unknown(format!("no answer to {key}: {}", chain(&why)))),
    }
}

/// The server does not say which request it has not permitted: a refusal that names our subject since we asked.
fn forbidden(bucket: &Bucket, subject: &str, refusals: u64) -> Option<Published> {
    if bucket.connection.refusals() == refusals {
        return None;
    }
    let refused = bucket.connection.weather().borrow().refused.clone()?;
    refused
        .contains(&format!("\"{subject}\""))
        .then(|| Published::Refused(format!("{refused}; let this user publish to {}", bucket.names.key(">"))))
}

fn refused(bucket: &Bucket, said: &Error) -> Published {
    let text = said.to_string();
    match said.error_code() {
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE => match named(&text) {
            Some(last) => Published::Elsewhere(last),
            None => Published::Busy(text),
        },
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
        | ErrorCode::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY
        | ErrorCode::STREAM_TOO_MANY_REQUESTS => Published::Busy(text),
        ErrorCode::STREAM_STORE_FAILED if text.contains("maximum") => Published::Refused(format!(
            "the bucket is full: {text}; raise max_bytes (nats stream edit {} --max-bytes=…)",
            bucket.names.bucket_stream()
        )),
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => Published::Refused(format!(
            "{text}; set the bucket's max_msg_size to at least {} bytes",
            super::bucket::MESSAGE_BYTES
        )),
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => {
            Published::Refused(format!("{text}; give the server (max_file_store) or the account more room"))
        }
        ErrorCode::STREAM_NOT_MATCH => Published::Refused(format!(
            "{text}; another stream takes the subjects of {}",
            bucket.names.bucket_stream()
        )),
        ErrorCode::STREAM_SEALED => {
            Published::Refused(format!("{text}; somebody has sealed {}", bucket.names.bucket_stream()))
        }
        _ => Published::Unknown(text),
    }
}

/// The sequence in `wrong last sequence: 12 (…)`.
fn named(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("wrong last sequence: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_read_out_of_what_the_server_says() {
        assert_eq!(named("wrong last sequence: 12 (code 400, error code 10071)"), Some(12));
        assert_eq!(named("wrong last sequence: 0"), Some(0));
        assert_eq!(named("wrong last sequence"), None);
    }
}
