//! Where a bucket ends: it is full, it was put back to yesterday, it is gone, or it is not one of ours.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use longshore::adapters::JetStreamTable;
use longshore::adapters::jetstream::Options;
use longshore::model::Head;
use longshore::ports::{Commit, Follow, Table, TableError};

use super::{Alone, PATIENCE, settle};
use crate::broker::{Broker, Cluster};
use crate::fixture::{Leader, next_turns, put};
use crate::jetstream::{connect, create, open, some_names};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A table with ten turns whose server was put back to when it had five; and its followers' view of all ten.
async fn put_back() -> (Alone, Leader) {
    let mut alone = Alone::with(Broker::start(), Options::default()).await;
    let mut leader = Leader::number(1);
    leader.commits(&alone.table, 5).await;
    alone.server.stop();
    let backup = tempfile::tempdir().unwrap();
    copy(&alone.server.store(), backup.path());
    alone.server.up();
    let mut head = Head { number: 5, ..Head::empty() };
    for _ in 0..5 {
        let turn = leader.turn_after(&head, vec![put("t", head.number)]);
        assert_eq!(settle(&alone.table, &turn).await, Commit::Done);
        head = turn.head();
    }
    alone.server.stop();
    std::fs::remove_dir_all(alone.server.store()).unwrap();
    copy(backup.path(), &alone.server.store());
    (alone, leader)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_lost_turns_takes_none_for_good() {
    let (mut alone, mut leader) = put_back().await;
    alone.server.up();
    let next = leader.turn(11, vec![], vec![]);
    let Commit::Refused { why } = settle(&alone.table, &next).await else { panic!("not refused") };
    assert!(why.contains("was seen"), "{why}");
    assert!(matches!(alone.table.load().await, Err(TableError::Lost { .. })));
    let mut log = alone.table.follow(10).await.unwrap();
    assert!(matches!(log.next().await, Some(Follow::Lost { .. })));
    assert_eq!(log.next().await, None);
    // Also once there is more again than was seen.
    let other = open(&alone.server.url(), &alone.names).await;
    Leader::number(2).commits(&other, 10).await;
    assert!(matches!(alone.table.commit(&next).await, Commit::Refused { .. }));
    assert!(matches!(alone.table.load().await, Err(TableError::Lost { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_lost_turns_is_not_followed() {
    let (mut alone, _) = put_back().await;
    let mut log = alone.table.follow(0).await.unwrap();
    alone.server.up();
    // Nobody writes: it is noticed when the follower looks for its place again.
    let last = loop {
        match tokio::time::timeout(PATIENCE, log.next()).await.expect("it is noticed") {
            Some(Follow::Turn(turn)) => assert!(turn.number <= 5),
            last => break last,
        }
    };
    assert!(matches!(last, Some(Follow::Lost { .. })), "{last:?}");
    assert!(matches!(alone.table.load().await, Err(TableError::Lost { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_turns_were_lost_and_replaced_says_so() {
    let mut alone = Alone::with(Broker::start(), Options::default()).await;
    let mut leader = Leader::number(1);
    leader.commits(&alone.table, 5).await;
    alone.server.stop();
    let backup = tempfile::tempdir().unwrap();
    copy(&alone.server.store(), backup.path());
    alone.server.up();
    // This one only follows: it has not loaded, so it knows no sequence but that of the turns it has passed on.
    let follower = open(&alone.server.url(), &alone.names).await;
    let mut log = follower.follow(0).await.unwrap();
    for number in 6..=10 {
        assert_eq!(settle(&alone.table, &leader.turn(number, vec![], vec![])).await, Commit::Done);
    }
    next_turns(&mut log, 10).await;
    alone.server.stop();
    std::fs::remove_dir_all(alone.server.store()).unwrap();
    copy(backup.path(), &alone.server.store());
    let taken: Vec<_> = (6..=20).map(|number| Leader::number(2).turn(number, vec![], vec![])).collect();
    alone.server.up();
    let other = open(&alone.server.url(), &alone.names).await;
    let mut refused = 0;
    for turn in &taken {
        refused += u32::from(settle(&other, turn).await != Commit::Done);
    }
    assert_eq!(refused, 0);
    let last = log.next().await;
    assert!(matches!(last, Some(Follow::Lost { .. })), "{last:?}");
    // The one that wrote them learns it as well, though the bucket has grown past all it has seen.
    let answer = settle(&alone.table, &leader.turn(21, vec![], vec![])).await;
    assert!(matches!(answer, Commit::Refused { .. }), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_servers_it_is_believed_only_after_a_while_that_turns_were_lost() {
    let mut servers = Cluster::start();
    let options = Options { replicas: 3, ..Options::default() };
    let table = create(&servers.urls(), &some_names(), options).await;
    let mut leader = Leader::number(1);
    leader.commits(&table, 5).await;
    let each = |servers: &mut Cluster, act: fn(&mut Broker)| servers.servers.iter_mut().for_each(act);
    each(&mut servers, Broker::stop);
    let backups: Vec<_> = servers
        .servers
        .iter()
        .map(|server| {
            let backup = tempfile::tempdir().unwrap();
            copy(&server.store(), backup.path());
            backup
        })
        .collect();
    each(&mut servers, Broker::up);
    for number in 6..=10 {
        assert_eq!(settle(&table, &leader.turn(number, vec![], vec![])).await, Commit::Done);
    }
    each(&mut servers, Broker::stop);
    for (server, backup) in servers.servers.iter().zip(&backups) {
        std::fs::remove_dir_all(server.store()).unwrap();
        copy(backup.path(), &server.store());
    }
    each(&mut servers, Broker::up);
    let next = leader.turn(11, vec![], vec![]);
    let mut doubted = false;
    let why = loop {
        match table.commit(&next).await {
            Commit::Unknown { why } => doubted |= why.contains("was seen"),
            Commit::Refused { why } => break why,
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(doubted && why.contains("was seen"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bucket_refuses_and_goes_on_once_there_is_room() {
    let options = Options { max_bytes: 200 << 10, ..Options::default() };
    let alone = Alone::with(Broker::start(), options).await;
    let mut leader = Leader::number(1);
    let mut head = Head::empty();
    let (turn, why) = loop {
        let turn = leader.turn_after(&head, (0..200).map(|n| put(&format!("t{n}"), head.number)).collect());
        match alone.table.commit(&turn).await {
            Commit::Done => head = turn.head(),
            Commit::Refused { why } => break (turn, why),
            other => panic!("{other:?}"),
        }
    };
    assert!(head.number > 3 && why.contains("max-bytes"), "{why}");
    assert!(matches!(alone.table.commit(&turn).await, Commit::Refused { .. }));
    assert_eq!(alone.table.load().await.unwrap().head, head);
    let late = Leader::number(2).turn(head.number, vec![put("t", 1)], vec![]);
    assert_eq!(alone.table.commit(&late).await, Commit::Deposed { by: head.id });

    let stream = alone.connection.jetstream.get_stream(alone.names.bucket_stream()).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_bytes *= 2;
    alone.connection.jetstream.update_stream(config).await.unwrap();
    assert_eq!(alone.table.commit(&turn).await, Commit::Done);
    assert_eq!(alone.table.load().await.unwrap().head, turn.head());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_write_is_refused_and_says_so() {
    let server = Broker::start_with(
        r#"authorization { users: [
            { user: "all", password: "all" },
            { user: "reader", password: "reader", permissions: { publish: ["$JS.API.>"], subscribe: [">"] } },
        ] }"#,
    );
    let as_user = |name: &str| {
        let text = |text: &str| Some(text.to_owned());
        longshore::broker::Server {
            url: server.url(),
            user: text(name),
            password: text(name),
            name: name.to_owned(),
            ..Default::default()
        }
    };
    let names = some_names();
    let all = longshore::broker::Connection::open(&as_user("all")).await.unwrap();
    let table = JetStreamTable::create(&all, &names, Options::default()).await.unwrap();
    let reader = longshore::broker::Connection::open(&as_user("reader")).await.unwrap();
    let reading = JetStreamTable::open(&reader, &names, Options::default()).await.unwrap();
    let turn = Leader::number(1).turn(1, vec![], vec![]);
    let Commit::Refused { why } = reading.commit(&turn).await else { panic!("not refused") };
    assert!(why.contains("let this user publish"), "{why}");
    assert_eq!(table.commit(&turn).await, Commit::Done);
    assert_eq!(reading.commit(&turn).await, Commit::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_made_once_and_opened_only_if_it_is_one_of_ours() {
    let server = Broker::start();
    let (names, connection) = (some_names(), connect(&server.url()).await);
    let said = |error: Result<JetStreamTable, TableError>| match error {
        Err(why @ TableError::Unreadable { .. }) => why.to_string(),
        other => panic!("{other:?}"),
    };
    let why = said(JetStreamTable::open(&connection, &names, Options::default()).await);
    assert!(why.contains("there is no such bucket") && why.contains(&names.bucket_stream()), "{why}");
    let table = JetStreamTable::create(&connection, &names, Options::default()).await.unwrap();
    let why = said(JetStreamTable::create(&connection, &names, Options::default()).await);
    assert!(why.contains("there already"), "{why}");
    assert_eq!(open(&server.url(), &names).await.table(), table.table());

    let mut config = async_nats::jetstream::stream::Config {
        name: some_names().bucket_stream(),
        ..connection.jetstream.get_stream(names.bucket_stream()).await.unwrap().cached_info().config.clone()
    };
    let strange = some_names();
    (config.name, config.subjects) = (strange.bucket_stream(), vec![strange.key(">")]);
    (config.max_age, config.duplicate_window) = (Duration::from_secs(60), Duration::from_secs(1));
    connection.jetstream.create_stream(config.clone()).await.unwrap();
    let why = said(JetStreamTable::open(&connection, &strange, Options::default()).await);
    assert!(why.contains("max_age"), "{why}");
    config.metadata.clear();
    connection.jetstream.update_stream(config).await.unwrap();
    let why = said(JetStreamTable::open(&connection, &strange, Options::default()).await);
    assert!(why.contains("longshore.table"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_made_anew_is_not_the_same_table() {
    let server = Broker::start();
    let names = some_names();
    let table = create(&server.url(), &names, Options::default()).await;
    let mut leader = Leader::number(1);
    leader.commits(&table, 2).await;
    let connection = connect(&server.url()).await;
    connection.jetstream.delete_stream(names.bucket_stream()).await.unwrap();
    let other = create(&server.url(), &names, Options::default()).await;
    Leader::number(2).commits(&other, 2).await;
    assert!(matches!(table.load().await, Err(TableError::Lost { .. })));
    assert!(matches!(table.commit(&leader.turn(3, vec![], vec![])).await, Commit::Refused { .. }));
    assert!(matches!(table.follow(2).await.unwrap().next().await, Some(Follow::Lost { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_of_a_newer_version_is_never_passed_on() {
    let alone = Alone::with(Broker::start(), Options::default()).await;
    let mut leader = Leader::number(1);
    leader.commits(&alone.table, 2).await;
    let mut log = alone.table.follow(0).await.unwrap();
    next_turns(&mut log, 2).await;
    let newer = br#"{"format":9,"number":3,"moves":[]}"#;
    let published =
        alone.connection.jetstream.publish(alone.names.key("turn.3"), newer.to_vec().into()).await;
    published.unwrap().await.unwrap();
    assert_eq!(log.next().await, Some(Follow::Behind));
    let why = alone.table.load().await.unwrap_err();
    assert!(matches!(why, TableError::Unreadable { .. }) && why.to_string().contains("format 9"), "{why}");
    let Commit::Refused { why } = alone.table.commit(&leader.turn(3, vec![], vec![])).await else {
        panic!("not refused")
    };
    assert!(why.contains("format 9"), "{why}");
}
