//! The conformance kit: the runners and pullers of this project keep the rules, and those that break one fail the cases
//! about it and no other.

mod binary;
mod broker;
#[path = "conform/functions.rs"]
mod functions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use binary::{longshore, text};
use broker::Broker;
use futures_util::TryStreamExt;
use serde_json::Value;

fn root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// What became of each case.
#[derive(Debug)]
struct Report(BTreeMap<String, Value>);

/// Runs the kit.
fn conform(arguments: &[&str]) -> Report {
    let mut command = longshore();
    let ran = command.arg("conform").arg("--json").args(arguments).output().expect("the binary starts");
    let (said, errors) = (text(&ran.stdout), text(&ran.stderr));
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|why| panic!("{why}: {said}{errors}"));
    assert_eq!(ran.status.code(), Some(if report["passed"] == true { 0 } else { 1 }), "{errors}");
    let cases = report["cases"].as_array().expect("a list").iter();
    Report(cases.map(|case| (case["case"].as_str().expect("a name").to_owned(), case.clone())).collect())
}

/// Runs the kit for some cases only.
fn tries(cases: &[&str], arguments: &[&str]) -> Report {
    let chosen: Vec<&str> = cases.iter().flat_map(|case| ["--case", case]).collect();
    conform(&[arguments, &chosen].concat())
}

impl Report {
    fn that(&self, result: &str) -> Vec<&str> {
        self.0.iter().filter(|(_, case)| case["result"] == result).map(|(name, _)| name.as_str()).collect()
    }

    fn all_passed(&self, count: usize) {
        let failed: Vec<_> = self.0.values().filter(|case| case["result"] != "passed").collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(self.0.len(), count);
    }

    /// These failed, each saying what was expected and seen, and the others passed.
    fn failed(&self, cases: &[&str]) {
        assert_eq!(self.that("failed"), cases, "{self:#?}");
        assert_eq!(self.that("passed").len() + cases.len(), self.0.len());
        for case in cases {
            for field in ["rule", "stands_in", "expected", "seen"] {
                assert!(
                    self.0[*case][field].as_str().is_some_and(|said| !said.is_empty()),
                    "{case}: {field}"
                );
            }
        }
    }
}

/// Fails loudly where a program is missing.
fn needs(program: &str) {
    let found = std::process::Command::new(program).arg("--version").output();
    assert!(found.is_ok_and(|said| said.status.success()), "no {program} on the PATH: install {program}");
}

// Ours.

#[test]
fn our_runner_keeps_the_rules() {
    let runner = format!(
        "{} runner --slots-only --slots 4 --grace 1s --log-level warn --id {{id}} --data {{data}} --url {{url}}",
        env!("CARGO_BIN_EXE_longshore")
    );
    conform(&["--runner", &runner, "--grace", "1s", "--jobs", "8"]).all_passed(19);
}

#[test]
fn our_runner_keeps_the_rules_over_nats() {
    let broker = Broker::start();
    let runner = format!(
        "{} runner --cpu 4 --memory 4GiB --grace 1s --log-level warn --id {{id}} --data {{data}} --nats {{nats}} --pool {{pool}}",
        env!("CARGO_BIN_EXE_longshore")
    );
    conform(&["--runner", &runner, "--grace", "1s", "--jobs", "8", "--nats", &broker.url()]).all_passed(19);
    assert_eq!(streams(&broker), Vec::<String>::new(), "what the kit made at the server is gone");
}

fn streams(broker: &Broker) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = longshore::broker::Server { url: broker.url(), ..Default::default() };
        let connection = longshore::broker::Connection::open(&server).await.expect("the server is there");
        connection.jetstream.stream_names().try_collect().await.expect("they can be listed")
    })
}

#[test]
fn the_runner_in_rust_keeps_the_rules() {
    let built = Path::new(env!("CARGO_BIN_EXE_longshore")).with_file_name("examples").join("runner");
    assert!(built.exists(), "no {}: run cargo build --examples (cargo test does)", built.display());
    let no_engine = "DOCKER_HOST=unix:///nobody/listens/here";
    let runner = format!("env {no_engine} TMPDIR={{data}} {} {{url}} {{id}}", built.display());
    let cases = ["work", "lease", "leave", "killed", "restart", "refused"];
    tries(&cases, &["--runner", &runner, "--grace", "5s"]).all_passed(6);
}

