//! An operator's pause of the pool, told to the server: the consumers of new work are paused there as well, so
//! that nobody else pulls from them and the server's own tools show it.
//!
//! Law: the rows alone say whether the pool is paused. At the server that is a lease of some seconds, which the
//! leader renews and takes back at once when the pause is lifted: a dispatcher that dies leaves nothing paused for
//! long. Where the server cannot be told, nothing is pulled all the same (`runtime::credit`).
//!
//! Jobs of builds are pulled on, and so are cancels: a build that runs may be waiting for the one or the other.

use std::sync::Arc;
use std::time::Duration;

use async_nats::datetime::{add_std_duration, now};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::ConsumerErrorKind;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::broker::chain;
use crate::core::state::Window;

/// How long a consumer stays paused when nobody renews that.
const LEASE: Duration = Duration::from_secs(10);
/// How often that is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// The pause after the server could not be told.
const AGAIN: Duration = Duration::from_millis(500);
/// The consumers of new work are called as their windows are.
const PAUSED: [Window; 2] = [Window::Builds, Window::Jobs];

/// Starts to tell the server, for as long as this replica leads.
pub(super) fn start(duties: &mut JoinSet<()>, context: &Arc<Context>, stop: &CancellationToken) {
    duties.spawn(tell(context.clone(), stop.clone()));
}

async fn tell(context: Arc<Context>, stop: CancellationToken) {
    let mut status = context.handle.status_changes();
    loop {
        let paused = context.handle.view().read(|state| state.pool().is_paused());
        let again = match tell_once(&context, paused).await {
            Ok(()) if paused => RENEW,
            Ok(()) => Duration::MAX,
            Err(why) => {
                tracing::warn!(paused, why, "the server could not be told of the pause");
                AGAIN
            }
        };
        let changed = async {
            // The sender goes with the process.
            let is_news = |_: &_| context.handle.view().read(|state| state.pool().is_paused()) != paused;
            let _ = status.wait_for(is_news).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timeout(again, changed) => {}
        }
    }
}

async fn tell_once(context: &Context, paused: bool) -> Result<(), String> {
    let stream = context.names.submit_stream();
    let stream = context.connection.jetstream.get_stream_no_info(stream).await.map_err(|why| chain(&why))?;
    for window in PAUSED {
        let consumer = window.as_str();
        let told = match paused {
            true => {
                let until = add_std_duration(now(), LEASE).map_err(|why| why.to_string())?;
                stream.pause_consumer(consumer, until).await
            }
            false => stream.resume_consumer(consumer).await,
        };
        match told {
            Ok(_) => {}
            Err(why) if is_missing(&why.kind()) => {} // nobody has pulled from it yet
            Err(why) => return Err(format!("consumer {consumer}: {}", chain(&why))),
        }
    }
    Ok(())
}

fn is_missing(why: &ConsumerErrorKind) -> bool {
    matches!(why, ConsumerErrorKind::JetStream(said) if said.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}
