//! A whole runner over NATS, on real servers, against a dispatcher that only keeps what it was told.

mod binary;
mod broker;
mod scripted;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker::Broker;
use longshore::model::*;
use longshore::runner::backend::{Backend, NoopBackend, ProcessBackend};
use longshore::runner::link::{Link, LinkError};
use longshore::runner::nats::NatsLink;
use longshore::runner::{Runner, RunnerConfig, RunnerError};
use longshore::wire::refusal::{self, Refusal};
use scripted::wire::Wire;
use scripted::{Dispatcher, connect, job, work};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A lease that a test can wait for.
const SHORT: Duration = Duration::from_secs(3);

fn runner_id() -> RunnerId {
    "r1".parse().expect("a name")
}

fn offer() -> Arc<Offer> {
    Arc::new(Offer {
        kinds: BTreeSet::from([Kind::Job, Kind::Build]),
        queues: BTreeSet::new(),
        arch: "".into(),
        os: "".into(),
        labels: Default::default(),
        taints: BTreeSet::new(),
        group: None,
        resources: None,
        slots: 2_000,
        open: false,
    })
}

fn processes() -> Arc<dyn Backend> {
    Arc::new(
        ProcessBackend::new(env!("CARGO_BIN_EXE_longshore"), Duration::from_secs(1))
            .expect("its guard starts"),
    )
}

async fn link(dispatcher: &Dispatcher, url: &str) -> NatsLink {
    let (connection, names) = (connect(url).await, dispatcher.names.clone());
    NatsLink::open(connection, names, &runner_id(), None).await.expect("it listens")
}

/// A runner on the server at `url`.
async fn run(dispatcher: &Dispatcher, url: &str, directory: &Path, backend: Arc<dyn Backend>) -> Running {
    let mut config = RunnerConfig::new(runner_id(), offer(), directory.to_owned());
    config.stop_grace = Duration::from_millis(100);
    let cancelled = CancellationToken::new();
    let link = Arc::new(link(dispatcher, url).await);
    Running { run: tokio::spawn(Runner::new(config, link, backend).run(cancelled.clone())), cancelled }
}

struct Running {
    cancelled: CancellationToken,
    run: tokio::task::JoinHandle<Result<(), RunnerError>>,
}

impl Running {
    async fn leaves(self) {
        self.cancelled.cancel();
        let within = tokio::time::timeout(Duration::from_secs(20), self.run).await;
        within.expect("it leaves in time").expect("no panic").expect("no error");
    }
}

/// Work that writes down when it was alive.
struct Marks {
    file: PathBuf,
}

impl Marks {
    fn in_directory(directory: &TempDir) -> Self {
        Self { file: directory.path().join("marks") }
    }

    fn script(&self) -> String {
        format!("while true; do date +%s%N >> {}; sleep 0.05; done", self.file.display())
    }

    fn last(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        // The last line may not be whole.
        let whole = text.rsplit_once('\n')?.0;
        Some(Duration::from_nanos(whole.rsplit('\n').next()?.parse().ok()?))
    }

    /// Waits until the lease that was renewed for the last time before `cut` is over, and judges by the marks.
    async fn were_made_until_before(&self, cut: Duration, lease: Duration) {
        let over = cut + lease;
        tokio::time::sleep((over + Duration::from_millis(500)).saturating_sub(now())).await;
        let last = self.last().expect("it ran");
        assert!(last > cut, "it was ended {:?} before the connection was lost", cut.saturating_sub(last));
        assert!(last < over, "it ran {:?} beyond its lease", last.saturating_sub(over));
    }
}

/// By the clock the marks are made with.
#[expect(clippy::disallowed_methods, reason = "the marks of a process are times of day")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970")
}

fn registration() -> Registration {
    Registration {
        runner: runner_id(),
        incarnation: "i1".into(),
        offer: offer(),
        cost: 1.0,
        class: None,
        intent: None,
        running: Vec::new(),
        artifacts: None,
        last_seen: None,
        version: "".into(),
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        runner: runner_id(),
        incarnation: "i1".into(),
        number: 1,
        running: Vec::new(),
        artifacts: None,
    }
}

fn leave() -> Leave {
    Leave { runner: runner_id(), incarnation: "i1".into(), handback: Vec::new() }
}

