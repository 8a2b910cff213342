//! Pulling over HTTP: subscriptions, leases, and requests that wait.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Server, send};

impl Server {
    async fn subscribe(&self, said: Value) -> String {
        let answer = self.post("/v1/subscriptions", said).await.is(200);
        answer.body["id"].as_str().expect("an id").to_owned()
    }

    async fn pull(&self, subscription: &str, query: &str) -> Answer {
        send(self.request(Method::PATCH, &format!("/v1/subscriptions/{subscription}{query}"))).await
    }

    async fn say(&self, lease: &str, word: &str, body: Value) -> Answer {
        self.post(&format!("/v1/leases/{lease}/{word}"), body).await
    }
}

fn lease(answer: &Answer) -> String {
    answer.body["lease"]["id"].as_str().expect("a lease").to_owned()
}

fn on(topic: &str, id: &str) -> Value {
    json!({"id": id, "queue": topic, "arch": "riscv64", "labels": {"zone": "eu"}, "resources": {"cpu": 900},
        "spec": {"image": "alpine:3", "command": ["true"]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_pulls_starts_and_acknowledges_one_task() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "jobs_myapp_prod", "lease": "60s"})).await;
    let nothing = server.pull(&sub, "").await.is(204);
    assert_eq!(nothing.header("retry-after"), "1");
    server.submit(on("jobs_myapp_prod", "t1")).await;
    let given = server.pull(&sub, "").await.is(200);
    assert_eq!(given.body["jobSpec"], json!({"image": "alpine:3", "command": ["true"]}));
    assert_eq!(given.body["task"]["id"], "t1");
    assert!(given.body["lease"]["deadline"].as_str().expect("a time").ends_with('Z'));
    server.pull(&sub, "").await.is(204);

    let lease = lease(&given);
    let started = server.say(&lease, "start", json!({})).await.is(200).body;
    assert_eq!(
        (&started["id"], &started["runs"], &started["stop"]),
        (&json!(lease), &json!("1m"), &Value::Null)
    );
    server.say(&lease, "start", json!({})).await.problem(409, "already_started", &["t1", &lease]);
    assert_eq!(server.get("/v1/tasks/t1").await.is(200).body["state"], "running");
    server.say(&lease, "extend", json!({})).await.is(200);
    server.say(&lease, "ack", json!({"outcome": "failed", "exit_code": 3})).await.is(200);
    let task = server.get("/v1/tasks/t1").await.is(200).body;
    assert_eq!((&task["outcome"], &task["exit_code"]), (&json!("failed"), &json!(3)));
    server.say(&lease, "ack", json!({})).await.problem(410, "lease_over", &["t1", "ended failed"]);
    server.is_sound();
}