#[test]
fn a_runner_that_runs_no_commands_does_what_the_kit_says_in_its_own_way() {
    needs("python3");
    let runner = format!("python3 -B {} {{url}} {{id}}", root("tests/conform/own_way.py"));
    let cases = ["work", "again", "lease", "stop", "leave", "restart"];
    tries(&cases, &["--runner", &runner, "--contained", "--grace", "5s"]).all_passed(6);
}

#[test]
fn the_runner_in_python_keeps_the_rules() {
    needs("python3");
    let runner = format!("python3 -B {} {{url}} {{id}}", root("examples/runner_http.py"));
    conform(&["--runner", &runner, "--contained", "--grace", "5s"]).all_passed(19);
}

#[test]
fn the_runner_in_shell_keeps_the_rules() {
    ["curl", "python3"].iter().for_each(|program| needs(program));
    let runner = format!("{} {{url}} {{id}}", root("examples/runner.sh"));
    // It starts a Python for each answer it reads, so not everything at once. The rest is alike and takes long.
    let cases =
        ["work", "doubled", "over", "stale", "lease", "late-result", "stop", "leave", "version", "refused"];
    let settings = ["--contained", "--grace", "5s", "--lease", "12s", "--jobs", "2"];
    tries(&cases, &[&["--runner", &runner][..], &settings].concat()).all_passed(10);
}

/// The Python `make tools` has put in place, which speaks NATS.
fn python() -> PathBuf {
    let target =
        Path::new(env!("CARGO_BIN_EXE_longshore")).ancestors().nth(2).expect("target/PROFILE/longshore");
    let placed = target.join("tools/python/bin/python");
    assert!(
        placed.exists(),
        "no Python at {}: run scripts/python-examples.sh (make test does)",
        placed.display()
    );
    placed
}

#[test]
fn the_runner_in_python_over_nats_keeps_the_rules() {
    let broker = Broker::start();
    let runner = format!("{} -B {} {{nats}} {{id}}", python().display(), root("examples/runner.py"));
    let settings = ["--contained", "--grace", "5s", "--nats"];
    conform(&[&["--runner", &runner][..], &settings, &[&broker.url()]].concat()).all_passed(19);
}

#[test]
fn the_puller_in_python_keeps_the_rules() {
    needs("python3");
    let puller = format!("python3 -B {} {{url}} {{topic}}", root("examples/puller.py"));
    conform(&["--puller", &puller, "--contained", "--grace", "5s"]).all_passed(13);
}

#[test]
fn the_puller_in_shell_keeps_the_rules() {
    ["curl", "python3"].iter().for_each(|program| needs(program));
    let exec = r#"import json, os, sys; c = json.load(sys.stdin)["jobSpec"]["command"]; os.execvp(c[0], c)"#;
    let puller = format!("sh {} {{url}} {{topic}} python3 -c '{exec}'", root("examples/puller.sh"));
    conform(&["--puller", &puller, "--contained", "--grace", "5s"]).all_passed(13);
}

// Those that break a rule.

/// The runner with one fault fails exactly the cases about it among those that are near.
fn fails(fault: &str, cases: &[&str], failed: &[&str]) {
    needs("python3");
    let runner = format!("python3 -B {} {fault} {{url}} {{id}}", root("tests/conform/bad_runner.py"));
    tries(cases, &["--runner", &runner, "--contained", "--grace", "5s"]).failed(failed);
}

#[test]
fn a_runner_that_starts_an_assignment_twice_is_found() {
    fails("StartsTwice", &["work", "doubled", "over", "again"], &["doubled"]);
}

#[test]
fn a_runner_whose_work_outlives_its_lease_is_found() {
    fails("OutlivesItsLease", &["work", "lease", "register", "stop"], &["lease"]);
}

#[test]
fn a_runner_that_says_how_work_ended_only_once_is_found() {
    fails("SaysOnce", &["work", "lease", "late-result", "register"], &["late-result"]);
}

