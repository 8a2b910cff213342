//! A whole runner against a small dispatcher that only keeps what it was told: the link's errors, the flow from
//! assignment to report, and leaving.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::path::Path as FsPath;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use longshore::model::*;
use longshore::runner::backend::{Backend, NoopBackend, ProcessBackend};
use longshore::runner::http::HttpLink;
use longshore::runner::link::{Link, LinkError};
use longshore::runner::{Runner, RunnerConfig, RunnerError};
use longshore::wire::message::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Set when this test binary is run again as a process that is a runner: the dispatcher and the directory.
const INNER_URL: &str = "LONGSHORE_TEST_INNER_URL";
const INNER_DIRECTORY: &str = "LONGSHORE_TEST_INNER_DIRECTORY";

/// What the dispatcher heard, and what it is to answer.
#[derive(Default)]
struct Heard {
    registrations: Vec<Registration>,
    heartbeats: u64,
    reports: Vec<Report>,
    requests: usize,
    leave: Option<Leave>,
    waiting: Vec<AssignmentMessage>,
    /// Answers everything with this status.
    broken: Option<StatusCode>,
    /// Answers heartbeats with `register`.
    forgotten: bool,
    lease: Option<Duration>,
    /// A process, and whether it was there at each registration.
    watched: Option<String>,
    was_there: Vec<bool>,
}

type Shared = Arc<Mutex<Heard>>;

#[derive(Clone)]
struct Dispatcher {
    heard: Shared,
    url: String,
}

impl Dispatcher {
    async fn start() -> Self {
        let heard = Shared::default();
        let routes = axum::Router::new()
            .route("/v1/runners", post(register))
            .route("/v1/runners/{id}/heartbeat", post(heartbeat))
            .route("/v1/runners/{id}/assignments", get(assignments))
            .route("/v1/runners/{id}/reports", post(reports))
            .route("/v1/runners/{id}/leave", post(leave))
            .with_state(heard.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { heard, url }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Heard) -> T) -> T {
        look(&mut self.heard.lock().expect("no panic while held"))
    }

