//! The process back end with real processes: what they are told, how they end, and that nothing outlives them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore::model::*;
use longshore::runner::backend::{Backend, ProcessBackend, Rlimit, Start, StopSender, Work, stops};
use longshore::runner::boottime;
use tempfile::TempDir;

/// Set when this test binary is run again as a process that holds a back end.
const INNER: &str = "LONGSHORE_TEST_INNER";

fn backend() -> ProcessBackend {
    ProcessBackend::new(env!("CARGO_BIN_EXE_longshore"), Duration::from_millis(200))
        .expect("its guard starts")
}

fn sh(script: &str) -> WorkOrder {
    WorkOrder { command: ["sh", "-c", script].map(str::to_owned).to_vec(), ..WorkOrder::default() }
}

fn start_of(order: WorkOrder) -> (Start, StopSender) {
    let (sender, stops) = stops();
    let held = Held {
        id: Id::parse("t1").expect("a name"),
        token: Token { epoch: 1, turn: 77, index: std::process::id() },
    };
    let (kind, url) = (Kind::Job, Some("http://127.0.0.1:8080".into()));
    (Start { held, kind, attempt: 2, url, order: Arc::new(order), stops, output: Default::default() }, sender)
}

async fn started(order: WorkOrder) -> (Work, StopSender) {
    let (start, stop) = start_of(order);
    (backend().start(start).await.expect("it starts"), stop)
}

async fn end_of(order: WorkOrder) -> End {
    let (work, _stop) = started(order).await;
    work.end.await
}

async fn not_started(order: WorkOrder) -> String {
    backend().start(start_of(order).0).await.expect_err("it cannot start").reason
}

fn text(end: &End) -> &str {
    end.message.as_deref().unwrap_or_default()
}

/// Waits for a fact.
async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {what}");
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn pid_in(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().filter(|text| text.ends_with('\n')).map(|text| text.trim().to_owned())
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let end = end_of(sh("echo all well; exit 0")).await;
    assert_eq!((end.outcome, end.exit_code, text(&end)), (AttemptOutcome::Succeeded, Some(0), "all well"));
    let end = end_of(sh("echo oh no >&2; exit 3")).await;
    assert_eq!((end.outcome, end.exit_code, text(&end)), (AttemptOutcome::Failed, Some(3), "oh no"));
    let end = end_of(sh("kill -9 $$")).await;
    assert_eq!(
        (end.outcome, end.exit_code, text(&end)),
        (AttemptOutcome::Failed, None, "ended by signal 9 (KILL)")
    );
}

#[tokio::test]
async fn work_is_told_who_it_is_and_runs_in_its_workdir() {
    let directory = TempDir::new().expect("a directory");
    let script = "echo $A $LONGSHORE_TASK $LONGSHORE_ATTEMPT ${LONGSHORE_TOKEN%.*} $LONGSHORE_URL \
                  $LONGSHORE_BUILD; pwd";
    let order = WorkOrder {
        env: [("A".to_owned(), "1".to_owned())].into(),
        workdir: Some(directory.path().to_str().expect("text").to_owned()),
        build: Some(Id::parse("b1").expect("a name")),
        ..sh(script)
    };
    let end = end_of(order).await;
    let expected = format!("1 t1 2 1.77 http://127.0.0.1:8080 b1\n{}", directory.path().display());
    assert_eq!(text(&end), expected);
}

#[tokio::test]
async fn work_is_told_its_trace_unless_its_own_environment_names_one() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = || WorkOrder { traceparent: Traceparent::parse(trace), ..sh("echo $TRACEPARENT") };
    assert_eq!(text(&end_of(traced()).await), trace);
    let own = WorkOrder { env: [("TRACEPARENT".to_owned(), "mine".to_owned())].into(), ..traced() };
    assert_eq!(text(&end_of(own).await), "mine");
    assert_eq!(text(&end_of(sh("echo ${TRACEPARENT-none}")).await), "none");
}