#[test]
fn a_runner_that_is_deaf_to_term_is_found() {
    fails("DeafToTerm", &["work", "stop", "leave", "restart"], &["leave"]);
}

#[test]
fn a_runner_that_always_succeeds_is_found() {
    let near = ["work", "doubled", "again", "slots", "stop", "unknown-stop", "leave"];
    fails("AlwaysSucceeds", &near, &["again", "leave", "slots", "stop", "unknown-stop", "work"]);
}

#[test]
fn a_runner_that_lists_nothing_is_found() {
    fails("ListsNothing", &["work", "register", "late-result", "stop"], &["late-result", "register"]);
}

#[test]
fn a_runner_that_ends_first_processes_only_is_found() {
    fails("KillsOneProcess", &["work", "lease", "stubborn"], &["lease", "stubborn"]);
}

#[test]
fn a_runner_that_takes_more_than_its_slots_is_found() {
    fails("TakesTooMuch", &["work", "slots", "again"], &["slots"]);
}

#[test]
fn a_careless_runner_is_found() {
    needs("python3");
    let runner = format!("python3 -B {} Careless {{url}} {{id}}", root("tests/conform/bad_runner.py"));
    let failed = [
        "killed",
        "over",
        "refused",
        "restart",
        "slow-start",
        "stale",
        "unknown-fields",
        "unknown-stop",
        "version",
    ];
    tries(&[&failed[..], &["work"]].concat(), &["--runner", &runner, "--jobs", "10"]).failed(&failed);
}

#[test]
fn a_careless_puller_is_found() {
    needs("python3");
    let puller = format!("python3 -B {} {{url}} {{topic}}", root("tests/conform/careless_puller.py"));
    let report = conform(&["--puller", &puller, "--grace", "1s", "--jobs", "13"]);
    assert_eq!((report.that("passed"), report.that("failed").len()), (vec!["work"], 12), "{report:#?}");
}

// The command itself.

#[test]
fn a_program_that_does_not_start_fails_with_what_it_wrote() {
    let report = tries(&["work"], &["--runner", "no-such-runner {url}"]);
    report.failed(&["work"]);
    let seen = report.0["work"]["seen"].as_str().expect("a text");
    assert!(seen.contains("no-such-runner") && seen.contains("127"), "{seen}");
}

#[test]
fn a_case_that_is_left_out_is_said_to_be_and_never_passes() {
    let report = tries(&["work", "stop"], &["--runner", "false", "--without", "stop"]);
    assert_eq!((report.that("not_applicable"), report.that("failed")), (vec!["stop"], vec!["work"]));
}

#[test]
fn what_makes_no_sense_is_refused_with_the_remedy() {
    let runner = ["--runner", "true"];
    for (arguments, said) in [
        (&["--case", "nothing"][..], "is no case; there are work, doubled"),
        (&["--without", "nothing"], "--without (nothing) is no case"),
        (&["--lease", "500ms"], "--lease (500ms) must be at least 2s"),
        (&["--url", "nats://127.0.0.1:1"], "give an address like http://127.0.0.1:9000"),
    ] {
        let ran =
            longshore().arg("conform").args(runner).args(arguments).output().expect("the binary starts");
        assert_eq!(ran.status.code(), Some(2));
        assert!(text(&ran.stderr).contains(said), "{}", text(&ran.stderr));
    }
}

#[test]
fn an_interrupted_kit_leaves_nothing_behind() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let keep = directory.path().canonicalize().expect("it is there").display().to_string();
    let runner = format!("python3 -B {} {{url}} {{id}}", root("examples/runner_http.py"));
    let kit = binary::Process::start(
        longshore().args(["conform", "--runner", &runner, "--case", "lease", "--keep", &keep]),
    );
    let of_it = || {
        let processes = std::fs::read_dir("/proc").expect("a directory").flatten();
        let marked = processes.filter(|entry| {
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environ).contains(&format!("LONGSHORE_CONFORM={keep}"))
        });
        marked.count()
    };
    binary::wait_for("its work runs", || (of_it() >= 3).then_some(()));
    assert_eq!(kit.terminate().code(), Some(1));
    assert_eq!(of_it(), 0);
}
