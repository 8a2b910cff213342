//! Groups that a program pulls, over HTTP: bind, ask for the next, remove.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, ByHand, Server, send};

fn of_group(id: &str) -> Value {
    json!({"id": id, "group": {"id": "g1", "max_runners": 2}, "max_attempts": 1, "spec": {"n": id}})
}

impl Server {
    async fn change(&self, method: Method, runner: &str, seen: Option<u64>) -> Answer {
        let mut request = self.request(method, &format!("/v1/groups/g1/runners/{runner}"));
        if let Some(seen) = seen {
            request = request.header("If-Match", seen);
        }
        send(request).await
    }

    async fn next(&self, runner: &str) -> Answer {
        self.post(&format!("/v1/groups/g1/runners/{runner}/next"), json!({})).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_binds_runners_to_a_group_and_asks_for_the_next_task() {
    let server = Server::start().await;
    server.change(Method::PUT, "p1", None).await.problem(404, "unknown_group", &["g1"]);
    for id in ["a", "b", "c"] {
        server.submit(of_group(id)).await;
    }
    let count =
        server.get("/v1/groups/g1").await.is(200).body["modification_count"].as_u64().expect("a count");
    let stale = server.change(Method::PUT, "p1", Some(count - 1)).await;
    stale.problem(412, "group_changed", &["g1", &count.to_string()]);
    let bound = server.change(Method::PUT, "p1", Some(count)).await.is(200).body;
    assert_eq!((&bound["runner_ids"], &bound["bound_by_hand"]), (&json!(["p1"]), &json!(["p1"])));
    assert_eq!(bound["modification_count"], count + 1);
    server.change(Method::PUT, "p2", None).await.is(200);
    server.change(Method::PUT, "p3", None).await.problem(409, "conflict", &["2 runners", "max_runners"]);
    let runner = ByHand::register(&server, "r1").await;
    assert_eq!(runner.poll("50ms").await["assignments"], json!([]), "nothing of it is pushed");

    let given = server.next("p1").await.is(200).body;
    assert_eq!((&given["task"]["id"], &given["jobSpec"]), (&json!("a"), &json!({"n": "a"})));
    assert_eq!(server.next("p1").await.is(200).body["lease"]["id"], given["lease"]["id"], "again, the same");
    let lease = given["lease"]["id"].as_str().expect("a lease").to_owned();
    server.post(&format!("/v1/leases/{lease}/start"), json!({})).await.is(200);
    let busy = server.next("p1").await.problem(409, "busy", &["p1", "a"]);
    assert_eq!(busy.body["task"], "a");
    server.delete("/v1/tasks/a").await.is(202);
    let stop = server.next("p1").await.is(200).body;
    assert_eq!((&stop["stop"][0]["id"], &stop["stop"][0]["lease"]), (&json!("a"), &json!(lease)));
    server.post(&format!("/v1/leases/{lease}/ack"), json!({"outcome": "cancelled"})).await.is(200);
    assert_eq!(server.next("p1").await.is(200).body["task"]["id"], "b");

    server.post("/v1/runners/p2/drain", json!({})).await.is(200);
    server.next("p2").await.problem(409, "draining", &["p2"]);
    server.next("p9").await.problem(404, "not_bound", &["p9", "PUT"]);
    server.change(Method::DELETE, "p9", None).await.problem(404, "not_bound", &["p9"]);
    let seen = server.get("/v1/groups/g1").await.is(200).body["modification_count"].as_u64();
    server.change(Method::DELETE, "p2", seen).await.is(200);
    server.change(Method::DELETE, "p1", seen).await.problem(412, "group_changed", &["g1"]);
    server.change(Method::DELETE, "p1", None).await.is(200);
    let assigned = runner.poll("10s").await;
    let mut ids: Vec<&str> = assigned["assignments"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|task| task["id"].as_str())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["b", "c"], "released, and pushed again");
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_is_asked_for_on_behalf_of_a_group() {
    let server = Server::start().await;
    server.post("/v1/groups/g1/intents", json!({})).await.problem(404, "unknown_group", &["g1"]);
    server.submit(of_group("a")).await;
    server.post("/v1/groups/g1/intents", json!({})).await.problem(409, "conflict", &["g1", "[[class]]"]);
    server.change(Method::PUT, "p1", None).await.is(200);
    let enough = server.post("/v1/groups/g1/intents", json!({})).await.is(200).body;
    assert_eq!(enough["group_id"], "g1", "one runner for one task is enough");
    let odd = server.request(Method::PUT, "/v1/groups/g1/runners/p2").header("If-Match", "soon");
    send(odd).await.problem(400, "malformed", &["If-Match", "soon", "modification_count"]);
}
