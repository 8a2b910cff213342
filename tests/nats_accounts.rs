//! The shipped configuration of nats-server, as it stands: what each of its users can do, and what none can.

mod binary;
mod broker;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, stream::Info};
use async_nats::{Client, ConnectOptions, Event};
use binary::{Process, Server};
use broker::Broker;
use futures_util::StreamExt;
use longshore::wire::subject::{Ask, DEFAULT_POOL, Names};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than any answer here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// The users of EDGE.
const OUTSIDE: [&str; 4] = ["producer", "operator", "runner-1", "runner-2"];

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/nats.conf")
}

/// A server with the shipped configuration. Everybody's password is the own name.
fn server() -> Broker {
    let users = OUTSIDE.iter().chain(&["dispatcher", "admin"]);
    let variable = |user: &&str| {
        let name = user.to_uppercase().replace('-', "_");
        (format!("LONGSHORE_NATS_{name}_PASSWORD"), (*user).to_owned())
    };
    Broker::start_with_file(&file(), users.map(variable).collect())
}

/// A client of the server, and what the server has refused it.
struct User {
    client: Client,
    refused: Arc<Mutex<Vec<String>>>,
}

impl User {
    async fn connect(server: &Broker, name: &str) -> Self {
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = refused.clone();
        let client = ConnectOptions::with_user_and_password(name.to_owned(), name.to_owned())
            .custom_inbox_prefix(format!("_INBOX_{name}"))
            .request_timeout(Some(Duration::from_secs(5)))
            .event_callback(move |event| {
                if let Event::ServerError(why) = &event {
                    noted.lock().expect("nobody panics with it").push(why.to_string().to_lowercase());
                }
                std::future::ready(())
            })
            .connect(server.url())
            .await;
        Self { client: client.expect("it may connect"), refused }
    }

    fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// Waits until the server has refused something that names `subject`.
    async fn is_refused(&self, subject: &str) {
        let named = format!("\"{}\"", subject.to_lowercase());
        let refused = async {
            while !self.refused.lock().expect("nobody panics with it").iter().any(|why| why.contains(&named))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, refused).await.unwrap_or_else(|_| panic!("{subject} is refused"));
    }

    async fn may_not_publish(&self, subject: &str) {
        self.client.publish(subject.to_owned(), "{}".into()).await.expect("it is sent");
        self.is_refused(subject).await;
    }

    async fn may_not_hear(&self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.expect("it is sent");
        self.is_refused(subject).await;
    }

    /// Submits one task, and waits until the stream has said that it has it.
    async fn submits(&self, task: Value) -> u64 {
        let sent = self.jetstream().publish("longshore.job.pending.default", task.to_string().into()).await;
        let kept = timeout(PATIENCE, sent.expect("it is sent").into_future()).await;
        let kept = kept.expect("an answer in time").expect("it is taken");
        assert_eq!(kept.stream, "LONGSHORE_SUBMIT");
        kept.sequence
    }

    async fn stream(&self, name: &str) -> Info {
        self.jetstream().get_stream(name).await.expect("it is there").cached_info().clone()
    }
}

/// A dispatcher that connects as the file has it.
fn dispatcher(server: &Broker, directory: &TempDir) -> Server {
    let mut command = binary::longshore();
    command.args(["serve", "--log-level", "warn", "--listen", "127.0.0.1:0"]).envs([
        ("LONGSHORE_NATS", server.url().as_str()),
        ("LONGSHORE_NATS__USER", "dispatcher"),
        ("LONGSHORE_NATS__PASSWORD", "dispatcher"),
        ("LONGSHORE_NATS__INBOX", "_INBOX_dispatcher"),
    ]);
    Server::started(&mut command, directory.path())
}

