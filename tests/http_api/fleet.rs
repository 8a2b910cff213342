//! The runner's side, by runners written by hand.

use longshore::http::outbox::MOST;
use serde_json::{Value, json};

use crate::support::{ByHand, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_wakes_at_once() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    // The poll waits longer than the story may take, so only a wake-up can end it.
    let (delivery, ()) = tokio::join!(runner.poll("5m"), async {
        server.until_polled().await;
        server.submit(json!({"id": "t1"})).await;
    });
    assert_eq!(delivery["assignments"][0]["id"], "t1");
    assert_eq!(delivery["assignments"][0]["deadline"], "30s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_is_sent_again_until_it_is_confirmed_but_not_at_once() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1"})).await;
    let first = runner.poll("10s").await;
    let token = first["assignments"][0]["token"].as_str().expect("a token").to_owned();
    let nothing = json!({"assignments": [], "stop": []});
    assert_eq!(runner.poll("0s").await, nothing, "a client that asks in a loop does not spin");
    assert_eq!(runner.poll("10s").await["assignments"][0]["token"], token.as_str());
    runner.heartbeat(1, &[("t1", &token)]).await;
    assert_eq!(runner.poll("1500ms").await, nothing, "it is confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_is_bounded_in_tasks_and_in_bytes() {
    let server = Server::start().await;
    let runner = ByHand { server: &server, id: "r1", incarnation: "one" };
    let mut registration = runner.registration();
    registration["resources"] = Value::Null;
    registration["slots"] = json!(10_000);
    server.post("/v1/runners", registration).await.is(200);

    for batch in 0..2 {
        let tasks: Vec<Value> = (0..600).map(|number| json!({"id": format!("t{batch}-{number}")})).collect();
        server.post("/v1/tasks", json!({"tasks": tasks})).await.is(202);
    }
    server.until("all are assigned", |state| state.counts().assigned == 1_200).await;
    let count = |delivery: &Value| delivery["assignments"].as_array().expect("a list").len();
    assert_eq!(count(&runner.poll("10s").await), MOST.assignments);
    assert_eq!(count(&runner.poll("10s").await), 200);

    let spec = "x".repeat(60 << 10);
    let large: Vec<Value> = (0..100).map(|at| json!({"id": format!("l{at}"), "spec": {"x": spec}})).collect();
    server.post("/v1/tasks", json!({"tasks": large})).await.is(202);
    server.until("all are assigned", |state| state.counts().assigned == 1_300).await;
    let (mut most, mut seen) = (0, std::collections::BTreeSet::new());
    while seen.len() < 100 {
        let delivery = runner.poll("10s").await;
        let bodies = delivery["assignments"].as_array().expect("a list").iter();
        most = most.max(bodies.clone().map(|assignment| assignment["task"].to_string().len()).sum());
        let ids = bodies.map(|assignment| assignment["id"].as_str().expect("an id").to_owned());
        seen.extend(ids.filter(|id| id.starts_with('l')));
    }
    assert!(most <= MOST.bytes, "{most} bytes in one delivery");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registering_again_lists_what_the_runner_has() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1"})).await;
    let (_, token) = runner.start_next().await;
    let registered = runner.register_again().await;
    assert_eq!(registered["assignments"], json!([{"id": "t1", "token": token}]));
    assert_eq!(registered["heartbeat"], "5s");
    assert!(registered["turn"].is_u64() && registered["table"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_nobody_knows_is_asked_to_register() {
    let server = Server::start().await;
    let runner = ByHand { server: &server, id: "r1", incarnation: "one" };
    assert_eq!(runner.heartbeat(3, &[]).await, json!({"number": 3, "stop": [], "register": true}));
    assert!(server.rows().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_back_goes_to_another_runner() {
    let server = Server::start().await;
    let first = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1"})).await;
    first.start_next().await;
    let second = ByHand::register(&server, "r2").await;
    let leave = json!({"incarnation": "one", "handback": ["t1"]});
    server.post(&first.path("leave"), leave).await.is(200);
    let (id, _) = second.start_next().await;
    assert_eq!(id, "t1");
    let task = server.get("/v1/tasks/t1").await.is(200).body;
    assert_eq!((&task["runner"], &task["attempt"]), (&json!("r2"), &json!(2)));
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_report_is_taken_and_changes_nothing() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1"})).await;
    runner.start_next().await;
    let before = server.rows();
    runner.report(&[runner.ended("t1", "1.1.7", "succeeded"), runner.started("nobody", "1.1.8")]).await;
    assert_eq!(server.rows(), before);
    let one_alone = runner.ended("t1", "1.1.9", "failed");
    server.post(&runner.path("reports"), one_alone).await.is(202);
    server.post(&runner.path("reports"), json!({"reports": []})).await.is(202);
    assert_eq!(server.rows(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_of_reports_ends_many_tasks() {
    let server = Server::start().await;
    let runner = ByHand { server: &server, id: "r1", incarnation: "one" };
    let mut registration = runner.registration();
    registration["resources"] = Value::Null;
    registration["slots"] = json!(500);
    server.post("/v1/runners", registration).await.is(200);
    let tasks: Vec<Value> = (0..500).map(|number| json!({"id": format!("t{number}")})).collect();
    server.post("/v1/tasks", json!({"tasks": tasks})).await.is(202);
    let mut given: Vec<(String, String)> = Vec::new();
    while given.len() < 500 {
        let delivery = runner.poll("10s").await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let list = delivery["assignments"].as_array().expect("a list").iter();
        given.extend(list.map(|assignment| (text(&assignment["id"]), text(&assignment["token"]))));
    }
    let starts: Vec<Value> = given.iter().map(|(id, token)| runner.started(id, token)).collect();
    runner.report(&starts).await;
    assert_eq!(server.get("/v1/status").await.body["counts"]["running"], 500);
    let ends: Vec<Value> = given.iter().map(|(id, token)| runner.ended(id, token, "succeeded")).collect();
    runner.report(&ends).await;
    assert_eq!(server.get("/v1/status").await.body["counts"]["ended"], 500);
    server.is_sound();
}
