//! What can go wrong with a bucket, sorted by what it means to whoever asked.
//!
//! Law: only what was seen to be so is called lost or damaged; a missing answer is neither.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};

use tokio::time::timeout;

use crate::broker::{ANSWER_WITHIN, chain};
use crate::ports::TableError;
use crate::wire::turn::DecodeError;

/// How long a question to the server may take, its way through a client that is connecting anew included.
const QUESTION_WITHIN: Duration = ANSWER_WITHIN.saturating_mul(2);

/// What comes of a question to the server, which may not take for ever: a client without a connection holds back
/// what it cannot send.
pub(super) async fn in_time<F: Future>(doing: &str, question: F) -> Result<F::Output, Trouble> {
    let late = |_| Trouble::Unclear(format!("{doing}: the server did not answer within {QUESTION_WITHIN:?}"));
    timeout(QUESTION_WITHIN, question).await.map_err(late)
}

/// Why something could not be had of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer, or one that a moment later may be another: ask again.
    Unclear(String),
    /// It is not there, or not for this version: somebody must act.
    Unusable(String),
    /// A newer version wrote it.
    Newer(String),
    /// The bucket is not there.
    Missing(String),
    /// What stands there contradicts itself.
    Damaged(String),
    /// It ends before what was seen of it.
    Lost(String),
}

impl Trouble {
    /// An error of the client, with its causes.
    pub(super) fn unclear(doing: &str, why: &dyn Error) -> Self {
        Trouble::Unclear(format!("{doing}: {}", chain(why)))
    }

    /// What it means to whoever reads the table named `what`.
    pub(super) fn into_error(self, what: String) -> TableError {
        match self {
            Trouble::Unclear(why) | Trouble::Unusable(why) | Trouble::Newer(why) | Trouble::Missing(why) => {
                TableError::Unreadable { what, why }
            }
            Trouble::Damaged(why) => TableError::Damaged { what, why },
            Trouble::Lost(why) => TableError::Lost { what, why },
        }
    }

    /// The reason alone.
    pub(super) fn why(self) -> String {
        match self {
            Trouble::Unclear(why)
            | Trouble::Unusable(why)
            | Trouble::Newer(why)
            | Trouble::Missing(why)
            | Trouble::Damaged(why)
            | Trouble::Lost(why) => why,
        }
    }

    /// What the server said when asked about the stream.
    pub(super) fn of_stream(why: &GetStreamError) -> Self {
        match why.kind() {
            GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Trouble::Missing("there is no such bucket; create it once (longshore never makes a lost table anew), or restore it from a backup".to_owned(),
                )
            }
            GetStreamErrorKind::JetStream(said)
                if matches!(
                    said.error_code(),
                    ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
                ) =>
            {
                Trouble::Unusable(format!("{said}; enable JetStream on the server and for this account"))
            }
            _ => Trouble::unclear("ask for the bucket", why),
        }
    }

    /// What the server said when asked for one message; nothing if only that message is missing.
    pub(super) fn of_message(why: &LastRawMessageError) -> Option<Self> {
        let missing = match why.kind() {
            LastRawMessageErrorKind::NoMessageFound => true,
            LastRawMessageErrorKind::JetStream(said) => said.error_code() == ErrorCode::NO_MESSAGE_FOUND,
            _ => false,
        };
        (!missing).then(|| Trouble::unclear("read a message", why))
    }
}

impl From<DecodeError> for Trouble {
    fn from(why: DecodeError) -> Self {
        match why {
            DecodeError::Newer { .. } => Trouble::Newer(why.to_string()),
            DecodeError::Malformed { .. } => Trouble::Damaged(why.to_string()),
        }
    }
}
