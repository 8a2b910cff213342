//! Commands that carry an `Idempotency-Key`.

use longshore::adapters::Fault;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, ByHand, Server, send};

async fn keyed(server: &Server, key: &str, method: Method, path: &str, body: &str) -> Answer {
    send(server.request(method, path).header("Idempotency-Key", key).body(body.to_owned())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_key_gets_the_same_answer_and_changes_nothing() {
    let server = Server::start().await;
    let task = r#"{"id":"t1"}"#;
    let first = keyed(&server, "k1", Method::POST, "/v1/tasks", task).await.is(202);
    let again = keyed(&server, "k1", Method::POST, "/v1/tasks", task).await.is(202);
    assert_eq!(again.body[0]["answer"], "admitted", "and not a duplicate");
    assert_eq!(first.text, again.text);
    assert_eq!(again.header("content-type"), "application/json");

    keyed(&server, "k2", Method::DELETE, "/v1/tasks/t1", "").await.is(202);
    keyed(&server, "k2", Method::DELETE, "/v1/tasks/t1", "").await.is(202);
    server.delete("/v1/tasks/t1").await.is(409);

    ByHand::register(&server, "r1").await;
    keyed(&server, "k3", Method::POST, "/v1/runners/r1/hold", "").await.is(200);
    server.post("/v1/runners/r1/resume", "").await.is(200);
    let held = keyed(&server, "k3", Method::POST, "/v1/runners/r1/hold", "").await.is(200);
    assert_eq!(held.body["state"], "held");
    assert_eq!(server.get("/v1/runners/r1").await.body["state"], "ready", "it was not held again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stands_for_one_request() {
    let server = Server::start().await;
    keyed(&server, "k1", Method::POST, "/v1/tasks", r#"{"id":"t1"}"#).await.is(202);
    let rows = server.rows();
    let other_body = keyed(&server, "k1", Method::POST, "/v1/tasks", r#"{"id":"t2"}"#).await;
    other_body.problem(422, "key_reused", &["k1", "new key"]);
    let other_path = keyed(&server, "k1", Method::POST, "/v1/queues/q/pause", r#"{"id":"t1"}"#).await;
    other_path.problem(422, "key_reused", &["k1"]);
    let too_long = keyed(&server, &"k".repeat(300), Method::POST, "/v1/tasks", r#"{"id":"t2"}"#).await;
    too_long.problem(400, "malformed", &["Idempotency-Key", "300", "256"]);
    assert_eq!(server.rows(), rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_one_key_at_the_same_time_are_carried_out_once() {
    let server = Server::start().await;
    let one = || keyed(&server, "k1", Method::POST, "/v1/tasks", r#"{"id":"t1"}"#);
    let answers = futures_util::future::join_all((0..20).map(|_| one())).await;
    for answer in answers {
        assert_eq!(answer.is(202).body, json!([{"id": "t1", "answer": "admitted", "reason": null}]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_for_now_may_be_tried_again_under_its_key() {
    let table = Server::faulty_table();
    let server = Server::start_on(&table).await;
    server.submit(json!({"id": "t0"})).await;
    table.script([Fault::Full; 4]);
    let poke = server.running.handle.clone();
    let task = r#"{"id":"t1"}"#;
    let mut troubled = poke.status_changes();
    let first = tokio::spawn(send(server.request(Method::POST, "/v1/tasks").body(r#"{"id":"t2"}"#)));
    troubled.wait_for(|status| status.trouble.is_some()).await.expect("it runs");
    keyed(&server, "k1", Method::POST, "/v1/tasks", task).await.problem(503, "table_trouble", &["full"]);
    first.await.expect("it is answered").is(202);
    let again = keyed(&server, "k1", Method::POST, "/v1/tasks", task).await.is(202);
    assert_eq!(again.body[0]["answer"], "admitted");
}
