//! Assignments: what the committed rows hold for each runner, on a subject of its own.
//!
//! Law: what is published is read from the rows at that moment, packed per runner, and published again until the
//! runner confirms it. A runner that hears nothing loses time and never a task.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::Context;
use crate::model::RunnerId;
use crate::runtime::deliveries::{Look, Most, Sent};
use crate::wire::message::write_delivery;

/// What one message takes: bodies, and around each some 200 bytes.
const MOST: Most = Most { assignments: 500, bytes: 150 << 10 };
/// The most wake-ups taken before anything is published.
const BATCH: usize = 4_096;

/// Publishes for as long as it is polled. Begins with every runner there is: what was published before this
/// replica led is not known here.
pub(super) async fn send(context: &Context, woken: &mut UnboundedReceiver<RunnerId>) {
    let mut sent: FxHashMap<RunnerId, Sent> = FxHashMap::default();
    let mut again: BTreeMap<Instant, BTreeSet<RunnerId>> = BTreeMap::new();
    let view = context.handle.view();
    let mut due: BTreeSet<RunnerId> =
        view.read(|state| state.fleet().seats().map(|seat| seat.runner.id.clone()).collect());
    let mut batch = Vec::new();
    loop {
        for runner in std::mem::take(&mut due) {
            if let Some(at) = publish(context, &runner, &mut sent).await {
                again.entry(at).or_default().insert(runner);
            }
        }
        let next = again.keys().next().copied();
        let next = async { tokio::time::sleep_until(next.expect("guarded")).await };
        tokio::select! {
            taken = woken.recv_many(&mut batch, BATCH) => {
                if taken == 0 {
                    return;
                }
                due.extend(batch.drain(..));
            }
            () = next, if !again.is_empty() => {
                if let Some((_, runners)) = again.pop_first() {
                    due.extend(runners);
                }
            }
        }
    }
}

/// Publishes what there is for a runner; says when something is due again.
async fn publish(
    context: &Context,
    runner: &RunnerId,
    sent: &mut FxHashMap<RunnerId, Sent>,
) -> Option<Instant> {
    let memory = sent.entry(runner.clone()).or_default();
    loop {
        let now = Instant::now();
        let look = context.handle.view().read(|state| match state.fleet().get(runner) {
            Some(seat) => memory.look(state, seat, now, MOST),
            None => Look::UnknownRunner,
        });
        match look {
            Look::Found(delivery) => {
                let to = context.names.assign(runner);
                // What is not heard is published again.
                let _ = context.connection.client.publish(to, write_delivery(&delivery).into()).await;
            }
            Look::Nothing { again } => return again,
            Look::UnknownRunner => {
                sent.remove(runner);
                return None;
            }
        }
    }
}
