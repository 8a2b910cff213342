//! Back ends that hang when they are to start something.

use async_trait::async_trait;
use longshore::runner::backend::{StartFailed, Work};

use super::*;

/// What becomes of a start that hangs.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// It is broken off when it is asked to stop.
    BreaksOff,
    /// Its work was done all the same when it was asked to stop.
    WasDone,
    /// It hangs on.
    HangsOn,
}

#[derive(Debug)]
struct Hanging(Then);

#[async_trait]
impl Backend for Hanging {
    async fn start(&self, mut start: Start) -> Result<Work, StartFailed> {
        start.stops.next().await;
        let end = match self.0 {
            Then::BreaksOff => End { message: Some("the image was on its way".into()), ..End::stopped() },
            Then::WasDone => End::succeeded(),
            Then::HangsOn => std::future::pending().await,
        };
        Ok(Work { group: None, end: Box::pin(std::future::ready(end)) })
    }
}

async fn hanging(server: &Server, id: &str, then: Then) -> Running {
    let what = |runner: Builder| {
        let runner = runner.cost(0.5).backend(Arc::new(Hanging(then)));
        runner.start_timeout(Duration::from_millis(300))
    };
    Running::start(server, id, what).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_hangs_is_broken_off_and_has_failed() {
    let server = quick_server().await;
    let runner = hanging(&server, "r1", Then::BreaksOff).await;
    server.submit(json!({"id": "t1", "max_attempts": 1})).await;
    let ended = end_of(&server, "t1").await;
    assert_eq!(ended.outcome, Outcome::Exhausted);
    let why = ended.reason.as_deref().unwrap_or_default();
    assert!(why.ends_with("not started within 300ms: the image was on its way"), "{why}");
    runner.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_while_its_start_was_broken_off_is_done() {
    let server = quick_server().await;
    let runner = hanging(&server, "r1", Then::WasDone).await;
    server.submit(json!({"id": "t1", "max_attempts": 1})).await;
    assert_eq!(outcome_of(&server, "t1").await, (Outcome::Succeeded, String::new()));
    runner.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_of_what_hangs_is_no_failure_to_start() {
    let server = quick_server().await;
    let runner =
        Running::start(&server, "r1", |runner| runner.backend(Arc::new(Hanging(Then::BreaksOff)))).await;
    server.submit(json!({"id": "t1"})).await;
    server.until("it is assigned", |state| state.counts().assigned == 1).await;
    server.delete("/v1/tasks/t1").await.is(202);
    assert_eq!(outcome_of(&server, "t1").await.0, Outcome::Cancelled);
    runner.leaves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_end_that_hangs_on_ends_its_runner_and_another_has_the_task() {
    let server = Server::start_with(|settings| {
        settings.lease = Duration::from_secs(2);
        settings.heartbeat = Duration::from_millis(400);
    })
    .await;
    let stuck = hanging(&server, "stuck", Then::HangsOn).await;
    let able = Running::start(&server, "able", |runner| runner.run(async |_| ())).await;
    for id in ["stuck", "able"] {
        let id = id.parse().expect("a name");
        server.until("it is known", |state| state.runner(&id).is_some()).await;
    }
    server.submit(json!({"id": "t1"})).await;
    let why = tokio::time::timeout(PATIENCE, stuck.run).await.expect("it ends").expect("no panic");
    let why = why.expect_err("it could not go on").to_string();
    assert!(why.contains("its back end: it did not start t1"), "{why}");
    assert!(why.contains("within 300ms, nor say within as long again that nothing of it runs"), "{why}");
    let ended = end_of(&server, "t1").await;
    assert_eq!(ended.outcome, Outcome::Succeeded, "{ended:?}");
    assert_eq!(ended.runner.as_ref().map(|runner| runner.as_str()), Some("able"), "{ended:?}");
    able.leaves().await;
}
