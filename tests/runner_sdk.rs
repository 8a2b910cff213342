//! A runner of one's own, as its author sees it: a function, what it offers, and a whole dispatcher.

mod binary;
mod broker;
#[path = "runner_sdk/elsewhere.rs"]
mod elsewhere;
#[path = "runner_sdk/starts.rs"]
mod starts;
#[allow(dead_code, reason = "each test file uses its part")]
#[path = "http_api/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::core::State;
use longshore::model::{AttemptOutcome, Ending, Held, Kind, Outcome, TaskState, Token, WorkOrder};
use longshore::runner::backend::{Backend, FunctionBackend, Start, stops};
use longshore::runner::{Attempt, Builder, CancellationToken, End, Runner, RunnerError, Update, Updates};
use serde_json::json;
use support::{PATIENCE, Server};
use tempfile::TempDir;
use tokio::sync::{Barrier, Notify, mpsc};
use tokio::task::JoinHandle;

/// A runner in this process.
struct Running {
    stop: CancellationToken,
    run: JoinHandle<Result<(), RunnerError>>,
    _dir: TempDir,
}

impl Running {
    async fn start(server: &Server, id: &str, what: impl FnOnce(Builder) -> Builder) -> Self {
        let dir = TempDir::new().expect("a directory");
        let usual = Runner::builder().url(server.running.url()).id(id).data_dir(dir.path());
        let usual = usual.min_retry(Duration::from_millis(1)).grace(Duration::from_millis(200));
        let runner = what(usual).build().await.expect("it is legal");
        let stop = CancellationToken::new();
        Self { run: tokio::spawn(runner.run(stop.clone())), stop, _dir: dir }
    }

    async fn leaves(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.run).await.expect("it leaves");
        ended.expect("no panic").expect("no error");
    }
}

fn ending(state: &State, id: &str) -> Option<Ending> {
    match &state.task(id)?.state {
        TaskState::Ended(ending) => Some(ending.as_ref().clone()),
        _ => None,
    }
}

async fn end_of(server: &Server, id: &str) -> Ending {
    server.until(&format!("{id} has ended"), |state| ending(state, id).is_some()).await;
    server.running.handle.view().read(|state| ending(state, id)).expect("it has ended")
}

async fn outcome_of(server: &Server, id: &str) -> (Outcome, String) {
    let ending = end_of(server, id).await;
    (ending.outcome, ending.message.as_deref().unwrap_or_default().to_owned())
}

async fn quick_server() -> Server {
    Server::start_with(|settings| settings.retry_backoff = Duration::from_millis(1)).await
}

