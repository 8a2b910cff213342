//! Scale from zero on one machine: a server, a provisioner and the runners it starts, all as processes of their own.

mod binary;

use std::path::Path;
use std::process::Command;

use binary::{Process, Server, longshore, text, wait_for};
use serde_json::Value;

const SMALL: &str = "[[class]]\nid = \"small\"\nresources = { cpu = 1, memory = \"256MiB\", token = 1 }\n\
                     labels = { zone = \"here\" }\nslots = 1\nmax = 2\n";

fn serve(dir: &Path, config: &str) -> Server {
    let file = dir.join("longshore.toml");
    std::fs::write(&file, config).expect("the directory can be written");
    Server::start_at(&dir.join("table"), "127.0.0.1:0", &["--config".as_ref(), file.as_ref()])
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
