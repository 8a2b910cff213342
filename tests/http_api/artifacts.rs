//! Who holds what, as runners say and as anybody may ask.

use longshore::core::settings::Locality;
use serde_json::{Value, json};

use crate::support::{ByHand, Server};

async fn holders(server: &Server, name: &str) -> Value {
    server.get(&format!("/v1/artifacts/{name}")).await.is(200).body["runners"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_names_the_ready_runners_that_hold_it() {
    let server = Server::start().await;
    let runner = ByHand { server: &server, id: "r1", incarnation: "one" };
    let mut registration = runner.registration();
    registration["artifacts"] = json!(["sha256-aa", "sha256:b b/c"]);
    server.post("/v1/runners", registration).await.is(200);
    assert_eq!(holders(&server, "sha256-aa").await, json!(["r1"]));
    assert_eq!(holders(&server, "sha256:b%20b%2Fc").await, json!(["r1"]));
    assert_eq!(holders(&server, "unheard-of").await, json!([]));

    let beat = json!({"incarnation": "one", "number": 1, "running": [],
        "artifacts": {"number": 4, "added": ["new"], "removed": ["sha256-aa"]}});
    let answer = server.post("/v1/runners/r1/heartbeat", beat).await.is(200);
    assert_eq!(answer.body["artifacts"], 4, "confirmed");
    assert_eq!(holders(&server, "new").await, json!(["r1"]));
    assert_eq!(holders(&server, "sha256-aa").await, json!([]));

    server.post("/v1/runners/r1/hold", json!({"reason": "maintenance"})).await.is(200);
    assert_eq!(holders(&server, "new").await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_with_an_output_waits_and_its_holder_gets_it() {
    let server = Server::start_with(|settings| {
        let (cache_wait, deps_wait) =
            (std::time::Duration::from_secs(3600), std::time::Duration::from_secs(3600));
        settings.locality = [("default".parse().expect("a name"), Locality { cache_wait, deps_wait })].into();
    })
    .await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "t1", "inputs": ["aa"], "output": "bb"})).await;
    let why = server.get("/v1/tasks/t1/why").await.is(200).body;
    assert!(
        why["reasons"][0].as_str().expect("a text").starts_with("it waits for a runner that holds aa"),
        "{why}"
    );
    assert_eq!(why["runners"][0]["misfit"], "holds_nothing_of_it", "{why}");

    let beat = json!({"incarnation": runner.incarnation, "number": 1, "running": [],
        "artifacts": {"number": 1, "added": ["aa"], "removed": []}});
    server.post("/v1/runners/r1/heartbeat", beat).await.is(200);
    let delivery = runner.poll("10s").await;
    let token = &delivery["assignments"][0]["token"];
    assert_eq!(delivery["assignments"][0]["id"], "t1");
    let end = json!({"report": "end", "id": "t1", "token": token, "incarnation": runner.incarnation,
        "outcome": "succeeded", "artifacts": ["cc"]});
    server.post("/v1/runners/r1/reports", end).await.is(202);
    for made in ["bb", "cc"] {
        assert_eq!(holders(&server, made).await, json!(["r1"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_artifact_is_refused_with_its_place_and_changes_nothing() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    let before = server.rows();
    let long = "x".repeat(257);
    let (too_long, empty) = ("has 257 bytes; an artifact's name has at most 256", "is empty");
    for (artifacts, path, why) in [
        (json!([long]), "artifacts[0]", too_long),
        (json!(["a", ""]), "artifacts[1]", empty),
        (json!(["a", 7]), "artifacts[1]", "expected a text"),
        (json!("a"), "artifacts", "expected a list"),
        (json!((0..100_001).map(|n| n.to_string()).collect::<Vec<_>>()), "artifacts", "at most 100000"),
    ] {
        let mut registration = runner.registration();
        registration["artifacts"] = artifacts.clone();
        let answer = server.post("/v1/runners", registration).await.is(400);
        let detail = answer.body["detail"].as_str().expect("a text");
        assert!(detail.contains(path) && detail.contains(why), "{detail}");
        if artifacts.is_array() {
            let beat = json!({"incarnation": runner.incarnation, "number": 1, "running": [],
                "artifacts": {"number": 1, "added": artifacts, "removed": []}});
            server.post("/v1/runners/r1/heartbeat", beat).await.is(400);
        }
    }
    server.get(&format!("/v1/artifacts/{long}")).await.is(400);
    for (field, value) in [("output", json!("")), ("output", json!(3)), ("inputs", json!([long]))] {
        let mut task = json!({"id": "t1"});
        task[field] = value;
        let answer = server.post("/v1/tasks", task).await.is(400);
        assert!(answer.body["detail"].as_str().expect("a text").contains(field), "{answer:?}");
    }
    assert_eq!(server.rows(), before);
}
