//! What operators do and what monitoring reads.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ByHand, Server, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_is_held_drained_and_resumed() {
    let server = Server::start().await;
    ByHand::register(&server, "r1").await;
    let runner = server.get("/v1/runners/r1").await.is(200).body;
    assert_eq!((&runner["state"], &runner["idle"]), (&json!("ready"), &json!("nothing waits")));
    assert_eq!(runner["capacity"], json!({"cpu": 8, "memory": 34_359_738_368_u64, "gpu": 2, "slots": 100}));

    let held = server.post("/v1/runners/r1/hold", json!({"reason": "disk is slow"})).await.is(200).body;
    assert_eq!((&held["state"], &held["reason"]), (&json!("held"), &json!("disk is slow")));
    server.submit(json!({"id": "t1"})).await;
    assert_eq!(server.get("/v1/tasks/t1").await.body["state"], "pending");
    let why = server.get("/v1/tasks/t1/why").await.is(200).body;
    assert_eq!(why["runners"][0]["misfit"], "held");

    assert_eq!(server.post("/v1/runners/r1/drain", "").await.is(200).body["state"], "draining");
    let resumed = server.post("/v1/runners/r1/resume", "").await.is(200).body;
    assert_eq!((&resumed["state"], &resumed["reason"]), (&json!("ready"), &Value::Null));
    server.until("it is assigned", |state| state.counts().assigned == 1).await;

    for verb in ["hold", "drain", "resume"] {
        let answer = server.post(&format!("/v1/runners/nobody/{verb}"), "").await;
        answer.problem(404, "unknown_runner", &["nobody"]);
    }
    let bad = server.post("/v1/runners/r1/hold", json!({"reason": 7})).await;
    bad.problem(400, "malformed", &["reason", "7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runners_are_listed_in_pages() {
    let server = Server::start().await;
    for id in ["r1", "r2", "r3"] {
        ByHand::register(&server, id).await;
    }
    let page = server.get("/v1/runners?limit=2").await.is(200).body;
    let ids = |page: &Value| -> Vec<Value> {
        page["runners"].as_array().expect("runners").iter().map(|runner| runner["id"].clone()).collect()
    };
    assert_eq!((ids(&page), &page["next"]), (vec![json!("r1"), json!("r2")], &json!("r2")));
    let page = server.get("/v1/runners?limit=2&after=r2").await.is(200).body;
    assert_eq!((ids(&page), &page["next"]), (vec![json!("r3")], &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_places_nothing_until_it_is_resumed() {
    let server = Server::start().await;
    ByHand::register(&server, "r1").await;
    let paused = server.post("/v1/queues/nightly/pause", "").await.is(200).body;
    assert_eq!((&paused["id"], &paused["paused"]), (&json!("nightly"), &json!(true)));
    server.submit(json!({"id": "t1", "queue": "nightly"})).await;
    let queues = server.get("/v1/queues").await.is(200).body;
    assert_eq!(queues["queues"].as_array().expect("queues").len(), 1);
    assert_eq!(queues["queues"][0]["pending"], 1);
    assert_eq!(queues["queues"][0]["jobs"], json!({"pending": 1, "assigned": 0, "running": 0}));
    assert_eq!(server.post("/v1/queues/nightly/resume", "").await.is(200).body["paused"], false);
    server.until("it is assigned", |state| state.counts().assigned == 1).await;
    server.post("/v1/queues/a.b/pause", "").await.problem(400, "malformed", &["id", "a.b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_pool_takes_submissions_and_places_nothing_until_it_is_resumed() {
    let server = Server::start().await;
    ByHand::register(&server, "r1").await;
    let paused = server.post("/v1/pause", json!({"reason": "new switches"})).await.is(200).body;
    assert_eq!((&paused["pool"], &paused["paused"]), (&json!("default"), &json!(true)));
    assert_eq!(server.post("/v1/pause", "").await.is(200).body, paused, "asked again, nothing changes");
    server.submit(json!({"id": "t1"})).await;
    server.submit(json!({"id": "t2", "queue": "nightly"})).await;
    let why = server.get("/v1/tasks/t2/why").await.is(200).body;
    assert_eq!(why["reasons"][0], "the pool is paused");
    assert_eq!(server.get("/v1/runners/r1").await.is(200).body["idle"], "the pool is paused");
    let status = server.get("/v1/status").await.is(200).body;
    assert_eq!((&status["paused_since"], &status["counts"]["pending"]), (&paused["since"], &json!(2)));
    assert_eq!(status["credit"][1]["paused"], false, "submissions are taken over HTTP");
    let scrape = server.get("/metrics").await.is(200).text;
    assert!(scrape.lines().any(|line| line == "longshore_paused 1"), "{scrape}");

    let resumed = server.post("/v1/resume", "").await.is(200).body;
    assert_eq!((&resumed["paused"], &resumed["since"]), (&json!(false), &Value::Null));
    server.until("both are assigned", |state| state.counts().assigned == 2).await;
    assert_eq!(server.get("/v1/status").await.is(200).body["paused_since"], Value::Null);
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrape_shows_the_committed_rows() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1"})).await;
    runner.start_next().await;
    server.submit(json!({"id": "t2", "if_unplaceable": "hold", "resources": {"cpu": 64}})).await;
    let scrape = server.get("/metrics").await.is(200);
    assert!(scrape.header("content-type").starts_with("text/plain; version=0.0.4"));
    for line in [
        "longshore_tasks{kind=\"job\",state=\"pending\"} 1",
        "longshore_tasks{kind=\"job\",state=\"running\"} 1",
        "longshore_runners{state=\"ready\"} 1",
        "longshore_held_cpu_cores 1",
        "longshore_capacity_cpu_cores 8",
        "longshore_held_slots 1",
        "longshore_leader 1",
        "longshore_tasks_admitted_total{kind=\"job\",queue=\"default\"} 2",
    ] {
        assert!(scrape.text.lines().any(|shown| shown == line), "no {line:?} in\n{}", scrape.text);
    }
    let turns =
        scrape.text.lines().find_map(|line| line.strip_prefix("longshore_turn_commit_seconds_count "));
    assert_ne!(turns, Some("0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_says_what_was_decided() {
    let server = Server::start().await;
    ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1"})).await;
    server.submit(json!({"id": "t2"})).await;
    server.until("both are assigned", |state| state.counts().assigned == 2).await;
    let told = server.get("/v1/history?id=t1").await.is(200).body;
    let events: Vec<&Value> = told["turns"]
        .as_array()
        .expect("turns")
        .iter()
        .flat_map(|turn| turn["events"].as_array().expect("events"))
        .collect();
    let states: Vec<&Value> = events.iter().map(|event| &event["state"]).collect();
    assert_eq!(states, ["pending", "assigned"]);
    assert!(events.iter().all(|event| event["fact"] == "task" && event["id"] == "t1"));
    assert!(events[0]["at"].as_str().expect("a time").ends_with('Z'));

    let all = server.get("/v1/history").await.is(200).body;
    let last = all["turns"].as_array().expect("turns").last().expect("a turn")["turn"].clone();
    let since = server.get(&format!("/v1/history?since={last}")).await.is(200).body;
    assert_eq!(since["turns"], json!([]));
    let first = server.get("/v1/history?since=0&limit=1").await.is(200).body;
    assert_eq!(first["turns"].as_array().expect("turns").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_lists_every_route_and_every_route_is_there() {
    let server = Server::start().await;
    let described = server.get("/openapi.json").await.is(200).body;
    let mut listed = BTreeSet::new();
    for (path, item) in described["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("methods").keys().filter(|key| *key != "parameters") {
            listed.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let expected: BTreeSet<String> = [
        "DELETE /v1/groups/{id}/runners/{runner}",
        "DELETE /v1/subscriptions/{id}",
        "DELETE /v1/tasks/{id}",
        "GET /",
        "GET /healthz",
        "GET /metrics",
        "GET /openapi.json",
        "GET /readyz",
        "GET /v1/digest",
        "GET /v1/events",
        "GET /v1/groups",
        "GET /v1/groups/{id}",
        "GET /v1/history",
        "GET /v1/artifacts/{id}",
        "GET /v1/intents",
        "GET /v1/queues",
        "GET /v1/runners",
        "GET /v1/runners/{id}",
        "GET /v1/runners/{id}/assignments",
        "GET /v1/status",
        "GET /v1/tasks",
        "GET /v1/tasks/{id}",
        "GET /v1/tasks/{id}/logs",
        "GET /v1/tasks/{id}/why",
        "PATCH /v1/subscriptions/{id}",
        "POST /v1/groups/{id}/intents",
        "POST /v1/groups/{id}/runners/{runner}/next",
        "PUT /v1/groups/{id}/runners/{runner}",
        "POST /v1/leases/{id}/ack",
        "POST /v1/leases/{id}/extend",
        "POST /v1/leases/{id}/nack",
        "POST /v1/leases/{id}/start",
        "POST /v1/subscriptions",
        "POST /v1/intents/{id}/ack",
        "POST /v1/intents/{id}/decline",
        "POST /v1/pause",
        "POST /v1/queues/{id}/pause",
        "POST /v1/queues/{id}/resume",
        "POST /v1/resume",
        "POST /v1/runners",
        "POST /v1/runners/{id}/drain",
        "POST /v1/runners/{id}/heartbeat",
        "POST /v1/runners/{id}/hold",
        "POST /v1/runners/{id}/leave",
        "POST /v1/runners/{id}/output",
        "POST /v1/runners/{id}/reports",
        "POST /v1/runners/{id}/resume",
        "POST /v1/tasks",
        "POST /v1/unfreeze",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(listed, expected);
    let routes = longshore::http::routes().into_iter().map(|(method, path)| format!("{method} {path}"));
    assert_eq!(routes.collect::<BTreeSet<_>>(), expected);

    let index = server.get("/").await.is(200).text;
    for route in &expected {
        let (method, path) = route.split_once(' ').expect("a method and a path");
        assert!(index.contains(path), "{path} is not on the first page");
        if path == "/v1/events" {
            continue;
        }
        let method: Method = method.parse().expect("a method");
        let answer =
            send(server.request(method, &path.replace("{id}", "some").replace("{runner}", "r1"))).await;
        assert!(!["unknown_path", "wrong_method"].iter().any(|code| answer.body["code"] == *code), "{route}");
    }
    assert_eq!(described["info"]["title"], "Longshore");
}
