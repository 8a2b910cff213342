//! When nothing is decided: the answers say so, say when to come back, and nothing is lost.

use longshore::adapters::Fault;
use longshore::runtime::Stopped;
use reqwest::Method;
use serde_json::json;

use crate::support::{ByHand, Server, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_takes_nothing_is_said_and_what_waited_is_answered_once_it_does() {
    let table = Server::faulty_table();
    let server = Server::start_on(&table).await;
    server.submit(json!({"id": "t1"})).await;
    let mut status = server.running.handle.status_changes();
    table.script([Fault::Full; 3]);
    let waiting = tokio::spawn(send(server.request(Method::POST, "/v1/tasks").body(r#"{"id":"t2"}"#)));
    status.wait_for(|status| status.trouble.is_some()).await.expect("it runs");

    let refused = server.post("/v1/tasks", json!({"id": "t3"})).await;
    assert_eq!(refused.header("retry-after"), "2");
    refused.problem(503, "table_trouble", &["the table is full"]);
    server.get("/readyz").await.problem(503, "table_trouble", &["the table is full"]);
    server.get("/healthz").await.is(200);
    let shown = server.get("/v1/status").await.is(200).body;
    assert_eq!(shown["trouble"], "the table is full");
    assert_eq!(shown["credit"][0]["reason"], "table");
    server.get("/v1/tasks/t1").await.is(200);

    waiting.await.expect("it is answered").is(202);
    server.get("/readyz").await.is(200);
    server.get("/v1/tasks/t3").await.is(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_pool_decides_nothing_until_it_is_unfrozen() {
    let server = Server::start().await;
    let runner = ByHand { server: &server, id: "r1", incarnation: "one" };
    let mut stranger = runner.registration();
    stranger["last_seen"] = json!({"table": "0192aaaa-0000-7000-8000-000000000001", "turn": 41});
    let refused = server.post("/v1/runners", &stranger).await;
    refused.problem(409, "registration_refused", &["0192aaaa", "turn 41", "unfreeze"]);

    let frozen = |answer: crate::support::Answer| {
        assert_eq!(answer.header("retry-after"), "30");
        answer.problem(503, "frozen", &["0192aaaa", "/v1/unfreeze"]);
    };
    frozen(server.post("/v1/tasks", json!({"id": "t1"})).await);
    frozen(server.post("/v1/tasks", json!({"tasks": [{"id": "t1"}, {"id": "t2"}]})).await);
    frozen(server.post("/v1/runners", runner.registration()).await);
    frozen(server.post(&runner.path("reports"), runner.started("t1", "1.1.1")).await);
    frozen(server.post("/v1/queues/q/pause", "").await);
    frozen(server.delete("/v1/tasks/t1").await);
    frozen(server.get("/readyz").await);
    assert!(server.get("/v1/status").await.is(200).body["frozen"].is_string());

    let unfrozen = server.post("/v1/unfreeze", "").await.is(200).body;
    assert_eq!(unfrozen, json!({"frozen": false, "changed": true}));
    assert_eq!(server.post("/v1/unfreeze", "").await.is(200).body["changed"], false);
    server.post("/v1/runners", &stranger).await.is(200);
    server.submit(json!({"id": "t1"})).await;
    server.get("/readyz").await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_it_took_and_leaves_a_table_that_can_be_opened_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut settings = longshore::config::load(None, [], &[]).expect("the defaults are valid");
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    settings.server.data = dir.path().join("data");
    let client = reqwest::Client::new();
    for round in 0..3 {
        let stop = tokio_util::sync::CancellationToken::new();
        let running =
            longshore::cli::embedded::start(&settings, stop.clone()).await.expect("it starts again");
        let url = format!("{}/v1/tasks", running.url());
        let body = format!("{{\"id\":\"t{round}\"}}");
        let answer = send(client.post(&url).body(body)).await.is(202);
        assert_eq!(answer.body[0]["answer"], "admitted");
        let listed = send(client.get(&url)).await.is(200).body;
        assert_eq!(listed["tasks"].as_array().expect("tasks").len(), round + 1);
        stop.cancel();
        assert_eq!(running.finished().await, Stopped::Released);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_says_why_and_what_to_do() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut settings = longshore::config::load(None, [], &[]).expect("the defaults are valid");
    settings.server.listen = server.running.address;
    settings.server.data = dir.path().join("data");
    let stop = tokio_util::sync::CancellationToken::new();
    let refused = longshore::cli::embedded::start(&settings, stop).await.expect_err("the address is taken");
    let said = refused.to_string();
    assert!(said.contains(&server.running.address.to_string()) && said.contains("server.listen"), "{said}");
}
