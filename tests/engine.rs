//! The docker back end in bad weather: an engine that hangs, answers nonsense, or dies while it is used. The engine is
//! scripted; what a real one does is told in `tests/containers`.

mod binary;
#[path = "engine/door.rs"]
mod door;
#[path = "engine/scripted.rs"]
mod scripted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use binary::{Server, runner, text, wait_for};
use longshore::model::{AttemptOutcome, End, Held, Id, Kind, Token, WorkOrder};
use longshore::runner::backend::docker::Settings;
use longshore::runner::backend::{Backend, DockerBackend, Start, StartFailed, StopSender, Work, stops};
use rustix::process::{Pid, test_kill_process};
use scripted::{Scripted, Weather};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes; a story that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn backend(engine: &Scripted) -> DockerBackend {
    let mut settings = Settings::new(Id::parse("r1").expect("a name"));
    settings.host = engine.door.address();
    settings.timeout_grace = Duration::from_millis(200);
    DockerBackend::new(env!("CARGO_BIN_EXE_longshore"), settings).await.expect("the engine answers")
}

fn start_of(image: &str) -> (Start, StopSender) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (sender, stops) = stops();
    let token = Token { epoch: 1, turn: 77, index: NEXT.fetch_add(1, Ordering::Relaxed) };
    let held = Held { id: Id::parse("t1").expect("a name"), token };
    let order =
        WorkOrder { image: Some(image.into()), command: vec!["make".to_owned()], ..WorkOrder::default() };
    let order = Arc::new(order);
    (Start { held, kind: Kind::Job, attempt: 1, url: None, order, stops, output: Default::default() }, sender)
}

/// An attempt that was begun, while the story goes on.
struct Begun {
    starting: JoinHandle<Result<Work, StartFailed>>,
    stop: StopSender,
}

fn begin(backend: &DockerBackend, image: &str) -> Begun {
    let (start, stop) = start_of(image);
    let backend = backend.clone();
    Begun { starting: tokio::spawn(async move { backend.start(start).await }), stop }
}

impl Begun {
    async fn answer(self) -> Result<Work, StartFailed> {
        timeout(PATIENCE, self.starting).await.expect("it is said what became of it").expect("no panic")
    }

    async fn runs(self) -> JoinHandle<End> {
        tokio::spawn(self.answer().await.expect("it starts").end)
    }

    async fn is_not_over_while_it_runs(&mut self, engine: &Scripted) {
        let early = timeout(Duration::from_millis(200), &mut self.starting).await;
        assert!(early.is_err() && engine.containers()[0].1, "its container runs");
    }

    async fn not_started(self) -> StartFailed {
        self.answer().await.expect_err("it does not start")
    }
}

async fn end_of(running: JoinHandle<End>) -> End {
    timeout(PATIENCE, running).await.expect("it ends").expect("no panic")
}

fn said(end: &End) -> &str {
    end.message.as_deref().unwrap_or_default()
}

