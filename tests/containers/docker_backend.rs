//! The docker back end with a real engine: how containers are made, how they end, and that none is left.
//!
//! The image is made of this machine's own tools (`scripts/test-image.sh`).

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::binary::{Server, runner, text, wait_for};
use crate::door::Door;
use longshore::model::*;
use longshore::runner::backend::docker::{Pull, Settings};
use longshore::runner::backend::{Backend, DockerBackend, Start, StartFailed, StopSender, Work, stops};
use longshore::runner::boottime;
use serde_json::json;

pub(super) const IMAGE: &str = "longshore-test:1";

/// A back end of a runner of its own.
async fn backend(runner: &str) -> DockerBackend {
    backend_with(runner, |_| ()).await
}

pub(super) async fn backend_with(runner: &str, change: impl FnOnce(&mut Settings)) -> DockerBackend {
    let mut settings = Settings::new(Id::parse(runner).expect("a name"));
    settings.timeout_grace = Duration::from_millis(200);
    settings.pull = Pull::Never;
    change(&mut settings);
    DockerBackend::new(env!("CARGO_BIN_EXE_longshore"), settings).await.expect("an engine answers")
}

pub(super) fn sh(script: &str) -> WorkOrder {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    WorkOrder { image: Some(IMAGE.into()), command, ..WorkOrder::default() }
}

pub(super) fn start_of(order: WorkOrder) -> (Start, StopSender) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (sender, stops) = stops();
    let token = Token { epoch: 1, turn: 77, index: NEXT.fetch_add(1, Ordering::Relaxed) };
    let held = Held { id: Id::parse("t1").expect("a name"), token };
    let (kind, url) = (Kind::Job, Some("http://127.0.0.1:8080".into()));
    (Start { held, kind, attempt: 2, url, order: Arc::new(order), stops, output: Default::default() }, sender)
}

async fn started(backend: &DockerBackend, order: WorkOrder) -> (Work, StopSender) {
    let (start, stop) = start_of(order);
    (backend.start(start).await.expect("it starts"), stop)
}

async fn end_of(backend: &DockerBackend, order: WorkOrder) -> End {
    let (work, _stop) = started(backend, order).await;
    work.end.await
}

async fn not_started(backend: &DockerBackend, order: WorkOrder) -> String {
    why_not_started(backend, order).await.reason
}

async fn why_not_started(backend: &DockerBackend, order: WorkOrder) -> StartFailed {
    backend.start(start_of(order).0).await.expect_err("it cannot start")
}

fn said(end: &End) -> &str {
    end.message.as_deref().unwrap_or_default()
}

/// The engine's own list of a runner's containers, running or not.
pub(super) fn containers(runner: &str) -> Vec<String> {
    let filter = format!("label=longshore.runner={runner}");
    let list = || {
        Command::new("docker").args(["ps", "-a", "-q", "--filter", &filter]).output().expect("docker runs")
    };
    // Podman refuses to list while one is being removed.
    let listed = wait_for("the engine lists them", || Some(list()).filter(|output| output.status.success()));
    text(&listed.stdout).lines().map(str::to_owned).collect()
}

