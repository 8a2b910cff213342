//! The runners over HTTP in `examples/`, each in its own language, as their readers start them: against the real
//! binary.

mod binary;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use binary::{Process, Server, longshore, text, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn rust(url: &str, dir: &Path) -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_longshore")).with_file_name("examples").join("runner");
    assert!(built.exists(), "no {}: run cargo build --examples (cargo test does)", built.display());
    let mut command = Command::new(built);
    command.args([url, "r1"]).env("TMPDIR", dir);
    command
}

/// The example in Rust, on processes: no container engine answers where it looks.
fn in_rust(url: &str, dir: &Path) -> Process {
    Process::start(rust(url, dir).env("DOCKER_HOST", "unix:///nobody/listens/here"))
}

/// Fails loudly where a program the example needs is missing.
fn needs(program: &str) {
    let found = Command::new(program).arg("--version").output();
    assert!(found.is_ok_and(|said| said.status.success()), "no {program} on the PATH: install {program}");
}

fn in_python(url: &str, _: &Path) -> Process {
    needs("python3");
    Process::start(Command::new("python3").arg("-B").arg(example("runner_http.py")).args([url, "r1"]))
}

fn in_shell(url: &str, _: &Path) -> Process {
    ["curl", "python3"].iter().for_each(|program| needs(program));
    Process::start(Command::new(example("runner.sh")).args([url, "r1"]))
}

fn submit(server: &Server, id: &str, script: &str, more: &[&str]) {
    let submitted = ["submit", "--id", id, "--cpu", "1", "--memory", "64MiB"];
    let sent = server.run(submitted.iter().chain(more).chain(&["--", "sh", "-c", script]));
    assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
}

fn ended(server: &Server, id: &str) -> (String, Value) {
    let task = server.wait_until(id, "ended");
    (task["outcome"].as_str().expect("a word").to_owned(), task["exit_code"].clone())
}

/// What every runner does: runs, fails, stops with all it has started, ends what takes too long, hands back.
fn a_runner_does_what_it_must(start: fn(&str, &Path) -> Process) {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(&dir.path().join("data"));
    let runner = start(&server.url, dir.path());
    server.wait_for_runners(1);
    submit(
        &server,
        "good",
        r#"test "$LONGSHORE_TASK.$LONGSHORE_ATTEMPT.$KEY" = good.1.value"#,
        &["--env", "KEY=value"],
    );
    submit(&server, "bad", "exit 4", &[]);
    assert_eq!(ended(&server, "good"), ("succeeded".to_owned(), json!(0)));
    assert_eq!(ended(&server, "bad"), ("failed".to_owned(), json!(4)));

    let marks = dir.path().join("marks");
    let forever =
        format!("sh -c 'while true; do date +%s%N >> {}; sleep 0.05; done' & wait", marks.display());
    submit(&server, "stopped", &forever, &[]);
    wait_for("it runs", || marks.exists().then_some(()));
    assert!(server.run(["cancel", "stopped"]).status.success());
    assert_eq!(ended(&server, "stopped").0, "cancelled");
    let written = || std::fs::read_to_string(&marks).expect("it ran").len();
    let before = written();
    submit(&server, "next", "sleep 0.2", &[]);
    assert_eq!(ended(&server, "next").0, "succeeded");
    assert_eq!(written(), before, "nothing of it runs any more");

    submit(&server, "returned", "sleep 1000", &[]);
    server.wait_until("returned", "running");
    assert!(runner.terminate().success());
    server.wait_until("returned", "pending");
    wait_for("it has left", || {
        server.json(["runners"])["runners"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    server.process.terminate();
}

#[test]
fn the_runner_in_rust_does_what_it_must() {
    a_runner_does_what_it_must(in_rust);
}

#[test]
fn the_runner_in_rust_runs_containers_where_an_engine_answers() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(&dir.path().join("data"));
    let runner = Process::start(&mut rust(&server.url, dir.path()));
    server.wait_for_runners(1);
    submit(&server, "t1", "test -d /src && test ! -d /home", &["--image", "longshore-test:1"]);
    assert_eq!(ended(&server, "t1"), ("succeeded".to_owned(), json!(0)));
    submit(&server, "t2", "sleep 1000", &["--image", "longshore-test:1"]);
    server.wait_until("t2", "running");
    assert!(runner.terminate().success());
    server.wait_until("t2", "pending");
}

#[test]
fn the_runner_in_python_does_what_it_must() {
    a_runner_does_what_it_must(in_python);
}

#[test]
fn the_runner_in_shell_does_what_it_must() {
    a_runner_does_what_it_must(in_shell);
}

/// Without answers, work ends before `lease` is over; with answers again, the runner works on.
fn work_ends_before_its_lease(lease: Duration, start: fn(&str, &Path) -> Process) {
    let dir = TempDir::new().expect("a directory");
    let mut serve = longshore();
    serve
        .args(["serve", "--log-level", "warn", "--listen", "127.0.0.1:0", "--data"])
        .arg(dir.path().join("data"));
    let seconds = lease.as_secs();
    serve.env("LONGSHORE_LEASE__TTL", format!("{seconds}s"));
    serve.env("LONGSHORE_LEASE__HEARTBEAT", format!("{}ms", seconds * 200));
    let server = Server::started(&mut serve, dir.path());
    let _runner = start(&server.url, dir.path());
    server.wait_for_runners(1);
    let marks = dir.path().join("marks");
    let script = format!("while true; do date +%s%N >> {}; sleep 0.05; done", marks.display());
    submit(&server, "t1", &script, &[]);
    server.wait_until("t1", "running");

    server.process.pause();
    let over = now() + lease;
    let last = || {
        let text = std::fs::read_to_string(&marks).unwrap_or_default();
        let last = text.lines().rfind(|line| line.len() == 19)?.parse().ok();
        last.map(Duration::from_nanos)
    };
    // Work that has not written for a second has ended.
    wait_for("its work has ended", || last().filter(|last| *last + Duration::from_secs(1) < now()));
    let last = last().expect("it ran");
    assert!(last < over, "last mark {last:?}, lease until {over:?}");
    server.process.resume();
    assert!(server.run(["cancel", "t1"]).status.success());
    submit(&server, "t2", "true", &[]);
    assert_eq!(ended(&server, "t2").0, "succeeded");
}

#[expect(clippy::disallowed_methods, reason = "the marks of a process are times of day")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970")
}

#[test]
fn the_runner_in_python_ends_its_work_before_its_lease() {
    work_ends_before_its_lease(Duration::from_secs(4), in_python);
}

#[test]
fn the_runner_in_shell_ends_its_work_before_its_lease() {
    work_ends_before_its_lease(Duration::from_secs(10), in_shell);
}
