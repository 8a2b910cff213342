//! Several dispatchers write one table at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use longshore::adapters::JetStreamTable;
use longshore::adapters::jetstream::Options;
use longshore::model::{Head, TurnId, TurnRecord};
use longshore::ports::{Commit, Follow, Table};

use super::settle;
use crate::broker::{Broker, Cluster};
use crate::fixture::{Leader, delete, next_turns, put, sum};
use crate::jetstream::{connect, create, some_names};

const WRITERS: u64 = 4;

/// Snapshots all the time, so that pages move the sequence between the turns.
fn busy(replicas: usize) -> Options {
    Options { replicas, snapshot_every: Duration::from_millis(20), ..Options::default() }
}

/// Tries turn after turn until there are `last`, following what others write, and returns those it was told of.
async fn race(table: JetStreamTable, writer: u64, last: u64) -> Vec<Arc<TurnRecord>> {
    let mut leader = Leader::number(u128::from(writer) + 1);
    let mut log = table.follow(0).await.unwrap();
    let mut stands: BTreeMap<u64, TurnId> = BTreeMap::new();
    let (mut number, mut won) = (1, Vec::new());
    while number <= last {
        let changes = vec![put("shared", number), put(&format!("w{writer}"), number)];
        let turn = leader.turn(number, changes, vec![]);
        match settle(&table, &turn).await {
            Commit::Done => won.push(turn.clone()),
            Commit::Deposed { by } => assert_ne!(by, turn.id, "deposed by itself"),
            other => panic!("turn {number} of writer {writer}: {other:?}"),
        }
        while stands.len() < usize::try_from(number).unwrap() {
            let Some(Follow::Turn(turn)) = log.next().await else { panic!("cannot follow") };
            assert_eq!(turn.number, stands.len() as u64 + 1);
            stands.insert(turn.number, turn.id);
        }
        number = stands.len() as u64 + 1;
    }
    assert!(won.iter().all(|turn| stands[&turn.number] == turn.id), "what was done does not stand");
    won
}

async fn four_race(urls: &str, replicas: usize, last: u64) {
    let names = some_names();
    let table = create(urls, &names, busy(replicas)).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let own = JetStreamTable::open(&connect(urls).await, &names, busy(replicas)).await.unwrap();
        writers.push(tokio::spawn(race(own, writer, last)));
    }
    let mut won = Vec::new();
    for writer in writers {
        won.extend(writer.await.unwrap());
    }
    won.sort_by_key(|turn| turn.number);
    assert_eq!(won.iter().map(|turn| turn.number).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    let mut log = table.follow(0).await.unwrap();
    assert_eq!(next_turns(&mut log, won.len()).await, won);
    let load = table.load().await.unwrap();
    assert_eq!((load.head, load.rows), (won.last().unwrap().head(), sum(&won)));
}

#[tokio::test(flavor = "multi_thread")]
async fn four_racing_writers_lose_nothing_on_one_server() {
    let server = Broker::start();
    four_race(&server.url(), 1, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_racing_writers_lose_nothing_on_three_servers() {
    let servers = Cluster::start();
    four_race(&servers.urls(), 3, 150).await;
}

/// A lone writer, with snapshots all the time, is never refused, deposed, or left in the dark.
async fn writes_alone(urls: &str, replicas: usize, count: u64) {
    let table = create(urls, &some_names(), busy(replicas)).await;
    let mut leader = Leader::number(1);
    let mut head = Head::empty();
    for number in 1..=count {
        let changes =
            vec![put(&format!("t{}", number % 50), number), delete(&format!("t{}", (number + 9) % 50))];
        let turn = leader.turn_after(&head, changes);
        assert_eq!(table.commit(&turn).await, Commit::Done, "turn {number}");
        head = turn.head();
        if number % 300 == 0 {
            table.compact().await.unwrap();
        }
    }
    assert_eq!(table.load().await.unwrap().head, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_writer_is_never_turned_away_by_its_own_snapshots() {
    let server = Broker::start();
    writes_alone(&server.url(), 1, 3_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_writer_is_never_turned_away_on_three_servers() {
    let servers = Cluster::start();
    writes_alone(&servers.urls(), 3, 1_000).await;
}
