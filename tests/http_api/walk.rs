//! The whole walk, by a runner written by hand.

use serde_json::json;

use crate::support::{ByHand, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_from_submission_to_its_end_by_the_protocol_alone() {
    let server = Server::start().await;
    server.submit(json!({"id": "t1", "spec": {"image": "alpine:3", "command": ["true"]}})).await;
    assert_eq!(server.get("/v1/tasks/t1").await.is(200).body["state"], "pending");

    let runner = ByHand::register(&server, "r1").await;
    let delivery = runner.poll("10s").await;
    let assignment = &delivery["assignments"][0];
    assert_eq!(assignment["id"], "t1");
    assert_eq!(assignment["attempt"], 1);
    assert_eq!(assignment["task"]["spec"]["command"], json!(["true"]));
    let token = assignment["token"].as_str().expect("a token").to_owned();
    assert_eq!(server.get("/v1/tasks/t1").await.is(200).body["state"], "assigned");

    let answer = runner.heartbeat(1, &[("t1", &token)]).await;
    assert_eq!(answer, json!({"number": 1, "stop": [], "register": false}));

    runner.report(&[runner.started("t1", &token)]).await;
    assert_eq!(server.get("/v1/tasks/t1").await.is(200).body["state"], "running");
    let held = server.get("/v1/runners/r1").await.is(200).body;
    assert_eq!(held["held"]["cpu"], 1);
    assert_eq!(held["free"]["cpu"], 7);
    assert_eq!(held["free"]["slots"], 99);
    assert_eq!(held["assignments"][0]["id"], "t1");

    runner.report(&[runner.ended("t1", &token, "succeeded")]).await;
    let task = server.get("/v1/tasks/t1").await.is(200).body;
    assert_eq!(task["state"], "ended");
    assert_eq!(task["outcome"], "succeeded");
    assert_eq!(task["runner"], "r1");
    assert_eq!(task["token"], token.as_str());
    assert_eq!(task["exit_code"], 0);
    assert_eq!(task["task"]["spec"]["image"], "alpine:3");
    let states: Vec<&str> = task["timeline"]
        .as_array()
        .expect("a timeline")
        .iter()
        .map(|moment| moment["state"].as_str().expect("a state"))
        .collect();
    assert_eq!(states, ["pending", "assigned", "running", "ended"]);

    server.post(&runner.path("leave"), json!({"incarnation": "one", "handback": []})).await.is(200);
    server.until("the runner has left", |state| state.fleet().is_empty()).await;
    server.get("/v1/runners/r1").await.is_problem(404, "unknown_runner", &["r1"]);

    let status = server.get("/v1/status").await.is(200).body;
    assert_eq!(status["role"], "leader");
    assert_eq!(
        status["counts"],
        json!({"pending": 0, "assigned": 0, "running": 0, "ended": 1, "runners": 0})
    );
    server.get("/healthz").await.is(200);
    server.get("/readyz").await.is(200);
    assert_eq!(server.stop().await, longshore::runtime::Stopped::Released);
}