#[tokio::test]
async fn work_leaves_no_core_file_and_takes_no_more_than_the_operator_said() {
    assert_eq!(text(&end_of(sh("ulimit -c; ulimit -Hc")).await), "0\n0");
    let limits = ["nofile=64", "fsize=1MiB"].map(|text| Rlimit::parse(text).expect("a limit"));
    let limited = backend().limiting(&limits).expect("it may be given");
    let script = "ulimit -c; ulimit -n; ulimit -Hn; head -c 2000000 /dev/zero > $FILE || wc -c < $FILE";
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("file").to_str().expect("text").to_owned();
    let order = WorkOrder { env: [("FILE".to_owned(), file)].into(), ..sh(script) };
    let end = limited.start(start_of(order).0).await.expect("it starts").end.await;
    let lines: Vec<&str> = text(&end).lines().collect();
    assert_eq!((&lines[..3], lines.last()), (&["0", "64", "64"][..], Some(&"1048576")), "{}", text(&end));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let no_program = WorkOrder { command: vec!["no-such-program".to_owned()], ..WorkOrder::default() };
    assert_eq!(not_started(no_program).await, "start no-such-program: no such program on this runner");
    let no_directory = WorkOrder { workdir: Some("/no/such/place".to_owned()), ..sh("true") };
    assert!(not_started(no_directory).await.contains("workdir /no/such/place is no directory"));
    assert!(not_started(WorkOrder::default()).await.contains("spec.command is empty"));
    let (start, _stop) = start_of(WorkOrder::default());
    assert!(backend().start(start).await.expect_err("it cannot start").own_fault);
}

#[tokio::test]
async fn work_that_takes_too_long_is_ended_and_has_failed() {
    let end = end_of(WorkOrder { timeout: Some(Duration::from_millis(100)), ..sh("sleep 100") }).await;
    assert_eq!(end.outcome, AttemptOutcome::Failed);
    assert_eq!(text(&end), "timed out after 100ms, ended by TERM within a grace of 200ms");
}

#[tokio::test]
async fn a_stop_is_term_then_kill_of_the_whole_group() {
    let directory = TempDir::new().expect("a directory");
    let child = directory.path().join("child");
    let deaf = format!("trap '' TERM; (trap '' TERM; sleep 100) & echo $! > {}; wait; wait", child.display());
    let (work, stop) = started(sh(&deaf)).await;
    let end = tokio::spawn(work.end);
    until("the child runs", || pid_in(&child).is_some()).await;
    stop.ask(Duration::from_millis(100));
    let end = end.await.expect("it ends");
    assert_eq!(end.outcome, AttemptOutcome::Cancelled);
    assert!(text(&end).starts_with("stopped: ended by KILL after a grace of 100ms"), "{}", text(&end));
    assert!(!is_alive(&pid_in(&child).expect("a pid")));

    let (work, stop) =
        started(sh("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")).await;
    stop.ask(Duration::from_secs(20));
    let end = work.end.await;
    assert!(text(&end).starts_with("stopped: ended by TERM within a grace of 20s"), "{}", text(&end));

    let (work, stop) = started(sh("trap '' TERM; while :; do sleep 0.01; done")).await;
    stop.ask(Duration::from_secs(100));
    let end = tokio::spawn(work.end);
    stop.ask(Duration::ZERO);
    assert_eq!(text(&end.await.expect("it ends")), "stopped: ended by KILL without a grace");
}

#[tokio::test]
async fn children_left_behind_end_with_the_first_process() {
    let directory = TempDir::new().expect("a directory");
    let child = directory.path().join("child");
    let end = end_of(sh(&format!("sleep 100 & echo $! > {}; exit 0", child.display()))).await;
    assert_eq!(end.outcome, AttemptOutcome::Succeeded);
    assert!(!is_alive(&pid_in(&child).expect("a pid")));
}

#[tokio::test]
async fn a_chatty_process_is_never_made_to_wait_and_its_last_lines_are_kept() {
    let end = end_of(sh("i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done; exit 1")).await;
    let lines: Vec<&str> = text(&end).lines().collect();
    assert_eq!((lines.len(), lines[0], lines[39]), (40, "line 59960", "line 59999"));
    let end = end_of(sh("head -c 100000 /dev/zero | tr '\\0' x")).await;
    assert_eq!(text(&end).len(), 4096);
}

#[tokio::test]
async fn a_child_that_left_the_group_and_holds_the_output_is_not_waited_for() {
    let before = tokio::time::Instant::now();
    let directory = TempDir::new().expect("a directory");
    let child = directory.path().join("child");
    let script = format!(
        "setsid sh -c 'echo $$ > {}; sleep 30' & while [ ! -s {0} ]; do :; done; echo done",
        child.display()
    );
    let end = end_of(sh(&script)).await;
    assert_eq!((end.outcome, text(&end)), (AttemptOutcome::Succeeded, "done"));
    assert!(before.elapsed() < Duration::from_secs(10));
    let pid: i32 = pid_in(&child).expect("a pid").parse().expect("a number");
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).expect("a pid"),
        rustix::process::Signal::KILL,
    );
}