/// Does what the task's command names.
async fn do_as_told(mut attempt: Attempt) -> End {
    match attempt.order.command[0].as_str() {
        "succeed" => {
            writeln!(
                attempt.output,
                "{} {}",
                attempt.environment()["LONGSHORE_TASK"],
                attempt.order.env["KEY"]
            )
            .expect("it never fails");
            End::succeeded().with_artifacts(["sha256-aa".parse().expect("a name")])
        }
        "fail" => End::failed("no such luck").with_exit_code(7),
        "err" => Err::<(), _>("no such file").into(),
        "panic" => panic!("at the worst moment"),
        "stopped" => End::stopped(),
        other => End::refused(format!("nobody knows what {other} is")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_ends_as_it_says() {
    let server = Server::start().await;
    let runner = Running::start(&server, "r1", |runner| runner.mask("KEY").run(do_as_told)).await;
    for command in ["succeed", "fail", "err", "panic", "stopped"] {
        server.submit(json!({"id": command, "spec": {"command": [command], "env": {"KEY": "secret"}}})).await;
    }
    assert_eq!(outcome_of(&server, "succeed").await, (Outcome::Succeeded, String::new()));
    let failed = end_of(&server, "fail").await;
    assert_eq!((failed.outcome, failed.exit_code), (Outcome::Failed, Some(7)));
    assert_eq!(failed.message.as_deref(), Some("no such luck"));
    let failed = |why: &str| (Outcome::Failed, why.to_owned());
    assert_eq!(outcome_of(&server, "err").await, failed("no such file"));
    assert_eq!(outcome_of(&server, "panic").await, failed("panicked: at the worst moment"));
    let nobody = "its function says that it was stopped, and nobody asked for that";
    assert_eq!(outcome_of(&server, "stopped").await, failed(nobody));
    let holders = server.get("/v1/artifacts/sha256-aa").await.is(200).body;
    assert_eq!(holders["runners"], json!(["r1"]));
    runner.leaves().await;
    let logs = server.get("/v1/tasks/succeed/logs").await.is(200);
    assert_eq!(logs.text, "succeed ***\n");
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_is_asked_to_stop_hears_of_it_and_is_dropped_when_it_does_not_end() {
    struct Dropped(Arc<Mutex<BTreeSet<String>>>, String);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.lock().expect("no panic while held").insert(self.1.clone());
        }
    }
    let server = Server::start().await;
    let dropped = Arc::<Mutex<BTreeSet<String>>>::default();
    let seen = dropped.clone();
    let work = move |mut attempt: Attempt| {
        let on_drop = Dropped(seen.clone(), attempt.task.to_string());
        async move {
            let _on_drop = on_drop;
            if attempt.task.as_str() == "deaf" {
                std::future::pending::<()>().await;
            }
            let asked = attempt.updates.next().await;
            assert_eq!(asked, Some(Update::Stop { grace: Duration::from_millis(200) }));
            assert!(attempt.updates.stop_asked());
            match attempt.task.as_str() {
                "done" => End::succeeded(),
                "broken" => End::failed("a pipe broke"),
                "slow" => std::future::pending().await,
                _ => End::stopped(),
            }
        }
    };
    let runner = Running::start(&server, "r1", |runner| runner.run(work)).await;
    let ids = ["obedient", "done", "broken", "slow", "deaf"];
    for id in ids {
        server.submit(json!({"id": id})).await;
    }
    server.until("all run", |state| state.counts().running == ids.len()).await;
    for id in ids {
        server.delete(&format!("/v1/tasks/{id}")).await.is(202);
    }
    let cancelled = |why: &str| (Outcome::Cancelled, why.to_owned());
    let obedient = outcome_of(&server, "obedient").await;
    assert_eq!(obedient, cancelled("stopped: ended within a grace of 200ms"));
    assert_eq!(outcome_of(&server, "done").await.0, Outcome::Succeeded, "it was quicker");
    let broken = outcome_of(&server, "broken").await;
    assert_eq!(broken, cancelled("stopped: ended within a grace of 200ms: a pipe broke"));
    for id in ["slow", "deaf"] {
        assert_eq!(outcome_of(&server, id).await, cancelled("stopped: dropped after a grace of 200ms"));
    }
    assert_eq!(*dropped.lock().expect("no panic while held"), ids.map(str::to_owned).into());
    runner.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_runs_out_of_time_has_failed() {
    let server = Server::start().await;
    let deaf = async |_: Attempt| std::future::pending::<()>().await;
    let runner = Running::start(&server, "r1", |runner| runner.run(deaf)).await;
    server.submit(json!({"id": "t1", "timeout": "50ms"})).await;
    let why = "timed out after 50ms, dropped after a grace of 200ms";
    assert_eq!(outcome_of(&server, "t1").await, (Outcome::Failed, why.to_owned()));
    runner.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_told_when_nobody_holds_the_updates_any_more() {
    let server = Server::start().await;
    let gone = Arc::new(AtomicBool::new(false));
    let seen = gone.clone();
    let work = move |attempt: Attempt| {
        let (mut updates, seen): (Updates, _) = (attempt.updates.clone(), seen.clone());
        tokio::spawn(async move {
            while updates.next().await.is_some() {}
            seen.store(true, Ordering::SeqCst);
        });
        std::future::ready(())
    };
    let runner = Running::start(&server, "r1", |runner| runner.run(work)).await;
    server.submit(json!({"id": "t1"})).await;
    assert_eq!(end_of(&server, "t1").await.outcome, Outcome::Succeeded);
    assert!(gone.load(Ordering::SeqCst), "what the function left behind has ended before");
    runner.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_failures_spend_retries_and_what_is_given_back_spends_nothing() {
    let server = quick_server().await;
    let (failures, returns) = (AtomicU32::new(0), AtomicU32::new(0));
    let work = move |attempt: Attempt| {
        let again = |count: &AtomicU32| count.fetch_add(1, Ordering::SeqCst) < 2;
        std::future::ready(match attempt.task.as_str() {
            "returned" if again(&returns) => End::handed_back("not now"),
            "broken" if again(&failures) => End::failed("not yet"),
            "hopeless" => End::failed("never"),
            _ => End::succeeded(),
        })
    };
    let runner = Running::start(&server, "r1", |runner| runner.run(work)).await;
    server.submit(json!({"id": "returned", "max_attempts": 1})).await;
    server.submit(json!({"id": "broken", "max_attempts": 1, "retries": 2})).await;
    server.submit(json!({"id": "hopeless", "max_attempts": 9, "retries": 1})).await;
    for (id, outcome, attempts) in [
        ("returned", Outcome::Succeeded, 3),
        ("broken", Outcome::Succeeded, 3),
        ("hopeless", Outcome::Failed, 2),
    ] {
        assert_eq!(end_of(&server, id).await.outcome, outcome, "{id}");
        let shown = server.get(&format!("/v1/tasks/{id}")).await.is(200).body;
        assert_eq!(shown["attempt"], attempts, "{shown}");
    }
    runner.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_runner_refuses_another_does() {
    let server = quick_server().await;
    let cheap = Running::start(&server, "cheap", |runner| runner.cost(0.5).run(do_as_told)).await;
    let able = Running::start(&server, "able", |runner| runner.run(async |_| ())).await;
    server
        .until("both are there", |state| {
            ["cheap", "able"].iter().all(|id| state.runner(&id.parse().expect("a name")).is_some())
        })
        .await;
    server.submit(json!({"id": "t1", "spec": {"command": ["fly"]}})).await;
    let ended = end_of(&server, "t1").await;
    assert_eq!(ended.runner.as_ref().map(|runner| runner.as_str()), Some("able"), "{ended:?}");
    cheap.leaves().await;
    able.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_leaves_stops_its_functions_and_hands_them_back() {
    let server = quick_server().await;
    let work = async |mut attempt: Attempt| {
        attempt.updates.next().await.map_or_else(|| End::failed("taken away"), |_| End::stopped())
    };
    let runner = Running::start(&server, "r1", |runner| runner.run(work)).await;
    server.submit(json!({"id": "t1"})).await;
    server.until("it runs", |state| state.counts().running == 1).await;
    runner.leaves().await;
    server
        .until("it waits again", |state| {
            state.task("t1").is_some_and(|task| matches!(task.state, TaskState::Pending { .. }))
        })
        .await;
    let next = Running::start(&server, "r2", |runner| runner.run(async |_| ())).await;
    assert_eq!(end_of(&server, "t1").await.outcome, Outcome::Succeeded);
    next.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_drains_lets_its_functions_end() {
    let server = Server::start().await;
    let gate = Arc::new(Notify::new());
    let opened = gate.clone();
    let work = move |_| {
        let opened = opened.clone();
        async move { opened.notified().await }
    };
    let drains = |runner: Builder| runner.leave_wait(PATIENCE).run(work);
    let runner = Running::start(&server, "r1", drains).await;
    server.submit(json!({"id": "t1"})).await;
    server.until("it runs", |state| state.counts().running == 1).await;
    runner.stop.cancel();
    gate.notify_one();
    runner.leaves().await;
    assert_eq!(end_of(&server, "t1").await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_is_dropped_before_its_lease_is_over() {
    struct Last(Updates, mpsc::UnboundedSender<bool>);
    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.1.send(longshore::runner::boottime() < self.0.hold_until());
        }
    }
    let quick = |settings: &mut longshore::core::Settings| {
        settings.lease = Duration::from_secs(2);
        settings.heartbeat = Duration::from_millis(400);
    };
    let server = Server::start_with(quick).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let work = move |attempt: Attempt| {
        assert!(attempt.updates.is_held() && attempt.updates.hold_until() > Duration::ZERO);
        let beside = Last(attempt.updates.clone(), tell.clone());
        tokio::spawn(async move {
            let mut beside = beside;
            while beside.0.next().await.is_some() {}
        });
        let last = Last(attempt.updates, tell.clone());
        async move {
            let _last = last;
            std::future::pending::<()>().await
        }
    };
    let runner = Running::start(&server, "r1", |runner| runner.run(work)).await;
    server.submit(json!({"id": "t1"})).await;
    server.until("it runs", |state| state.counts().running == 1).await;
    server.stop().await;
    for _ in 0..2 {
        let held =
            tokio::time::timeout(PATIENCE, told.recv()).await.expect("it is dropped, its channel closes");
        assert_eq!(held, Some(true), "it ended while it was still its own");
    }
    // There is nobody to say farewell to.
    runner.run.abort();
}

/// Where the story below goes on in a process of its own.
const INNER: &str = "RUNNER_SDK_INNER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_whose_process_was_stopped_past_its_lease_sees_that_it_is_not_held() {
    if let Ok(inner) = std::env::var(INNER) {
        let (url, marks) = inner.split_once(' ').expect("an address and a file");
        return mark_while_held(url, marks.to_owned()).await;
    }
    let lease = Duration::from_secs(2);
    let quick = |settings: &mut longshore::core::Settings| {
        (settings.lease, settings.heartbeat) = (lease, Duration::from_millis(400));
    };
    let (server, dir) = (Server::start_with(quick).await, TempDir::new().expect("a directory"));
    let marks = dir.path().join("marks");
    let test = "a_function_whose_process_was_stopped_past_its_lease_sees_that_it_is_not_held";
    let mut again = std::process::Command::new(std::env::current_exe().expect("this binary"));
    again.args(["--exact", test]).env(INNER, format!("{} {}", server.running.url(), marks.display()));
    let runner = binary::Process::start(&mut again);
    server.submit(json!({"id": "t1", "max_attempts": 1})).await;
    server.until("it runs", |state| state.counts().running == 1).await;
    let read = || std::fs::read_to_string(&marks).unwrap_or_default();
    binary::wait_for("it marks", || read().lines().nth(3).map(|_| ()));
    runner.pause();
    let over = longshore::runner::boottime() + lease;
    end_of(&server, "t1").await;
    runner.resume();
    binary::wait_for("it is dropped", || read().ends_with("dropped\n").then_some(()));
    let last: u128 = read().lines().rev().nth(1).and_then(|mark| mark.parse().ok()).expect("a mark");
    assert!(last < over.as_nanos(), "marked {last} though its lease was over at {over:?}");
}

/// Runs a function that marks each moment in which it holds its attempt, and that it was dropped.
async fn mark_while_held(url: &str, marks: String) {
    struct Marks(std::fs::File);
    impl Drop for Marks {
        fn drop(&mut self) {
            writeln!(self.0, "dropped").expect("it can be written");
        }
    }
    let work = move |attempt: Attempt| {
        let mut marks = Marks(std::fs::File::create(&marks).expect("it can be made"));
        async move {
            loop {
                if attempt.updates.is_held() {
                    writeln!(marks.0, "{}", longshore::runner::boottime().as_nanos())
                        .expect("it can be written");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let dir = TempDir::new().expect("a directory");
    let built = Runner::builder().url(url).id("r1").data_dir(dir.path()).run::<_, _, ()>(work).build();
    let _ = built.await.expect("it is legal").run_until(std::future::pending::<()>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_functions_run_at_once() {
    const TASKS: usize = 1_000;
    let server = Server::start().await;
    let barrier = Arc::new(Barrier::new(TASKS));
    let work = move |_| {
        let barrier = barrier.clone();
        async move {
            barrier.wait().await;
        }
    };
    let runner = Running::start(&server, "r1", |runner| runner.slots(1_000).run(work)).await;
    let tasks: Vec<_> = (0..TASKS).map(|number| json!({"id": format!("t{number}")})).collect();
    server.post("/v1/tasks", json!({"tasks": tasks})).await.is(202);
    server.until("all have ended", |state| state.tasks().all(|task| task.is_ended())).await;
    for number in 0..TASKS {
        assert_eq!(end_of(&server, &format!("t{number}")).await.outcome, Outcome::Succeeded);
    }
    runner.leaves().await;
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amounts_and_slots_bound_what_runs_at_once() {
    let server = Server::start().await;
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let highest = most.clone();
    let work = move |_| {
        let (now, most) = (now.clone(), highest.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
        }
    };
    let offer = |runner: Builder| runner.cpu(1.5).memory(1 << 30).resource("gpu", 4).slots(3).run(work);
    let runner = Running::start(&server, "r1", offer).await;
    let small = json!({"cpu": "500m", "memory": "64MiB"});
    let tasks: Vec<_> =
        (0..12).map(|number| json!({"id": format!("t{number}"), "resources": small})).collect();
    server.post("/v1/tasks", json!({"tasks": tasks})).await.is(202);
    for number in 0..12 {
        assert_eq!(end_of(&server, &format!("t{number}")).await.outcome, Outcome::Succeeded);
    }
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    let shown = server.get("/v1/runners/r1").await.is(200).body;
    assert_eq!(shown["capacity"]["gpu"], 4, "{shown}");
    runner.leaves().await;
}

#[tokio::test]
async fn a_function_whose_end_nobody_awaits_is_dropped_and_one_without_grace_too() {
    let (tell, mut told) = mpsc::unbounded_channel::<()>();
    let work = move |attempt: Attempt| {
        let kept = tell.clone();
        async move {
            let _kept = (kept, attempt);
            std::future::pending::<()>().await
        }
    };
    let backend = FunctionBackend::new(work, Duration::from_secs(60));
    let started = async |index| {
        let held = Held { id: "t1".parse().expect("a name"), token: Token { epoch: 1, turn: 1, index } };
        let (sender, stops) = stops();
        let (order, output) = (Arc::<WorkOrder>::default(), Default::default());
        let start = Start { held, kind: Kind::Job, attempt: 1, url: None, order, stops, output };
        (backend.start(start).await.expect("it starts"), sender)
    };
    let (work, stop) = started(1).await;
    stop.ask(Duration::from_secs(60));
    stop.ask(Duration::ZERO);
    let end = work.end.await;
    let why = end.message.as_deref();
    assert_eq!((end.outcome, why), (AttemptOutcome::Cancelled, Some("stopped: dropped without a grace")));
    let (work, _stop) = started(2).await;
    drop(work);
    drop(backend);
    assert_eq!(told.recv().await, None, "whoever could tell is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_function_runs_over_nats() {
    let (broker, dir) = (broker::Broker::start(), TempDir::new().expect("a directory"));
    let server = binary::Server::replica(&broker.url(), dir.path());
    let built = Runner::builder().url(broker.url()).id("r1").data_dir(dir.path().join("r1")).run(do_as_told);
    let (stop, runner) = (CancellationToken::new(), built.build().await.expect("the server answers"));
    let running = tokio::spawn(runner.run_until(stop.clone().cancelled_owned()));
    let story = tokio::task::spawn_blocking(move || {
        server.wait_for_runners(1);
        let sent = server.run(["submit", "--id", "t1", "--wait", "--", "fail"]);
        assert_eq!(sent.status.code(), Some(7), "{}", binary::text(&sent.stderr));
    });
    story.await.expect("no panic");
    stop.cancel();
    running.await.expect("no panic").expect("it leaves");
}

#[tokio::test]
async fn what_cannot_be_a_runner_is_refused_with_field_value_limit_and_remedy() {
    let whole = || {
        let named = Runner::builder().id("r1").data_dir("unused").url("http://127.0.0.1:1");
        named.run(async |_| ())
    };
    assert!(whole().build().await.is_ok(), "nothing is sent yet");
    let wrong = [
        (
            whole().id("a.b"),
            "id (\"a.b\"): has '.' at position 1; allowed are A-Z a-z 0-9 _ = -; choose another name",
        ),
        (whole().slots(0), "slots (0): must be 1 to 10000; give the number of tasks it may run at once"),
        (whole().cpu(f64::NAN), "cpu (NaN): must be 0.001 to 1000000000; give the number of cores it offers"),
        (whole().cpu(2.0), "memory is missing: name it beside the other amounts, or none of them"),
        (whole().resource("gpu", 1), "cpu is missing: name it beside the other amounts, or none of them"),
        (
            whole().resource("cpu", 1),
            "resource (\"cpu\"): must have a name, and not that of cpu or memory; use `cpu` and `memory` for those",
        ),
        (whole().cost(-1.0), "cost (-1): must be 0 or more; give the price of one placement here"),
        (whole().kinds([]), "kinds (none): must be one at least; name Kind::Job, Kind::Build or both"),
        (whole().poll(Duration::ZERO), "poll (0ms): must be 1s to 5m; 30 s suits most networks"),
        (
            whole().slots(0).cost(-1.0),
            "slots (0): must be 1 to 10000; give the number of tasks it may run at once",
        ),
        (
            whole().url("over there"),
            "url: \"over there\" is no address; expected one like http://127.0.0.1:8080",
        ),
        (Runner::builder().data_dir("unused"), "id is missing: give it a name of its own"),
        (Runner::builder().id("r1"), "data_dir is missing: name a directory of this runner alone"),
        (
            Runner::builder().id("r1").data_dir("unused"),
            "backend is missing: say what does the work: `run` or `backend`",
        ),
    ];
    for (builder, why) in wrong {
        assert_eq!(builder.build().await.expect_err(why).to_string(), why);
    }
}
