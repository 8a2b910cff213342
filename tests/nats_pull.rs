//! Pulling with a shared table: through any replica, and across a take-over while a lease is open.

mod binary;
mod broker;

use std::path::Path;
use std::time::Duration;

use binary::{Server, longshore};
use broker::Broker;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

fn replica(broker: &Broker, dir: &Path) -> Server {
    let mut command = longshore();
    command.args(["serve", "--log-level", "warn", "--listen", "127.0.0.1:0", "--nats", &broker.url()]);
    command.env("LONGSHORE_NATS__TAKE_OVER", "1s");
    Server::started(&mut command, dir)
}

async fn say(server: &Server, method: Method, path: &str, body: Value) -> Response {
    let request = Client::new().request(method, format!("{}{path}", server.url)).body(body.to_string());
    request.timeout(Duration::from_secs(60)).send().await.expect("an answer")
}

async fn json_of(answer: Response, status: u16) -> Value {
    let (found, text) = (answer.status(), answer.text().await.expect("a body"));
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

async fn post(server: &Server, path: &str, body: Value) -> Value {
    json_of(say(server, Method::POST, path, body).await, 200).await
}

async fn pull(server: &Server, query: &str) -> Response {
    say(server, Method::PATCH, &format!("/v1/subscriptions/s1{query}"), Value::Null).await
}

async fn submit(server: &Server, id: &str) {
    let answer = say(server, Method::POST, "/v1/tasks", json!({"id": id, "queue": "q"})).await;
    json_of(answer, 202).await;
}

fn lease(given: &Value) -> String {
    given["lease"]["id"].as_str().expect("a lease").to_owned()
}

/// Which of two replicas leads, and which follows.
async fn by_role(one: Server, other: Server) -> (Server, Server) {
    for _ in 0..1_000 {
        let status = reqwest::get(format!("{}/v1/status", one.url)).await.expect("an answer");
        let status: Value = status.json().await.expect("JSON");
        if status["role"] == "leader" {
            return (one, other);
        }
        if status["leader"].is_string() {
            return (other, one);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody leads");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_pulled_through_any_replica() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let (leader, follower) = by_role(replica(&broker, dir.path()), replica(&broker, dir.path())).await;
    post(&follower, "/v1/subscriptions", json!({"topic": "q", "id": "s1"})).await;
    assert_eq!(pull(&follower, "").await.status(), 204);
    assert_eq!(pull(&leader, "").await.status(), 204);

    let url = follower.url.clone();
    let waiting = tokio::spawn(async move {
        let request = Client::new().patch(format!("{url}/v1/subscriptions/s1?wait=60s"));
        request.send().await.expect("an answer")
    });
    submit(&leader, "t1").await;
    let given = json_of(waiting.await.expect("it ends"), 200).await;
    assert_eq!(given["task"]["id"], "t1");
    let first = lease(&given);
    post(&follower, &format!("/v1/leases/{first}/start"), json!({})).await;
    let again = say(&leader, Method::POST, &format!("/v1/leases/{first}/start"), json!({})).await;
    assert_eq!(json_of(again, 409).await["code"], "already_started");
    let extended = post(&follower, &format!("/v1/leases/{first}/extend"), json!({})).await;
    assert!(extended["deadline"].is_string() && extended["stop"].is_null(), "{extended}");
    post(&leader, &format!("/v1/leases/{first}/ack"), json!({"exit_code": 0})).await;
    let over = say(&follower, Method::POST, &format!("/v1/leases/{first}/ack"), json!({})).await;
    assert_eq!(json_of(over, 410).await["code"], "lease_over");
    let ended = say(&follower, Method::DELETE, "/v1/subscriptions/s1", Value::Null).await;
    assert_eq!(ended.status(), 204);
    assert_eq!(json_of(pull(&leader, "").await, 404).await["code"], "unknown_subscription");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_open_when_the_leader_dies_counts_anew_from_the_next() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let (leader, follower) = by_role(replica(&broker, dir.path()), replica(&broker, dir.path())).await;
    post(&leader, "/v1/subscriptions", json!({"topic": "q", "id": "s1", "lease": "4s"})).await;
    submit(&leader, "t1").await;
    let given = json_of(pull(&leader, "?wait=10s").await, 200).await;
    let first = lease(&given);
    post(&leader, &format!("/v1/leases/{first}/start"), json!({})).await;

    let url = follower.url.clone();
    let waiting = tokio::spawn(async move {
        let request = Client::new().patch(format!("{url}/v1/subscriptions/s1?wait=60s&puller=other"));
        request.send().await.expect("an answer")
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    leader.process.kill();
    let killed = tokio::time::Instant::now();
    let given = json_of(waiting.await.expect("it ends"), 200).await;
    assert_eq!((&given["task"]["id"], &given["attempt"]), (&json!("t1"), &json!(2)));
    assert!(
        killed.elapsed() >= Duration::from_secs(4),
        "not before the lease ended anew: {:?}",
        killed.elapsed()
    );
    let over = say(&follower, Method::POST, &format!("/v1/leases/{first}/ack"), json!({})).await;
    assert_eq!(json_of(over, 410).await["code"], "lease_over");
    let second = lease(&given);
    post(&follower, &format!("/v1/leases/{second}/ack"), json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_bound_and_pulled_through_any_replica() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let (leader, follower) = by_role(replica(&broker, dir.path()), replica(&broker, dir.path())).await;
    let task = json!({"id": "t1", "group": {"id": "g1", "max_runners": 1}});
    json_of(say(&leader, Method::POST, "/v1/tasks", task).await, 202).await;
    let bound = json_of(say(&follower, Method::PUT, "/v1/groups/g1/runners/p1", json!({})).await, 200).await;
    assert_eq!(bound["bound_by_hand"], json!(["p1"]));
    let full = say(&leader, Method::PUT, "/v1/groups/g1/runners/p2", json!({})).await;
    assert_eq!(json_of(full, 409).await["code"], "conflict");
    let stale =
        Client::new().delete(format!("{}/v1/groups/g1/runners/p1", follower.url)).header("If-Match", 99);
    assert_eq!(json_of(stale.send().await.expect("an answer"), 412).await["code"], "group_changed");
    let given = post(&follower, "/v1/groups/g1/runners/p1/next?wait=10s", json!({})).await;
    post(&leader, &format!("/v1/leases/{}/start", lease(&given)), json!({})).await;
    let busy = say(&follower, Method::POST, "/v1/groups/g1/runners/p1/next", json!({})).await;
    assert_eq!(json_of(busy, 409).await["task"], "t1");
    post(&follower, &format!("/v1/leases/{}/ack", lease(&given)), json!({})).await;
    let none = say(&leader, Method::POST, "/v1/groups/g1/runners/p1/next", json!({})).await;
    assert_eq!(none.status(), 204);
}
