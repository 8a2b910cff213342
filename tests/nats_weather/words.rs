//! Words that come twice, in another order, or that nobody can read.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::judge::{
    Starts, agree_and_are_drained, all_end, history_tells_all, judge, marks, reports_are_read,
};
use super::pool::{Scene, connect, names, runners_ready, until};
use super::producer::{JOBS, ids, publish, publish_bytes};
use super::puppet::Puppet;
use crate::broker::Broker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_that_come_twice_and_in_any_order_run_once() {
    let broker = Broker::start();
    let scene = Scene::new();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let runner = scene.runner("r1", &broker.url());
    runners_ready(&replicas[0], 1).await;
    let connection = connect(&broker.url()).await;
    let tasks = scene.tasks("t", 30);
    let one_by_one = tasks.iter().map(|task| json!({"tasks": [task]}));
    let backwards: Vec<&Value> = tasks.iter().rev().collect();
    let packs = backwards.chunks(7).map(|pack| json!({"tasks": pack}));
    let all = one_by_one.chain(packs).chain([json!({"tasks": tasks})]);
    // A cancel may be read before what it cancels: it has a way of its own.
    let cancel = |id: &str| json!({"id": id, "reason": "not wanted"});
    publish(&connection.jetstream, JOBS, &json!({"id": "late", "spec": {"command": ["sleep", "60"]}})).await;
    publish(&connection.jetstream, "longshore.task.cancel", &cancel("late")).await;
    for body in all {
        publish(&connection.jetstream, JOBS, &body).await;
    }
    all_end(&replicas[0], &ids(&tasks)).await;
    publish(&connection.jetstream, "longshore.task.cancel", &cancel("t0")).await;
    publish(&connection.jetstream, JOBS, &json!({"tasks": tasks})).await;
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    let late = replicas[1].has("late", "ended").await;
    assert_eq!(late["outcome"], "cancelled", "{late}");
    judge(&marks(scene.dir()), &ids(&tasks), Starts::Once, &BTreeSet::new());
    history_tells_all(&connection, &ids(&tasks)).await;
    drop(runner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_come_twice_and_in_any_order_count_once() {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let mut runner = Puppet::join(&broker.url(), "r1").await;
    let connection = connect(&broker.url()).await;
    let ordered = json!({"id": "ordered", "spec": {"command": ["true"]}});
    let turned = json!({"id": "turned", "spec": {"command": ["true"]}});
    publish(&connection.jetstream, JOBS, &json!({"tasks": [ordered, turned]})).await;
    let first = runner.next().await["assignments"].as_array().cloned().expect("a list");
    let of = |id: &str| first.iter().find(|assignment| assignment["id"] == id).expect("both in one").clone();
    let (ordered, turned) = (of("ordered"), of("turned"));
    for _ in 0..3 {
        runner.started(&ordered).await;
        runner.ended(&ordered, "succeeded").await;
        runner.ended(&ordered, "failed").await;
    }
    runner.ended(&turned, "succeeded").await;
    runner.started(&turned).await;
    // Of a task nobody knows, of a token nobody gave, and of another's runner.
    runner.started(&json!({"id": "nobody", "token": "1.1.0"})).await;
    runner.ended(&json!({"id": "nobody", "token": "1.1.0"}), "succeeded").await;
    let stranger = Puppet::join(&broker.url(), "r2").await;
    publish(&connection.jetstream, JOBS, &json!({"id": "third", "spec": {"command": ["true"]}})).await;
    let third = runner.assigned("third").await;
    stranger.ended(&third, "succeeded").await;
    stranger.ended(&json!({"id": "third", "token": "9.9.9"}), "failed").await;
    runner.started(&third).await;
    replicas[1].has("third", "running").await;
    reports_are_read(&connection).await;
    runner.ended(&third, "succeeded").await;
    let all = BTreeSet::from(["ordered", "turned", "third"].map(str::to_owned));
    all_end(&replicas[0], &all).await;
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    history_tells_all(&connection, &all).await;
    let shown = replicas[1].get("/v1/runners/r1").await.expect("it is known");
    assert_eq!((&shown["free"], &shown["held"]["slots"]), (&shown["capacity"], &json!(0)), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_has_brought_as_many_bytes_as_it_may_is_no_failure() {
    let broker = Broker::start();
    let scene = Scene::new();
    let replica = scene.replica(&broker.url());
    replica.leads().await;
    let connection = connect(&broker.url()).await;
    let mut tasks = scene.tasks("t", 240);
    for task in &mut tasks {
        task["spec"]["env"] = json!({"FILLING": "x".repeat(30 << 10)});
    }
    for pack in tasks.chunks(3) {
        publish(&connection.jetstream, JOBS, &json!({"tasks": pack})).await;
    }
    for id in ids(&tasks) {
        replica.has(&id, "pending").await;
    }
    assert!(!replica.log().contains("pull failed"), "{}", replica.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_read_is_kept_with_the_reason_and_blocks_nothing() {
    let broker = Broker::start();
    let scene = Scene::new();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let mut runner = Puppet::join(&broker.url(), "r1").await;
    let js = connect(&broker.url()).await.jetstream;
    let good = |id: &str| json!({"id": id, "spec": {"command": ["true"]}});
    let no_id = json!({"spec": {"command": ["true"]}});
    let poison: Vec<(&str, Vec<u8>, &str)> = vec![
        (JOBS, b"not json".to_vec(), "not JSON"),
        (JOBS, Vec::new(), ""),
        (JOBS, vec![0xff, 0xfe, 0x00], "not JSON"),
        (JOBS, no_id.to_string().into_bytes(), "id"),
        (JOBS, br#"{"v": 2, "id": "t"}"#.to_vec(), "v"),
        (JOBS, br#"{"id": "t/1", "spec": {"command": ["true"]}}"#.to_vec(), "'/'"),
        (JOBS, br#"{"tasks": "all"}"#.to_vec(), "tasks"),
        ("longshore.job.pending.q$", b"{}".to_vec(), "no name"),
        ("longshore.task.cancel", b"{}".to_vec(), "id"),
        ("longshore.job.start.r1", b"[]".to_vec(), ""),
        (
            "longshore.job.end.r1",
            br#"{"id": "t", "token": "x", "incarnation": "1", "outcome": "great"}"#.to_vec(),
            "",
        ),
        ("longshore.job.end.r$", b"{}".to_vec(), "no name"),
    ];
    for (subject, body, _) in &poison {
        publish_bytes(&js, subject, body.clone()).await;
    }
    let mixed = json!({"tasks": [good("good-1"), {"id": "bad id"}, good("good-2"), {"kind": "job"}]});
    publish(&js, JOBS, &mixed).await;
    publish(&js, JOBS, &good("good-3")).await;
    let mut given = BTreeSet::new();
    while given.len() < 3 {
        for assignment in runner.next().await["assignments"].as_array().into_iter().flatten() {
            runner.started(assignment).await;
            runner.ended(assignment, "succeeded").await;
            given.insert(assignment["id"].as_str().expect("a text").to_owned());
        }
    }
    all_end(&replicas[0], &given).await;
    let connection = connect(&broker.url()).await;
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    let letters = letters(&connection, poison.len() + 1).await;
    assert!(letters.iter().all(|letter| letter["reason"] == "malformed"), "{letters:?}");
    for (subject, _, why) in &poison {
        let about =
            |letter: &&Value| letter["subject"] == *subject && letter["why"].to_string().contains(why);
        assert!(letters.iter().any(|letter| about(&letter)), "{subject} {why:?}: {letters:?}");
    }
    let pack =
        letters.iter().find(|letter| letter["input"]["tasks"].is_array() && letter["why"][1].is_string());
    let why = pack.expect("the pack is kept")["why"].to_string();
    assert!(why.contains("bad id") && why.contains("task 4"), "{why}");
    let metrics = reqwest::get(format!("{}/metrics", replicas[0].url)).await.expect("it answers");
    let metrics = metrics.text().await.expect("a text");
    assert!(metrics.contains("longshore_dead_letters_total{reason=\"malformed\"}"), "{metrics}");
}

/// The dead letters, once there are so many.
async fn letters(connection: &longshore::broker::Connection, count: usize) -> Vec<Value> {
    until(&format!("{count} dead letters are kept"), async || {
        let stream = connection.jetstream.get_stream(names().history_stream()).await.ok()?;
        let config = async_nats::jetstream::consumer::pull::OrderedConfig {
            filter_subject: names().dead_filter(),
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.ok()?;
        let pending = usize::try_from(consumer.cached_info().num_pending).expect("a count");
        if pending < count {
            return None;
        }
        assert_eq!(pending, count, "each is kept once");
        let mut messages = consumer.messages().await.ok()?;
        let mut letters = Vec::new();
        while letters.len() < count {
            let next = tokio::time::timeout(Duration::from_secs(5), messages.next()).await.ok()??;
            letters.push(serde_json::from_slice(&next.ok()?.payload).expect("it is JSON"));
        }
        Some(letters)
    })
    .await
}