pub(super) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("docker runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// Waits for a fact without holding up the back end.
pub(super) async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 20 s: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_told_who_it_is_and_its_exit_code_is_the_tasks() {
    let backend = backend("story-exit").await;
    let script = "echo $A $LONGSHORE_TASK $LONGSHORE_ATTEMPT ${LONGSHORE_TOKEN%.*} $LONGSHORE_BUILD; pwd";
    let order = WorkOrder {
        env: [("A".to_owned(), "1".to_owned())].into(),
        workdir: Some("/src".to_owned()),
        build: Some(Id::parse("b1").expect("a name")),
        ..sh(script)
    };
    let end = end_of(&backend, order).await;
    assert_eq!((end.outcome, end.exit_code), (AttemptOutcome::Succeeded, Some(0)));
    assert_eq!(said(&end), "1 t1 2 1.77 b1\n/src");
    let end = end_of(&backend, sh("echo oh no >&2; exit 3")).await;
    assert_eq!((end.outcome, end.exit_code, said(&end)), (AttemptOutcome::Failed, Some(3), "oh no"));
    let end = end_of(&backend, sh("kill -9 $$")).await;
    assert_eq!((end.outcome, end.exit_code), (AttemptOutcome::Failed, Some(137)));
    assert_eq!(said(&end), "ended by signal 9 (KILL)");
    // The container has started: what its image lacks is its own failure.
    let no_program = WorkOrder { command: vec!["no-such-program".to_owned()], ..sh("") };
    let end = end_of(&backend, no_program).await;
    // The code is that of the engine's init: Docker's says 127, Podman's 1.
    assert!(matches!((end.outcome, end.exit_code), (AttemptOutcome::Failed, Some(127 | 1))), "{end:?}");
    assert!(["no-such-program", "No such file"].iter().any(|why| said(&end).contains(why)), "{end:?}");
    assert_eq!(containers("story-exit"), Vec::<String>::new(), "nothing is left of those that have ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_takes_more_memory_than_it_asked_for_is_ended_and_says_so() {
    let backend = backend("story-memory").await;
    let order =
        WorkOrder { resources: Resources::new(500, 32 << 20), ..sh("head -c 200m /dev/zero | tail; exit 7") };
    let end = end_of(&backend, order).await;
    assert_eq!(end.outcome, AttemptOutcome::Failed);
    let expected = "out of memory: the kernel ended it at its limit of 32MiB";
    assert!(said(&end).starts_with(expected), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_the_cpu_and_the_labels_of_its_task() {
    let backend = backend("story-labels").await;
    let order = WorkOrder { resources: Resources::new(500, 64 << 20), ..sh("sleep 100") };
    let (work, stop) = started(&backend, order).await;
    let form = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} \
                {{index .Config.Labels \"longshore.task\"}} {{index .Config.Labels \"longshore.attempt\"}}";
    let found = docker(&["inspect", "--format", form, &containers("story-labels")[0]]);
    assert_eq!(found.trim(), "500000000 67108864 67108864 t1 2");
    stop.ask(Duration::ZERO);
    work.end.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let backend = backend("story-start").await;
    let no_image = WorkOrder { image: None, ..sh("true") };
    assert!(not_started(&backend, no_image).await.starts_with("spec.image is empty"));
    let absent = WorkOrder { image: Some("no-such-image:7".into()), ..sh("true") };
    let why = why_not_started(&backend, absent).await;
    let expected = "start image no-such-image:7: this runner does not have it";
    assert!(why.reason.starts_with(expected) && !why.own_fault, "{why}");
    let tiny = WorkOrder { resources: Resources::new(500, 1 << 20), ..sh("true") };
    let why = why_not_started(&backend, tiny).await;
    let expected = "resources.memory is 1MiB; a container takes 6MiB at least";
    assert!(why.reason.starts_with(expected) && why.own_fault, "{why}");
    let mount = WorkOrder { mounts: vec!["/etc:/etc".to_owned()], ..sh("true") };
    let why = not_started(&backend, mount).await;
    assert!(why.starts_with("spec.mounts: /etc:/etc: this runner lets tasks mount nothing"), "{why}");
    assert_eq!(containers("story-start"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_sees_the_directories_it_mounts() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = backend_with("story-mount", |settings| settings.mounts = vec![dir.path().to_owned()]).await;
    std::fs::write(dir.path().join("in"), "from outside\n").expect("a file");
    let mount = format!("{}:/cache", dir.path().display());
    let order = WorkOrder { mounts: vec![mount], ..sh("cat /cache/in; echo from inside > /cache/out") };
    assert_eq!(said(&end_of(&backend, order).await), "from outside");
    assert_eq!(std::fs::read_to_string(dir.path().join("out")).expect("it was written"), "from inside\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_term_then_kill() {
    let backend = backend("story-stop").await;
    let (work, stop) =
        started(&backend, sh("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")).await;
    let end = tokio::spawn(work.end);
    until("it is up", || {
        let one = containers("story-stop");
        one.first().is_some_and(|id| docker(&["logs", id]).contains("up"))
    })
    .await;
    stop.ask(Duration::from_secs(20));
    let end = end.await.expect("it ends");
    assert_eq!(end.outcome, AttemptOutcome::Cancelled);
    assert_eq!(said(&end), "stopped: ended by TERM within a grace of 20s\nup\nbye");

    let (work, stop) = started(&backend, sh("trap '' TERM; while :; do sleep 0.05; done")).await;
    stop.ask(Duration::from_millis(300));
    assert_eq!(said(&work.end.await), "stopped: ended by KILL after a grace of 300ms");

    let timed =
        WorkOrder { timeout: Some(Duration::from_millis(200)), ..sh("trap '' TERM; sleep 100; sleep 100") };
    let end = end_of(&backend, timed).await;
    assert_eq!(end.outcome, AttemptOutcome::Failed);
    assert_eq!(said(&end), "timed out after 200ms, ended by KILL after a grace of 200ms");

    let (start, stop) = start_of(sh("sleep 100"));
    stop.ask(Duration::ZERO);
    let end = backend.start(start).await.expect("it is answered").end.await;
    assert_eq!(
        (end.outcome, said(&end)),
        (AttemptOutcome::Cancelled, "stopped before image longshore-test:1 was there")
    );
    assert_eq!(containers("story-stop"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_somebody_else_removes_has_failed() {
    let backend = backend("story-removed").await;
    let (work, _stop) = started(&backend, sh("sleep 100")).await;
    let end = tokio::spawn(work.end);
    docker(&["rm", "-f", &containers("story-removed")[0]]);
    // It is killed first and removed then: which of the two is seen is the engine's to choose.
    let end = end.await.expect("it ends");
    assert_eq!(end.outcome, AttemptOutcome::Failed);
    assert!(said(&end).contains("removed") || said(&end).contains("KILL"), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_the_engine_could_not_be_reached_has_ended_as_it_did() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut door = Door::to("/var/run/docker.sock".into(), dir.path().join("engine.sock"));
    let backend = backend_with("story-away", |settings| settings.host = door.address()).await;
    let (work, _stop) = started(&backend, sh("sleep 100")).await;
    let end = tokio::spawn(work.end);
    door.shut();
    docker(&["kill", &containers("story-away")[0]]);
    door.open();
    let end = end.await.expect("it ends");
    assert_eq!((end.outcome, end.exit_code), (AttemptOutcome::Failed, Some(137)), "{end:?}");
    assert_eq!(containers("story-away"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_end_nobody_awaits_is_removed() {
    let backend = backend("story-dropped").await;
    let (work, _stop) = started(&backend, sh("sleep 100")).await;
    assert_eq!(containers("story-dropped").len(), 1);
    drop(work);
    until("it is gone", || containers("story-dropped").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_start_left_is_removed_and_only_that() {
    let other = backend("story-other").await;
    let (_kept, _stop) = started(&other, sh("sleep 100")).await;
    let name = ["--name", "longshore-story-left"];
    let label = ["--label", "longshore.runner=story-left", "--label", "longshore.start=earlier"];
    docker(&[&["run", "-d"], &name[..], &label, &[IMAGE, "sleep", "100"]].concat());
    let backend = backend("story-left").await;
    assert_eq!(backend.clean_up().await, Ok(1));
    assert_eq!(containers("story-left"), Vec::<String>::new());
    assert_eq!(containers("story-other").len(), 1);
    assert_eq!(backend.clean_up().await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_end_at_the_deadline_and_go_with_the_back_end() {
    let backend = backend("story-guard").await;
    let (work, _stop) = started(&backend, sh("sleep 100")).await;
    backend.hold_until(boottime());
    let end = work.end.await;
    assert_eq!(
        (end.outcome, said(&end)),
        (AttemptOutcome::Cancelled, "stopped: ended by KILL without a grace")
    );

    backend.hold_until(boottime() + Duration::from_secs(100));
    let (work, _stop) = started(&backend, sh("sleep 100")).await;
    std::mem::forget(work);
    let guard = rustix::process::Pid::from_raw(backend.guard().pid()).expect("a pid");
    rustix::process::kill_process(guard, rustix::process::Signal::KILL).expect("it can be killed");
    assert_eq!(backend.broken().await, "the guard of its containers is gone");
    let next = self::backend("story-guard").await;
    assert_eq!(next.clean_up().await, Ok(1), "what a guard could not end, the next start does");
}

#[test]
fn containers_of_a_stopped_runner_end_before_another_runner_has_the_task() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let server = Server::with_short_leases(dir);
    let docker_runner =
        |id: &str| runner(&server.url, id, dir, &["--cpu", "1", "--backend", "docker", "--pull", "never"]);
    let first = docker_runner("story-stopped");
    server.wait_for_runners(1);
    submit(&server, dir, "while :; do sleep 0.1; done");
    wait_for("it runs", || (running("story-stopped") == 1).then_some(()));
    first.pause();
    let second = docker_runner("story-second");
    wait_for("another has it", || (running("story-second") == 1).then_some(()));
    assert_eq!(running("story-stopped"), 0, "the guard ended it first");
    second.kill();
    wait_for("nothing is left of a runner that was killed", || {
        containers("story-second").is_empty().then_some(())
    });
    first.resume();
    assert_eq!(first.terminate().code(), Some(0));
    assert_eq!(containers("story-stopped"), Vec::<String>::new());
}

pub(super) fn running(runner: &str) -> usize {
    let filter = format!("label=longshore.runner={runner}");
    docker(&["ps", "-q", "--filter", &filter]).lines().count()
}

fn submit(server: &Server, dir: &Path, script: &str) {
    let file = dir.join("task.json");
    let spec = json!({"image": IMAGE, "command": ["sh", "-c", script]});
    let task = json!({"id": "t1", "resources": {"cpu": 1, "memory": "64MiB"}, "spec": spec});
    std::fs::write(&file, json!({"tasks": [task]}).to_string()).expect("the directory can be written");
    let sent = server.run([Path::new("submit"), &file]);
    assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
}
