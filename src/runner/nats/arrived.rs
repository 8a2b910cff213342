//! What arrived on the subject of assignments and was not taken yet, as one delivery.
//!
//! Law: messages are read as they come, whether or not anybody asks, and no more is kept than a limit: what is
//! left out is sent again until it is confirmed.

use std::sync::{Arc, Mutex, MutexGuard};

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::sync::Notify;

use crate::model::Delivery;
use crate::wire::message::read_delivery;

/// How many bytes of payload are kept for a runner that does not ask.
const MOST_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Arrived {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    delivery: Delivery,
    bytes: usize,
}

impl Arrived {
    /// Everything that waits, if anything does.
    pub(super) fn take(&self) -> Option<Delivery> {
        let taken = std::mem::take(&mut *self.waiting());
        (!taken.delivery.is_empty()).then_some(taken.delivery)
    }

    /// Drops what waits.
    pub(super) fn forget(&self) {
        *self.waiting() = Waiting::default();
    }

    /// Returns when something has come since it returned last.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    fn put(&self, delivery: Delivery, bytes: usize) {
        {
            let mut waiting = self.waiting();
            if waiting.bytes + bytes > MOST_BYTES {
                tracing::debug!(bytes, "a delivery nobody asks for was dropped; it is sent again");
                return;
            }
            waiting.bytes += bytes;
            waiting.delivery.assignments.extend(delivery.assignments);
            waiting.delivery.stop.extend(delivery.stop);
        }
        self.news.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nobody panics while it is held")
    }
}

/// Reads for as long as the client lives. What cannot be read is skipped.
pub(super) async fn read(mut subscription: Subscriber, arrived: Arc<Arrived>) {
    while let Some(message) = subscription.next().await {
        match read_delivery(&message.payload) {
            Ok(delivery) => arrived.put(delivery, message.payload.len()),
            Err(why) => {
                tracing::warn!(subject = %message.subject, %why, "a delivery was unreadable and is skipped")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, StopOrder};

    #[test]
    fn what_nobody_takes_is_bounded_and_what_is_taken_makes_room() {
        let stop = || StopOrder {
            id: Id::parse("t1").expect("a name"),
            token: "1.5.0".parse().expect("a token"),
            reason: "asked to".into(),
        };
        let arrived = Arrived::default();
        let put = |bytes| arrived.put(Delivery { assignments: Vec::new(), stop: vec![stop()] }, bytes);
        put(MOST_BYTES - 1);
        put(2);
        put(1);
        assert_eq!(arrived.take().map(|delivery| delivery.stop.len()), Some(2), "one of them was too much");
        assert_eq!(arrived.take(), None);
        put(2);
        arrived.forget();
        assert_eq!(arrived.take(), None);
    }
}
