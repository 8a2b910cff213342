//! The lease: what the cluster ends by itself when a runner is gone or cut off, and what it never begins.

use std::time::Duration;

use longshore::model::AttemptOutcome;
use longshore::runner::backend::Backend;
use longshore::runner::boottime;
use tokio::time::Instant;

use crate::cluster::{Cluster, OnTerm, State, Weather};
use crate::words::{backend, backend_with, begin, order, running, said};

/// When the pods that ran stopped, on the clock leases count on; `None` while one runs.
fn stopped(state: &State) -> Option<Duration> {
    let ago = |at: Instant| at.elapsed();
    let all: Option<Vec<Duration>> = state.ran.values().map(|until| until.map(ago)).collect();
    Some(boottime() - all?.into_iter().min()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_past_what_its_runner_holds_though_nobody_ends_it() {
    let cluster = Cluster::start().await;
    // The worst there is: it has no ear for TERM.
    cluster.change(|state| state.on_term = OnTerm::Deaf);
    let backend = backend(&cluster).await;
    let until = boottime() + Duration::from_secs(4);
    backend.hold_until(until);
    let (work, _) = running(&cluster, &backend, order()).await;
    let stopped = cluster.until("the cluster ended it", stopped).await;
    assert!(stopped <= until + Duration::from_millis(300), "{:?} too late", stopped - until);
    let end = work.end().await;
    assert_eq!(end.outcome, AttemptOutcome::Handback);
    assert!(said(&end).starts_with("its cluster ended it when its time was over"), "{end:?}");
    assert!(cluster.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_moved_while_the_lease_is_renewed_and_not_with_every_renewal() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (began, hold) = (boottime(), Duration::from_secs(5));
    backend.hold_until(began + hold);
    let (work, pod) = running(&cluster, &backend, order()).await;
    let before = cluster.used("patch");
    let mut renewals = 0;
    while boottime() < began + hold + Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        backend.hold_until(boottime() + hold);
        renewals += 1;
    }
    let moved = cluster.used("patch") - before;
    assert!((2..=8).contains(&moved), "{moved} changes for {renewals} renewals");
    cluster.exits(&pod, 0);
    assert_eq!(work.end().await.outcome, AttemptOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_runner_is_gone_before_it_began_never_runs() {
    let cluster = Cluster::start().await;
    cluster.change(|state| state.controls = false);
    let backend = backend_with(&cluster, |settings| settings.running_within = Duration::from_secs(1)).await;
    let begun = begin(&backend, order());
    cluster.until("there is a Job", |state| (!state.jobs.is_empty()).then_some(())).await;
    begun.starting.abort();
    drop(backend);
    cluster.weather(Weather::CutOff);
    cluster.change(|state| state.controls = true);
    let failed = |state: &State| {
        let over = |job: &serde_json::Value| job["status"]["failed"] == 1;
        state.jobs.values().any(over).then_some(())
    };
    cluster.until("the cluster gave it up", failed).await;
    assert!(cluster.state().ran.is_empty() && cluster.state().pods.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_begins_that_would_be_ended_at_once() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    backend.hold_until(boottime() + Duration::from_secs(2));
    let begun = begin(&backend, order());
    let started =
        |state: &State| state.jobs.values().any(|job| job["status"]["startTime"].is_string()).then_some(());
    cluster.until("its Job counts", started).await;
    assert!(cluster.state().pods.is_empty());
    backend.hold_until(boottime() + Duration::from_secs(60));
    let work = begun.started().await;
    let pod = cluster.running_pod().await;
    cluster.exits(&pod, 0);
    assert_eq!(work.end().await.outcome, AttemptOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_is_cut_off_from_its_cluster_loses_its_work_to_the_deadline_and_hands_it_back() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let until = boottime() + Duration::from_secs(4);
    backend.hold_until(until);
    let (work, _) = running(&cluster, &backend, order()).await;
    cluster.weather(Weather::CutOff);
    // Its lease is renewed, and nobody can tell the cluster.
    backend.hold_until(until + Duration::from_secs(60));
    let stopped = cluster.until("the cluster ended it", stopped).await;
    assert!(stopped <= until, "{:?} too late", stopped - until);
    assert!(!work.end.is_finished(), "nothing is concluded from silence");
    cluster.weather(Weather::Fair);
    let end = work.end().await;
    assert_eq!(end.outcome, AttemptOutcome::Handback, "{end:?}");
}
