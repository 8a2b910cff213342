//! Limits of cpu and memory with a real kernel: attempts in control groups (v2) of their own.
//!
//! `LONGSHORE_CGROUP` names a control group without processes that this user may write, with the controllers cpu and
//! memory, which this process may move into. `scripts/limits.sh` runs the stories in a kernel of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use longshore::model::*;
use longshore::runner::backend::{Backend, ProcessBackend, Start, StopSender, Subtree, Work, stops};

const BINARY: &str = env!("CARGO_BIN_EXE_longshore");

fn own() -> PathBuf {
    let named = std::env::var_os("LONGSHORE_CGROUP");
    named.expect("LONGSHORE_CGROUP names a control group to divide; see scripts/limits.sh").into()
}

fn runner(name: &str) -> RunnerId {
    Id::parse(name).expect("a name")
}

fn backend(name: &str) -> ProcessBackend {
    let subtree = Subtree::open(&own(), &runner(name)).expect("it can be divided");
    ProcessBackend::new(BINARY, Duration::from_millis(200)).expect("its guard starts").dividing(subtree)
}

fn naming(cpu: u64, memory: u64, script: &str) -> WorkOrder {
    WorkOrder {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        resources: Resources::new(cpu, memory),
        timeout: Some(Duration::from_secs(60)),
        ..WorkOrder::default()
    }
}

async fn started(backend: &ProcessBackend, order: WorkOrder) -> (Work, StopSender) {
    let (sender, stops) = stops();
    let held = Held {
        id: Id::parse("t1").expect("a name"),
        token: Token { epoch: 1, turn: 77, index: std::process::id() },
    };
    let order = Arc::new(order);
    let start =
        Start { held, kind: Kind::Job, attempt: 1, url: None, order, stops, output: Default::default() };
    (backend.start(start).await.expect("it starts"), sender)
}

async fn end_of(backend: &ProcessBackend, order: WorkOrder) -> End {
    let (work, _stop) = started(backend, order).await;
    work.end.await
}

fn text(end: &End) -> &str {
    end.message.as_deref().unwrap_or_default()
}

/// The control groups of attempts of a runner that are there.
fn attempts_of(name: &str) -> usize {
    let prefix = format!("longshore-{name}.");
    let entries = std::fs::read_dir(own()).expect("it is there").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count()
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Waits for a fact.
async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 30 s: {what}");
}

fn pid_in(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().filter(|text| text.ends_with('\n')).map(|text| text.trim().to_owned())
}

/// A control group below the named one, with a `sleep` in it.
struct Crowded(PathBuf, std::process::Child);

impl Crowded {
    fn new() -> Self {
        let path = own().join("crowded");
        std::fs::create_dir(&path).expect("it is made");
        let sleep = Command::new("sleep").arg("1000").spawn().expect("it starts");
        std::fs::write(path.join("cgroup.procs"), sleep.id().to_string()).expect("it is moved");
        Self(path, sleep)
    }
}

