//! The watch over the streams that hold what producers and runners were told is kept.
//!
//! Law: one that goes away while it is used is lost data, and one that stands in its place belongs to another
//! table: neither is made again or used, and each replica says what to do, until it is back. That it is gone is
//! believed only after a while: a server that has just started may not have found it yet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::wire::subject::OF_TABLE;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a stream must be gone until that is believed.
const CERTAIN_AFTER: Duration = Duration::from_secs(10);

/// Why what the streams held is gone, if so.
#[derive(Debug, Clone, Default)]
pub(super) struct Gone(Arc<Mutex<Option<String>>>);

impl Gone {
    /// Why, if so.
    pub fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, why: Option<String>) {
        let before =
            std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), why.clone());
        match why {
            Some(why) if before.is_none() => tracing::error!(why, "nothing is decided: a stream is gone"),
            None if before.is_some() => tracing::info!("all streams are there again"),
            _ => {}
        }
    }
}

/// Looks until `stop` is cancelled.
pub(super) async fn watch(context: Arc<Context>, gone: Gone, stop: CancellationToken) {
    let mut since = None;
    while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
        match look(&context).await {
            Look::AllThere => {
                since = None;
                gone.set(None);
            }
            Look::Gone(why) => {
                let since = *since.get_or_insert_with(Instant::now);
                if since.elapsed() >= CERTAIN_AFTER {
                    gone.set(Some(why));
                }
            }
            // No answer says nothing.
            Look::Unclear => {}
        }
    }
}

enum Look {
    AllThere,
    Gone(String),
    Unclear,
}

async fn look(context: &Context) -> Look {
    let table = context.handle.view().read(|state| state.table).to_string();
    for name in [context.names.submit_stream(), context.names.report_stream()] {
        match context.connection.jetstream.get_stream(&name).await {
            Ok(there) => {
                let of = there.cached_info().config.metadata.get(OF_TABLE).cloned().unwrap_or_default();
                if of != table {
                    return Look::Gone(format!(
                        "stream {name} belongs to table {of:?} and not to {table:?}: what the one before it held is gone; bring bucket and streams back from one backup"
                    ));
                }
            }
            Err(why) => match why.kind() {
                GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    return Look::Gone(format!(
                        "stream {name} is gone, though table {table} has it: it is not made again, because what it held would be lost in silence; bring it back from a backup"
                    ));
                }
                _ => return Look::Unclear,
            },
        }
    }
    Look::AllThere
}
