//! Scale from zero on one machine: a server, a provisioner and the runners it starts, all as processes of their own.

mod binary;
mod broker;

use std::path::Path;
use std::process::Command;

use binary::{Process, Server, longshore, text, wait_for};
use broker::Broker;
use serde_json::Value;

const SMALL: &str = "[[class]]\nid = \"small\"\nresources = { cpu = 1, memory = \"256MiB\", token = 1 }\n\
                     labels = { zone = \"here\" }\nslots = 1\nmax = 2\n";

fn serve(dir: &Path, config: &str) -> Server {
    let file = dir.join("longshore.toml");
    std::fs::write(&file, config).expect("the directory can be written");
    Server::start_at(&dir.join("table"), "127.0.0.1:0", &["--config".as_ref(), file.as_ref()])
}

fn replica(broker: &Broker, dir: &Path) -> Server {
    let file = dir.join("longshore.toml");
    std::fs::write(&file, SMALL).expect("the directory can be written");
    let url = broker.url();
    let more = ["--nats".as_ref(), url.as_ref(), "--config".as_ref(), file.as_ref()];
    Server::start_at(&dir.join("unused"), "127.0.0.1:0", &more)
}

async fn post(server: &Server, path: &str) -> (u16, Value) {
    let sent = reqwest::Client::new().post(format!("{}{path}", server.url)).send().await;
    let answer = sent.expect("the server answers");
    (answer.status().as_u16(), answer.json().await.expect("in JSON"))
}

fn provision(server: &Server, dir: &Path, more: &[&str]) -> Process {
    let mut command: Command = longshore();
    command.args(["provision", "--log-level", "warn", "--class", "small", "--url", &server.url]);
    command.arg("--data").arg(dir.join("runners")).args(more);
    Process::start(&mut command)
}

fn submit(server: &Server, args: &[&str]) {
    let sent = server.run(["submit", "--memory", "64MiB"].iter().chain(args));
    assert!(sent.status.success(), "{}", text(&sent.stderr));
}

fn runners(server: &Server) -> Vec<Value> {
    server.json(["runners"])["runners"].as_array().expect("a list").clone()
}

fn intents(server: &Server) -> Vec<Value> {
    server.json(["intents"])["intents"].as_array().expect("a list").clone()
}

#[test]
fn from_zero_runners_to_as_many_as_it_takes_and_back_to_zero() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = serve(dir.path(), SMALL);
    for id in ["a", "b", "c"] {
        submit(&server, &["--id", id, "--", "sh", "-c", "echo done"]);
    }
    let asked = wait_for("two runners are asked for", || {
        intents(&server).into_iter().find(|intent| intent["asked"] == 2)
    });
    assert_eq!((&asked["class"], &asked["state"]), (&"small".into(), &"asked".into()));
    assert_eq!(asked["offer"]["labels"]["zone"], "here");
    assert!(text(&server.run(["why", "a"]).stdout).contains("an intent asks for"), "why says so");
    assert!(text(&server.run(["intents"]).stdout).contains("small"), "and so does the list");

    let provisioner = provision(&server, dir.path(), &["--idle", "2s"]);
    let mut most = 0;
    for id in ["a", "b", "c"] {
        let ended = server.wait_until(id, "ended");
        assert_eq!(ended["outcome"], "succeeded");
        assert!(ended["runner"].as_str().is_some_and(|runner| runner.starts_with("small-")), "{ended}");
        most = most.max(runners(&server).len());
    }
    assert!((1..=2).contains(&most), "never more than the class may have: {most}");
    wait_for("no runner is left", || runners(&server).is_empty().then_some(()));
    wait_for("nothing is asked for", || intents(&server).is_empty().then_some(()));
    assert_eq!(provisioner.terminate().code(), Some(0));
    let left = std::fs::read_dir(dir.path().join("runners")).expect("it was made").count();
    assert_eq!(left, 0, "nothing of the runners is left");
}

#[test]
fn a_provisioner_that_is_stopped_or_dies_takes_its_runners_with_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = serve(dir.path(), SMALL);
    for (id, stopped) in [("x", true), ("y", false)] {
        submit(&server, &["--id", id, "--", "sleep", "600"]);
        let provisioner = provision(&server, dir.path(), &["--idle", "1h"]);
        server.wait_until(id, "running");
        if stopped {
            assert_eq!(provisioner.terminate().code(), Some(0));
        } else {
            provisioner.kill();
        }
        wait_for("its runner has left", || runners(&server).is_empty().then_some(()));
        let cancelled = server.run(["cancel", id]);
        assert!(cancelled.status.success(), "{}", text(&cancelled.stderr));
    }
}

#[test]
fn a_runner_that_cannot_start_declines_the_intent_with_the_reason() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = serve(dir.path(), SMALL);
    let provisioner = provision(&server, dir.path(), &[]);
    // Where a runner's data should be, nothing can be made.
    let runners = wait_for("the directory is there", || {
        let runners = dir.path().join("runners");
        runners.is_dir().then_some(runners)
    });
    std::fs::remove_dir(&runners).expect("it is empty");
    std::fs::write(&runners, "in the way").expect("it can be written");
    submit(&server, &["--id", "t", "--", "true"]);
    let declined = wait_for("it is declined", || {
        intents(&server).into_iter().find(|intent| intent["state"] == "declined")
    });
    let reason = declined["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("ended before it registered"), "{reason}");
    assert_eq!(provisioner.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_nats_intents_are_answered_at_any_replica_and_survive_the_leader() {
    let (broker, dir) = (Broker::start(), tempfile::tempdir().expect("a temporary directory"));
    let leader = replica(&broker, dir.path());
    wait_for("it leads", || leader.run(["ready"]).status.success().then_some(()));
    let other = replica(&broker, dir.path());
    for id in ["a", "b"] {
        submit(&other, &["--id", id, "--", "true"]);
    }
    let asked = wait_for("two runners are asked for", || {
        intents(&other).into_iter().find(|intent| intent["asked"] == 2)
    });
    assert_eq!(post(&other, "/v1/intents/nobody/ack").await.1["code"], "unknown_intent");
    let rows = longshore().args(["table", "rows", "--nats", &broker.url()]).output().expect("it runs");
    let id = asked["id"].as_str().expect("a name");
    assert!(text(&rows.stdout).contains(&format!("intent.{id}")), "{}", text(&rows.stdout));

    leader.process.kill();
    let kept = wait_for("the other leads", || {
        let runs = other.run(["hold", "nobody"]);
        text(&runs.stderr).contains("unknown_runner").then(|| intents(&other))
    });
    assert_eq!((&kept[0]["id"], &kept[0]["asked"]), (&asked["id"], &asked["asked"]));
    let (status, acked) = post(&other, &format!("/v1/intents/{id}/ack")).await;
    assert_eq!((status, &acked["starting"]), (200, &2.into()));
    assert_eq!(post(&other, &format!("/v1/intents/{id}/ack")).await.0, 409);
    assert_eq!(post(&other, &format!("/v1/intents/{id}/decline")).await.0, 200);

    // What was declined is not asked for again yet: another shape is.
    let provisioner = provision(&other, dir.path(), &["--idle", "1h"]);
    submit(&other, &["--id", "c", "--cpu", "0.5", "--", "true"]);
    for id in ["a", "b", "c"] {
        assert_eq!(other.wait_until(id, "ended")["outcome"], "succeeded");
    }
    assert_eq!(provisioner.terminate().code(), Some(0));
}