fn start_of(id: &str) -> Report {
    Report {
        runner: runner_id(),
        incarnation: "i1".into(),
        kind: Kind::Job,
        id: id.parse().expect("a name"),
        token: "1.5.0".parse().expect("a token"),
        what: Reported::Start,
    }
}

#[tokio::test]
async fn error_documents_say_what_may_be_tried_again() {
    let broker = Broker::start();
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let link = link(&dispatcher, &broker.url()).await;
    let answers = async |code: &str| {
        dispatcher.with(|heard| heard.refuse = Some(Refusal::new(code, "for a reason")));
        let register = link.register(&registration()).await.expect_err("it is refused");
        let heartbeat = link.heartbeat(&heartbeat()).await.expect_err("it is refused");
        let leave = link.leave(&leave()).await.expect_err("it is refused");
        let word = |why: LinkError| {
            assert!(why.to_string().ends_with(&format!("was answered: for a reason [{code}]")), "{why}");
            match why {
                LinkError::Retry { .. } => "retry",
                LinkError::Unknown { .. } => "unknown",
                LinkError::Refused { .. } => "refused",
            }
        };
        [register, heartbeat, leave].map(word)
    };
    // As over HTTP: registering settles a heartbeat that cannot be read, and what stands against registering passes.
    assert_eq!(answers(refusal::MALFORMED).await, ["refused", "unknown", "refused"]);
    assert_eq!(answers(refusal::FROZEN).await, ["retry"; 3]);
    assert_eq!(answers(refusal::UNKNOWN_RUNNER).await, ["retry", "unknown", "unknown"]);
    assert_eq!(answers(refusal::CONFLICT).await, ["retry", "unknown", "unknown"]);
    assert_eq!(answers("tired").await, ["retry"; 3]);
    dispatcher.with(|heard| heard.refuse = None);
    assert_eq!(link.register(&registration()).await.expect("it is taken").turn, 5);
}

#[tokio::test]
async fn silence_may_be_tried_again() {
    let mut broker = Broker::start();
    let names = longshore::wire::subject::Names::of_pool("default");
    let connection = connect(&broker.url()).await;
    let link = NatsLink::open(connection, names, &runner_id(), None).await.expect("it listens");
    let nobody = link.heartbeat(&heartbeat()).await.expect_err("nobody listens");
    assert!(nobody.is_retryable() && nobody.to_string().contains("no dispatcher listens"), "{nobody}");
    let no_stream = link.report(&runner_id(), &[start_of("t1")]).await.expect_err("there is no stream");
    assert!(no_stream.is_retryable(), "{no_stream}");
    assert!(link.next_delivery(&runner_id(), Duration::from_millis(10)).await.expect("nothing").is_empty());
    broker.kill();
    let gone = link.report(&runner_id(), &[start_of("t1")]).await.expect_err("the server is gone");
    assert!(gone.is_retryable() && gone.to_string().contains("127.0.0.1"), "{gone}");
}

#[tokio::test]
async fn the_stream_has_once_what_is_reported_twice() {
    let broker = Broker::start();
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let link = link(&dispatcher, &broker.url()).await;
    for reports in [&["t1", "t2"][..], &["t1", "t2"], &["t3"]] {
        let reports: Vec<Report> = reports.iter().map(|id| start_of(id)).collect();
        link.report(&runner_id(), &reports).await.expect("they are stored");
    }
    dispatcher.until("the last one", |heard| heard.has("t3 start")).await;
    assert_eq!(dispatcher.outcomes(), ["t1 start", "t2 start", "t3 start"]);
}

