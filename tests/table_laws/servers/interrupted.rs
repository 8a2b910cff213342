//! Servers that are killed, paused and started again while turns are committed.

use std::time::Duration;

use futures_util::StreamExt;
use longshore::adapters::jetstream::Options;
use longshore::model::Head;
use longshore::ports::{Commit, Follow, Table};

use super::{Alone, settle};
use crate::broker::Broker;
use crate::fixture::{Leader, next_turns, put, sum};
use crate::jetstream::open;

fn often() -> Options {
    Options { snapshot_every: Duration::from_millis(50), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_was_done_survives_a_killed_server() {
    let mut alone = Alone::with(Broker::start_syncing(), often()).await;
    let table = alone.table.clone();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut log = table.follow(0).await.unwrap();
    let writing = tokio::spawn(async move {
        let mut leader = Leader::number(1);
        let (mut head, mut done) = (Head::empty(), Vec::new());
        while !*stopped.borrow() {
            let turn = leader.turn_after(&head, vec![put(&format!("t{}", head.number % 9), head.number)]);
            assert_eq!(settle(&table, &turn).await, Commit::Done, "a lone writer");
            head = turn.head();
            done.push(turn);
        }
        done
    });
    for _ in 0..3 {
        let Some(Follow::Turn(seen)) = log.next().await else { panic!("cannot follow") };
        let mut seen = seen.number;
        let enough = seen + 150;
        while seen < enough {
            let Some(Follow::Turn(turn)) = log.next().await else { panic!("cannot follow") };
            assert_eq!(turn.number, seen + 1);
            seen = turn.number;
        }
        alone.server.kill();
        alone.server.up();
    }
    next_turns(&mut log, 50).await;
    stop.send(true).unwrap();
    let done = writing.await.unwrap();

    let fresh = open(&alone.server.url(), &alone.names).await;
    let load = fresh.load().await.unwrap();
    assert_eq!((load.head, load.rows), (done.last().unwrap().head(), sum(&done)));
    assert_eq!(next_turns(&mut fresh.follow(0).await.unwrap(), done.len()).await, done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_without_an_answer_is_unknown_and_done_once_the_server_goes_on() {
    let alone = Alone::with(Broker::start(), Options::default()).await;
    let mut leader = Leader::number(1);
    let first = leader.turn(1, vec![put("t", 1)], vec![]);
    assert_eq!(alone.table.commit(&first).await, Commit::Done);

    alone.server.pause();
    let second = leader.turn(2, vec![put("t", 2)], vec![]);
    for _ in 0..2 {
        let answer = alone.table.commit(&second).await;
        assert!(matches!(answer, Commit::Unknown { .. }), "{answer:?}");
    }
    alone.server.resume();
    assert_eq!(settle(&alone.table, &second).await, Commit::Done);
    let third = leader.turn(3, vec![], vec![]);
    assert_eq!(alone.table.commit(&third).await, Commit::Done);
    let mut log = alone.table.follow(0).await.unwrap();
    assert_eq!(next_turns(&mut log, 3).await, [first, second, third]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_turn_whose_number_was_taken_meanwhile_is_deposed() {
    let mut alone = Alone::with(Broker::start(), Options::default()).await;
    let first = Leader::number(1).turn(1, vec![], vec![]);
    assert_eq!(alone.table.commit(&first).await, Commit::Done);
    let mut log = alone.table.follow(0).await.unwrap();
    next_turns(&mut log, 1).await;
    let late = Leader::number(1).turn(2, vec![], vec![]);
    alone.server.kill();
    let answer = alone.table.commit(&late).await;
    assert!(matches!(answer, Commit::Unknown { .. }), "{answer:?}");

    // The other comes first once the server is back: what was on its way was lost with the connection, or
    // comes too late.
    alone.server.up();
    let other = open(&alone.server.url(), &alone.names).await;
    let taken = Leader::number(2).turn(2, vec![put("t", 2)], vec![]);
    match settle(&other, &taken).await {
        Commit::Done => assert_eq!(settle(&alone.table, &late).await, Commit::Deposed { by: taken.id }),
        Commit::Deposed { by } => {
            assert_eq!(by, late.id);
            assert_eq!(settle(&alone.table, &late).await, Commit::Done);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(log.next().await, Some(Follow::Turn(turn)) if turn.number == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_past_the_purge_is_deposed() {
    let alone = Alone::with(Broker::start(), often()).await;
    let mut slept = Leader::number(1);
    let mut standing = slept.commits(&alone.table, 3).await;
    let mut log = alone.table.follow(2).await.unwrap();

    let other = open(&alone.server.url(), &alone.names).await;
    standing.extend(Leader::number(2).commits(&other, 1_200).await);
    other.compact().await.unwrap();
    assert_eq!(alone.turns().await, 1_000);

    let head = standing.last().unwrap().id;
    let late = slept.turn(4, vec![put("late", 4)], vec![]);
    assert_eq!(alone.table.commit(&late).await, Commit::Deposed { by: head });
    assert_eq!(log.next().await, Some(Follow::Behind));
    assert_eq!(alone.table.load().await.unwrap().rows, sum(&standing));
    // Having loaded, it can lead again.
    let next = slept.turn_after(&standing.last().unwrap().head(), vec![put("late", 5)]);
    assert_eq!(alone.table.commit(&next).await, Commit::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_after_every_restart() {
    let mut alone = Alone::with(Broker::start(), Options::default()).await;
    let mut leader = Leader::number(1);
    let mut log = alone.table.follow(0).await.unwrap();
    let mut head = Head::empty();
    for _ in 0..3 {
        for _ in 0..5 {
            let turn = leader.turn_after(&head, vec![put("t", head.number)]);
            assert_eq!(settle(&alone.table, &turn).await, Commit::Done);
            head = turn.head();
            assert_eq!(next_turns(&mut log, 1).await, [turn]);
        }
        alone.server.stop();
        alone.server.up();
    }
    drop(log);
    super::wait_for("consumers are deleted", async || {
        let stream = alone.connection.jetstream.get_stream(alone.names.bucket_stream()).await;
        stream.is_ok_and(|stream| stream.cached_info().state.consumer_count == 0)
    })
    .await;
}
