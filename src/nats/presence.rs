//! Presence: which replicas take part, and how many pools each leads, so that they share them evenly.
//!
//! Law: this only spreads the work. It says who waits a little longer before trying, and who lets a pool go; who
//! leads is the table's answer alone, whatever is said or missed here.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::broker::Connection;
use crate::runtime::member::Rank;
use crate::runtime::{Role, Status};

/// Where every replica says that it is there, whatever pools it has.
const SUBJECT: &str = "longshore.replica";

/// One pool of this replica.
#[derive(Debug)]
pub struct Share {
    pub status: watch::Receiver<Status>,
    pub rank: watch::Sender<Rank>,
}

/// Says that this replica is there, listens to the others, and ranks it in each of its pools until it is dropped.
pub async fn spread(connection: Connection, replica: Uuid, shares: Vec<Share>, take_over: Duration) {
    let mut others: BTreeMap<Uuid, (usize, Instant)> = BTreeMap::new();
    let mut beat = interval(take_over / 3);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut uneven = 0;
    let Ok(mut said) = connection.client.subscribe(SUBJECT).await else { return };
    loop {
        tokio::select! {
            heard = said.next() => {
                let Some(heard) = heard else { return };
                if let Some((other, leads)) = read(&heard.payload).filter(|(other, _)| *other != replica) {
                    others.insert(other, (leads, Instant::now()));
                }
            }
            _ = beat.tick() => {
                others.retain(|_, (_, heard)| heard.elapsed() < take_over);
                let led: Vec<&Share> =
                    shares.iter().filter(|share| share.status.borrow().role == Role::Leading).collect();
                let counts = others.iter().map(|(other, (leads, _))| (*leads, *other));
                let place = place(led.len(), replica, counts.clone());
                let least = counts.map(|(leads, _)| leads).min();
                // Others may just be taking over: only what stays uneven is evened out.
                uneven = if least.is_some_and(|least| led.len() >= least + 2) { uneven + 1 } else { 0 };
                let hands_over = uneven >= 6;
                if hands_over {
                    uneven = 0;
                }
                let given = led.first().map(|share| &share.rank).filter(|_| hands_over);
                for share in &shares {
                    let gives = given.is_some_and(|given| given.same_channel(&share.rank));
                    share.rank.send_if_modified(|rank| {
                        let next = Rank { place, hand_over: gives };
                        std::mem::replace(rank, next) != next
                    });
                }
                // Whoever does not hear it takes this replica for gone, and nothing follows from that.
                let _ = connection.client.publish(SUBJECT, write(replica, led.len()).into()).await;
            }
        }
    }
}

/// How many replicas should rather lead another pool than this one: those that lead fewer, then the older.
fn place(leads: usize, replica: Uuid, others: impl Iterator<Item = (usize, Uuid)>) -> u32 {
    let before = others.filter(|other| *other < (leads, replica)).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

fn write(replica: Uuid, leads: usize) -> Vec<u8> {
    json!({ "replica": replica, "leads": leads }).to_string().into_bytes()
}

fn read(body: &[u8]) -> Option<(Uuid, usize)> {
    let said: Value = serde_json::from_slice(body).ok()?;
    let leads = usize::try_from(said.get("leads")?.as_u64()?).ok()?;
    Some((said.get("replica")?.as_str()?.parse().ok()?, leads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leads_the_fewest_is_first_and_among_equals_the_oldest() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        assert_eq!(place(0, a, [(0, b), (1, c)].into_iter()), 0);
        assert_eq!(place(0, b, [(0, a), (1, c)].into_iter()), 1);
        assert_eq!(place(1, c, [(0, a), (0, b)].into_iter()), 2);
        assert_eq!(place(5, c, std::iter::empty()), 0);
        assert_eq!(read(&write(a, 3)), Some((a, 3)));
    }
}