#[tokio::test]
async fn what_waits_comes_as_one_delivery_without_what_is_unreadable() {
    let broker = Broker::start();
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let link = link(&dispatcher, &broker.url()).await;
    // Once it is registered its subscription is known to the server.
    link.register(&registration()).await.expect("it is taken");
    dispatcher.publish(b"{\"assignments\": 1}".to_vec()).await;
    dispatcher.assign(job("t1", "1.5.0", "true")).await;
    dispatcher.assign(job("t2", "1.5.1", "true")).await;
    dispatcher.stop("t9", "1.4.0").await;
    let (mut taken, mut deliveries) = (Delivery::default(), 0);
    while taken.assignments.len() + taken.stop.len() < 3 {
        let more = link.next_delivery(&runner_id(), Duration::from_secs(10)).await.expect("there is more");
        taken.assignments.extend(more.assignments);
        taken.stop.extend(more.stop);
        deliveries += 1;
    }
    assert!(deliveries <= 3 && taken.stop.len() == 1);
    // Of what came before it registers again nothing is left: it is sent again instead.
    dispatcher.connection.client.flush().await.expect("it was sent");
    dispatcher.stop("t9", "1.4.0").await;
    dispatcher.connection.client.flush().await.expect("it was sent");
    link.heartbeat(&heartbeat()).await.expect("what was sent before has come");
    link.register(&registration()).await.expect("it is taken");
    let again = link.next_delivery(&runner_id(), Duration::from_secs(10)).await.expect("sent again");
    assert_eq!((again.assignments.len(), again.stop.len()), (2, 0));
}

#[tokio::test]
async fn a_task_is_started_once_and_reported_and_the_runner_leaves() {
    let (broker, directory) = (Broker::start(), TempDir::new().expect("a directory"));
    let dispatcher = Dispatcher::start(&broker.url()).await;
    dispatcher.with(|heard| heard.lease = Some(SHORT));
    let runner = run(&dispatcher, &broker.url(), directory.path(), processes()).await;
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    for _ in 0..2 {
        dispatcher.assign(job("t1", "1.5.0", "exit 4")).await;
    }
    let build = serde_json::json!({"id": "b1", "kind": "build", "spec": {"command": ["true"]}});
    dispatcher.assign(work(Kind::Build, "b1", "1.5.1", &build)).await;
    dispatcher.until("both ended", |heard| heard.has("t1 failed") && heard.has("b1 succeeded")).await;
    dispatcher.until("heartbeats", |heard| heard.heartbeats > 2).await;
    let mut outcomes = dispatcher.outcomes();
    outcomes.sort();
    assert_eq!(outcomes, ["b1 start", "b1 succeeded", "t1 failed", "t1 start"]);
    let subjects = dispatcher.with(|heard| heard.subjects.iter().cloned().collect::<BTreeSet<_>>());
    let expected = ["build.end", "build.start", "job.end", "job.start"];
    assert!(subjects.into_iter().eq(expected.map(|word| format!("longshore.{word}.r1"))));

    dispatcher.assign(job("t2", "1.6.0", "sleep 100")).await;
    dispatcher.until("the second started", |heard| heard.has("t2 start")).await;
    dispatcher.stop("t2", "1.6.0").await;
    dispatcher.until("it was stopped", |heard| heard.has("t2 cancelled")).await;
    dispatcher.assign(job("t3", "1.6.1", "sleep 100")).await;
    dispatcher.until("the third started", |heard| heard.has("t3 start")).await;
    runner.leaves().await;
    dispatcher.until("its last word", |heard| heard.has("t3 handback")).await;
    assert_eq!(dispatcher.with(|heard| heard.leaves.len()), 1);
}

#[tokio::test]
async fn a_question_that_a_dying_dispatcher_took_along_is_asked_again() {
    let broker = Broker::start();
    let dispatcher = Dispatcher::start(&broker.url()).await;
    dispatcher.with(|heard| {
        heard.lease = Some(SHORT);
        heard.unanswered = 1;
    });
    let directory = TempDir::new().expect("a temporary directory");
    let registered = async {
        let runner = run(&dispatcher, &broker.url(), directory.path(), Arc::new(NoopBackend)).await;
        dispatcher.until("it is registered", |heard| heard.registrations.len() == 1).await;
        dispatcher.with(|heard| heard.unanswered = 1);
        // One of its heartbeats is lost as well: it renews its lease all the same.
        dispatcher.until("heartbeats", |heard| heard.unanswered == 0 && heard.heartbeats > 12).await;
        runner
    };
    // An answer that never comes would be waited for longer than that.
    let runner = tokio::time::timeout(Duration::from_secs(9), registered).await.expect("it asks again");
    assert_eq!(dispatcher.with(|heard| heard.registrations.len()), 1, "its lease never ended");
    runner.leaves().await;
}

