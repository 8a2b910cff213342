//! `longshore logs`: what work writes, while it runs and after its runner is gone.

mod binary;
mod broker;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use binary::{PATIENCE, Process, Server, longshore, runner, runner_on_nats, text, wait_for};
use broker::Broker;
use serde_json::json;
use tempfile::TempDir;

fn submit(server: &Server, dir: &Path, id: &str, script: &str) {
    let file = dir.join(format!("{id}.json"));
    let spec = json!({"command": ["sh", "-c", script], "env": {"PASSWORD": "hunter2"}});
    let task = json!({"id": id, "resources": {"cpu": 1, "memory": "64MiB"}, "spec": spec, "retries": 1});
    std::fs::write(&file, task.to_string()).expect("the directory can be written");
    let sent = server.run([Path::new("submit"), &file]);
    assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
}

fn logs(server: &Server, id: &str) -> String {
    let shown = server.run(["logs", id]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    text(&shown.stdout).to_owned()
}

/// The whole story, wherever the table is kept.
fn output_is_followed_and_outlives_its_runner(reader: &Server, dir: &Path, runner: Process) {
    let gate = dir.join("gate");
    let script = format!(
        "echo one $PASSWORD; while [ ! -e {} ]; do sleep 0.05; done; echo two >&2; printf three",
        gate.display()
    );
    submit(reader, dir, "t1", &script);
    let mut follower = longshore();
    follower.args(["logs", "-f", "t1"]).env("LONGSHORE_URL", &reader.url).stdout(Stdio::piped());
    let mut follower = follower.spawn().expect("the binary starts");
    let mut lines = BufReader::new(follower.stdout.take().expect("it is piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("it can be read");
    assert_eq!(line, "one ***\n", "seen while the work still runs, and without the secret");
    std::fs::write(&gate, "").expect("the directory can be written");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut lines, &mut rest).expect("it can be read");
    assert_eq!(rest, "two\nthree");
    assert!(follower.wait().expect("it ends").success());
    assert_eq!(runner.terminate().code(), Some(0));
    assert_eq!(logs(reader, "t1"), "one ***\ntwo\nthree", "its runner is gone");
    assert_eq!(reader.json(["logs", "t1"])["output"], "one ***\ntwo\nthree");
}

#[test]
fn output_is_followed_and_outlives_its_runner_embedded() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(&dir.path().join("data"));
    let runner = runner(&server.url, "r1", dir.path(), &["--cpu", "1", "--mask", "PASSWORD"]);
    server.wait_for_runners(1);
    output_is_followed_and_outlives_its_runner(&server, dir.path(), runner);
    let log = server.run(["why", "t1"]);
    assert!(log.status.success());
}

#[test]
fn output_is_followed_and_outlives_its_runner_over_nats_on_any_replica() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let _leader = Server::replica(&broker.url(), dir.path());
    let follower = Server::replica(&broker.url(), dir.path());
    let runner = runner_on_nats(&broker.url(), "r1", dir.path(), &["--cpu", "1", "--mask", "PASSWORD"]);
    follower.wait_for_runners(1);
    output_is_followed_and_outlives_its_runner(&follower, dir.path(), runner);
}

#[test]
fn a_runner_over_http_keeps_output_in_the_stream_too() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let server = Server::replica(&broker.url(), dir.path());
    let runner = runner(&server.url, "r1", dir.path(), &["--cpu", "1", "--mask", "PASSWORD"]);
    server.wait_for_runners(1);
    output_is_followed_and_outlives_its_runner(&server, dir.path(), runner);
}

#[test]
fn the_output_is_whole_once_its_task_has_ended() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(&dir.path().join("data"));
    let _runner = runner(&server.url, "r1", dir.path(), &["--cpu", "1"]);
    server.wait_for_runners(1);
    for number in 0..5 {
        let id = format!("t{number}");
        submit(&server, dir.path(), &id, "echo one; echo two");
        server.wait_until(&id, "ended");
        assert_eq!(logs(&server, &id), "one\ntwo\n");
    }
}

#[test]
fn each_attempt_has_its_own_output_and_a_reader_follows_from_one_to_the_next() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(&dir.path().join("data"));
    let _runner = runner(&server.url, "r1", dir.path(), &["--cpu", "1"]);
    server.wait_for_runners(1);
    submit(&server, dir.path(), "t1", "echo attempt $LONGSHORE_ATTEMPT; [ $LONGSHORE_ATTEMPT = 2 ]");
    let shown = server.run(["logs", "-f", "t1"]);
    assert_eq!(text(&shown.stdout), "attempt 1\nattempt 2\n");
    assert_eq!(logs(&server, "t1"), "attempt 2\n", "the last one, unless another is named");
    let history = server.json(["ps"]).to_string();
    let unknown = server.run(["logs", "--token", "1.999.0", "t1"]);
    assert_eq!(unknown.status.code(), Some(1), "{history}");
    assert!(text(&unknown.stderr).contains("nothing is kept of attempt 1.999.0 of task t1"), "{unknown:?}");
    let unknown = server.run(["logs", "no-such-task"]);
    assert!(text(&unknown.stderr).contains("no-such-task"), "{unknown:?}");
}

#[test]
fn a_task_that_writes_without_end_is_cut_at_the_limit_and_says_so() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(&dir.path().join("data"));
    let _runner = runner(&server.url, "r1", dir.path(), &["--cpu", "1", "--output-limit", "100KiB"]);
    server.wait_for_runners(1);
    submit(&server, dir.path(), "t1", "i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done");
    wait_for("it has ended", || (server.task("t1")?["state"] == "ended").then_some(()));
    let shown = server.run(["logs", "-f", "t1"]);
    let output = text(&shown.stdout);
    assert!(
        output.starts_with("line 0\nline 1\n") && output.contains("bytes were left out]"),
        "{PATIENCE:?}"
    );
    assert!(output.len() < 110 << 10, "{}", output.len());
}
