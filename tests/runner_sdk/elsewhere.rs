//! A back end of one's own whose work outlives the runner's process: the next start goes on with it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use longshore::model::Id;
use longshore::runner::backend::{Adopted, StartFailed, Stops, Work};
use longshore::runner::boottime;
use longshore::runner::outbox::Outbox;
use tokio::sync::watch;

use super::*;

/// What runs the work, beside all runners. It ends it itself when its time is over.
#[derive(Debug, Default)]
struct Elsewhere {
    work: Mutex<BTreeMap<Held, watch::Sender<Option<AttemptOutcome>>>>,
    begun: AtomicU32,
    until: Mutex<Duration>,
}

/// One start's way to it.
#[derive(Debug, Clone, Default)]
struct Remote {
    elsewhere: Arc<Elsewhere>,
    /// The runner's process is gone: it ends nothing any more.
    dead: Arc<AtomicBool>,
}

impl Elsewhere {
    fn ends(&self, outcome: AttemptOutcome) {
        self.work.lock().expect("no panic").values().for_each(|ended| _ = ended.send_replace(Some(outcome)));
    }
}

impl Remote {
    fn follow(&self, held: &Held, mut stops: Stops) -> Option<Work> {
        let ended = self.elsewhere.work.lock().expect("no panic").get(held)?.clone();
        let dropped = Dropped { ended: ended.clone(), dead: self.dead.clone() };
        let end = async move {
            let _dropped = dropped;
            let mut outcome = ended.subscribe();
            tokio::select! {
                _ = stops.next() => { ended.send_replace(Some(AttemptOutcome::Cancelled)); }
                _ = outcome.wait_for(Option::is_some) => {}
            }
            let outcome = ended.borrow().expect("it has ended");
            End { outcome, exit_code: None, message: None, artifacts: Vec::new() }
        };
        Some(Work { group: None, end: Box::pin(end) })
    }
}

struct Dropped {
    ended: watch::Sender<Option<AttemptOutcome>>,
    dead: Arc<AtomicBool>,
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if !self.dead.load(Ordering::SeqCst) {
            self.ended.send_if_modified(|ended| {
                let runs = ended.is_none();
                ended.get_or_insert(AttemptOutcome::Cancelled);
                runs
            });
        }
    }
}

#[async_trait]
impl Backend for Remote {
    async fn start(&self, start: Start) -> Result<Work, StartFailed> {
        self.elsewhere.begun.fetch_add(1, Ordering::SeqCst);
        let begun = watch::Sender::new(None);
        self.elsewhere.work.lock().expect("no panic").insert(start.held.clone(), begun);
        Ok(self.follow(&start.held, start.stops).expect("it was just begun"))
    }

    fn outlives(&self) -> bool {
        true
    }

    async fn adopt(&self, begun: Vec<Start>) -> Result<Adopted, String> {
        let until = *self.elsewhere.until.lock().expect("no panic");
        let known = begun.into_iter().filter(|_| until > boottime());
        let work =
            known.filter_map(|start| Some((start.held.clone(), self.follow(&start.held, start.stops)?)));
        Ok(Adopted { until, work: work.collect(), ended: 0 })
    }

    fn hold_until(&self, until: Duration) {
        *self.elsewhere.until.lock().expect("no panic") = until;
    }
}

/// A start of the same runner in the same directory.
async fn start(
    server: &Server,
    dir: &TempDir,
    remote: &Remote,
) -> (CancellationToken, JoinHandle<Result<(), RunnerError>>) {
    let runner = Runner::builder().url(server.running.url()).id("r1").data_dir(dir.path());
    let runner = runner.backend(Arc::new(remote.clone())).build().await.expect("it is legal");
    let stop = CancellationToken::new();
    (stop.clone(), tokio::spawn(runner.run(stop)))
}

fn t1_runs(state: &State) -> bool {
    state.task("t1").is_some_and(|task| matches!(task.state, TaskState::Running(_)))
}

/// As if its process were killed.
async fn kill(remote: &Remote, run: JoinHandle<Result<(), RunnerError>>, dir: &TempDir) {
    remote.dead.store(true, Ordering::SeqCst);
    run.abort();
    assert!(run.await.expect_err("it ended early").is_cancelled());
    while Outbox::open(dir.path()).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_outlives_its_runner_is_gone_on_with_and_begun_once() {
    let (server, dir) = (quick_server().await, TempDir::new().expect("a directory"));
    let first = Remote::default();
    let (_stop, run) = start(&server, &dir, &first).await;
    server.submit(json!({"id": "t1"})).await;
    server.until("t1 runs", t1_runs).await;
    let r1 = Id::parse("r1").expect("a name");
    let incarnation = |state: &State| state.runner(&r1).map(|row| row.incarnation.clone());
    let before = server.running.handle.view().read(incarnation);
    kill(&first, run, &dir).await;

    let second = Remote { elsewhere: first.elsewhere.clone(), dead: Arc::default() };
    let (stop, run) = start(&server, &dir, &second).await;
    server.until("the next start is known", |state| incarnation(state) != before).await;
    second.elsewhere.ends(AttemptOutcome::Succeeded);
    let ending = end_of(&server, "t1").await;
    assert_eq!(ending.outcome, Outcome::Succeeded);
    assert_eq!(second.elsewhere.begun.load(Ordering::SeqCst), 1);
    let attempt = |state: &State| state.task("t1").map(|task| task.attempt);
    assert_eq!(server.running.handle.view().read(attempt), Some(1));
    stop.cancel();
    run.await.expect("no panic").expect("it leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_no_runner_was_there_has_ended_as_it_did() {
    let (server, dir) = (quick_server().await, TempDir::new().expect("a directory"));
    let first = Remote::default();
    let (_stop, run) = start(&server, &dir, &first).await;
    server.submit(json!({"id": "t1"})).await;
    server.until("t1 runs", t1_runs).await;
    kill(&first, run, &dir).await;
    first.elsewhere.ends(AttemptOutcome::Failed);

    let second = Remote { elsewhere: first.elsewhere.clone(), dead: Arc::default() };
    let (stop, run) = start(&server, &dir, &second).await;
    assert_eq!(end_of(&server, "t1").await.outcome, Outcome::Failed);
    assert_eq!(second.elsewhere.begun.load(Ordering::SeqCst), 1);
    stop.cancel();
    run.await.expect("no panic").expect("it leaves");
}
