//! What `doctor` finds, and that it changes nothing by looking.

mod binary;
mod broker;

use std::process::Output;

use async_nats::jetstream::{self, Context};
use binary::{Server, longshore, text, wait_for};
use broker::Broker;
use serde_json::Value;
use tempfile::TempDir;

fn doctor(args: &[&str]) -> Output {
    longshore().arg("doctor").args(args).output().expect("it runs")
}

/// The checks it made: what about, verdict, and what it says with the remedy.
fn checks(args: &[&str]) -> (i32, Vec<(String, String, String)>) {
    let output = doctor(&[args, &["--json"]].concat());
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|why| panic!("{why}: {}{}", text(&output.stdout), text(&output.stderr)));
    let word = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks: Vec<_> = told["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|check| {
            let says = format!("{}; {}", word(check, "says"), word(check, "remedy"));
            (word(check, "check"), word(check, "verdict"), says)
        })
        .collect();
    let failed = checks.iter().any(|(_, verdict, _)| verdict == "fail");
    assert_eq!(told["ok"], !failed, "{told}");
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{told}");
    (output.status.code().expect("it ends"), checks)
}

/// Whether there is a check of `about` with this verdict that says all of `words`.
fn says(checks: &[(String, String, String)], about: &str, verdict: &str, words: &[&str]) {
    let found = checks.iter().any(|(check, said, text)| {
        check == about && said == verdict && words.iter().all(|word| text.contains(word))
    });
    assert!(found, "no {about} is {verdict} and says {words:?} in {checks:#?}");
}

async fn ask(url: &str) -> Context {
    jetstream::new(async_nats::connect(url).await.expect("the server answers"))
}

