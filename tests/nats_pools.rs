//! Several pools on several replicas: each pool has a leader of its own, and the replicas share them evenly.

mod binary;
mod broker;

use std::path::Path;

use binary::{Server, longshore, runner_on_nats, wait_for};
use broker::Broker;
use serde_json::{Value, json};
use tempfile::TempDir;

const POOLS: [&str; 4] = ["default", "gpu", "arm", "night"];

fn replica(broker: &Broker, dir: &Path) -> Server {
    let mut command = longshore();
    command.args(["serve", "--log-level", "warn", "--listen", "127.0.0.1:0", "--nats", &broker.url()]);
    command.env("LONGSHORE_NATS__POOLS", format!("{POOLS:?}")).env("LONGSHORE_NATS__TAKE_OVER", "1s");
    Server::started(&mut command, dir)
}

async fn ask(server: &Server, path: &str) -> Value {
    let answer = reqwest::get(format!("{}{path}", server.url)).await.expect("an answer");
    answer.json().await.expect("JSON")
}

/// How many of the pools this replica leads, if all of them have a leader.
async fn leads(server: &Server) -> Option<usize> {
    let mut leads = 0;
    for pool in POOLS {
        let status = ask(server, &format!("/v1/status?pool={pool}")).await;
        assert_eq!(status["pool"], pool);
        status["leader"].as_str()?;
        leads += usize::from(status["role"] == "leader");
    }
    Some(leads)
}

async fn until(server: &Server, expected: usize) {
    for _ in 0..1_000 {
        if leads(server).await == Some(expected) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{} leads {:?} pools and not {expected}", server.url, leads(server).await);
}

#[tokio::test]
async fn pools_are_spread_evenly_and_again_when_a_replica_comes_or_goes() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let first = replica(&broker, dir.path());
    until(&first, 4).await;
    let second = replica(&broker, dir.path());
    until(&second, 2).await;
    until(&first, 2).await;
    first.process.kill();
    until(&second, 4).await;
}

#[tokio::test]
async fn what_one_pool_has_no_other_knows() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let server = replica(&broker, dir.path());
    until(&server, 4).await;
    let _runner = runner_on_nats(&broker.url(), "r1", dir.path(), &["--pool", "gpu"]);
    let client = reqwest::Client::new();
    let task = json!({"id": "t1", "spec": {"command": ["true"]}}).to_string();
    let sent = client.post(format!("{}/v1/tasks?pool=gpu", server.url)).body(task).send().await;
    assert_eq!(sent.expect("an answer").status(), 202);
    let url = format!("{}/v1/tasks/t1?pool=gpu", server.url);
    for _ in 0..1_000 {
        let task: Value = reqwest::get(&url).await.expect("an answer").json().await.expect("JSON");
        if task["outcome"] == "succeeded" {
            let shown = server.json(["ps", "--pool", "gpu", "--state", "ended"]);
            assert_eq!(shown["tasks"][0]["id"], "t1", "{shown}");
            assert_eq!(server.json(["ps"])["tasks"], json!([]));
            let other = reqwest::get(format!("{}/v1/tasks/t1", server.url)).await.expect("an answer");
            assert_eq!(other.status(), 404);
            let nowhere =
                reqwest::get(format!("{}/v1/tasks?pool=moon", server.url)).await.expect("an answer");
            assert_eq!(nowhere.status(), 404);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    wait_for("t1 succeeds in its pool", || None::<()>);
}