/// Ends the back end, and waits until its guard has seen to it that nothing is left.
async fn over(backend: DockerBackend) {
    let guard = Pid::from_raw(backend.guard().pid()).expect("a pid");
    drop(backend);
    let gone = async {
        while test_kill_process(guard).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the guard goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_starts_and_ends_as_the_engine_says() {
    let engine = Scripted::start().await;
    let backend = backend(&engine).await;
    for (code, outcome) in [(0, AttemptOutcome::Succeeded), (3, AttemptOutcome::Failed)] {
        let running = begin(&backend, "tools:1").runs().await;
        engine.all_end(code);
        let end = end_of(running).await;
        assert_eq!((end.outcome, end.exit_code.map(i64::from), said(&end)), (outcome, Some(code), "a line"));
        assert_eq!(engine.containers(), [], "it was removed before its end was told");
    }
    over(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_never_comes_is_not_waited_for_once_it_is_to_stop() {
    let engine = Scripted::start().await;
    let backend = backend(&engine).await;
    engine.weather("pull", Weather::Silent);
    let begun = begin(&backend, "large:1");
    engine.called("pull", 1).await;
    begun.stop.ask(Duration::ZERO);
    let end = begun.answer().await.expect("it was stopped").end.await;
    assert_eq!(
        (end.outcome, said(&end)),
        (AttemptOutcome::Cancelled, "stopped before image large:1 was there")
    );
    assert_eq!((engine.containers(), engine.started()), (Vec::new(), 0));
    over(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_is_over_when_the_engine_says_that_nothing_of_it_is_there() {
    let engine = Scripted::start().await;
    let backend = backend(&engine).await;
    // It is started, but nobody hears of that; nor is it removed yet.
    engine.weather("start", Weather::Late);
    engine.weather("remove", Weather::Silent);
    let mut begun = begin(&backend, "tools:1");
    engine.has_started(1).await;
    begun.stop.ask(Duration::ZERO);
    engine.called("remove", 1).await;
    begun.is_not_over_while_it_runs(&engine).await;
    engine.fair();
    let end = begun.answer().await.expect("it was stopped").end.await;
    assert_eq!(end.outcome, AttemptOutcome::Cancelled);
    assert_eq!((engine.containers(), engine.started()), (Vec::new(), 1));
    over(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_answers_nonsense_starts_nothing_and_leaves_nothing() {
    let engine = Scripted::start().await;
    let backend = backend(&engine).await;
    for (call, image, doing) in [
        ("look for image", "tools:1", "look for image tools:1: "),
        ("create", "tools:1", "start a container of tools:1: "),
    ] {
        engine.weather(call, Weather::Garbage);
        let why = begin(&backend, image).not_started().await;
        assert!(why.reason.starts_with(doing) && !why.own_fault, "{why:?}");
        assert_eq!(engine.started(), 0);
        engine.fair();
    }
    let running = begin(&backend, "tools:1").runs().await;
    engine.all_end(0);
    assert_eq!(end_of(running).await.outcome, AttemptOutcome::Succeeded, "nothing of that lasts");
    over(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_about_an_end_ends_nothing() {
    let engine = Scripted::start().await;
    let backend = backend(&engine).await;
    let running = begin(&backend, "tools:1").runs().await;
    engine.called("wait", 1).await;
    engine.weather("inspect", Weather::Garbage);
    engine.weather("wait", Weather::Garbage);
    engine.all_end(3);
    engine.called("inspect", 2).await;
    assert!(!running.is_finished(), "nobody has said that it has ended");
    engine.fair();
    let end = end_of(running).await;
    assert_eq!((end.outcome, end.exit_code), (AttemptOutcome::Failed, Some(3)));
    assert_eq!(engine.containers(), []);
    over(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_restarted_ends_what_it_says_it_ended() {
    let mut engine = Scripted::start().await;
    let backend = backend(&engine).await;
    let ended = begin(&backend, "tools:1").runs().await;
    engine.called("wait", 1).await;
    engine.door.shut();
    engine.all_end(137);
    engine.door.open();
    let end = end_of(ended).await;
    assert_eq!((end.outcome, end.exit_code), (AttemptOutcome::Failed, Some(137)));
    assert!(said(&end).starts_with("ended by signal 9 (KILL)"), "{end:?}");

    // One that keeps its containers: they are heard of again.
    let kept = begin(&backend, "tools:1").runs().await;
    engine.called("wait", 2).await;
    engine.door.shut();
    engine.door.open();
    engine.called("wait", 3).await;
    assert!(!kept.is_finished() && engine.containers()[0].1, "it runs on");
    engine.all_end(0);
    assert_eq!(end_of(kept).await.outcome, AttemptOutcome::Succeeded);
    assert_eq!(engine.containers(), []);
    over(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_while_a_container_is_started_leaves_none() {
    let mut engine = Scripted::start().await;
    let backend = backend(&engine).await;
    engine.weather("start", Weather::Late);
    engine.weather("remove", Weather::Silent);
    let mut begun = begin(&backend, "tools:1");
    engine.has_started(1).await;
    engine.door.shut();
    engine.door.open();
    engine.called("remove", 1).await;
    begun.is_not_over_while_it_runs(&engine).await;
    engine.fair();
    let why = begun.not_started().await;
    assert!(why.reason.starts_with("start a container of tools:1: ") && !why.own_fault, "{why:?}");
    assert_eq!((engine.containers(), engine.started()), (Vec::new(), 1));
    over(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_image_does_not_come_in_time_is_tried_again() {
    let engine = Scripted::start().await;
    engine.weather("pull", Weather::Silent);
    let dir = tempfile::tempdir().expect("a directory");
    let how =
        ["--cpu", "1", "--backend", "docker", "--docker", &engine.door.address(), "--start-timeout", "300ms"];
    let (server, runner) = tokio::task::block_in_place(|| {
        let server = Server::start(&dir.path().join("data"));
        let runner = runner(&server.url, "r1", dir.path(), &how);
        server.wait_for_runners(1);
        let task =
            ["submit", "--id", "t1", "--image", "large:1", "--cpu", "1", "--memory", "64MiB", "--", "make"];
        let sent = server.run(task);
        assert!(sent.status.success(), "{}", text(&sent.stderr));
        (server, runner)
    });
    engine.called("pull", 2).await;
    engine.fair();
    engine.has_started(1).await;
    engine.all_end(0);
    let ended = tokio::task::block_in_place(|| server.wait_until("t1", "ended"));
    assert_eq!(
        (&ended["outcome"], ended["attempt"].as_u64() > Some(1)),
        (&"succeeded".into(), true),
        "{ended}"
    );
    let history = reqwest::get(format!("{}/v1/history?id=t1", server.url)).await.expect("it answers");
    let history = history.text().await.expect("a text");
    let why = "could not be started on r1: not started within 300ms: stopped before image large:1 was there";
    assert!(history.contains(why), "{history}");
    tokio::task::block_in_place(|| {
        assert_eq!(runner.terminate().code(), Some(0));
        wait_for("its guard has seen to it that nothing is left", || {
            engine.containers().is_empty().then_some(())
        });
    });
}