    fn assign(&self, id: &str, token: &str, spec: &str) {
        let assignment = AssignmentMessage {
            id: id.parse().expect("a name"),
            kind: Kind::Job,
            queue: "default".parse().expect("a name"),
            attempt: 1,
            token: token.parse().expect("a token"),
            deadline: Duration::from_secs(30),
            task: format!(r#"{{"id":"{id}","spec":{spec}}}"#).into(),
        };
        self.with(|heard| heard.waiting.push(assignment));
    }

    async fn until(&self, what: &str, fact: impl Fn(&Heard) -> bool) {
        for _ in 0..2_000 {
            if self.with(|heard| fact(heard)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not within 10 s: {what}");
    }

    fn outcomes(&self) -> Vec<(String, String)> {
        let said = |report: &Report| match &report.what {
            Reported::Start => (report.id.to_string(), "start".to_owned()),
            Reported::End(end) => (report.id.to_string(), end.outcome.as_str().to_owned()),
        };
        self.with(|heard| heard.reports.iter().map(said).collect())
    }

    fn run(&self, directory: &FsPath, backend: Arc<dyn Backend>) -> Running {
        let offer = Offer {
            kinds: BTreeSet::from([Kind::Job]),
            queues: BTreeSet::new(),
            arch: "".into(),
            os: "".into(),
            labels: Default::default(),
            taints: BTreeSet::new(),
            group: None,
            resources: None,
            slots: 2_000,
            open: false,
        };
        let id = "r1".parse().expect("a name");
        let mut config = RunnerConfig::new(id, Arc::new(offer), directory.to_owned());
        config.stop_grace = Duration::from_millis(100);
        let link = Arc::new(HttpLink::new(&self.url).expect("an address"));
        let cancelled = CancellationToken::new();
        let run = Runner::new(config, link, backend).run(cancelled.clone());
        Running { cancelled, run: tokio::spawn(run) }
    }
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

fn broken(heard: &Heard) -> Option<Response> {
    heard.broken.map(|status| (status, [("Retry-After", "3")], r#"{"detail":"no leader"}"#).into_response())
}

async fn register(State(shared): State<Shared>, body: Bytes) -> Response {
    let mut heard = shared.lock().expect("no panic while held");
    if let Some(answer) = broken(&heard) {
        return answer;
    }
    let there = heard.watched.as_deref().is_some_and(is_alive);
    heard.was_there.push(there);
    heard.registrations.push(read_registration(&body, None).expect("well-formed"));
    let registered = Registered {
        table: uuid::Uuid::from_u128(1),
        turn: 5,
        lease: heard.lease.unwrap_or(Duration::from_secs(15)),
        heartbeat: heard.lease.map_or(Duration::from_millis(50), |lease| lease * 2),
        assignments: Vec::new(),
    };
    write_registered(&registered).into_response()
}

async fn heartbeat(State(shared): State<Shared>, Path(id): Path<String>, body: Bytes) -> Response {
    let mut heard = shared.lock().expect("no panic while held");
    let runner = id.parse().expect("a name");
    let beat = read_heartbeat(&body, Some(&runner)).expect("well-formed");
    heard.heartbeats += 1;
    let register = std::mem::take(&mut heard.forgotten);
    let answer = HeartbeatAnswer { number: beat.number, register, ..HeartbeatAnswer::default() };
    broken(&heard).unwrap_or_else(|| write_heartbeat_answer(&answer).into_response())
}

async fn assignments(State(shared): State<Shared>, Path(_): Path<String>) -> Response {
    for _ in 0..50 {
        let waiting = std::mem::take(&mut shared.lock().expect("no panic while held").waiting);
        if !waiting.is_empty() {
            return write_delivery(&Delivery { assignments: waiting, stop: Vec::new() }).into_response();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    broken(&shared.lock().expect("no panic while held"))
        .unwrap_or_else(|| write_delivery(&Delivery::default()).into_response())
}

async fn reports(State(shared): State<Shared>, Path(id): Path<String>, body: Bytes) -> Response {
    let mut heard = shared.lock().expect("no panic while held");
    if let Some(answer) = broken(&heard) {
        return answer;
    }
    let runner = id.parse().expect("a name");
    heard.requests += 1;
    heard
        .reports
        .extend(read_reports(&body, Said { runner: Some(&runner), ..Said::default() }).expect("well-formed"));
    StatusCode::ACCEPTED.into_response()
}

async fn leave(State(shared): State<Shared>, Path(id): Path<String>, body: Bytes) -> Response {
    let runner = id.parse().expect("a name");
    shared.lock().expect("no panic while held").leave =
        Some(read_leave(&body, Some(&runner)).expect("well-formed"));
    StatusCode::OK.into_response()
}

fn processes() -> Arc<dyn Backend> {
    Arc::new(
        ProcessBackend::new(env!("CARGO_BIN_EXE_longshore"), Duration::from_secs(1))
            .expect("its guard starts"),
    )
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn the_link_tells_what_may_be_tried_again_from_what_may_not() {
    let dispatcher = Dispatcher::start().await;
    let link = HttpLink::new(&dispatcher.url).expect("an address");
    let runner: RunnerId = "r1".parse().expect("a name");
    let answered = async |status: StatusCode| {
        dispatcher.with(|heard| heard.broken = Some(status));
        link.report(&runner, &[]).await.expect_err("it is broken")
    };
    let busy = answered(StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(
        matches!(&busy, LinkError::Retry { after: Some(after), message }
            if *after == Duration::from_secs(3) && message.contains("503") && message.ends_with(": no leader")),
        "{busy:?}"
    );
    assert!(answered(StatusCode::TOO_MANY_REQUESTS).await.is_retryable());
    assert!(matches!(answered(StatusCode::CONFLICT).await, LinkError::Unknown { .. }));
    assert!(matches!(answered(StatusCode::BAD_REQUEST).await, LinkError::Refused { .. }));

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = HttpLink::new(&format!("http://{}", listener.local_addr().expect("its address")));
    drop(listener);
    let gone = nobody.expect("an address").report(&runner, &[]).await.expect_err("nobody is there");
    assert!(gone.is_retryable() && gone.to_string().contains("refused"), "{gone}");
    assert!(HttpLink::new("over there").is_err());
}

#[tokio::test]
async fn a_task_is_started_once_and_reported_and_the_runner_leaves() {
    let (dispatcher, directory) = (Dispatcher::start().await, TempDir::new().expect("a directory"));
    let runner = dispatcher.run(directory.path(), processes());
    dispatcher.assign("t1", "1.5.0", r#"{"command":["sh","-c","echo hello; exit 4"]}"#);
    dispatcher.assign("t1", "1.5.0", r#"{"command":["sh","-c","echo hello; exit 4"]}"#);
    dispatcher.assign("t2", "1.5.1", r#"{"command":["nothing-like-it"]}"#);
    dispatcher.until("both ended", |heard| heard.reports.len() == 3).await;
    let mut outcomes = dispatcher.outcomes();
    outcomes.sort();
    let expected = [("t1", "failed"), ("t1", "start"), ("t2", "start_failed")];
    assert_eq!(outcomes, expected.map(|(id, what)| (id.to_owned(), what.to_owned())));
    dispatcher.until("heartbeats", |heard| heard.heartbeats > 2).await;

    dispatcher.assign("t3", "1.6.0", r#"{"command":["sleep","100"]}"#);
    dispatcher.until("the third started", |heard| heard.reports.len() == 4).await;
    runner.leaves().await;
    assert_eq!(dispatcher.outcomes()[4], ("t3".to_owned(), "handback".to_owned()));
    assert_eq!(dispatcher.with(|heard| heard.leave.take()).expect("it said farewell").handback, []);
}

#[tokio::test]
async fn many_short_tasks_flow_in_packs_and_in_order() {
    let (dispatcher, directory) = (Dispatcher::start().await, TempDir::new().expect("a directory"));
    for number in 0..1_500 {
        dispatcher.assign(&format!("t{number}"), &format!("1.5.{number}"), "{}");
    }
    let runner = dispatcher.run(directory.path(), Arc::new(NoopBackend));
    dispatcher.until("all ended", |heard| heard.reports.len() == 3_000).await;
    let outcomes = dispatcher.outcomes();
    assert!(outcomes.chunks(2).all(|pair| pair[0].1 == "start" && pair[1].1 == "succeeded"));
    assert!(dispatcher.with(|heard| heard.requests) <= 60);
    runner.leaves().await;
}

#[tokio::test]
async fn reports_wait_for_a_dispatcher_that_is_away_and_survive_the_runner() {
    let (dispatcher, directory) = (Dispatcher::start().await, TempDir::new().expect("a directory"));
    let runner = dispatcher.run(directory.path(), processes());
    let ready = directory.path().join("ready");
    let script = format!("touch {}; while [ -e {0} ]; do sleep 0.01; done", ready.display());
    dispatcher.assign("t1", "1.5.0", &format!(r#"{{"command":["sh","-c","{script}"]}}"#));
    dispatcher.until("it started", |heard| heard.reports.len() == 1 && ready.exists()).await;
    dispatcher.with(|heard| heard.broken = Some(StatusCode::SERVICE_UNAVAILABLE));
    std::fs::remove_file(&ready).expect("it is there");
    // It leaves although nobody takes its last report.
    runner.leaves().await;
    assert_eq!(dispatcher.outcomes().len(), 1);

    dispatcher.with(|heard| heard.broken = None);
    let runner = dispatcher.run(directory.path(), processes());
    dispatcher.until("it registered again", |heard| heard.registrations.len() == 2).await;
    assert_eq!(dispatcher.outcomes().len(), 2, "said before it registered");
    let again = dispatcher.with(|heard| heard.registrations[1].clone());
    assert_ne!(again.incarnation, dispatcher.with(|heard| heard.registrations[0].incarnation.clone()));
    assert_eq!(again.last_seen, Some(LastSeen { table: uuid::Uuid::from_u128(1), turn: 5 }));
    runner.leaves().await;
}

#[tokio::test]
async fn a_forgotten_runner_registers_again_and_one_without_answers_ends_its_work() {
    let (dispatcher, directory) = (Dispatcher::start().await, TempDir::new().expect("a directory"));
    let runner = dispatcher.run(directory.path(), processes());
    dispatcher.until("it registered", |heard| heard.registrations.len() == 1).await;
    dispatcher.with(|heard| heard.forgotten = true);
    dispatcher.until("it registered again", |heard| heard.registrations.len() == 2).await;
    // From here on its heartbeats come too late for its lease.
    dispatcher.with(|heard| (heard.lease, heard.forgotten) = (Some(Duration::from_millis(600)), true));
    dispatcher.until("a short lease", |heard| heard.registrations.len() >= 3).await;
    dispatcher.assign("t1", "1.5.0", r#"{"command":["sleep","100"]}"#);
    dispatcher.until("its work ended", |heard| heard.reports.len() >= 2).await;
    assert_eq!(dispatcher.outcomes()[1], ("t1".to_owned(), "handback".to_owned()));
    runner.leaves().await;
}

#[tokio::test]
async fn a_runner_whose_words_are_refused_for_good_says_so_and_ends() {
    let (dispatcher, directory) = (Dispatcher::start().await, TempDir::new().expect("a directory"));
    dispatcher.with(|heard| heard.broken = Some(StatusCode::BAD_REQUEST));
    let ended = dispatcher.run(directory.path(), processes()).run.await.expect("no panic");
    let why = ended.expect_err("it cannot run").to_string();
    assert!(why.starts_with("register runner r1: POST http://") && why.contains("400"), "{why}");
}

#[tokio::test]
async fn what_a_runner_that_was_killed_left_behind_is_gone_before_the_next_one_registers() {
    if let (Ok(url), Some(directory)) = (std::env::var(INNER_URL), std::env::var_os(INNER_DIRECTORY)) {
        let dispatcher = Dispatcher { heard: Shared::default(), url };
        let _ = dispatcher.run(FsPath::new(&directory), processes()).run.await;
        return;
    }
    let (dispatcher, directory) = (Dispatcher::start().await, TempDir::new().expect("a directory"));
    let test = "what_a_runner_that_was_killed_left_behind_is_gone_before_the_next_one_registers";
    let mut inner = std::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test])
        .env(INNER_URL, &dispatcher.url)
        .env(INNER_DIRECTORY, directory.path())
        .spawn()
        .expect("this binary starts again");
    let child = directory.path().join("child");
    let script = format!("sleep 100 & echo $! > {}; wait", child.display());
    dispatcher.assign("t1", "1.5.0", &format!(r#"{{"command":["sh","-c","{script}"]}}"#));
    let pid = || std::fs::read_to_string(&child).ok().filter(|text| text.ends_with('\n'));
    dispatcher.until("it started", |heard| heard.reports.len() == 1 && pid().is_some()).await;
    // Its guard is stopped, or nothing would be left.
    let guard = guard_of(inner.id());
    kill_process(guard, Signal::STOP).expect("it can be stopped");
    inner.kill().expect("it can be killed");
    inner.wait().expect("it is gone");
    let pid = pid().expect("a pid").trim().to_owned();
    assert!(is_alive(&pid), "the kernel ends the first process of the group only");

    dispatcher.with(|heard| heard.watched = Some(pid.clone()));
    let runner = dispatcher.run(directory.path(), processes());
    dispatcher.until("it registered", |heard| heard.registrations.len() == 2).await;
    assert_eq!(dispatcher.with(|heard| heard.was_there.clone()), [false, false]);
    assert!(dispatcher.with(|heard| heard.registrations[1].running.is_empty()));
    kill_process(guard, Signal::KILL).expect("it can be killed");
    runner.leaves().await;
}

/// The guard that a runner's process has started.
fn guard_of(runner: u32) -> Pid {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_guard = |pid: &i32| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let parent =
            read("stat").rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(runner) && read("cmdline").ends_with("\0guard\0")
    };
    pids.find(is_guard).and_then(Pid::from_raw).expect("it has one")
}