#[tokio::test]
async fn many_short_tasks_are_reported_in_packs() {
    let (broker, directory) = (Broker::start(), TempDir::new().expect("a directory"));
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let runner = run(&dispatcher, &broker.url(), directory.path(), Arc::new(NoopBackend)).await;
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    for number in 0..1_500 {
        dispatcher.assign(job(&format!("t{number}"), &format!("1.5.{number}"), "true")).await;
    }
    dispatcher.until("all ended", |heard| heard.reports.len() == 3_000).await;
    let distinct: BTreeSet<String> = dispatcher.outcomes().into_iter().collect();
    assert_eq!(distinct.len(), 3_000, "each once");
    runner.leaves().await;
}

#[tokio::test]
async fn after_a_restart_of_the_server_the_runner_registers_again_and_gets_its_work() {
    let (mut broker, directory) = (Broker::start(), TempDir::new().expect("a directory"));
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let runner = run(&dispatcher, &broker.url(), directory.path(), processes()).await;
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    let go = directory.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.01; done", go.display());
    dispatcher.assign(job("t1", "1.5.0", &script)).await;
    dispatcher.until("it started", |heard| heard.has("t1 start")).await;

    broker.kill();
    // It ends while nobody can hear it, and more is assigned while it cannot hear.
    std::fs::write(&go, "").expect("a file");
    dispatcher.with(|heard| heard.open.push(job("t2", "1.6.0", "true")));
    broker.up();
    dispatcher.until("it registered again", |heard| heard.registrations.len() >= 2).await;
    dispatcher.until("both ended", |heard| heard.has("t1 succeeded") && heard.has("t2 succeeded")).await;
    let mut outcomes = dispatcher.outcomes();
    outcomes.sort();
    assert_eq!(outcomes, ["t1 start", "t1 succeeded", "t2 start", "t2 succeeded"]);
    let incarnations = dispatcher.with(|heard| {
        heard.registrations.iter().map(|said| said.incarnation.clone()).collect::<BTreeSet<_>>()
    });
    assert_eq!(incarnations.len(), 1, "it is the same runner still");
    runner.leaves().await;
}

#[tokio::test]
async fn work_ends_before_the_lease_when_the_server_stands_still() {
    let (broker, directory) = (Broker::start(), TempDir::new().expect("a directory"));
    let dispatcher = Dispatcher::start(&broker.url()).await;
    dispatcher.with(|heard| heard.lease = Some(SHORT));
    let runner = run(&dispatcher, &broker.url(), directory.path(), processes()).await;
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    let marks = Marks::in_directory(&directory);
    dispatcher.assign(job("t1", "1.5.0", &marks.script())).await;
    dispatcher.until("it is renewed", |heard| heard.has("t1 start") && heard.heartbeats > 12).await;
    assert!(marks.last().is_some(), "it ran for longer than one lease");

    // Taken after it stands still: no heartbeat sent later was answered.
    broker.pause();
    marks.were_made_until_before(now(), SHORT).await;
    assert!(!dispatcher.with(|heard| heard.has("t1 handback")), "nobody can hear it");
    broker.resume();
    dispatcher.until("it is said when it can be", |heard| heard.has("t1 handback")).await;
    dispatcher.until("it registered again", |heard| heard.registrations.len() >= 2).await;
    assert_eq!(dispatcher.outcomes(), ["t1 start", "t1 handback"]);
    runner.leaves().await;
}

