//! The traces that tasks belong to, from their producers to the work and to whoever listens.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::pool::{Scene, connect};
use super::producer::JOBS;
use super::puppet::Puppet;
use crate::binary::PATIENCE;
use crate::broker::Broker;

const OF_HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OF_BODY: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// What events told of each task: its states, with the trace each was told with.
type Told = BTreeMap<String, Vec<(String, Option<String>)>>;

/// Listens until it was told of all of `ids` that they are in `state`.
async fn hear(events: &mut Subscriber, told: &mut Told, ids: &BTreeSet<&str>, state: &str) {
    let has =
        |told: &Told, id: &str| told.get(id).is_some_and(|all| all.iter().any(|(word, _)| word == state));
    while let Some(open) = ids.iter().find(|id| !has(told, id)) {
        let event: Message = tokio::time::timeout(PATIENCE, events.next())
            .await
            .unwrap_or_else(|_| panic!("it was not told that {open} is {state}"))
            .expect("the subscription is open");
        let trace = event.headers.as_ref().and_then(|headers| headers.get("traceparent"));
        let trace = trace.map(|trace| trace.as_str().to_owned());
        let body: Value = serde_json::from_slice(&event.payload).expect("in JSON");
        let word = |key: &str| body[key].as_str().expect("a text").to_owned();
        told.entry(word("id")).or_default().push((word("state"), trace));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_kept_with_its_task_and_told_with_each_event_through_a_take_over() {
    let broker = Broker::start();
    let scene = Scene::new();
    let mut replicas = scene.replicas(&broker.url(), 2).await;
    let mut runner = Puppet::join(&broker.url(), "r1").await;
    let connection = connect(&broker.url()).await;
    let mut events = connection.client.subscribe("longshore.event.>").await.expect("a subscription");
    connection.client.flush().await.expect("it is heard");
    let task = |id: &str| json!({"id": id, "resources": {"cpu": 1}, "spec": {"command": ["true"]}});
    let own = |id: &str, trace: &str| {
        let mut task = task(id);
        task["traceparent"] = json!(trace);
        task
    };
    let pack = json!({"tasks": [task("plain"), own("own", OF_BODY), own("broken", "not-a-trace")]});
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", OF_HEADER);
    let js = &connection.jetstream;
    let sent = js.publish_with_headers(JOBS, headers, pack.to_string().into()).await;
    sent.expect("it is sent").await.expect("it is kept");
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "ff-nothing-of-the-kind");
    let sent = js.publish_with_headers(JOBS, headers, task("untraced").to_string().into()).await;
    sent.expect("it is sent").await.expect("it is kept");
    // Over HTTP, at the replica that follows.
    let posted = reqwest::Client::new().post(format!("{}/v1/tasks", replicas[1].url));
    let posted = posted.header("traceparent", OF_HEADER).body(task("posted").to_string()).send().await;
    assert_eq!(posted.expect("it answers").status(), 202);

    let traces = [
        ("plain", Some(OF_HEADER)),
        ("own", Some(OF_BODY)),
        ("broken", Some(OF_HEADER)),
        ("untraced", None),
        ("posted", Some(OF_HEADER)),
    ];
    let mut given = BTreeMap::new();
    while given.len() < 4 {
        for assignment in runner.next().await["assignments"].as_array().into_iter().flatten() {
            let id = assignment["id"].as_str().expect("a text").to_owned();
            let wanted = traces.iter().find(|(known, _)| *known == id).expect("it was submitted").1;
            assert_eq!(assignment["task"]["traceparent"].as_str(), wanted, "{assignment}");
            given.insert(id, assignment.clone());
        }
    }
    // Events are told once, by who leads: what it has not told when it is killed, nobody tells.
    let mut told = Told::new();
    hear(&mut events, &mut told, &given.keys().map(String::as_str).collect(), "assigned").await;
    replicas.remove(0).process.kill();
    replicas[0].leads().await;
    let mut done = BTreeSet::new();
    while done.len() < traces.len() {
        for (id, assignment) in &given {
            if done.insert(id.clone()) {
                runner.started(assignment).await;
                runner.ended(assignment, "succeeded").await;
            }
        }
        if let Some((left, _)) = traces.iter().find(|(id, _)| !done.contains(*id)) {
            given.insert((*left).to_owned(), runner.assigned(left).await);
        }
    }
    hear(&mut events, &mut told, &traces.map(|(id, _)| id).into(), "ended").await;
    for (id, wanted) in traces {
        let of_task = &told[id];
        assert!(of_task.iter().all(|(_, trace)| trace.as_deref() == wanted), "{id}: {of_task:?}");
        let states: BTreeSet<&str> = of_task.iter().map(|(state, _)| state.as_str()).collect();
        assert_eq!(states, BTreeSet::from(["assigned", "ended", "pending", "running"]), "{id}");
    }
}
