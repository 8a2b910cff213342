//! Starting on a server: what is there is trusted only if it is all there and set up as it was made.

mod binary;
mod broker;

use std::fs::File;

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::jetstream::{self, Context};
use binary::{Process, Server, longshore, text, wait_for};
use broker::Broker;
use tempfile::TempDir;

const STREAMS: [&str; 4] = ["KV_longshore", "LONGSHORE_SUBMIT", "LONGSHORE_REPORT", "LONGSHORE_HISTORY"];
const COMPLETE: &str = "longshore.complete";

async fn ask(url: &str) -> Context {
    jetstream::new(async_nats::connect(url).await.expect("the server answers"))
}

async fn config_of(js: &Context, stream: &str) -> Config {
    js.get_stream(stream).await.expect("it is there").cached_info().config.clone()
}

/// Starts once and stops in order, so that everything is there.
fn used(broker: &Broker) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let server = Server::replica(&broker.url(), dir.path());
    let sent = server.run(["submit", "--id", "kept", "--cpu", "64", "--", "true"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    assert_eq!(server.process.terminate().code(), Some(0));
    dir
}

/// Starts a dispatcher that must refuse: its exit code and the one line it says.
fn refused(nats: &str, more: &[&str]) -> (i32, String) {
    let dir = TempDir::new().expect("a directory");
    let log = dir.path().join("log");
    let mut command = longshore();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--nats", nats]).args(more);
    command.stderr(File::create(&log).expect("a file")).stdout(std::process::Stdio::null());
    let mut process = Process::start(&mut command);
    let ended = wait_for("it refuses to start", || process.ended());
    let said = std::fs::read_to_string(&log).expect("what it said");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    (ended.code().expect("it ends by itself"), lines[0].to_owned())
}

fn names(said: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in {said:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_missing_after_the_first_use_is_not_made_again() {
    for stream in &STREAMS[1..] {
        let broker = Broker::start();
        used(&broker);
        let js = ask(&broker.url()).await;
        js.delete_stream(stream).await.expect("it is removed");
        let (code, said) = refused(&broker.url(), &[]);
        assert_eq!(code, 1);
        names(&said, &[stream, "is missing", "not made again", "backup"]);
        assert!(js.get_stream(stream).await.is_err(), "nothing was made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_missing_where_its_streams_are_is_not_made_again() {
    let broker = Broker::start();
    used(&broker);
    let js = ask(&broker.url()).await;
    js.delete_stream(STREAMS[0]).await.expect("it is removed");
    let (code, said) = refused(&broker.url(), &[]);
    assert_eq!(code, 1);
    names(&said, &["KV_longshore", "is missing", "not made again"]);
    assert!(js.get_stream(STREAMS[0]).await.is_err(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_was_cut_off_is_taken_up_again() {
    let broker = Broker::start();
    let dir = used(&broker);
    let js = ask(&broker.url()).await;
    let before = config_of(&js, STREAMS[0]).await;
    assert_eq!(before.metadata.get(COMPLETE).map(String::as_str), Some("true"));
    let mut cut_off = before.clone();
    cut_off.metadata.remove(COMPLETE);
    js.update_stream(cut_off).await.expect("it is changed");
    js.delete_stream("LONGSHORE_REPORT").await.expect("it is removed");

    let server = Server::replica(&broker.url(), dir.path());
    wait_for("what was submitted is still there", || server.task("kept"));
    let after = config_of(&js, STREAMS[0]).await;
    assert_eq!(after.metadata.get(COMPLETE), before.metadata.get(COMPLETE));
    let table = "longshore.table";
    for stream in STREAMS {
        assert_eq!(config_of(&js, stream).await.metadata.get(table), before.metadata.get(table), "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_somebody_else_is_left_alone() {
    let broker = Broker::start();
    let js = ask(&broker.url()).await;
    let foreign = Config {
        name: "LONGSHORE_SUBMIT".to_owned(),
        subjects: vec!["orders.>".to_owned()],
        ..Config::default()
    };
    js.create_stream(foreign).await.expect("it is made");
    let (code, said) = refused(&broker.url(), &[]);
    assert_eq!(code, 1);
    names(&said, &["LONGSHORE_SUBMIT", "was not made by longshore", "another pool"]);
    assert!(js.get_stream(STREAMS[0]).await.is_err(), "nothing was made");

    js.delete_stream("LONGSHORE_SUBMIT").await.expect("it is removed");
    let overlapping = Config {
        name: "EVERYTHING".to_owned(),
        subjects: vec!["longshore.*.pending.>".to_owned()],
        ..Config::default()
    };
    js.create_stream(overlapping).await.expect("it is made");
    let (code, said) = refused(&broker.url(), &[]);
    assert_eq!(code, 1);
    names(&said, &["create stream LONGSHORE_SUBMIT", "overlap"]);

    // Once it is out of the way, what was begun is finished.
    js.delete_stream("EVERYTHING").await.expect("it is removed");
    let dir = TempDir::new().expect("a directory");
    let server = Server::replica(&broker.url(), dir.path());
    assert!(server.run(["submit", "--id", "t1", "--cpu", "64", "--", "true"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_could_lose_messages_are_refused_by_name() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change, &[&str]); 7] = [
        ("LONGSHORE_SUBMIT", |config| config.subjects.truncate(2), &["takes", "and should take"]),
        (
            "LONGSHORE_SUBMIT",
            |config| config.max_age = std::time::Duration::from_secs(3600),
            &["forgets", "max_age"],
        ),
        (
            "LONGSHORE_REPORT",
            |config| config.discard = jetstream::stream::DiscardPolicy::Old,
            &["discards Old"],
        ),
        ("LONGSHORE_REPORT", |config| config.max_message_size = 1_000, &["up to 1000 bytes", "max_msg_size"]),
        ("LONGSHORE_HISTORY", |config| config.no_ack = true, &["does not acknowledge"]),
        (
            "KV_longshore",
            |config| config.discard = jetstream::stream::DiscardPolicy::Old,
            &["discard must be new"],
        ),
        ("KV_longshore", |config| config.max_message_size = 4_096, &["up to 4096 bytes", "max_msg_size"]),
    ];
    let broker = Broker::start();
    used(&broker);
    let js = ask(&broker.url()).await;
    for (stream, change, words) in changes {
        let before = config_of(&js, stream).await;
        let mut changed = before.clone();
        change(&mut changed);
        js.update_stream(&changed).await.unwrap_or_else(|why| panic!("{stream} {words:?}: {why}"));
        let (code, said) = refused(&broker.url(), &[]);
        assert_eq!(code, 1);
        names(&said, words);
        names(&said, &[stream]);
        js.update_stream(before).await.expect("it is changed back");
    }

    // Retention cannot be changed: a stream that was made anew by hand, with the table's mark, is found out.
    let mut by_hand = config_of(&js, "LONGSHORE_REPORT").await;
    js.delete_stream("LONGSHORE_REPORT").await.expect("it is removed");
    by_hand.retention = RetentionPolicy::Limits;
    js.create_stream(by_hand).await.expect("it is made");
    let (code, said) = refused(&broker.url(), &[]);
    assert_eq!(code, 1);
    names(&said, &["LONGSHORE_REPORT", "keeps messages by Limits", "WorkQueue"]);

    // The limits an operator may choose are left alone.
    let mut chosen = config_of(&js, "LONGSHORE_HISTORY").await;
    js.delete_stream("LONGSHORE_REPORT").await.expect("it is removed");
    let mut bucket = config_of(&js, STREAMS[0]).await;
    bucket.metadata.remove(COMPLETE);
    js.update_stream(bucket).await.expect("it is changed");
    (chosen.max_bytes, chosen.max_age) = (1 << 20, std::time::Duration::from_secs(7200));
    js.update_stream(chosen).await.expect("it is changed");
    let dir = TempDir::new().expect("a directory");
    let server = Server::replica(&broker.url(), dir.path());
    wait_for("the table is the same", || server.task("kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_copies_than_are_asked_for_are_refused() {
    let broker = Broker::start();
    used(&broker);
    let dir = TempDir::new().expect("a directory");
    let config = dir.path().join("longshore.toml");
    std::fs::write(&config, "[nats]\nreplicas = 3\n").expect("a file");
    let (code, said) = refused(&broker.url(), &["--config", &config.display().to_string()]);
    assert_eq!(code, 1);
    names(&said, &["KV_longshore", "is kept by 1 servers", "by 3", "nats.replicas"]);

    let fresh = Broker::start();
    let (code, said) = refused(&fresh.url(), &["--config", &config.display().to_string()]);
    assert_eq!(code, 1);
    names(&said, &["3 replicas"]);
}

#[test]
fn a_server_without_jetstream_is_named_with_the_remedy() {
    for configuration in
        ["jetstream: false\n", "accounts { OPEN { users: [ { user: u, password: secret } ] } }\n"]
    {
        let broker = Broker::start_with(configuration);
        let (code, said) = refused(&broker.url().replace("//", "//u:secret@"), &[]);
        assert_eq!(code, 1);
        names(&said, &["has no JetStream for us", "jetstream {}"]);
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn a_user_who_may_do_too_little_is_told_what_is_missing() {
    let users = r#"authorization { users: [
        { user: none, password: secret, permissions: { publish: ["longshore.>"], subscribe: [">"] } },
        { user: reads, password: secret, permissions: {
            publish: ["$JS.API.INFO", "$JS.API.STREAM.INFO.*"], subscribe: [">"] } },
    ] }
    "#;
    let broker = Broker::start_with(users);
    let as_user = |user: &str| broker.url().replace("//", &format!("//{user}:secret@"));
    let (code, said) = refused(&as_user("none"), &[]);
    assert_eq!(code, 1);
    names(&said, &["lets this user do too little", "$JS.API.INFO", "Permissions Violation"]);
    let (code, said) = refused(&as_user("reads"), &[]);
    assert_eq!(code, 1);
    names(&said, &["create table longshore", "$JS.API.STREAM.CREATE.KV_longshore", "Permissions Violation"]);
    assert!(!said.contains("secret"), "{said}");
    let (code, said) = refused(&as_user("nobody"), &[]);
    assert_eq!(code, 3);
    names(&said, &["authorization"]);
}

#[test]
fn a_server_that_is_not_there_ends_with_3() {
    let (code, said) = refused("nats://127.0.0.1:1", &[]);
    assert_eq!(code, 3);
    names(&said, &["nats://127.0.0.1:1", "start a nats-server"]);
}
