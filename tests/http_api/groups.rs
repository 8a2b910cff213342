//! Groups over HTTP: submitted, read, contradicted, and a runner of their own sent away.

use serde_json::{Value, json};

use crate::support::{ByHand, Server};

fn step(id: &str, index: u32) -> Value {
    let group =
        json!({"id": "g1", "max_runners": 1, "ordered": true, "index": index, "stop_on_failure": true});
    json!({"id": id, "group": group})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_shown_with_its_runners_and_the_tasks_that_are_left() {
    let server = Server::start().await;
    server.get("/v1/groups/g1").await.problem(404, "unknown_group", &["g1"]);
    let runner = ByHand::register(&server, "r1").await;
    server.post("/v1/tasks", json!({"tasks": [step("b", 2), step("a", 1), step("c", 3)]})).await.is(202);
    let (id, token) = runner.start_next().await;
    assert_eq!(id, "a");

    let group = server.get("/v1/groups/g1").await.is(200).body;
    assert_eq!((&group["group_id"], &group["runner_ids"]), (&json!("g1"), &json!(["r1"])));
    assert_eq!(group["task_ids"], json!(["a", "b", "c"]));
    let count = group["modification_count"].as_u64().expect("a count");
    assert!(group["last_modified"].as_str().expect("a time").ends_with('Z'), "{group}");
    assert_eq!(server.get("/v1/groups").await.is(200).body, json!({"groups": [group], "next": null}));
    assert_eq!(
        server.get("/v1/tasks?group=g1").await.is(200).body["tasks"].as_array().expect("tasks").len(),
        3
    );
    assert_eq!(server.get("/v1/tasks/a").await.is(200).body["group"], "g1");
    let why = server.get("/v1/tasks/b/why").await.is(200).body;
    assert_eq!(why["reasons"], json!(["it waits for its turn in group g1: a (index 1, running) goes first"]));

    let other = json!({"id": "d", "group": {"id": "g1", "max_runners": 2, "ordered": true, "index": 4}});
    server.post("/v1/tasks", other).await.problem(
        409,
        "conflict",
        &["group.max_runners", "2", "another group id"],
    );
    server.post("/v1/tasks", step("d", 3)).await.problem(409, "conflict", &["group.index", "3", "c"]);
    assert_eq!(server.get("/v1/groups/g1").await.is(200).body["modification_count"], count);

    runner.report(&[runner.ended("a", &token, "failed")]).await;
    let group = server.get("/v1/groups/g1").await.is(200).body;
    assert_eq!((&group["task_ids"], &group["stopped"]), (&json!([]), &json!("a ended failed")));
    assert!(group["modification_count"].as_u64() > Some(count));
    assert_eq!(server.get("/v1/tasks/c").await.is(200).body["outcome"], "cancelled");
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_of_a_group_is_told_to_leave_when_nothing_is_left() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    let mut registration = runner.registration();
    registration["group"] = json!("g1");
    server.post("/v1/runners", registration).await.is(200);
    assert_eq!(runner.heartbeat(1, &[]).await.get("leave"), None, "its group may yet come");
    server.submit(step("a", 1)).await;
    let (_, token) = runner.start_next().await;
    runner.report(&[runner.ended("a", &token, "succeeded")]).await;
    assert_eq!(runner.heartbeat(2, &[]).await["leave"], true);
    let shown = server.get("/v1/runners/r1").await.is(200).body;
    assert_eq!((&shown["state"], &shown["group"]), (&json!("draining"), &json!("g1")));
}
