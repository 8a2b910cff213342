//! Trouble with the API: watches that break, answers that are lost, a cluster that is not there.

use std::time::Duration;

use longshore::model::{AttemptOutcome, Id};
use longshore::runner::backend::KubernetesBackend;
use longshore::runner::backend::kubernetes::Settings;
use serde_json::json;

use crate::cluster::{Cluster, Weather};
use crate::words::{backend, begin, order, running, said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_seen_though_watches_break_and_come_too_late() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.breaks_streams();
    cluster.exits(&pod, 0);
    assert_eq!(work.end().await.outcome, AttemptOutcome::Succeeded);

    let (work, pod) = running(&cluster, &backend, order()).await;
    let lists = cluster.used("list");
    cluster.exits(&pod, 3);
    cluster.forgets_what_happened();
    let end = work.end().await;
    assert_eq!((end.outcome, end.exit_code), (AttemptOutcome::Failed, Some(3)));
    assert!(cluster.used("list") > lists || cluster.used("watch") > 0);

    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.weather(Weather::Failing(500));
    cluster.exits(&pod, 4);
    cluster.until("it is asked in vain", |state| (state.counts["list"] > 6).then_some(())).await;
    assert!(!work.end.is_finished());
    cluster.weather(Weather::Fair);
    assert_eq!(work.end().await.exit_code, Some(4));
    assert!(cluster.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_and_went_unseen_is_known_by_its_job() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.weather(Weather::CutOff);
    cluster.exits(&pod, 0);
    cluster.loses(&pod);
    cluster.forgets_what_happened();
    cluster.weather(Weather::Fair);
    let end = work.end().await;
    assert_eq!((end.outcome, end.exit_code), (AttemptOutcome::Succeeded, Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_made_once_though_the_answer_is_lost() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    cluster.weather(Weather::LosesAnswers);
    let begun = begin(&backend, order());
    cluster.until("it is there", |state| (!state.jobs.is_empty()).then_some(())).await;
    cluster.weather(Weather::Fair);
    let work = begun.started().await;
    let pod = cluster.running_pod().await;
    assert_eq!(cluster.state().jobs.len(), 1);
    assert_eq!(cluster.state().ran.len(), 1);
    cluster.exits(&pod, 0);
    assert_eq!(work.end().await.outcome, AttemptOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_nobodys_to_take_over() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (start, _stop) = crate::words::start_of(order());
    let name = format!("longshore-r1-1-77-{}", start.held.token.index);
    cluster.change(|state| {
        let spec = json!({"parallelism": 0, "template": {"metadata": {}, "spec": {}}});
        state.jobs.insert(name.clone(), json!({"metadata": {"name": name, "annotations": {}}, "spec": spec}));
    });
    let why = longshore::runner::backend::Backend::start(&backend, start).await.expect_err("it is refused");
    assert!(why.reason.contains("already exists") && !why.own_fault, "{why:?}");
    assert_eq!(cluster.state().jobs.len(), 1, "what somebody else made is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_goes_on_where_it_broke_off() {
    let cluster = Cluster::start().await;
    let backend = backend(&cluster).await;
    let (work, pod) = running(&cluster, &backend, order()).await;
    cluster.writes(&pod, "one\n");
    cluster.until("it is read", |state| state.counts.get("log").copied()).await;
    cluster.breaks_streams();
    cluster.writes(&pod, "two\n");
    cluster.breaks_streams();
    cluster.writes(&pod, "three\n");
    cluster.exits(&pod, 3);
    assert_eq!(said(&work.end().await), "one\ntwo\nthree");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_there_or_forbids_is_one_line_with_the_remedy() {
    let cluster = Cluster::start().await;
    let connect = |kubeconfig: std::path::PathBuf, context: Option<&str>| {
        let mut settings = Settings::new(Id::parse("r1").expect("a name"));
        settings.kubeconfig = Some(kubeconfig);
        settings.context = context.map(str::to_owned);
        async move { KubernetesBackend::connect(settings).await.expect_err("it is not there") }
    };
    cluster.weather(Weather::Forbids("list"));
    let why = connect(cluster.kubeconfig(), None).await;
    assert!(
        why.contains("cannot list resource") && why.ends_with("holds what a runner must be allowed"),
        "{why}"
    );
    let why = connect(cluster.kubeconfig(), Some("elsewhere")).await;
    assert!(why.contains("elsewhere") && why.contains("--context"), "{why}");
    let nowhere = cluster.kubeconfig().with_file_name("nowhere");
    let why = connect(nowhere.clone(), None).await;
    assert!(why.starts_with("--kubeconfig ") && why.contains("nowhere"), "{why}");
    let text = std::fs::read_to_string(cluster.kubeconfig()).expect("it is there");
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let from = text.find("http://").expect("an address");
    let to = from + text[from..].find('\'').expect("its end");
    std::fs::write(&nowhere, format!("{}http://{closed}{}", &text[..from], &text[to..])).expect("a file");
    let why = connect(nowhere, None).await;
    assert!(why.starts_with(&format!("no cluster answers for namespace ci of http://{closed}: ")), "{why}");
    assert!(why.contains("refused") && !why.contains('\n'), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_does_not_take_a_job_in_time_is_a_failed_start() {
    let cluster = Cluster::start().await;
    let backend =
        crate::words::backend_with(&cluster, |settings| settings.running_within = Duration::from_secs(1))
            .await;
    cluster.weather(Weather::Failing(503));
    let why = begin(&backend, order()).not_started().await;
    let expected = "not running within 1s: the cluster does not answer: the story says so (503)";
    assert_eq!((why.reason.as_str(), why.own_fault), (expected, false));
}
