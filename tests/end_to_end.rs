//! The binary as an operator runs it: a server and runners as processes of their own, stopped, restarted, and
//! all of it in the demo.

mod binary;

use std::path::Path;
use std::process::Stdio;

use binary::{Server, longshore, runner, text, wait_for};
use serde_json::{Value, json};

/// What a task does that marks its start, waits for the gate to open, and marks its end.
fn marked(dir: &Path, id: &str) -> Value {
    let script = format!(
        "echo start {id} >> '{0}/marks'; while [ ! -e '{0}/gate' ]; do sleep 0.05; done; echo end {id} >> '{0}/marks'",
        dir.display()
    );
    json!({"id": id, "resources": {"cpu": 1, "memory": "64MiB"}, "spec": {"command": ["sh", "-c", script]}})
}

fn marks(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("marks")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn submit(server: &Server, dir: &Path, tasks: &[Value]) {
    let file = dir.join("tasks.json");
    std::fs::write(&file, json!({"tasks": tasks}).to_string()).expect("the directory can be written");
    let sent = server.run([Path::new("submit"), &file]);
    assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
}

async fn say(server: &Server, path: &str, body: Value) -> Value {
    let sent = reqwest::Client::new().post(format!("{}{path}", server.url)).json(&body).send().await;
    let answer = sent.expect("the server answers");
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    answer.json().await.expect("it answers in JSON")
}

/// Registers a runner that takes one task and says nothing of it until it is told to.
async fn register_quiet(server: &Server, running: &[Value]) {
    let registration = json!({
        "id": "quiet", "incarnation": "quiet-1", "kinds": ["job"], "labels": {"zone": "quiet"}, "taints": ["quiet"], "running": running,
        "arch": "amd64", "os": "linux", "resources": {"cpu": 1, "memory": "1GiB"}, "slots": 1, "protocol": 1,
    });
    say(server, "/v1/runners", registration).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_is_pending_assigned_and_running() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (dir, data) = (dir.path(), dir.path().join("data"));
    let server = Server::start(&data);
    let _r1 = runner(&server.url, "r1", dir, &["--cpu", "2"]);
    let _r2 = runner(&server.url, "r2", dir, &["--cpu", "2"]);
    register_quiet(&server, &[]).await;
    server.wait_for_runners(3);
    let mut quiet = marked(dir, "quiet-task");
    quiet["labels"] = json!({"zone": "quiet"});
    quiet["tolerations"] = json!(["quiet"]);
    let tasks: Vec<Value> = (0..6).map(|n| marked(dir, &format!("t{n}"))).chain([quiet]).collect();
    submit(&server, dir, &tasks);
    wait_for("four run, two wait, one is assigned", || {
        let counts = |state| server.json(["ps", "--state", state])["tasks"].as_array().map(Vec::len);
        (counts("running") == Some(4) && counts("pending") == Some(2) && counts("assigned") == Some(1))
            .then_some(())
    });
    wait_for("four have marked their start", || (marks(dir).len() == 4).then_some(()));
    let before = server.json(["ps"]);
    let address = server.address();

    assert_eq!(server.process.terminate().code(), Some(0), "a stop in order");
    let check = longshore().args(["table", "check", "--data"]).arg(&data).output().expect("it runs");
    assert!(check.status.success(), "{}", text(&check.stdout));
    let server = wait_for("the port is free again", || Some(Server::start_at(&data, &address, &[])));

    let standing = |tasks: &Value| {
        let fields =
            |task: &Value| ["id", "state", "runner", "token", "attempt"].map(|name| task[name].clone());
        tasks["tasks"].as_array().expect("a list").iter().map(fields).collect::<Vec<_>>()
    };
    assert_eq!(standing(&server.json(["ps"])), standing(&before), "all there, under the same tokens");
    assert_eq!(marks(dir).len(), 4, "nothing started twice");

    // The quiet runner comes back, finds its assignment, runs it and says so.
    let token = server.task("quiet-task").expect("it is there")["token"].clone();
    register_quiet(&server, &[json!({"id": "quiet-task", "token": token})]).await;
    let report = |report: &str| {
        json!({"report": report, "kind": "job", "id": "quiet-task", "token": token, "incarnation": "quiet-1",
            "outcome": if report == "end" { json!("succeeded") } else { Value::Null }, "exit_code": 0})
    };
    say(&server, "/v1/runners/quiet/reports", json!({"reports": [report("start"), report("end")]})).await;
    std::fs::write(dir.join("gate"), "").expect("the directory can be written");
    for task in ["t0", "t1", "t2", "t3", "t4", "t5", "quiet-task"] {
        assert_eq!(server.wait_until(task, "ended")["outcome"], "succeeded", "{task}");
    }
    let mut told = marks(dir);
    told.sort();
    let once: Vec<String> =
        ["end", "start"].iter().flat_map(|word| (0..6).map(move |n| format!("{word} t{n}"))).collect();
    assert_eq!(told, once, "each ran once, to its end");
}

#[test]
fn a_runner_that_is_stopped_hands_back_and_leaves() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (dir, data) = (dir.path(), dir.path().join("data"));
    let server = Server::start(&data);
    let first = runner(&server.url, "r1", dir, &["--cpu", "1", "--grace", "1s"]);
    server.wait_for_runners(1);
    submit(&server, dir, &[marked(dir, "t1")]);
    server.wait_until("t1", "running");

    assert_eq!(first.terminate().code(), Some(0));
    let task = server.wait_until("t1", "pending");
    assert_eq!(server.json(["runners"])["runners"], json!([]), "it has left: {task}");

    std::fs::write(dir.join("gate"), "").expect("the directory can be written");
    let _second = runner(&server.url, "r2", dir, &["--cpu", "1"]);
    let ended = server.wait_until("t1", "ended");
    assert_eq!((ended["outcome"].as_str(), ended["runner"].as_str()), (Some("succeeded"), Some("r2")));
}

