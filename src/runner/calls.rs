//! Calls to the dispatcher beside the session's loop: registrations, heartbeats, the long poll.
//!
//! Law: each call ends in exactly one input or in none, and none of them waits for another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::link::{Link, LinkError};
use super::pause::Pause;
use super::session::Input;
use crate::model::{Heartbeat, Leave, Registration, RunnerId, Token};

/// How long a poll that brought nothing new is followed by another.
const AGAIN: Duration = Duration::from_millis(20);
/// How long the farewell is tried.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Registers once. `refused` hears why, if the dispatcher will never take these words.
pub(super) async fn register(
    link: Arc<dyn Link>,
    number: u64,
    registration: Registration,
    inputs: UnboundedSender<Input>,
    refused: UnboundedSender<String>,
) {
    let input = match link.register(&registration).await {
        Ok(registered) => {
            let (runner, table, turn) = (&registration.runner, registered.table, registered.turn);
            tracing::info!(%runner, %table, turn, running = registration.running.len(), "runner registered");
            Input::Registered { number, registered }
        }
        Err(why) => {
            tracing::warn!(runner = %registration.runner, %why, "runner was not registered; it tries again");
            if let LinkError::Refused { message } = why {
                let _ = refused.send(message);
            }
            Input::RegistrationFailed { number }
        }
    };
    let _ = inputs.send(input);
}

/// Sends one heartbeat. One without an answer is followed by the next, not repeated.
pub(super) async fn heartbeat(link: Arc<dyn Link>, heartbeat: Heartbeat, inputs: UnboundedSender<Input>) {
    let input = match link.heartbeat(&heartbeat).await {
        Ok(answer) => Input::HeartbeatAnswered(answer),
        Err(LinkError::Unknown { message }) => {
            tracing::warn!(runner = %heartbeat.runner, why = %message, "the dispatcher does not know this runner; it registers");
            Input::Unknown
        }
        Err(why) => {
            tracing::warn!(runner = %heartbeat.runner, number = heartbeat.number, %why, "a heartbeat had no answer");
            return;
        }
    };
    let _ = inputs.send(input);
}

/// Polls for deliveries for as long as work is taken, each time for up to `wait`. Ends when nobody listens.
pub(super) async fn poll(
    link: Arc<dyn Link>,
    runner: RunnerId,
    wait: Duration,
    mut listens: watch::Receiver<bool>,
    inputs: UnboundedSender<Input>,
) {
    let mut pause = Pause::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut last = BTreeSet::new();
    loop {
        if listens.wait_for(|listens| *listens).await.is_err() {
            return;
        }
        match link.next_delivery(&runner, wait).await {
            Ok(delivery) => {
                pause.reset();
                let tokens = delivery.assignments.iter().map(|assignment| (assignment.token, false));
                let tokens: BTreeSet<(Token, bool)> =
                    tokens.chain(delivery.stop.iter().map(|stop| (stop.token, true))).collect();
                // What is unconfirmed comes again at once; asking faster than it can be confirmed helps nobody.
                let news = tokens.difference(&last).next().is_some();
                let empty = delivery.is_empty();
                last = tokens;
                if !empty && inputs.send(Input::Delivered(delivery)).is_err() {
                    return;
                }
                if !news && !empty {
                    sleep(AGAIN).await;
                }
            }
            Err(why) => {
                if let LinkError::Unknown { .. } = why {
                    let _ = inputs.send(Input::Unknown);
                }
                tracing::warn!(%runner, %why, "the dispatcher could not be asked for work; it is asked again");
                let after = if let LinkError::Retry { after, .. } = why { after } else { None };
                sleep(pause.next(after)).await;
            }
        }
    }
}

/// Says farewell, for a few seconds. A runner that is not heard is lost after its lease instead.
pub(super) async fn leave(link: Arc<dyn Link>, leave: Leave) {
    let mut pause = Pause::new(Duration::from_millis(100), Duration::from_secs(1));
    let said = timeout(LEAVE_WITHIN, async {
        while let Err(why) = link.leave(&leave).await {
            if !why.is_retryable() {
                tracing::warn!(runner = %leave.runner, %why, "the farewell was not taken");
                return;
            }
            sleep(pause.next(None)).await;
        }
    });
    if said.await.is_err() {
        tracing::warn!(runner = %leave.runner, "nobody heard the farewell; the runner counts as lost after its lease");
    }
}
