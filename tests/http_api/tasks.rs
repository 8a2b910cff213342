//! Submitting, looking at, explaining and cancelling tasks.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{ByHand, Server};

fn answers(body: &Value) -> Vec<(&str, &str)> {
    let text = |answer: &Value, field: &str| match &answer[field] {
        Value::String(_) => answer[field].as_str().map(|text| &*text.to_owned().leak()),
        _ => None,
    };
    let list = body.as_array().expect("a list of answers").iter();
    list.map(|answer| (text(answer, "id").unwrap_or("-"), text(answer, "answer").expect("an answer")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_of_a_list_is_answered_in_its_place() {
    let server = Server::start().await;
    server.submit(json!({"id": "known", "priority": 1})).await;
    let list = json!({"tasks": [
        {"id": "new"}, {"id": "known", "priority": 1}, {"id": "known", "priority": 2}, {"id": "a.b"}, {"kind": "job"},
        {"id": "new"},
    ]});
    let answer = server.post("/v1/tasks", list).await.is(202);
    assert_eq!(
        answers(&answer.body),
        [
            ("new", "admitted"),
            ("known", "duplicate"),
            ("known", "conflict"),
            ("a.b", "rejected"),
            ("-", "rejected"),
            ("new", "duplicate"),
        ]
    );
    assert!(answer.body[3]["reason"].as_str().expect("a reason").starts_with("malformed: field \"id\""));
    server.post("/v1/tasks", json!({"tasks": []})).await.is(202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_taken_one_by_one_and_a_broken_one_is_named() {
    let server = Server::start().await;
    let answer = server.post("/v1/tasks", "{\"id\":\"l1\"}\n{broken\n\n{\"id\":\"l4\"}\n").await.is(202);
    assert_eq!(answers(&answer.body), [("l1", "admitted"), ("-", "rejected"), ("l4", "admitted")]);
    assert!(answer.body[1]["reason"].as_str().expect("a reason").contains("line 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_alone_is_answered_by_the_status_too() {
    let server = Server::start().await;
    server.submit(json!({"id": "t1"})).await;
    let again = server.post("/v1/tasks", json!({"id": "t1"})).await.is(202);
    assert_eq!(answers(&again.body), [("t1", "duplicate")]);
    let other = json!({"id": "t1", "priority": 5});
    server.post("/v1/tasks", &other).await.problem(409, "conflict", &["t1", "pending", "another id"]);
    let in_a_list = server.post("/v1/tasks", json!({"tasks": [other]})).await.is(202);
    assert_eq!(answers(&in_a_list.body), [("t1", "conflict")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_window_says_when_to_come_back() {
    let server = Server::start_with(|decisions| decisions.window = 2).await;
    server.submit(json!({"id": "t1"})).await;
    server.submit(json!({"id": "t2"})).await;
    let answer = server.post("/v1/tasks", json!({"id": "t3"})).await;
    assert_eq!(answer.header("retry-after"), "1");
    answer.problem(429, "full", &["2 jobs", "table.window"]);
    let answer = server.post("/v1/tasks", json!({"tasks": [{"id": "t1"}, {"id": "t3"}]})).await.is(202);
    assert_eq!(answers(&answer.body), [("t1", "duplicate"), ("t3", "full")]);
    assert_eq!(answer.header("retry-after"), "1");
    let credit = &server.get("/v1/status").await.is(200).body["credit"][1];
    assert_eq!(
        *credit,
        json!({"consumer": "jobs", "paused": true, "reason": "window", "pending": 2, "window": 2})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_run_is_taken_and_rejected_with_the_reason() {
    let server = Server::start_with(|decisions| decisions.settle = Duration::ZERO).await;
    ByHand::register(&server, "r1").await;
    let answer = server.post("/v1/tasks", json!({"id": "t1", "resources": {"gpu": 4}})).await.is(202);
    assert_eq!(answers(&answer.body), [("t1", "rejected")]);
    assert!(answer.body[0]["reason"].as_str().expect("a reason").contains("gpu 4"), "{}", answer.text);
    let task = server.get("/v1/tasks/t1").await.is(200).body;
    assert_eq!((&task["state"], &task["outcome"]), (&json!("ended"), &json!("rejected")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_task_is_explained_runner_by_runner() {
    let server = Server::start().await;
    ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "large", "if_unplaceable": "hold", "resources": {"cpu": 64}})).await;
    server.submit(json!({"id": "next", "if_unplaceable": "hold", "resources": {"cpu": 64}})).await;
    let why = server.get("/v1/tasks/next/why").await.is(200).body;
    assert_eq!(why["id"], "next");
    assert_eq!(why["position"], 1);
    assert_eq!(why["runners"][0]["id"], "r1");
    assert_eq!(why["runners"][0]["misfit"], "too_large");
    assert!(why["runners"][0]["detail"].as_str().expect("a detail").contains("64"), "{why}");
    assert!(!why["reasons"].as_array().expect("reasons").is_empty());

    server.delete("/v1/tasks/large").await.is(202);
    let why = server.get("/v1/tasks/large/why").await.is(200).body;
    assert_eq!((&why["state"], &why["verdict"]), (&json!("ended"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_what_waits_and_asks_for_what_runs() {
    let server = Server::start().await;
    server.submit(json!({"id": "waits", "resources": {"cpu": 64}})).await;
    let answer = server.delete("/v1/tasks/waits?reason=enough").await.is(202).body;
    assert_eq!(answer, json!({"id": "waits", "state": "ended", "remembered": false}));
    let again = server.delete("/v1/tasks/waits").await.problem(409, "already_ended", &["waits", "cancelled"]);
    assert_eq!(again.body["outcome"], "cancelled");
    assert_eq!(server.get("/v1/tasks/waits").await.body["reason"], "enough");

    let unseen = server.delete("/v1/tasks/unseen").await.is(202).body;
    assert_eq!(unseen, json!({"id": "unseen", "state": null, "remembered": true}));

    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "runs"})).await;
    let (id, token) = runner.start_next().await;
    assert_eq!(id, "runs");
    let cancelled =
        server.request(reqwest::Method::DELETE, "/v1/tasks/runs").body(r#"{"reason":"not needed"}"#);
    let answer = crate::support::send(cancelled).await.is(202).body;
    assert_eq!(answer["state"], "running");
    let stop = json!([{"id": "runs", "token": token, "reason": "not needed"}]);
    assert_eq!(runner.poll("10s").await["stop"], stop);
    assert_eq!(runner.heartbeat(1, &[("runs", &token)]).await["stop"], stop);
    runner.report(&[runner.ended("runs", &token, "cancelled")]).await;
    let task = server.get("/v1/tasks/runs").await.is(200).body;
    assert_eq!(task["outcome"], "cancelled");
    let states: Vec<&Value> =
        task["timeline"].as_array().expect("a timeline").iter().map(|moment| &moment["state"]).collect();
    assert_eq!(states, ["pending", "assigned", "running", "stop_asked", "ended"]);
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timeline_tells_every_attempt() {
    let server = Server::start_with(|decisions| decisions.retry_backoff = Duration::from_millis(10)).await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1", "retries": 1})).await;
    let (_, first) = runner.start_next().await;
    runner.report(&[runner.ended("t1", &first, "failed")]).await;
    let (_, second) = runner.start_next().await;
    assert_ne!(first, second);
    runner.report(&[runner.ended("t1", &second, "succeeded")]).await;
    let task = server.get("/v1/tasks/t1").await.is(200).body;
    let told: Vec<(&str, u64)> = task["timeline"]
        .as_array()
        .expect("a timeline")
        .iter()
        .map(|moment| {
            (moment["state"].as_str().expect("a state"), moment["attempt"].as_u64().expect("a number"))
        })
        .collect();
    let expected = [
        ("pending", 0),
        ("assigned", 1),
        ("running", 1),
        ("pending", 1),
        ("assigned", 2),
        ("running", 2),
        ("ended", 2),
    ];
    assert_eq!(told, expected);
    assert_eq!(task["message"], "done");
    server.is_sound();
}