#[test]
fn a_runner_that_is_stopped_dead_has_lost_its_work_before_another_has_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let server = Server::with_short_leases(dir);
    let first = runner(&server.url, "r1", dir, &["--cpu", "1"]);
    server.wait_for_runners(1);
    let script = format!(
        "cd {}; if mkdir first; then echo $$ > pid; exec sleep 1000; fi; grep -q ') Z ' /proc/$(cat pid)/stat && echo alone > found || echo both > found",
        dir.display()
    );
    let task = json!({"id": "t1", "resources": {"cpu": 1, "memory": "64MiB"}, "spec": {"command": ["sh", "-c", script]}});
    submit(&server, dir, &[task]);
    wait_for("it runs", || std::fs::read_to_string(dir.join("pid")).ok().filter(|pid| pid.ends_with('\n')));
    first.pause();
    let _second = runner(&server.url, "r2", dir, &["--cpu", "1"]);
    let ended = server.wait_until("t1", "ended");
    assert_eq!((&ended["outcome"], &ended["attempt"]), (&json!("succeeded"), &json!(2)), "{ended}");
    assert_eq!(std::fs::read_to_string(dir.join("found")).expect("it was written"), "alone\n");
    first.resume();
    assert_eq!(first.terminate().code(), Some(0), "it comes to itself, gives back what it lost, and leaves");
}

#[test]
fn what_no_runner_could_start_is_the_tasks_own_failure() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let server = Server::start(&dir.join("data"));
    let _runner = runner(&server.url, "r1", dir, &["--cpu", "1"]);
    server.wait_for_runners(1);
    let empty = |number: usize| json!({"id": format!("t{number}"), "spec": {"command": []}});
    submit(&server, dir, &(0..4).map(empty).collect::<Vec<_>>());
    for number in 0..4 {
        let ended = server.wait_until(&format!("t{number}"), "ended");
        assert_eq!((&ended["outcome"], &ended["attempt"]), (&json!("failed"), &json!(1)), "{ended}");
    }
    server.wait_for_runners(1);
}

#[test]
fn a_stop_writes_a_last_turn_and_a_second_server_is_refused_the_table() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let second = longshore().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data).output();
    let second = second.expect("it runs");
    assert_eq!(second.status.code(), Some(2), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("in use"), "{}", text(&second.stderr));

    assert_eq!(server.process.terminate().code(), Some(0));
    let turns =
        longshore().args(["table", "turns", "--json", "--data"]).arg(&data).output().expect("it runs");
    let last = text(&turns.stdout).lines().last().map(str::to_owned).expect("there are turns");
    let last: Value = serde_json::from_str(&last).expect("a turn");
    assert_eq!(last["released"], true);
}

#[test]
fn the_demo_ends_as_it_should() {
    let output = longshore().args(["demo", "--json", "--tasks", "50"]).stderr(Stdio::piped()).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("it answers in JSON");
    assert_eq!(told["as_expected"], true);
    assert!(told["tasks"].as_array().expect("a list").len() > 70);
    assert_eq!(text(&output.stderr), "", "nothing went wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_whoever_submits_a_build_reaches_the_work_of_its_jobs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let server = Server::start(&dir.join("data"));
    let _r1 = runner(&server.url, "r1", dir, &["--cpu", "4"]);
    server.wait_for_runners(1);
    let longshore_itself = longshore().get_program().to_str().expect("text").to_owned();
    let job = format!("echo $LONGSHORE_TASK $TRACEPARENT > '{}/traced'", dir.display());
    let command =
        json!([longshore_itself, "submit", "--wait", "--id", "job", "--build", "b1", "--", "sh", "-c", job]);
    let build = json!({
        "id": "b1", "kind": "build", "resources": {"cpu": 1, "memory": "64MiB"}, "spec": {"command": command},
    });
    let file = dir.join("build.json");
    std::fs::write(&file, build.to_string()).expect("the directory can be written");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut submit = longshore();
    submit.args(["submit", "--wait", "--url", &server.url]).arg(&file).env("TRACEPARENT", trace);
    let sent = submit.output().expect("it runs");
    assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
    let traced = std::fs::read_to_string(dir.join("traced")).expect("the job has run");
    assert_eq!(traced.trim(), format!("job {trace}"));
}
