//! The list of tasks, page by page.

use serde_json::{Value, json};

use crate::support::{ByHand, Server};

fn ids(page: &Value) -> Vec<String> {
    let tasks = page["tasks"].as_array().expect("tasks").iter();
    tasks.map(|task| task["id"].as_str().expect("an id").to_owned()).collect()
}

/// All pages of a list, and how many they were.
async fn all(server: &Server, query: &str) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = server.get(&format!("/v1/tasks?{query}&after={after}")).await.is(200).body;
        found.extend(ids(&page));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return (found, pages),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_filtered_and_shows_the_newest_first() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"id": "ran", "tenant": "acme"})).await;
    let (_, token) = runner.start_next().await;
    runner.report(&[runner.ended("ran", &token, "succeeded")]).await;
    server.submit(json!({"id": "runs", "queue": "q2"})).await;
    runner.start_next().await;
    server.submit(json!({"id": "waits", "if_unplaceable": "hold", "resources": {"cpu": 64}})).await;
    server
        .submit(json!({"id": "of-build", "build": "b1", "if_unplaceable": "hold", "resources": {"cpu": 64}}))
        .await;
    server.submit(json!({"id": "b1", "kind": "build", "if_unplaceable": "hold", "resources": {"cpu": 64}, "jobs": [{"resources": {"cpu": 64}}]})).await;

    let listed = |query: &'static str| {
        let server = &server;
        async move { ids(&server.get(&format!("/v1/tasks?{query}")).await.is(200).body) }
    };
    assert_eq!(listed("").await, ["b1", "of-build", "waits", "runs", "ran"]);
    assert_eq!(listed("state=pending").await, ["b1", "of-build", "waits"]);
    assert_eq!(listed("state=pending&kind=build").await, ["b1"]);
    assert_eq!(listed("state=running").await, ["runs"]);
    assert_eq!(listed("state=assigned").await, [""; 0]);
    assert_eq!(listed("state=ended").await, ["ran"]);
    assert_eq!(listed("tenant=acme").await, ["ran"]);
    assert_eq!(listed("queue=q2").await, ["runs"]);
    assert_eq!(listed("build=b1").await, ["of-build"]);
    assert_eq!(listed("group=g1").await, [""; 0]);
    let first = &server.get("/v1/tasks?limit=1").await.body["tasks"][0];
    assert_eq!(first["kind"], "build");
    assert!(first.get("task").is_none(), "a list shows no bodies");
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_every_task_once_whatever_is_submitted_between() {
    let server = Server::start().await;
    let tasks: Vec<Value> = (0..10).map(|number| json!({"id": format!("t{number}")})).collect();
    server.post("/v1/tasks", json!({"tasks": tasks})).await.is(202);
    let page = server.get("/v1/tasks?limit=4").await.is(200).body;
    assert_eq!(ids(&page), ["t9", "t8", "t7", "t6"]);
    server.submit(json!({"id": "new"})).await;
    server.delete("/v1/tasks/t5").await.is(202);
    let next = page["next"].as_str().expect("there is more");
    let (rest, pages) = all(&server, "limit=4").await;
    assert_eq!((rest.len(), pages), (11, 3));
    let page = server.get(&format!("/v1/tasks?limit=6&after={next}")).await.is(200).body;
    assert_eq!(ids(&page), ["t5", "t4", "t3", "t2", "t1", "t0"]);
    assert_eq!(page["next"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_looks_at_a_bounded_number_of_tasks() {
    let server = Server::start().await;
    server.submit(json!({"id": "rare", "queue": "rare"})).await;
    for batch in 0..11 {
        let tasks: Vec<Value> =
            (0..1_000).map(|number| json!({"id": format!("t{batch}-{number}")})).collect();
        server.post("/v1/tasks", json!({"tasks": tasks})).await.is(202);
    }
    let page = server.get("/v1/tasks?queue=rare").await.is(200).body;
    assert_eq!(ids(&page), [""; 0], "the first page gave up before it came there");
    assert!(page["next"].is_string());
    assert_eq!(all(&server, "queue=rare").await, (vec!["rare".to_owned()], 2));
}
