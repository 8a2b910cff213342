//! The operator's commands over NATS, beside dispatchers and runners that work.

mod binary;
mod broker;

use std::process::Output;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use binary::{Server, longshore, runner_on_nats, text, wait_for};
use broker::Broker;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A server, two replicas on it and a runner: the first replica leads.
struct Port {
    broker: Broker,
    leader: Server,
    follower: Server,
    _runner: binary::Process,
    dir: TempDir,
}

impl Port {
    async fn open() -> Self {
        let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
        let leader = Server::replica(&broker.url(), dir.path());
        until_role(&leader, "leader").await;
        let follower = Server::replica(&broker.url(), dir.path());
        until_role(&follower, "follower").await;
        let runner = runner_on_nats(&broker.url(), "r1", dir.path(), &["--cpu", "4"]);
        follower.wait_for_runners(1);
        Self { broker, leader, follower, _runner: runner, dir }
    }

    fn run(&self, args: &[&str]) -> Output {
        longshore().args(args).args(["--nats", &self.broker.url()]).output().expect("it runs")
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"))
    }
}

async fn status(url: &str) -> Value {
    let answer = reqwest::get(format!("{url}/v1/status")).await.expect("it answers");
    answer.json().await.expect("in JSON")
}

async fn until_role(server: &Server, role: &str) {
    let reached = async {
        loop {
            let status = status(&server.url).await;
            if status["role"] == role && status["leader"].is_string() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let late = |_| panic!("{} is no {role}", server.url);
    tokio::time::timeout(binary::PATIENCE, reached).await.unwrap_or_else(late);
}

fn out(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// A replica that shows something else than the log says.
async fn liar(honest: &str) -> String {
    let honest = format!("{honest}/v1/digest");
    let digest = async move || {
        let answer = reqwest::get(&honest).await.expect("it answers");
        let mut digest: Value = answer.json().await.expect("in JSON");
        digest["kinds"]["task"]["rows"] = json!(7);
        Json(digest)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/v1/digest", get(digest));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_read_beside_dispatchers_and_compared_with_what_they_show() {
    let port = Port::open().await;
    for number in 0..20 {
        let id = format!("t{number}");
        let sent = port.leader.run(["submit", "--id", &id, "--cpu", "0.1", "--", "true"]);
        assert!(sent.status.success(), "{}", out(&sent));
    }
    port.follower.wait_until("t19", "ended");

    let (leader, follower) = (port.leader.url.as_str(), port.follower.url.as_str());
    let check = port.run(&["table", "check", "--url", leader, "--url", follower]);
    assert!(check.status.success(), "{}", out(&check));
    let said = out(&check);
    assert!(said.contains("no rule is broken") && said.matches("equal:").count() == 2, "{said}");
    assert!(said.contains("(leader)") && said.contains("(follower)"), "{said}");

    assert!(out(&port.run(&["table", "rows"])).contains("task.t7"));
    let rows = port.run(&["table", "rows", "--kind", "runner", "--json"]);
    assert_eq!(text(&rows.stdout).lines().count(), 1, "{}", out(&rows));
    let turns = port.run(&["table", "turns", "--json"]);
    let numbers: Vec<u64> = text(&turns.stdout)
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("a turn")["number"].as_u64().expect("a number")
        })
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers.len() > 20, "{numbers:?}");

    let liar = liar(follower).await;
    let check = port.run(&["table", "check", "--url", leader, "--url", &liar, "--url", "http://127.0.0.1:1"]);
    assert_eq!(check.status.code(), Some(1), "{}", out(&check));
    let said = out(&check);
    assert!(said.contains("it has 7 task rows, the log has 20"), "{said}");
    assert!(said.matches("equal:").count() == 1 && said.contains("no server answers"), "{said}");
    let told = port.json(&["table", "check", "--url", follower]);
    assert_eq!((&told["replicas"][0]["equal"], &told["broken"]), (&json!(true), &json!([])), "{told}");

    let other = port.run(&["table", "check", "--pool", "other"]);
    assert_eq!(other.status.code(), Some(2), "{}", out(&other));
    assert!(out(&other).contains("longshore-other"), "{}", out(&other));
    let nobody = longshore().args(["table", "rows", "--nats", "nats://127.0.0.1:1"]).output();
    assert_eq!(nobody.expect("it runs").status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_with_a_replica_that_does_not_lead() {
    let port = Port::open().await;
    let server = &port.follower;
    let good = server.run(["submit", "--wait", "--", "sh", "-c", "echo the last words"]);
    assert!(good.status.success() && out(&good).contains("succeeded on r1"), "{}", out(&good));
    let bad = server.run(["submit", "--wait", "--", "sh", "-c", "exit 7"]);
    assert_eq!(bad.status.code(), Some(7), "{}", out(&bad));

    let gate = port.dir.path().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    assert!(server.run(["submit", "--id", "long", "--", "sh", "-c", &script]).status.success());
    server.wait_until("long", "running");
    assert!(server.run(["hold", "r1", "--reason", "new disk"]).status.success());
    assert!(server.run(["submit", "--id", "t1", "--", "true"]).status.success());
    server.wait_until("t1", "pending");
    let why = server.run(["why", "t1"]);
    assert!(out(&why).contains("r1") && out(&why).contains("held"), "{}", out(&why));
    let again = server.run(["submit", "--id", "t1", "--", "true"]);
    assert!(out(&again).contains("known already"), "{}", out(&again));
    assert_eq!(server.run(["submit", "--id", "t1", "--", "false"]).status.code(), Some(1));
    assert!(out(&server.run(["runners", "r1"])).contains("new disk"));
    for task in ["t1", "long"] {
        let cancelled = server.run(["cancel", task, "--reason", "no longer wanted"]);
        assert!(cancelled.status.success(), "{}", out(&cancelled));
        assert_eq!(server.wait_until(task, "ended")["outcome"], "cancelled");
    }
    assert_eq!(server.run(["cancel", "t1"]).status.code(), Some(1), "it has ended already");
    for command in
        [&["resume", "r1"][..], &["drain", "r1"], &["resume", "r1"], &["pause", "q"], &["unpause", "q"]]
    {
        server.json(command);
    }
    assert_eq!(server.run(["hold", "nobody"]).status.code(), Some(1));
    for command in [&["ps"][..], &["runners"], &["runners", "r1"], &["why", "t1"]] {
        assert_eq!(server.json(command), port.leader.json(command), "{command:?}");
    }

    // The leader stops: what followed leads, and goes on with the same table.
    assert_eq!(port.leader.process.terminate().code(), Some(0));
    until_role(&port.follower, "leader").await;
    let after = port.follower.run(["submit", "--wait", "--", "true"]);
    assert!(after.status.success(), "{}", out(&after));
    wait_for("what has ended is still there", || port.follower.task("t1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_changes_leaders_and_leaves_nothing_behind() {
    let broker = Broker::start();
    let demo = longshore().args(["demo", "--json", "--nats", &broker.url()]).output().expect("it runs");
    assert!(demo.status.success(), "{}", out(&demo));
    let told: Value = serde_json::from_slice(&demo.stdout).expect("in JSON");
    assert_eq!((&told["as_expected"], &told["takeover"]["wrong"]), (&json!(true), &json!([])), "{told}");
    assert!(told["takeover"]["ended_before"].as_u64().is_some_and(|ended| ended >= 10), "{told}");
    assert_eq!(text(&demo.stderr), "", "nothing went wrong");
    let js = async_nats::jetstream::new(async_nats::connect(broker.url()).await.expect("it answers"));
    assert_eq!(js.query_account().await.expect("it answers").streams, 0, "its streams are gone");

    let pool = longshore().args(["demo", "--nats", &broker.url(), "--pool", "mine"]).output();
    assert_eq!(pool.expect("it runs").status.code(), Some(2));
}
