//! Pulls: requests for one task, on their way from the replica that was asked to the one that leads.
//!
//! Law: a request keeps its id however often it is sent, so whoever leads answers it with the same task as long as
//! that was not started. What is not answered within a while, or was asked of a leader that is gone, is sent again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Context;
use super::letters::may_reply;
use crate::broker::{Connection, chain};
use crate::core::input::Input;
use crate::model::{PullRequest, Pulled};
use crate::runtime::{Door, Handle, Unavailable};
use crate::wire::pull::{Asking, read_asking, read_pulled, write_asking, write_pulled};
use crate::wire::refusal::{self, FROZEN, Refusal};
use crate::wire::subject::Names;

/// How long one message waits for its answer: a request that waits longer is sent again.
const SLICE: Duration = Duration::from_secs(10);
/// How long after that its answer may still be on its way.
const LATE: Duration = Duration::from_secs(2);
/// How long a request waits for a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(5);
/// The pause before a request is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// Starts to answer, while this replica leads.
pub(super) fn start(duties: &mut JoinSet<()>, context: &Arc<Context>, stop: &CancellationToken) {
    duties.spawn(answer_all(context.clone(), stop.clone()));
}

async fn answer_all(context: Arc<Context>, stop: CancellationToken) {
    let mut waiting = JoinSet::new();
    while !stop.is_cancelled() {
        let mut requests = match context.connection.client.subscribe(context.names.pull()).await {
            Ok(requests) => requests,
            Err(why) => {
                tracing::warn!(why = chain(&why), "pulls cannot be heard");
                let _ = tokio::time::timeout(AGAIN, stop.cancelled()).await;
                continue;
            }
        };
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => drop(waiting.spawn(answer(context.clone(), request))),
                    None => break,
                },
                Some(_) = waiting.join_next() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn answer(context: Arc<Context>, request: Message) {
    let body = match read_asking(&request.payload) {
        Err(why) => refusal::write(&Refusal::new(refusal::MALFORMED, why.to_string())),
        Ok(Asking::Withdraw { asked }) => {
            return context.handle.tell(vec![Input::Withdraw { asked, gone: true }]);
        }
        Ok(Asking::Pull { asked, wait }) => match context.handle.pull(asked, wait).await {
            Ok(pulled) => write_pulled(&pulled),
            Err(Unavailable::Frozen(why)) => refusal::write(&Refusal::new(FROZEN, why)),
            // Whoever leads next is asked again.
            Err(_) => return,
        },
    };
    let Some(reply) = request.reply.filter(|reply| may_reply(reply)) else { return };
    // What is not heard is asked for again under the same id.
    let _ = context.connection.client.publish(reply, body.into()).await;
}

/// Withdraws a request nobody waits for any more.
struct Guard {
    connection: Connection,
    names: Names,
    asked: Option<PullRequest>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        let (client, to) = (self.connection.client.clone(), self.names.pull());
        tokio::spawn(async move {
            // One that is not heard ends with its slice, and what it was given with its lease.
            let _ = client.publish(to, write_asking(&Asking::Withdraw { asked }).into()).await;
        });
    }
}

/// Asks whoever leads for one task, and waits for it for `wait` at most.
pub(super) async fn pull(
    connection: &Connection,
    names: &Names,
    handle: &Handle,
    asked: PullRequest,
    wait: Duration,
) -> Result<Pulled, Unavailable> {
    let mut guard =
        Guard { connection: connection.clone(), names: names.clone(), asked: Some(asked.clone()) };
    let began = Instant::now();
    let mut silent_since = began;
    loop {
        let left = wait.saturating_sub(began.elapsed());
        let slice = left.min(SLICE);
        let asking =
            Asking::Pull { asked: PullRequest { patient: !slice.is_zero(), ..asked.clone() }, wait: slice };
        match request(connection, names, handle, &asking, slice + LATE).await {
            Some(reply) => {
                silent_since = Instant::now();
                let pulled = read(&reply)?;
                if pulled != Pulled::Nothing || began.elapsed() >= wait {
                    guard.asked = None;
                    return Ok(pulled);
                }
            }
            None if silent_since.elapsed() >= LEADER_WITHIN.max(slice) => return Err(Unavailable::NoLeader),
            None => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// Sends a request once. Nothing if it is not answered in time, or another leads than when it was sent.
async fn request(
    connection: &Connection,
    names: &Names,
    handle: &Handle,
    asking: &Asking,
    within: Duration,
) -> Option<bytes::Bytes> {
    let mut status = handle.status_changes();
    let leader: Option<Uuid> = status.borrow().leader;
    let another = async {
        // A channel that is closed belongs to a process that is stopping.
        let _ = status.wait_for(|status| status.leader.is_some() && status.leader != leader).await;
    };
    let request = async_nats::Request::new().payload(write_asking(asking).into()).timeout(Some(within));
    tokio::select! {
        reply = connection.client.send_request(names.pull(), request) => match reply {
            Ok(reply) => Some(reply.payload),
            Err(why) => {
                tracing::debug!(why = chain(&why), "nobody answers a pull");
                None
            }
        },
        () = another => None,
    }
}

fn read(reply: &[u8]) -> Result<Pulled, Unavailable> {
    match refusal::read(reply) {
        Some(refused) if refused.code == FROZEN => Err(Unavailable::Frozen(refused.detail)),
        Some(refused) => Err(Unavailable::Refused(refused.detail)),
        None => read_pulled(reply).map_err(|why| Unavailable::Refused(why.to_string())),
    }
}