/// The messages there ever were and the consumers there are, of every stream.
async fn standing(js: &Context) -> Vec<(u64, u64, usize)> {
    let mut all = Vec::new();
    for stream in ["KV_longshore", "LONGSHORE_SUBMIT", "LONGSHORE_REPORT", "LONGSHORE_HISTORY"] {
        let stream = js.get_stream(stream).await.expect("it is there");
        let state = &stream.cached_info().state;
        all.push((state.messages, state.last_sequence, state.consumer_count));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats_it_finds_what_is_there_and_changes_nothing() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let nats = broker.url();
    let (code, found) = checks(&["--nats", &nats]);
    assert_eq!(code, 0);
    says(&found, "server", "ok", &["nats-server 2."]);
    says(&found, "fsync", "warn", &["cannot be seen", "sync_interval: always"]);
    says(&found, "streams", "warn", &["no table yet", "longshore serve --nats"]);

    let first = Server::replica(&nats, dir.path());
    let second = Server::replica(&nats, dir.path());
    assert!(first.run(["submit", "--id", "t1", "--cpu", "64", "--", "true"]).status.success());
    wait_for("the second has it", || second.task("t1"));
    let (code, found) = wait_for("the leader has made its consumers", || {
        let found = checks(&["--nats", &nats, "--url", &first.url, "--url", &second.url]);
        (found.1.iter().filter(|(check, ..)| check == "consumer").count() == 5).then_some(found)
    });
    assert_eq!(code, 0, "{found:#?}");
    says(&found, "jetstream", "ok", &["set aside"]);
    for stream in ["KV_longshore", "LONGSHORE_SUBMIT", "LONGSHORE_REPORT", "LONGSHORE_HISTORY"] {
        says(&found, stream, "ok", &["messages"]);
    }
    says(&found, "copies", "warn", &["1 server keeps the table", "nats.replicas = 3"]);
    says(&found, "table", "ok", &["no rule is broken"]);
    says(&found, "table", "ok", &[&second.url, "shows what the log says"]);
    says(&found, "permissions", "ok", &["none of it was refused"]);
    says(&found, "consumer", "ok", &["reports of LONGSHORE_REPORT", "0 pending"]);
    says(&found, "clocks", "ok", &["apart"]);
    says(&found, "dispatcher", "ok", &[&first.url, "leads"]);
    says(&found, "dispatcher", "ok", &[&second.url, "follows", "behind"]);
    says(&found, "leader", "ok", &["was written"]);

    // Nobody leads: nothing moves but by looking.
    assert_eq!(second.process.terminate().code(), Some(0));
    assert_eq!(first.process.terminate().code(), Some(0));
    let js = ask(&nats).await;
    let before = standing(&js).await;
    let (code, found) = checks(&["--nats", &nats, "--url", "http://127.0.0.1:1"]);
    assert_eq!(code, 1);
    says(&found, "dispatcher", "fail", &["no server answers"]);
    assert!(found.iter().any(|(check, ..)| check == "leader"));
    let after = standing(&js).await;
    let messages = |all: &[(u64, u64, usize)]| all.iter().map(|one| (one.0, one.1)).collect::<Vec<_>>();
    assert_eq!(messages(&before), messages(&after));
    assert_eq!(before[1..], after[1..], "no consumer was made");

    js.delete_stream("LONGSHORE_REPORT").await.expect("it is removed");
    let (code, found) = checks(&["--nats", &nats]);
    assert_eq!(code, 1);
    says(&found, "LONGSHORE_REPORT", "fail", &["is missing", "backup"]);
    assert!(js.get_stream("LONGSHORE_REPORT").await.is_err(), "nothing was made");
    let lines = doctor(&["--nats", &nats]);
    assert!(text(&lines.stdout).lines().any(|line| line.starts_with("fail  LONGSHORE_REPORT")), "{lines:?}");

    let (code, found) = checks(&["--nats", "nats://127.0.0.1:1"]);
    assert_eq!(code, 1);
    says(&found, "server", "fail", &["nats://127.0.0.1:1", "start a nats-server"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_do_is_named() {
    let users = r#"authorization { users: [
        { user: all, password: secret },
        { user: some, password: secret, permissions: {
            publish: { deny: ["longshore.assign.>", "longshore.history", "$JS.API.STREAM.PURGE.>"] },
            subscribe: { deny: ["longshore.runner.>"] } } },
        { user: none, password: secret, permissions: { publish: ["longshore.>"] } },
    ] }
    "#;
    let (broker, dir) = (Broker::start_with(users), TempDir::new().expect("a directory"));
    let url = |user: &str| broker.url().replace("//", &format!("//{user}:secret@"));
    let server = Server::replica(&url("all"), dir.path());
    wait_for("it leads", || {
        server.run(["submit", "--id", "t1", "--cpu", "64", "--", "true"]).status.success().then_some(())
    });

    says(&checks(&["--nats", &url("all")]).1, "permissions", "ok", &[]);
    let (code, found) = checks(&["--nats", &url("some")]);
    assert_eq!(code, 1);
    for words in [
        ["subscribe to longshore.runner.register.*", "Permissions Violation"],
        ["subscribe to longshore.runner.heartbeat.*", "Permissions Violation"],
        ["publish to longshore.assign.", "Permissions Violation"],
        ["publish to longshore.history", "Permissions Violation"],
        ["publish to $JS.API.STREAM.PURGE.KV_longshore", "Permissions Violation"],
    ] {
        says(&found, "permissions", "fail", &words);
    }
    let refused = found.iter().filter(|(check, verdict, _)| check == "permissions" && verdict == "fail");
    assert_eq!(refused.count(), 6, "{found:#?}");
    assert!(!format!("{found:?}").contains("secret"));
    says(&checks(&["--nats", &url("none")]).1, "jetstream", "fail", &["too little", "$JS.API.INFO"]);
}

#[test]
fn the_monitoring_port_tells_when_the_server_writes_to_the_disk() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it has one").port();
    let broker = Broker::start_with(&format!("http: \"127.0.0.1:{port}\"\n"));
    let monitoring = format!("http://127.0.0.1:{port}");
    let args = ["--nats", &broker.url(), "--monitoring", &monitoring];
    says(&checks(&args).1, "fsync", "warn", &["every 2m00s only", "sync_interval: always"]);
    drop(broker);
    let broker = Broker::start_with(&format!(
        "http: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n",
        TempDir::new().expect("a directory").path().display()
    ));
    let args = ["--nats", &broker.url(), "--monitoring", &monitoring];
    says(&checks(&args).1, "fsync", "ok", &["on the disk"]);
}

#[test]
fn embedded_it_looks_at_the_directory_and_asks_the_server() {
    let dir = TempDir::new().expect("a directory");
    let data = dir.path().join("data");
    let place = data.display().to_string();
    let (code, found) = checks(&["--data", &place]);
    assert_eq!(code, 0, "{found:#?}");
    says(&found, "directory", "warn", &["is not there", "longshore serve"]);

    let server = Server::start(&data);
    let (code, found) = checks(&["--data", &place, "--url", &server.url]);
    assert_eq!(code, 0, "{found:#?}");
    says(&found, "directory", "ok", &["can be written"]);
    says(&found, "table", "ok", &["a server has it open"]);
    says(&found, "dispatcher", "ok", &[&server.url, "leads"]);
    assert!(found.iter().any(|(check, ..)| check == "space"));

    let url = server.url.clone();
    assert_eq!(server.process.terminate().code(), Some(0));
    let (code, found) = checks(&["--data", &place, "--url", &url]);
    assert_eq!(code, 1);
    says(&found, "table", "ok", &["no rule is broken"]);
    says(&found, "dispatcher", "fail", &["no server answers"]);
    assert_eq!(
        std::fs::read_dir(&data)
            .expect("it is there")
            .filter_map(Result::ok)
            .filter(|file| file.file_name().to_string_lossy().starts_with("doctor"))
            .count(),
        0
    );
}
