//! Snapshots while they are written, and what may be dropped because of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use longshore::adapters::JetStreamTable;
use longshore::adapters::jetstream::Options;
use longshore::model::{Change, Head, Row};
use longshore::ports::{Commit, Load, Table, TableError};
use longshore::wire::snapshot::{Pointer, decode_page, decode_pointer};

use super::{Alone, wait_for};
use crate::broker::Broker;
use crate::fixture::{Leader, delete, id, next_turns, put, sum};
use crate::jetstream::{connect, open};

fn every(milliseconds: u64) -> Options {
    Options { snapshot_every: Duration::from_millis(milliseconds), ..Options::default() }
}

fn spec(name: &str, bytes: usize) -> Change {
    Change::Put(Row::Spec { id: id(name), body: "x".repeat(bytes).into() })
}

impl Alone {
    async fn message(&self, key: &str) -> Option<(u64, Vec<u8>)> {
        let stream = self.connection.jetstream.get_stream(self.names.bucket_stream()).await.unwrap();
        let found = stream.get_last_raw_message_by_subject(&self.names.key(key)).await.ok()?;
        Some((found.sequence, found.payload.to_vec()))
    }

    async fn pointer(&self) -> Option<Pointer> {
        Some(decode_pointer(&self.message("snapshot").await?.1).unwrap())
    }

