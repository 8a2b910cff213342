//! The commands as people and scripts use them: what they print, and the exit code they end with.

mod binary;

use std::io::Write;
use std::process::{Output, Stdio};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use binary::{Server, longshore, runner, text};
use serde_json::Value;

fn out(output: &Output) -> String {
    text(&output.stdout)
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

#[test]
fn help_says_what_there_is_and_how_to_begin() {
    let help = Command::new(cargo_bin!("longshore")).arg("--help").assert().success();
    let help = text(&help.get_output().stdout);
    for command in
        ["serve", "runner", "submit", "ps", "runners", "why", "cancel", "table", "doctor", "demo", "bench"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing in {help}");
    }
    assert!(help.contains("Exit codes"));
}

#[test]
fn wrong_usage_and_configuration_end_with_2() {
    let wrong: [&[&str]; 15] = [
        &["submit", "tasks.json", "--cpu", "2"],
        &["fly"],
        &["submit"],
        &["submit", "--cpu", "many", "--", "true"],
        &["submit", "no-such-file.json"],
        &["ps", "--url", "ftp://somewhere"],
        &["ps", "--url", "https://somewhere"],
        &["runner", "--nats", "http://somewhere"],
        &["serve", "--config", "no-such-file.toml"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--listen", "127.0.0.1:0", "--nats", "http://somewhere"],
        &["serve", "--listen", "127.0.0.1:0", "--nats", "foo bar"],
        &["submit", "--id", "a b", "--", "true"],
        &["submit", "--priority", "5000", "--", "true"],
        &["table", "rows", "--kind", "job"],
    ];
    for args in wrong {
        let failed = Command::new(cargo_bin!("longshore")).args(args).assert().code(2);
        assert!(!failed.get_output().stderr.is_empty(), "{args:?} says nothing");
    }
}

#[test]
fn a_server_that_cannot_be_reached_ends_with_3_and_how_to_start_one() {
    // Nothing listens on a port that was free a moment ago and is reserved for nobody.
    for args in [&["ps"][..], &["ready"], &["submit", "--", "true"], &["runners", "r1"], &["cancel", "t"]] {
        let failed = Command::new(cargo_bin!("longshore"))
            .args(args)
            .args(if args.contains(&"--") { vec![] } else { vec!["--json"] })
            .env("LONGSHORE_URL", "http://127.0.0.1:1")
            .assert()
            .code(3);
        let said = text(&failed.get_output().stderr);
        assert!(said.contains("http://127.0.0.1:1") && said.contains("longshore serve"), "{said}");
    }
}

#[test]
fn a_nats_server_that_cannot_be_reached_ends_with_3_and_no_password_is_shown() {
    let url = "nats://somebody:secret@127.0.0.1:1";
    let serve = ["serve", "--listen", "127.0.0.1:0", "--nats", url];
    let failed = Command::new(cargo_bin!("longshore")).args(serve).assert().code(3);
    let said = text(&failed.get_output().stderr);
    assert!(said.contains("nats://127.0.0.1:1") && !said.contains("secret"), "{said}");
}

#[test]
fn ready_says_that_a_command_would_be_taken() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::start(data.path());
    let said = binary::wait_for("it leads", || {
        let said = server.run(["ready"]);
        assert!([0, 3].contains(&code(&said)), "{}", text(&said.stderr));
        (code(&said) == 0).then_some(said)
    });
    assert_eq!(out(&said).trim(), "ready");
    assert_eq!(server.json(["ready"]), serde_json::json!({"ready": true}));
}

#[test]
fn submit_waits_and_exits_as_the_work_did() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"));
    let _runner = runner(&server.url, "r1", dir.path(), &["--cpu", "4"]);
    server.wait_for_runners(1);

    let good = server.run(["submit", "--wait", "--id", "good", "--", "true"]);
    assert_eq!(code(&good), 0, "{}", text(&good.stderr));
    assert!(out(&good).starts_with("good succeeded on r1"), "{}", out(&good));

    let bad = server.run(["submit", "--wait", "--", "sh", "-c", "echo the last words; exit 7"]);
    assert_eq!(code(&bad), 7);
    assert!(out(&bad).contains("failed (7)") && out(&bad).contains("the last words"), "{}", out(&bad));

    let gone = server.run(["submit", "--wait", "--", "no-such-program-anywhere"]);
    assert_eq!(code(&gone), 1, "{}", out(&gone));
    assert!(out(&gone).contains("no-such-program-anywhere"), "{}", out(&gone));

    let tasks = r#"{"id":"m1","spec":{"command":["true"]}}
                   {"id":"m2","spec":{"command":["sh","-c","exit 4"]}}
                   {"id":"m3","spec":{"command":["sh","-c","exit 5"]}}"#;
    let mut many = longshore();
    many.args(["submit", "-", "--wait", "--json"]).env("LONGSHORE_URL", &server.url);
    let mut many = many.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    many.stdin.take().expect("it is piped").write_all(tasks.as_bytes()).expect("it reads");
    let many = many.wait_with_output().expect("it ends");
    assert_eq!(code(&many), 1, "several failed");
    let told: Value = serde_json::from_slice(&many.stdout).expect("it answers in JSON");
    let outcomes: Vec<&str> = told["ended"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|task| task["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, ["succeeded", "failed", "failed"]);
}

#[test]
fn what_waits_says_why_and_can_be_cancelled() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"));
    let _runner =
        runner(&server.url, "r1", dir.path(), &["--cpu", "2", "--arch", "amd64", "--label", "zone=eu"]);
    server.wait_for_runners(1);

    assert_eq!(code(&server.run(["hold", "r1", "--reason", "new disk"])), 0);
    let taken = server.run(["submit", "--id", "t1", "--label", "zone=eu", "--", "true"]);
    assert!(out(&taken).starts_with("t1 is admitted"), "{}", out(&taken));
    let again = server.run(["submit", "--id", "t1", "--label", "zone=eu", "--", "true"]);
    assert!(out(&again).starts_with("t1 is known already"), "{}", out(&again));
    let other = server.run(["submit", "--id", "t1", "--", "false"]);
    assert_eq!(code(&other), 1);
    assert!(out(&other).contains("conflict"), "{}", out(&other));

    let why = out(&server.run(["why", "t1"]));
    assert!(why.contains("t1: pending") && why.contains("r1") && why.contains("held"), "{why}");
    assert!(out(&server.run(["runners", "r1"])).contains("new disk"));
    assert!(out(&server.run(["runners"])).contains("linux/amd64"));
    assert!(out(&server.run(["ps", "--state", "pending"])).contains("t1"));
    assert!(out(&server.run(["ps", "--state", "running"])).contains("no such tasks"));
    let unknown = server.run(["why", "nobody"]);
    assert_eq!(code(&unknown), 1);
    assert!(text(&unknown.stderr).contains("[unknown_task]"), "{}", text(&unknown.stderr));

    assert_eq!(code(&server.run(["cancel", "t1", "--reason", "no longer wanted"])), 0);
    assert_eq!(server.wait_until("t1", "ended")["outcome"], "cancelled");
    assert_eq!(code(&server.run(["cancel", "t1"])), 1, "it has ended already");

    for command in [
        &["resume", "r1"][..],
        &["drain", "r1"],
        &["pause"],
        &["unpause"],
        &["pause", "q"],
        &["unpause", "q"],
        &["unfreeze"],
    ] {
        server.json(command);
    }
    for command in [&["ps"][..], &["runners"], &["runners", "r1"], &["why", "t1"]] {
        server.json(command);
    }
    assert_eq!(code(&server.run(["hold", "nobody"])), 1);
}

#[test]
fn the_table_is_read_only_while_no_server_runs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data);
    assert_eq!(code(&server.run(["submit", "--id", "t1", "--cpu", "3", "--", "true"])), 0);
    let table = |args: &[&str]| {
        longshore().arg("table").args(args).arg("--data").arg(&data).output().expect("it runs")
    };

    let busy = table(&["check"]);
    assert_eq!(code(&busy), 1);
    assert!(text(&busy.stderr).contains("stop it first"), "{}", text(&busy.stderr));

    assert_eq!(server.process.terminate().code(), Some(0));
    let sound = table(&["check"]);
    assert_eq!(code(&sound), 0, "{}", out(&sound));
    assert!(out(&sound).contains("no rule is broken"));
    assert!(out(&table(&["rows"])).contains("task.t1"));
    for line in out(&table(&["turns", "--json"])).lines() {
        let turn: Value = serde_json::from_str(line).expect("each line is a turn");
        assert!(turn["number"].is_u64());
    }
    let nowhere = longshore().args(["table", "check", "--data"]).arg(dir.path()).output().expect("it runs");
    assert_eq!(code(&nowhere), 2, "{}", text(&nowhere.stderr));
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Command::new(cargo_bin!("longshore")).args(["completions", shell]).assert().success();
        assert!(text(&script.get_output().stdout).contains("unfreeze"));
    }
}