fn runner(server: &Broker, directory: &TempDir, id: &str) -> Process {
    let mut command = binary::longshore();
    command.args(["runner", "--log-level", "warn", "--id", id, "--cpu", "2", "--memory", "4GiB", "--data"]);
    let inbox = format!("_INBOX_{id}");
    command.arg(directory.path().join(id)).envs([
        ("LONGSHORE_NATS", server.url().as_str()),
        ("LONGSHORE_NATS_USER", id),
        ("LONGSHORE_NATS_PASSWORD", id),
        ("LONGSHORE_NATS_INBOX", &inbox),
    ]);
    Process::start(&mut command)
}

fn directory() -> TempDir {
    TempDir::new().expect("a directory")
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_from_a_producer_through_two_replicas_to_a_runner_and_back() {
    let (server, directory) = (server(), directory());
    let replicas = [dispatcher(&server, &directory), dispatcher(&server, &directory)];
    let _runner = runner(&server, &directory, "runner-1");
    let producer = User::connect(&server, "producer").await;
    let mut events = producer.client.subscribe("longshore.event.job.ended.*").await.expect("it may");
    producer.client.flush().await.expect("it is there");

    producer.submits(json!({"id": "t1", "spec": {"command": ["true"]}})).await;
    let told = timeout(PATIENCE, events.next()).await.expect("it ends in time").expect("an event");
    let told: Value = serde_json::from_slice(&told.payload).expect("JSON");
    assert_eq!((&told["id"], &told["outcome"]), (&json!("t1"), &json!("succeeded")));

    // Either replica is a door: what it does not decide itself it asks the other, as the same user.
    for (id, replica) in ["t2", "t3"].into_iter().zip(&replicas) {
        let output = replica.run(["submit", "--id", id, "--wait", "--", "true"]);
        assert!(output.status.success(), "{}", binary::text(&output.stderr));
        let drained = replica.run(["drain", "runner-1"]);
        assert!(drained.status.success(), "{}", binary::text(&drained.stderr));
        assert!(replica.run(["resume", "runner-1"]).status.success());
    }

    let operator = User::connect(&server, "operator").await;
    let hold = json!({"request": "1", "command": "hold", "runner": "runner-1", "reason": "test"}).to_string();
    let answer = operator.client.request("longshore.command", hold.into()).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert!(answer["turn"].as_u64().is_some_and(|turn| turn > 0), "{answer}");
    binary::wait_for("the runner is held", || {
        (replicas[0].json(["runners", "runner-1"])["state"] == "held").then_some(())
    });
    for user in [&producer, &operator] {
        assert_eq!(*user.refused.lock().expect("nobody panics with it"), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_outside_writes_or_reads_the_table() {
    let (server, directory) = (server(), directory());
    // It makes the table and writes turns; what comes after it was written by nobody else than this test.
    let made = dispatcher(&server, &directory);
    let admin = User::connect(&server, "admin").await;
    while admin.stream("KV_longshore").await.state.last_sequence == 0 {
        tokio::task::yield_now().await;
    }
    assert!(made.process.terminate().success());
    let before = admin.stream("KV_longshore").await.state.last_sequence;
    let next = format!("$KV.longshore.turn.{}", before + 1);

    for name in OUTSIDE {
        let user = User::connect(&server, name).await;
        user.may_not_publish(&next).await;
        user.may_not_publish("$JS.API.STREAM.PURGE.KV_longshore").await;
        user.may_not_publish("$JS.API.STREAM.MSG.GET.KV_longshore").await;
        user.may_not_publish("$JS.API.DIRECT.GET.KV_longshore.$KV.longshore.turn.1").await;
        for subject in ["$KV.longshore.>", "longshore.>", "_INBOX_dispatcher.>", "_R_.>", ">"] {
            user.may_not_hear(subject).await;
        }
    }
    // What it may publish, with the next turn as the subject its acknowledgement is to go to.
    for (name, subject, stream) in [
        ("producer", "longshore.job.pending.default", "LONGSHORE_SUBMIT"),
        ("operator", "longshore.task.cancel", "LONGSHORE_SUBMIT"),
        ("runner-1", "longshore.job.end.runner-1", "LONGSHORE_REPORT"),
    ] {
        let user = User::connect(&server, name).await;
        let held = admin.stream(stream).await.state.messages;
        user.client.publish_with_reply(subject, next.clone(), "{}".into()).await.expect("it is sent");
        user.client.flush().await.expect("it is there");
        until(&format!("{subject} is stored"), async || admin.stream(stream).await.state.messages > held)
            .await;
    }
    assert_eq!(admin.stream("KV_longshore").await.state.last_sequence, before, "the table is untouched");

    // The same from inside does overwrite it: this is what the second account is for.
    let subject = "longshore.job.pending.default";
    admin.client.publish_with_reply(subject, next.clone(), "{}".into()).await.expect("it is sent");
    until("the acknowledgement is a row of the table", async || {
        admin.stream("KV_longshore").await.state.last_sequence == before + 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_says_and_hears_what_is_its_own() {
    let (server, directory) = (server(), directory());
    let _dispatcher = dispatcher(&server, &directory);
    let runner = User::connect(&server, "runner-1").await;
    for subject in [
        "longshore.job.pending.default",
        "longshore.job.pending.default.b1",
        "longshore.task.cancel",
        "longshore.command",
        "longshore.runner.register.runner-2",
        "longshore.job.end.runner-2",
        "longshore.assign.runner-2",
        "longshore.output.runner-2.t1.1.2.3",
        "longshore.history",
    ] {
        runner.may_not_publish(subject).await;
    }
    for subject in ["longshore.assign.runner-2", "longshore.assign.*", "_INBOX_runner-2.>"] {
        runner.may_not_hear(subject).await;
    }
    let producer = User::connect(&server, "producer").await;
    for subject in ["longshore.command", "longshore.runner.register.r9", "longshore.job.end.runner-1"] {
        producer.may_not_publish(subject).await;
    }
    for subject in ["longshore.assign.*", "_INBOX_runner-1.>"] {
        producer.may_not_hear(subject).await;
    }
    // Not even the dispatchers see what is no business of theirs.
    let inside = User::connect(&server, "dispatcher").await;
    inside.may_not_publish("$KV.other.key").await;
    inside.may_not_hear("_INBOX_producer.>").await;
}

#[tokio::test]
async fn without_a_name_and_password_nobody_connects() {
    let server = server();
    assert!(async_nats::connect(server.url()).await.is_err(), "there is no user for the nameless");
    let wrong = ConnectOptions::with_user_and_password("producer".to_owned(), "runner-1".to_owned());
    assert!(wrong.connect(server.url()).await.is_err());
}

#[test]
fn the_accounts_share_exactly_the_subjects_of_the_protocol() {
    let text = std::fs::read_to_string(file()).expect("a file");
    let names = Names::of_pool(DEFAULT_POOL);
    let mut services: BTreeSet<String> = names.submit_filters().into_iter().collect();
    services.extend(names.report_filters());
    services.extend(Ask::ALL.map(|ask| names.asks(ask)));
    services.insert(names.command());
    // Runner, task, and the three parts of a token.
    services.insert(names.output_filter().replace('>', "*.*.*.*.*"));
    let streams = BTreeSet::from(["longshore.assign.*".to_owned(), "longshore.event.>".to_owned()]);

    let after = |mark: &str| -> BTreeSet<String> {
        let quoted = |line: &str| Some(line.trim().strip_prefix(mark)?.split('"').next()?.to_owned());
        text.lines().filter_map(quoted).collect()
    };
    assert_eq!(after("{ service: \""), services, "exported");
    assert_eq!(after("{ service: { account: CORE, subject: \""), services, "imported");
    assert_eq!(after("{ stream: \""), streams, "exported");
    assert_eq!(after("{ stream: { account: CORE, subject: \""), streams, "imported");
}

#[test]
fn what_is_acknowledged_is_on_disk() {
    let text = std::fs::read_to_string(file()).expect("a file");
    assert_eq!(text.lines().filter(|line| line.trim() == "sync_interval: always").count(), 1);
}

async fn until(what: &str, mut fact: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !fact().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what} in time"));
}
