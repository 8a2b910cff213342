//! What the stories of the back end are told with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use longshore::model::{End, Held, Id, Kind, Token, WorkOrder};
use longshore::runner::backend::kubernetes::Settings;
use longshore::runner::backend::{Backend, KubernetesBackend, Start, StartFailed, StopSender, Work, stops};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, PATIENCE};

pub const IMAGE: &str = "registry.example/tools:1";

pub async fn backend(cluster: &Cluster) -> KubernetesBackend {
    backend_with(cluster, |_| ()).await
}

pub async fn backend_with(cluster: &Cluster, change: impl FnOnce(&mut Settings)) -> KubernetesBackend {
    let mut settings = Settings::new(Id::parse("r1").expect("a name"));
    settings.kubeconfig = Some(cluster.kubeconfig());
    settings.timeout_grace = Duration::from_secs(2);
    change(&mut settings);
    KubernetesBackend::connect(settings).await.expect("the cluster answers")
}

pub fn order() -> WorkOrder {
    WorkOrder { image: Some(IMAGE.into()), command: vec!["make".to_owned()], ..WorkOrder::default() }
}

pub fn start_of(order: WorkOrder) -> (Start, StopSender) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (sender, stops) = stops();
    let token = Token { epoch: 1, turn: 77, index: NEXT.fetch_add(1, Ordering::Relaxed) };
    let held = Held { id: Id::parse("t1").expect("a name"), token };
    let (kind, url) = (Kind::Job, Some("http://10.0.0.1:8080".into()));
    (Start { held, kind, attempt: 2, url, order: Arc::new(order), stops, output: Default::default() }, sender)
}

pub fn said(end: &End) -> &str {
    end.message.as_deref().unwrap_or_default()
}

pub async fn patiently<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// An attempt that was begun, while the story goes on.
pub struct Begun {
    pub starting: JoinHandle<Result<Work, StartFailed>>,
    pub stop: StopSender,
}

pub fn begin(backend: &KubernetesBackend, order: WorkOrder) -> Begun {
    let (start, stop) = start_of(order);
    let backend = backend.clone();
    Begun { starting: tokio::spawn(async move { backend.start(start).await }), stop }
}

impl Begun {
    pub async fn started(self) -> Started {
        let work = patiently("it starts", self.starting).await.expect("no panic").expect("it starts");
        Started { end: tokio::spawn(work.end), stop: self.stop }
    }

    pub async fn not_started(self) -> StartFailed {
        patiently("it does not start", self.starting).await.expect("no panic").expect_err("it does not start")
    }
}

/// An attempt that runs, while the story goes on.
pub struct Started {
    pub end: JoinHandle<End>,
    pub stop: StopSender,
}

impl Started {
    pub async fn end(self) -> End {
        patiently("it ends", self.end).await.expect("no panic")
    }
}

/// An attempt that runs, and its pod.
pub async fn running(cluster: &Cluster, backend: &KubernetesBackend, order: WorkOrder) -> (Started, String) {
    let started = begin(backend, order).started().await;
    (started, cluster.running_pod().await)
}