#[tokio::test]
async fn work_ends_before_the_lease_when_one_direction_is_cut() {
    for to_server in [true, false] {
        let (broker, directory) = (Broker::start(), TempDir::new().expect("a directory"));
        let dispatcher = Dispatcher::start(&broker.url()).await;
        dispatcher.with(|heard| heard.lease = Some(SHORT));
        let wire = Wire::to(&broker.url()).await;
        let runner = run(&dispatcher, wire.url(), directory.path(), processes()).await;
        dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
        let marks = Marks::in_directory(&directory);
        dispatcher.assign(job("t1", "1.5.0", &marks.script())).await;
        dispatcher.until("it started", |heard| heard.has("t1 start") && heard.heartbeats > 2).await;

        if to_server {
            wire.to_server(false)
        } else {
            wire.to_client(false)
        }
        marks.were_made_until_before(now(), SHORT).await;
        if to_server {
            wire.to_server(true)
        } else {
            wire.to_client(true)
        }
        dispatcher.until("it is said when it can be", |heard| heard.has("t1 handback")).await;
        dispatcher.until("it registered again", |heard| heard.registrations.len() >= 2).await;
        runner.leaves().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_speaks_nats_and_tells_the_work_where_http_is() {
    let (broker, directory) = (Broker::start(), TempDir::new().expect("a directory"));
    let dispatcher = Dispatcher::start(&broker.url()).await;
    let mut command = binary::longshore();
    command.args(["runner", "--id", "r1", "--url", "http://127.0.0.1:8123", "--data"]).arg(directory.path());
    let runner = binary::Process::start(command.env("LONGSHORE_NATS", broker.url()));
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    let told = directory.path().join("told");
    dispatcher.assign(job("t1", "1.5.0", &format!("echo $LONGSHORE_URL > {}", told.display()))).await;
    dispatcher.until("it ended", |heard| heard.has("t1 succeeded")).await;
    assert_eq!(std::fs::read_to_string(told).expect("a file"), "http://127.0.0.1:8123\n");
    assert!(runner.terminate().success());
    assert_eq!(dispatcher.with(|heard| heard.leaves.len()), 1);
}

/// What a runner's user may do where each has its own subjects and inbox.
const PERMISSIONS: &str = r#"
authorization { users: [
  { user: dispatcher, password: d }
  { user: r1, password: r, permissions: {
    publish: ["longshore.runner.*.r1", "longshore.*.start.r1", "longshore.*.end.r1"]
    subscribe: ["longshore.assign.r1", "_INBOX_r1.>"] } }
] }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_needs_its_own_subjects_and_inbox_and_nothing_more() {
    let (broker, directory) = (Broker::start_with(PERMISSIONS), TempDir::new().expect("a directory"));
    let dispatcher = Dispatcher::start(&broker.url().replace("//", "//dispatcher:d@")).await;
    let mut command = binary::longshore();
    command.args(["runner", "--id", "r1", "--nats", &broker.url(), "--nats-inbox", "_INBOX_r1", "--data"]);
    command.arg(directory.path()).envs([("LONGSHORE_NATS_USER", "r1"), ("LONGSHORE_NATS_PASSWORD", "r")]);
    let runner = binary::Process::start(&mut command);
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    dispatcher.assign(job("t1", "1.5.0", "true")).await;
    dispatcher.until("it ended", |heard| heard.has("t1 succeeded")).await;
    assert!(runner.terminate().success());
    assert_eq!(dispatcher.with(|heard| heard.leaves.len()), 1);
}

#[test]
fn a_wrong_address_is_wrong_usage_and_a_server_that_is_away_is_said_to_be() {
    let directory = TempDir::new().expect("a directory");
    let run = |args: &[&str]| {
        let mut command = binary::longshore();
        command.args(["runner", "--id", "r1", "--data"]).arg(directory.path()).args(args);
        let ended = command.output().expect("it ends");
        (ended.status.code(), binary::text(&ended.stderr))
    };
    for (args, says) in [
        (&["--nats", "http://127.0.0.1:4222"][..], r#"has the scheme "http""#),
        (&["--nats", "nats://127.0.0.1:99999"], "is no URL"),
        (&["--nats", "nats://127.0.0.1:1", "--url", "over there"], "--url"),
        (&["--nats", "nats://127.0.0.1:1", "--nats-user", "u"], "belong together"),
        (&["--nats", "nats://127.0.0.1:1", "--nats-credentials", "no-such-file"], "no-such-file"),
        (&["--nats", "nats://127.0.0.1:1", "--nats-inbox", "a.>"], "_INBOX_r1"),
        (&["--pool", "gpu"], "--nats"),
        (&["--nats", "nats://127.0.0.1:1", "--pool", "a.b"], "'.' at position 1"),
    ] {
        let (code, said) = run(args);
        assert!(code == Some(2) && said.contains(says), "{args:?} ended with {code:?}: {said}");
    }
    let (code, said) = run(&["--nats", "nats://u:secret@127.0.0.1:1"]);
    assert!(code == Some(3) && said.contains("nats://127.0.0.1:1:"), "{code:?}: {said}");
    assert!(!said.contains("secret"), "{said}");
}