    /// Waits until the snapshot stands for a turn.
    async fn covered(&self, turn: u64) {
        wait_for(&format!("the snapshot covers turn {turn}"), async || {
            self.pointer().await.is_some_and(|pointer| pointer.turn >= turn)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_right_at_every_moment_while_snapshots_are_written() {
    let alone = Alone::with(Broker::start(), every(10)).await;
    let mut leader = Leader::number(1);
    let mut sums: BTreeMap<u64, BTreeMap<_, Row>> = BTreeMap::from([(0, BTreeMap::new())]);
    let (tell, told) = std::sync::mpsc::channel();
    let (urls, names) = (alone.server.url(), alone.names.clone());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let loading: Vec<_> = (0..2)
        .map(|_| {
            let (urls, names, tell, stopped) = (urls.clone(), names.clone(), tell.clone(), stopped.clone());
            tokio::spawn(async move {
                let connection = connect(&urls).await;
                while !*stopped.borrow() {
                    // Each time as a process that knows nothing yet.
                    let table = JetStreamTable::open(&connection, &names, every(10)).await.unwrap();
                    tell.send(table.load().await.unwrap()).unwrap();
                }
            })
        })
        .collect();

    // Many rows on several pages: some grow out of their page, some go, some come, most stay.
    let mut rows = BTreeMap::new();
    let mut head = Head::empty();
    let mut loads = Vec::new();
    for number in 1.. {
        let pick = |n: u64| format!("t{}", (number * 31 + n * 17) % 60);
        let size = usize::try_from(2_000 + (number * 7919) % 40_000).unwrap();
        let away = Change::Delete(longshore::model::Key::Spec(id(&pick(2))));
        let turn = leader
            .turn_after(&head, vec![spec(&pick(1), size), away, put(&pick(3), number), delete(&pick(4))]);
        for change in &turn.changes {
            match change {
                Change::Put(row) => rows.insert(row.key(), row.clone()),
                Change::Delete(key) => rows.remove(key),
            };
        }
        sums.insert(number, rows.clone());
        assert_eq!(alone.table.commit(&turn).await, Commit::Done);
        head = turn.head();
        loads.extend(told.try_iter());
        if number >= 600 && loads.iter().filter(|load: &&Load| load.head.number > 0).count() > 5 {
            break;
        }
        assert!(number < 50_000, "only {} loads meanwhile", loads.len());
    }
    alone.covered(1).await;
    stop.send(true).unwrap();
    for task in loading {
        task.await.unwrap();
    }
    drop(tell);
    loads.extend(told.iter());
    for load in &loads {
        let expected: Vec<Row> = sums[&load.head.number].values().cloned().collect();
        assert!(load.rows == expected, "the load at turn {} is not the sum", load.head.number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_with_changes_are_written_again() {
    let alone = Alone::with(Broker::start(), every(20)).await;
    let mut leader = Leader::number(1);
    let mut head = Head::empty();
    for part in 0..5 {
        let many = (0..4).map(|n| spec(&format!("t{part}-{n}"), 80 << 10)).collect();
        let turn = leader.turn_after(&head, many);
        assert_eq!(alone.table.commit(&turn).await, Commit::Done);
        head = turn.head();
    }
    alone.covered(5).await;
    let before = alone.pointer().await.unwrap();
    let mut sequences = BTreeMap::new();
    for key in before.pages.keys() {
        sequences.insert(key.clone(), alone.message(key).await.unwrap().0);
    }
    assert!(sequences.len() >= 5, "{sequences:?}");

    let turn = leader.turn_after(&head, vec![spec("t2-1", 80 << 10)]);
    assert_eq!(alone.table.commit(&turn).await, Commit::Done);
    alone.covered(6).await;
    let after = alone.pointer().await.unwrap();
    let mut written = Vec::new();
    for (key, sequence) in &sequences {
        if alone.message(key).await.unwrap().0 != *sequence {
            written.push(key.clone());
        }
    }
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(after.pages.len(), before.pages.len());
    assert_eq!(after.pages[&written[0]], 6);
    assert_eq!(decode_page(&alone.message(&written[0]).await.unwrap().1).unwrap().turn, 6);

    // Nothing changes: nothing is written, however often it is looked.
    let (pointer, _) = alone.message("snapshot").await.unwrap();
    let turn = leader.turn_after(&turn.head(), vec![]);
    assert_eq!(alone.table.commit(&turn).await, Commit::Done);
    let turn = leader.turn_after(&turn.head(), vec![put("other", 1)]);
    assert_eq!(alone.table.commit(&turn).await, Commit::Done);
    alone.covered(8).await;
    let (next, _) = alone.message("snapshot").await.unwrap();
    assert_eq!(next, pointer + 4, "two turns, one page, the pointer");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_pages_and_those_of_earlier_leaderships_are_dropped() {
    let alone = Alone::with(Broker::start(), every(20)).await;
    let mut first = Leader::number(1);
    let turn = first.turn(1, (0..8).map(|n| spec(&format!("t{n}"), 60 << 10)).take(6).collect(), vec![]);
    assert_eq!(alone.table.commit(&turn).await, Commit::Done);
    alone.covered(1).await;
    let turn =
        first.turn(2, vec![put("q", 1), Change::Delete(longshore::model::Key::Spec(id("t0")))], vec![]);
    assert_eq!(alone.table.commit(&turn).await, Commit::Done);
    alone.covered(2).await;

    let other =
        JetStreamTable::open(&connect(&alone.server.url()).await, &alone.names, every(20)).await.unwrap();
    let away = (1..8).map(|n| Change::Delete(longshore::model::Key::Spec(id(&format!("t{n}"))))).collect();
    let turn = Leader::number(2).turn(3, away, vec![]);
    assert_eq!(other.commit(&turn).await, Commit::Done);
    alone.covered(3).await;
    wait_for("only what the pointer names is left", async || {
        let pages: Vec<String> = alone
            .keys()
            .await
            .into_iter()
            .filter(|key| !key.starts_with("turn.") && key != "snapshot")
            .collect();
        pages == ["other.3-0"]
    })
    .await;
    let load = open(&alone.server.url(), &alone.names).await.load().await.unwrap();
    assert_eq!(load.rows.len(), 1);
}

/// The turns for which the pointer's pages were made.
async fn made(alone: &Alone) -> Vec<u64> {
    let pages = alone.pointer().await.unwrap().pages;
    pages.keys().map(|key| key.split(['.', '-']).nth(1).unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_deposed_writes_no_snapshot() {
    let alone = Alone::with(Broker::start(), every(10)).await;
    let first = Leader::number(1).turn(1, vec![put("t", 1)], vec![]);
    assert_eq!(alone.table.commit(&first).await, Commit::Done);
    alone.covered(1).await;
    // It goes on following, so it knows every row and the last sequence.
    let mut log = alone.table.follow(0).await.unwrap();
    let other =
        JetStreamTable::open(&connect(&alone.server.url()).await, &alone.names, every(10)).await.unwrap();
    let mut leader = Leader::number(2);
    for number in 2..60 {
        assert_eq!(other.commit(&leader.turn(number, vec![put("t", number)], vec![])).await, Commit::Done);
        next_turns(&mut log, if number == 2 { 2 } else { 1 }).await;
        alone.covered(number).await;
        assert!(made(&alone).await.iter().all(|turn| *turn > 1), "turn {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_comes_back_uses_none_of_its_old_pages() {
    let alone = Alone::with(Broker::start(), every(10)).await;
    let mut leader = Leader::number(1);
    let first = leader.turn(1, vec![put("t", 1), spec("s", 10)], vec![]);
    assert_eq!(alone.table.commit(&first).await, Commit::Done);
    alone.covered(1).await;
    let other =
        JetStreamTable::open(&connect(&alone.server.url()).await, &alone.names, every(10)).await.unwrap();
    let second = Leader::number(2).turn(2, vec![put("t", 2)], vec![]);
    assert_eq!(other.commit(&second).await, Commit::Done);
    alone.covered(2).await;
    wait_for("the pages of the first are dropped", async || {
        alone.keys().await.iter().all(|key| !key.ends_with(".1-0") && !key.ends_with(".1-1"))
    })
    .await;

    let third = leader.turn(3, vec![put("t", 3)], vec![]);
    assert_eq!(alone.table.commit(&third).await, Commit::Done);
    alone.covered(3).await;
    assert!(made(&alone).await.iter().all(|turn| *turn == 3));
    let load = open(&alone.server.url(), &alone.names).await.load().await.unwrap();
    assert_eq!((load.head, load.rows), (third.head(), sum([&first, &second, &third])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_missing_or_older_than_the_pointer_means_is_no_table() {
    let alone = Alone::with(Broker::start(), every(20)).await;
    let turn = Leader::number(1).turn(1, vec![put("t", 1)], vec![]);
    assert_eq!(alone.table.commit(&turn).await, Commit::Done);
    alone.covered(1).await;
    let page = alone.pointer().await.unwrap().pages.into_keys().next().unwrap();
    let publish = async |key: &str, bytes: Vec<u8>| {
        let sent = alone.connection.jetstream.publish(alone.names.key(key), bytes.into()).await;
        sent.unwrap().await.unwrap();
    };
    let fresh = async || open(&alone.server.url(), &alone.names).await.load().await;

    let (_, good) = alone.message(&page).await.unwrap();
    publish(&page, br#"{"turn":0,"rows":[]}"#.to_vec()).await;
    assert!(matches!(fresh().await, Err(TableError::Damaged { why, .. }) if why.contains(&page)));
    publish(&page, good.clone()).await;
    assert_eq!(fresh().await.unwrap().rows.len(), 1);
    let stream = alone.connection.jetstream.get_stream(alone.names.bucket_stream()).await.unwrap();
    publish("note", vec![]).await; // the last message is never dropped
    stream.purge().filter(alone.names.key(&page)).await.unwrap();
    assert!(matches!(fresh().await, Err(TableError::Damaged { why, .. }) if why.contains("missing")));

    // It comes back while somebody loads: the load sees it.
    let load = async { fresh().await };
    let back = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        publish(&page, good.clone()).await;
    };
    let (load, ()) = tokio::join!(load, back);
    assert_eq!(load.unwrap().rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_go_on_from_the_snapshot_is_no_table() {
    let alone = Alone::with(Broker::start(), every(3_600_000)).await;
    Leader::number(1).commits(&alone.table, 9).await;
    let pointer = alone.pointer().await.map_or(0, |pointer| pointer.turn);
    let stream = alone.connection.jetstream.get_stream(alone.names.bucket_stream()).await.unwrap();
    let gone = alone.names.key(&format!("turn.{}", pointer + 1));
    stream.purge().filter(gone).await.unwrap();
    let load = open(&alone.server.url(), &alone.names).await.load().await;
    assert!(matches!(load, Err(TableError::Damaged { why, .. }) if why.contains("goes on with turn")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_whole_though_its_consumers_are_deleted() {
    let alone = Alone::with(Broker::start(), every(3_600_000)).await;
    let mut leader = Leader::number(1);
    leader.commits(&alone.table, 900).await;
    let expected = alone.table.load().await.unwrap();
    let stream = alone.connection.jetstream.get_stream(alone.names.bucket_stream()).await.unwrap();
    let (mut deleted, mut loads) = (0, 0);
    let deleting = async {
        loop {
            let names: Vec<String> =
                stream.consumer_names().filter_map(async |name| name.ok()).collect().await;
            for name in names {
                deleted += u32::from(stream.delete_consumer(&name).await.is_ok());
            }
        }
    };
    let loading = async {
        while loads < 20 {
            let fresh = open(&alone.server.url(), &alone.names).await;
            match fresh.load().await {
                Ok(load) => assert_eq!(load, expected),
                // Now and then it is never left in peace for as long as it needs.
                Err(TableError::Unreadable { .. }) => continue,
                Err(why) => panic!("{why}"),
            }
            loads += 1;
        }
    };
    tokio::select! { () = deleting => {}, () = loading => {} }
    assert!(deleted > 5, "only {deleted} consumers were deleted in {loads} loads");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_turns_that_the_pointer_covers_are_dropped() {
    // No snapshot by itself.
    let alone = Alone::with(Broker::start(), every(3_600_000)).await;
    let mut leader = Leader::number(1);
    leader.commits(&alone.table, 1_300).await;
    let covered = alone.pointer().await.map_or(0, |pointer| pointer.turn);
    let other = open(&alone.server.url(), &alone.names).await;
    other.load().await.unwrap();
    other.compact().await.unwrap();
    let left = alone.turns().await;
    assert_eq!(left as u64, 1_300 - covered.min(300), "one that does not write covers nothing itself");

    alone.table.compact().await.unwrap();
    assert_eq!(alone.pointer().await.unwrap().turn, 1_300);
    assert_eq!(alone.turns().await, 1_000);
    leader.commits(&alone.table, 1_500).await;
    other.load().await.unwrap();
    other.compact().await.unwrap();
    let covered = alone.pointer().await.unwrap().turn;
    let first =
        alone.keys().await.iter().filter_map(|key| key.strip_prefix("turn.")?.parse::<u64>().ok()).min();
    assert!(first.unwrap() <= covered + 1, "turn {first:?} is the first, the pointer is of turn {covered}");
    let load = Arc::new(open(&alone.server.url(), &alone.names).await).load().await.unwrap();
    assert_eq!(load, alone.table.load().await.unwrap());
}