impl Drop for Crowded {
    fn drop(&mut self) {
        let _ = self.1.kill();
        let _ = self.1.wait();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// `longshore runner` in this control group.
fn runner_in(cgroup: &Path, id: &str, data: &Path) -> Command {
    let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(cgroup).arg(BINARY);
    command.args(["runner", "--limits", "required", "--url", "http://127.0.0.1:1", "--id", id, "--data"]);
    command.arg(data).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn work_within_its_limits_succeeds_and_leaves_nothing() {
    let backend = backend("modest");
    let script = "d=$LONGSHORE_CGROUP/longshore-modest.$LONGSHORE_TOKEN; cd $d; grep -qx $$ cgroup.procs && \
                  cat cpu.max memory.max memory.oom.group";
    let end = end_of(&backend, naming(1_500, 64 << 20, script)).await;
    assert_eq!((end.outcome, text(&end)), (AttemptOutcome::Succeeded, "150000 100000\n67108864\n1"));
    assert_eq!(attempts_of("modest"), 0);
}

#[tokio::test]
async fn work_that_names_nothing_is_not_limited() {
    let backend = backend("free");
    let end = end_of(&backend, naming(0, 0, "grep -o 'longshore-free.*' /proc/self/cgroup")).await;
    assert_eq!(text(&end), "longshore-free", "it is where its runner is");
}

#[tokio::test]
async fn work_that_wants_more_memory_than_it_named_has_failed_for_that() {
    let backend = backend("greedy");
    // The first process would make a success of it.
    for script in ["tail /dev/zero; exit 0", "setsid tail /dev/zero; exit 0"] {
        let end = end_of(&backend, naming(0, 16 << 20, script)).await;
        assert_eq!(end.outcome, AttemptOutcome::Failed, "{script}");
        assert!(
            text(&end).starts_with("out of memory: the kernel ended it at its limit of 16MiB"),
            "{}",
            text(&end)
        );
    }
    assert_eq!(attempts_of("greedy"), 0);
}

#[tokio::test]
async fn work_gets_no_more_cpu_than_it_named() {
    let backend = backend("busy");
    // It is busy until it has been held back.
    let script = "d=$LONGSHORE_CGROUP/longshore-busy.$LONGSHORE_TOKEN; \
                  while :; do while read name count; do [ $name != nr_throttled ] || [ $count = 0 ] || exit 0; done \
                  < $d/cpu.stat; done";
    let end = end_of(&backend, naming(50, 0, script)).await;
    assert_eq!(end.outcome, AttemptOutcome::Succeeded, "{}", text(&end));
}

#[tokio::test]
async fn what_leaves_its_process_group_ends_with_the_attempt() {
    let backend = backend("leaving");
    let directory = tempfile::TempDir::new().expect("a directory");
    let pid = directory.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & until [ -s {0} ]; do sleep 0.01; done",
        pid.display()
    );
    let end = end_of(&backend, naming(1_000, 0, &script)).await;
    assert_eq!(end.outcome, AttemptOutcome::Succeeded, "{}", text(&end));
    assert!(!is_alive(&pid_in(&pid).expect("a pid")));
    assert_eq!(attempts_of("leaving"), 0);
}

#[tokio::test]
async fn work_that_is_given_up_ends_with_its_control_group() {
    let backend = backend("dropped");
    let directory = tempfile::TempDir::new().expect("a directory");
    let pid = directory.path().join("pid");
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 1000'", pid.display());
    let (work, _stop) = started(&backend, naming(1_000, 0, &script)).await;
    until("it runs", || pid_in(&pid).is_some()).await;
    drop(work);
    until("it is gone", || !is_alive(&pid_in(&pid).expect("a pid")) && attempts_of("dropped") == 0).await;
}

#[tokio::test]
async fn what_an_earlier_start_left_is_ended_by_the_next() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let pid = directory.path().join("pid");
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 1000'", pid.display());
    let earlier = backend("again");
    let (work, _stop) = started(&earlier, naming(1_000, 1 << 30, &script)).await;
    until("it runs", || pid_in(&pid).is_some()).await;
    // As if nobody were left to end it.
    std::mem::forget(work);
    // One whose name begins alike is somebody else's.
    let other = own().join("longshore-again-and-again.1.2.3");
    std::fs::create_dir(&other).expect("it is made");

    let next = backend("again");
    assert_eq!(next.clean_up().await, Ok(1));
    assert!(!is_alive(&pid_in(&pid).expect("a pid")));
    assert_eq!(attempts_of("again"), 0);
    std::fs::remove_dir(&other).expect("it is still there");
    assert_eq!(next.clean_up().await, Ok(0));
}

#[tokio::test]
async fn a_runner_and_its_guard_move_aside_and_one_that_is_not_alone_stays() {
    // The named one may be divided from now on, so what is below it has the controllers.
    let _backend = backend("above");
    let data = tempfile::TempDir::new().expect("a directory");
    let crowded = Crowded::new();
    let refused = runner_in(&crowded.0, "late", data.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(said.contains("--limits required") && said.contains("crowded holds other processes"), "{said}");
    assert!(!crowded.0.join("longshore-late").exists(), "nothing is changed");

    let alone = own().join("alone");
    std::fs::create_dir(&alone).expect("it is made");
    let mut running = runner_in(&alone, "first", data.path()).spawn().expect("it starts");
    let child = alone.join("longshore-first");
    let inside = |path: &Path| {
        std::fs::read_to_string(path.join("cgroup.procs")).map_or(0, |text| text.lines().count())
    };
    until("runner and guard are aside", || inside(&child) == 2).await;
    assert_eq!(inside(&alone), 0);
    std::fs::write(child.join("cgroup.kill"), "1").expect("they are ended");
    running.wait().expect("it ends");
    until("nothing is left", || inside(&child) == 0 && std::fs::remove_dir(&child).is_ok()).await;
    std::fs::remove_dir(&alone).expect("nothing is in it");
}
