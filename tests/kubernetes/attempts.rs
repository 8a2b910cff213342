//! How an attempt becomes a Job, how its pod's end becomes the attempt's, and that nothing is left of it.

use std::time::Duration;

use longshore::model::{AttemptOutcome, Id, Resources, WorkOrder};
use longshore::runner::backend::Backend;
use serde_json::json;

use crate::cluster::{Cluster, OnTerm, State, container};
use crate::words::{backend, backend_with, begin, order, running, said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_says_what_its_task_asks_for_and_runs_nothing_before_it_may() {
    let cluster = Cluster::start().await;
    cluster.change(|state| state.controls = false);
    let backend = backend(&cluster).await;
    let mut resources = Resources::new(1_500, 64 << 20);
    resources.other = [("gpu".into(), 2), ("license".into(), 1)].into();
    let asked = WorkOrder {
        resources,
        arch: "arm64".into(),
        os: "linux".into(),
        labels: [("zone".into(), "eu".into())].into(),
        env: [("A".to_owned(), "1".to_owned())].into(),
        workdir: Some("/src".to_owned()),
        build: Some(Id::parse("b1").expect("a name")),
        timeout: Some(Duration::from_secs(60)),
        ..order()
    };
    let begun = begin(&backend, asked);
    let job = cluster.until("there is a Job", |state| state.jobs.values().next().cloned()).await;
    let (spec, pod) = (&job["spec"], &job["spec"]["template"]["spec"]);
    let notes = &job["metadata"]["annotations"];
    assert_eq!(
        [&notes["longshore/runner"], &notes["longshore/task"], &notes["longshore/attempt"]],
        ["r1", "t1", "2"]
    );
    assert_eq!(spec["template"]["metadata"]["labels"]["longshore/runner"], "r1");
    assert_eq!([&spec["parallelism"], &spec["completions"], &spec["backoffLimit"]], [0, 1, 0]);
    assert_eq!([&pod["terminationGracePeriodSeconds"], &pod["activeDeadlineSeconds"]], [1, 60 + 300 + 2 + 1]);
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(pod["automountServiceAccountToken"], false);
    let places = json!({"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux", "zone": "eu"});
    assert_eq!(pod["nodeSelector"], places);
    let container = &pod["containers"][0];
    assert_eq!((&container["args"], &container["workingDir"]), (&json!(["make"]), &json!("/src")));
    let amounts = json!({"cpu": "1500m", "memory": "67108864", "nvidia.com/gpu": "2"});
    assert_eq!(
        (&container["resources"]["requests"], &container["resources"]["limits"]),
        (&amounts, &amounts)
    );
    let env = container["env"].as_array().expect("a list").clone();
    for (name, value) in
        [("A", "1"), ("LONGSHORE_TASK", "t1"), ("LONGSHORE_BUILD", "b1"), ("LONGSHORE_ATTEMPT", "2")]
    {
        assert!(env.contains(&json!({"name": name, "value": value})), "{name} in {env:?}");
    }
    cluster.change(|state| state.controls = true);
    let pod = cluster.running_pod().await;
    cluster.exits(&pod, 0);
    assert_eq!(begun.started().await.end().await.outcome, AttemptOutcome::Succeeded);
    assert!(cluster.is_empty(), "nothing is left of what has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_code_is_the_tasks_and_so_is_what_it_wrote() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.writes(&pod, "one\n");
    cluster.writes(&pod, "oh no\n");
    cluster.exits(&pod, 3);
    let end = work.end().await;
    assert_eq!((end.outcome, end.exit_code, said(&end)), (AttemptOutcome::Failed, Some(3), "one\noh no"));
    assert!(cluster.is_empty());

    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.exits(&pod, 137);
    let end = work.end().await;
    assert_eq!((end.outcome, said(&end)), (AttemptOutcome::Failed, "ended by signal 9 (KILL)"));

    let small = WorkOrder { resources: Resources::new(0, 64 << 20), ..order() };
    let (work, pod) = running(&cluster, &backend, small).await;
    cluster.runs_out_of_memory(&pod);
    let end = work.end().await;
    let expected = "out of memory: the kernel ended it at its limit of 64MiB";
    assert_eq!((end.outcome, said(&end)), (AttemptOutcome::Failed, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_lost_with_its_pod_is_no_failure_of_the_task() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.evicts(&pod, "The node was low on resource: memory.");
    let end = work.end().await;
    let expected = "its pod was lost: Evicted: The node was low on resource: memory.";
    assert_eq!((end.outcome, said(&end)), (AttemptOutcome::StartFailed, expected));

    // Its process hears TERM and ends well: still it was not let finish.
    cluster.change(|state| state.on_term = OnTerm::Ends(0));
    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.preempts(&pod);
    let end = work.end().await;
    assert_eq!(
        (end.outcome, said(&end)),
        (AttemptOutcome::StartFailed, "its pod was lost: PreemptionByScheduler")
    );

    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.loses(&pod);
    let end = work.end().await;
    assert_eq!(
        (end.outcome, said(&end)),
        (AttemptOutcome::StartFailed, "its pod was removed by somebody else")
    );

    let (work, _) = running(&cluster, &backend, order()).await;
    cluster.deletes_job();
    let end = work.end().await;
    assert_eq!(
        (end.outcome, said(&end)),
        (AttemptOutcome::StartFailed, "its pod was deleted by somebody else")
    );
    assert!(cluster.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_says_why_and_whose_fault_it_is_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    cluster.change(|state| state.starts_pods = false);
    let backend = backend_with(&cluster, |settings| settings.running_within = Duration::from_secs(2)).await;
    for (reason, own_fault) in [
        ("ErrImagePull", false),
        ("ImagePullBackOff", false),
        ("InvalidImageName", true),
        ("CreateContainerError", false),
    ] {
        let begun = begin(&backend, order());
        let pod = cluster.pod().await;
        cluster.waits(&pod, "ContainerCreating", "");
        cluster.waits(&pod, reason, "no such thing");
        let why = begun.not_started().await;
        assert!(
            why.reason.contains(&format!("{reason}: no such thing")) && why.own_fault == own_fault,
            "{why:?}"
        );
        assert!(cluster.is_empty(), "{reason}");
    }
    let begun = begin(&backend, order());
    let pod = cluster.pod().await;
    cluster.finds_no_place(&pod, "0/3 nodes are available: 3 Insufficient cpu.");
    let why = begun.not_started().await;
    let expected = "not running within 2s: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.";
    assert_eq!((why.reason.as_str(), why.own_fault), (expected, false));
    assert!(cluster.is_empty());

    let why = begin(&backend, WorkOrder { image: None, ..order() }).not_started().await;
    assert!(why.own_fault && why.reason.starts_with("spec.image is empty"), "{why:?}");
    let mounts = WorkOrder { mounts: vec!["/etc:/etc".to_owned()], ..order() };
    assert!(
        begin(&backend, mounts).not_started().await.reason.starts_with("spec.mounts: this runner runs pods")
    );
    let variable = WorkOrder { env: [("A=B".to_owned(), String::new())].into(), ..order() };
    let why = begin(&backend, variable).not_started().await;
    assert!(why.own_fault && why.reason.contains("is invalid"), "no cluster takes it: {why:?}");
    let label = WorkOrder { labels: [("zone".into(), "e u".into())].into(), ..order() };
    let why = begin(&backend, label).not_started().await;
    assert!(!why.own_fault && why.reason.starts_with("labels: zone=e u"), "{why:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_its_image_lacks_is_the_tasks_own_failure() {
    let cluster = Cluster::start().await;
    cluster.change(|state| state.starts_pods = false);
    let backend = backend(&cluster).await;
    let begun = begin(&backend, order());
    let pod = cluster.pod().await;
    let missing = "exec: \"make\": executable file not found in $PATH";
    cluster.change(|state| {
        let ended = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": missing}});
        state.set_pod(&pod, |pod| {
            pod["status"] = json!({"phase": "Failed", "containerStatuses": container(ended)});
        });
    });
    let why = begun.not_started().await;
    assert!(why.own_fault && why.reason == format!("start its container: {missing}"), "{why:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_term_then_kill_and_waits_until_the_machine_says_that_it_has_ended() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.writes(&pod, "bye\n");
    // A pod that has ended because it was deleted takes its output along.
    cluster.until("it is read", |state| state.read.contains(&pod).then_some(())).await;
    work.stop.ask(Duration::from_secs(20));
    let end = work.end().await;
    let expected = "stopped: ended by TERM within a grace of 20s\nbye";
    assert_eq!((end.outcome, said(&end)), (AttemptOutcome::Cancelled, expected));

    cluster.change(|state| state.on_term = OnTerm::Deaf);
    let (work, _) = running(&cluster, &backend, order()).await;
    work.stop.ask(Duration::from_secs(600));
    cluster.until("it is asked", |state| asked_within(state, 600)).await;
    work.stop.ask(Duration::from_millis(200));
    let end = work.end().await;
    assert_eq!(said(&end), "stopped: ended by KILL after a grace of 200ms");

    // A machine that does not answer keeps the attempt: nobody knows whether it runs.
    cluster.change(|state| state.machines_hear = false);
    let (work, _) = running(&cluster, &backend, order()).await;
    work.stop.ask(Duration::ZERO);
    cluster.until("it is asked", |state| asked_within(state, 1)).await;
    assert!(!work.end.is_finished(), "it may run still");
    cluster.change(|state| state.machines_hear = true);
    let end = work.end().await;
    assert_eq!(said(&end), "stopped: ended by KILL without a grace");
    assert_eq!(cluster.state().forced, Vec::<String>::new(), "no pod is forgotten before it has ended");
    assert!(cluster.is_empty());
}

fn asked_within(state: &State, seconds: u64) -> Option<()> {
    state.pods.values().any(|pod| pod["metadata"]["deletionGracePeriodSeconds"] == seconds).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_runs_out_of_its_time_is_ended_and_says_so() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let timed = WorkOrder { timeout: Some(Duration::from_millis(200)), ..order() };
    let (work, _) = running(&cluster, &backend, timed).await;
    let end = work.end().await;
    let expected = "timed out after 200ms, ended by TERM within a grace of 2s";
    assert_eq!((end.outcome, said(&end)), (AttemptOutcome::Failed, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stopped_before_its_container_runs_never_runs() {
    let cluster = Cluster::start().await;
    for (controls, starts_pods) in [(false, true), (true, false)] {
        cluster.change(|state| (state.controls, state.starts_pods) = (controls, starts_pods));
        let backend = backend(&cluster).await;
        let begun = begin(&backend, order());
        cluster.until("there is a Job", |state| (!state.jobs.is_empty()).then_some(())).await;
        if controls {
            cluster.pod().await;
        }
        begun.stop.ask(Duration::from_secs(20));
        let end = begun.started().await.end().await;
        let expected = "stopped before its container had started";
        assert_eq!((end.outcome, said(&end)), (AttemptOutcome::Cancelled, expected));
        cluster.change(|state| (state.controls, state.starts_pods) = (true, true));
        cluster.until("nothing is left", |state| state.jobs.is_empty().then_some(())).await;
        assert!(cluster.state().ran.is_empty(), "nothing of it ran");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_whose_end_nobody_awaits_is_ended() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (work, _) = running(&cluster, &backend, order()).await;
    work.end.abort();
    cluster.until("it is gone", |state| (state.jobs.is_empty() && state.pods.is_empty()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_start_left_is_ended_and_only_that() {
    let cluster = Cluster::start().await;
    let (first, other) = (backend(&cluster).await, other(&cluster).await);
    let (left, _) = running(&cluster, &first, order()).await;
    let kept = begin(&other, order()).started().await;
    // Its Job is gone already, and its pod was left.
    let orphan = begin(&first, order()).started().await;
    cluster.change(|state| {
        let of = |job: &&String| job.starts_with("longshore-r1-");
        let job = state.jobs.keys().rfind(of).cloned().expect("a Job");
        state.jobs.remove(&job);
    });
    let next = backend(&cluster).await;
    assert_eq!(next.clean_up().await, Ok(1));
    let left_over: Vec<String> = cluster.state().pods.keys().cloned().collect();
    assert!(left_over.len() == 1 && left_over[0].starts_with("longshore-other-"), "{left_over:?}");
    assert_eq!(next.clean_up().await, Ok(0));
    assert!(!kept.end.is_finished());
    for work in [left, orphan] {
        assert_eq!(work.end().await.outcome, AttemptOutcome::StartFailed);
    }
}

async fn other(cluster: &Cluster) -> longshore::runner::backend::KubernetesBackend {
    backend_with(cluster, |settings| settings.runner = Id::parse("other").expect("a name")).await
}
