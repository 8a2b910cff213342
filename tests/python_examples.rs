//! The examples in Python, as their readers start them: against a dispatcher that keeps what it was told, and
//! against a whole one.

mod binary;
mod broker;
mod scripted;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::stream::Config;
use binary::{Process, Server};
use broker::Broker;
use longshore::core::settings::Settings;
use longshore::model::*;
use longshore::wire::submission::read_submissions;
use scripted::{Dispatcher, job, work};
use tempfile::TempDir;

/// The Python `make tools` has put in place.
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

fn example(name: &str, broker: &Broker) -> Command {
    let mut command = Command::new(python());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    // Without a directory of compiled files beside the sources.
    command.arg("-B").arg(path).arg(broker.url()).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[expect(clippy::disallowed_methods, reason = "the marks of a process are times of day")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runner_runs_what_it_is_assigned_and_refuses_what_it_must() {
    let broker = Broker::start();
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let runner = Process::start(example("runner.py", &broker).arg("r1"));
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    dispatcher.until("heartbeats", |heard| heard.heartbeats > 1).await;

    for _ in 0..2 {
        dispatcher.assign(job("t1", "1.5.0", "exit 4")).await;
    }
    dispatcher.assign(job("t2", "1.5.1", r#"test "$LONGSHORE_TASK $LONGSHORE_TOKEN" = "t2 1.5.1""#)).await;
    let nothing = serde_json::json!({"id": "t3", "spec": {"command": ["nothing-like-it"]}});
    dispatcher.assign(work(Kind::Job, "t3", "1.5.2", &nothing)).await;
    dispatcher.assign(job("old", "1.4.0", "true")).await;
    dispatcher.assign(work(Kind::Build, "b1", "1.5.3", &serde_json::json!({"id": "b1"}))).await;
    let labelled = serde_json::json!({"id": "t4", "labels": {"zone": "eu"}});
    dispatcher.assign(work(Kind::Job, "t4", "1.5.4", &labelled)).await;
    dispatcher.stop("never", "1.5.5").await;
    dispatcher.assign(job("never", "1.5.5", "true")).await;
    dispatcher.until("all ended", |heard| heard.outcomes().len() == 9).await;

    dispatcher.assign(job("t5", "1.6.0", "sleep 100 & sleep 100")).await;
    dispatcher.until("it started", |heard| heard.has("t5 start")).await;
    dispatcher.stop("t5", "1.6.0").await;
    dispatcher.until("it was stopped", |heard| heard.has("t5 cancelled")).await;
    dispatcher.assign(job("t6", "1.6.1", "sleep 100")).await;
    dispatcher.until("it started", |heard| heard.has("t6 start")).await;
    assert!(runner.terminate().success());
    dispatcher.until("its last word", |heard| heard.has("t6 handback")).await;
    assert_eq!(dispatcher.with(|heard| heard.leaves.len()), 1);

    let mut outcomes = dispatcher.outcomes();
    outcomes.sort();
    let expected = [
        "b1 refused",
        "never handback",
        "old refused",
        "t1 failed",
        "t1 start",
        "t2 start",
        "t2 succeeded",
        "t3 start_failed",
        "t4 refused",
        "t5 cancelled",
        "t5 start",
        "t6 handback",
        "t6 start",
    ];
    assert_eq!(outcomes, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runner_ends_its_work_before_its_lease_and_registers_again() {
    let (broker, directory) = (Broker::start(), TempDir::new().expect("a directory"));
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let lease = Duration::from_secs(3);
    dispatcher.with(|heard| heard.lease = Some(lease));
    let _runner = Process::start(example("runner.py", &broker).arg("r1"));
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    let marks = directory.path().join("marks");
    let script = format!("while true; do date +%s%N >> {}; sleep 0.05; done", marks.display());
    dispatcher.assign(job("t1", "1.5.0", &script)).await;
    dispatcher.until("it is renewed", |heard| heard.has("t1 start") && heard.heartbeats > 12).await;

    broker.pause();
    let (cut, over) = (now(), now() + lease);
    tokio::time::sleep(lease + Duration::from_millis(500)).await;
    let text = std::fs::read_to_string(&marks).expect("it ran");
    let last = text.lines().rfind(|line| line.len() == 19).expect("a mark");
    let last = Duration::from_nanos(last.parse().expect("a number"));
    assert!(cut < last && last < over, "cut {cut:?}, last mark {last:?}, lease until {over:?}");
    broker.resume();
    dispatcher.until("it is said when it can be", |heard| heard.has("t1 handback")).await;
    dispatcher.until("it registered again", |heard| heard.registrations.len() >= 2).await;
    dispatcher.assign(job("t2", "1.6.0", "true")).await;
    dispatcher.until("it works again", |heard| heard.has("t2 succeeded")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_producer_submits_and_waits_until_all_have_ended() {
    let broker = Broker::start();
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let (jetstream, names) = (&dispatcher.connection.jetstream, &dispatcher.names);
    let config =
        Config { name: names.submit_stream(), subjects: names.submit_filters(), ..Config::default() };
    let submitted = jetstream.create_stream(config).await.expect("a stream");
    let mut producer = Process::start(&mut example("producer.py", &broker));
    let mut ids = Vec::new();
    for sequence in 1..=2 {
        let message = loop {
            if let Ok(message) = submitted.get_raw_message(sequence).await {
                break message;
            }
            assert_eq!(producer.ended(), None, "it waits");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(message.subject.as_str(), "longshore.job.pending.default");
        let tasks = read_submissions(&message.payload, Kind::Job, &Settings::default()).expect("well-formed");
        ids.extend(tasks.into_iter().map(|task| task.expect("it can be read").id.clone()));
    }
    assert_eq!(ids.len(), 5);
    for id in ids {
        let subject = names.event(Kind::Job, LifecycleState::Ended, &"default".parse().expect("a name"));
        let event = format!(r#"{{"v":1,"id":"{id}","state":"ended","outcome":"succeeded","reason":null}}"#);
        dispatcher.connection.client.publish(subject, event.into()).await.expect("it is sent");
    }
    let ended = binary::wait_for("it ends", || producer.ended());
    assert!(ended.success());
}

/// Runs the producer against a whole dispatcher, and says where its five jobs ran.
fn produce(broker: &Broker, server: &Server) -> Vec<String> {
    server.wait_for_runners(1);
    let mut producer = Process::start(&mut example("producer.py", broker));
    let ended = binary::wait_for("the producer ends", || producer.ended());
    assert!(ended.success(), "{}", server.json(["ps"]));
    let tasks = server.json(["ps"]);
    let hello = |task: &&serde_json::Value| task["id"].as_str().is_some_and(|id| id.starts_with("hello-"));
    let tasks = tasks["tasks"].as_array().expect("a list").iter().filter(hello);
    tasks
        .map(|task| {
            assert_eq!(task["outcome"], "succeeded", "{task}");
            task["runner"].as_str().expect("it ran somewhere").to_owned()
        })
        .collect()
}

#[test]
fn the_producers_jobs_run_on_the_runner_in_python_and_on_ours() {
    let (broker, dir) = (Broker::start(), TempDir::new().expect("a directory"));
    let server = Server::replica(&broker.url(), dir.path());
    let python = Process::start(example("runner.py", &broker).arg("python"));
    assert_eq!(produce(&broker, &server), ["python"; 5]);
    assert!(python.terminate().success());
    binary::wait_for("it has left", || {
        server.json(["runners"])["runners"].as_array().is_some_and(Vec::is_empty).then_some(())
    });

    let ours = binary::runner_on_nats(&broker.url(), "ours", dir.path(), &["--cpu", "2"]);
    let ran = produce(&broker, &server);
    assert_eq!(ran.iter().filter(|runner| *runner == "ours").count(), 5, "{ran:?}");
    assert!(ours.terminate().success());
}

/// Submits jobs to a queue and says how they ended.
fn pulled(server: &Server, topic: &str, commands: &[&str]) -> Vec<(String, i64)> {
    for (number, command) in commands.iter().enumerate() {
        let id = format!("{topic}-{number}");
        let submitted = server.run(["submit", "--id", &id, "--queue", topic, "--", "sh", "-c", command]);
        assert!(submitted.status.success(), "{}", binary::text(&submitted.stderr));
    }
    (0..commands.len())
        .map(|number| {
            let task = server.wait_until(&format!("{topic}-{number}"), "ended");
            let code = task["exit_code"].as_i64().unwrap_or_default();
            (task["outcome"].as_str().expect("an outcome").to_owned(), code)
        })
        .collect()
}

#[test]
fn the_pullers_run_what_is_on_their_queue() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(dir.path());
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut in_python = Command::new(python());
    in_python.arg("-B").arg(examples.join("puller.py")).args([&server.url, "py"]);
    let _in_python = Process::start(in_python.stdin(Stdio::null()).stdout(Stdio::null()));
    // A subscription is shown among the runners.
    server.wait_for_runners(1);
    let ended = pulled(&server, "py", &["true", "exit 3", "true"]);
    assert_eq!(ended, [("succeeded".into(), 0), ("failed".into(), 3), ("succeeded".into(), 0)]);

    let seen = dir.path().join("seen");
    let keeps = format!("cat >> {}; echo >> {}", seen.display(), seen.display());
    let mut in_shell = Command::new("sh");
    in_shell.arg(examples.join("puller.sh")).args([&server.url, "sh", "sh", "-c", &keeps]);
    let _in_shell = Process::start(in_shell.stdin(Stdio::null()).stdout(Stdio::null()));
    server.wait_for_runners(2);
    let ended = pulled(&server, "sh", &["one", "two"]);
    assert_eq!(ended, [("succeeded".into(), 0), ("succeeded".into(), 0)]);
    let seen = std::fs::read_to_string(seen).expect("it was given what was pulled");
    let given: Vec<serde_json::Value> =
        seen.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(given[1]["jobSpec"]["command"], serde_json::json!(["sh", "-c", "two"]));
}