#[tokio::test]
async fn work_whose_end_nobody_awaits_is_ended() {
    let (work, _stop) = started(sh("sleep 100")).await;
    let pid = work.group.expect("a group").id.to_string();
    assert!(is_alive(&pid));
    drop(work);
    until("the process is gone", || !is_alive(&pid)).await;
}

/// Runs one test of this binary again, as a process of its own that is told `file`.
fn inner(test: &str, file: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture"])
        .env(INNER, file)
        .spawn()
        .expect("this binary starts again")
}

/// Work of two processes that write their numbers to `file` and beside it.
fn two_processes(file: &std::ffi::OsStr) -> WorkOrder {
    let file = Path::new(file).display();
    sh(&format!("sleep 100 & echo $! > {file}.child; echo $$ > {file}; wait"))
}

#[tokio::test]
async fn work_dies_with_the_process_that_holds_its_back_end() {
    if let Some(file) = std::env::var_os(INNER) {
        end_of(two_processes(&file)).await;
        return;
    }
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("pid");
    let mut inner = inner("work_dies_with_the_process_that_holds_its_back_end", &file);
    until("the work runs", || pid_in(&file).is_some()).await;
    let (pid, child) = (pid_in(&file), pid_in(&file.with_extension("child")));
    let both = [pid.expect("a pid"), child.expect("a pid")];
    // Past its own end the thread that forked would have taken the work with it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(both.iter().all(|pid| is_alive(pid)));
    inner.kill().expect("it can be killed");
    inner.wait().expect("it is gone");
    until("the work is gone, and what it started", || !both.iter().any(|pid| is_alive(pid))).await;
}

#[tokio::test]
async fn work_of_a_stopped_runner_ends_at_its_deadline() {
    if let Some(file) = std::env::var_os(INNER) {
        let backend = backend();
        backend.hold_until(boottime() + Duration::from_secs(100));
        let (start, _stop) = start_of(two_processes(&file));
        let work = backend.start(start).await.expect("it starts");
        until("the work runs", || pid_in(Path::new(&file)).is_some()).await;
        // The deadline of the last lease counts, not the longest.
        backend.hold_until(boottime() + Duration::from_millis(300));
        std::fs::write(Path::new(&file).with_extension("held"), "").expect("a file");
        work.end.await;
        return;
    }
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("pid");
    let mut inner = inner("work_of_a_stopped_runner_ends_at_its_deadline", &file);
    until("the deadline is set", || file.with_extension("held").exists()).await;
    let pid = rustix::process::Pid::from_child(&inner);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it can be stopped");
    let both = [pid_in(&file).expect("a pid"), pid_in(&file.with_extension("child")).expect("a pid")];
    until("the work is gone, and what it started", || !both.iter().any(|pid| is_alive(pid))).await;
    inner.kill().expect("it can be killed");
    inner.wait().expect("it is gone");
}

#[tokio::test]
async fn work_that_the_guard_ended_has_no_result_of_its_own() {
    let backend = backend();
    let (start, _stop) = start_of(sh("sleep 100"));
    let work = backend.start(start).await.expect("it starts");
    backend.hold_until(boottime());
    let end = work.end.await;
    assert_eq!(
        (end.outcome, text(&end)),
        (AttemptOutcome::Cancelled, "stopped: ended by KILL without a grace")
    );

    let (start, _stop) = start_of(sh("sleep 100"));
    let end = backend.start(start).await.expect("it starts").end.await;
    assert_eq!(end.outcome, AttemptOutcome::Cancelled, "what begins later ends as well");
    backend.hold_until(boottime() + Duration::from_secs(100));
    let (start, _stop) = start_of(sh("sleep 0.2"));
    let end = backend.start(start).await.expect("it starts").end.await;
    assert_eq!(end.outcome, AttemptOutcome::Succeeded, "until there is a new lease");
}

#[tokio::test]
async fn a_back_end_whose_guard_is_gone_is_broken() {
    let backend = backend();
    let guard = rustix::process::Pid::from_raw(backend.guard().pid()).expect("a pid");
    rustix::process::kill_process(guard, rustix::process::Signal::KILL).expect("it can be killed");
    assert_eq!(backend.broken().await, "the guard of its work is gone");
}
