//! Calls to the API of a Kubernetes cluster.
//!
//! Law: nothing is concluded from silence. A cluster that does not answer, or answers that it cannot now, is asked
//! again; only its own word that something is refused, or is not there, counts.

use std::path::Path;
use std::time::Duration;

use futures_util::AsyncReadExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Error};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Settings, job};
use crate::runner::pause::Pause;

/// How long one call may take; a watch and output may take for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a change of a deadline may take: it is tried again before the deadline comes.
const CHANGE_WITHIN: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The attempts to remove a Job that has ended; the cluster forgets it later by itself.
const REMOVALS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long output is not asked for again once it broke off, or seemed to be over.
const READ_AGAIN: Duration = Duration::from_millis(500);
const SEEMED_OVER: Duration = Duration::from_secs(5);

/// Why a call brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// The cluster's last word on this call.
    #[error("{said}")]
    Refused { code: u16, said: String },
    /// It did not answer, or not now.
    #[error("the cluster does not answer: {0}")]
    Silent(String),
}

/// One namespace of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    jobs: Api<Job>,
    pods: Api<Pod>,
    nodes: Api<Node>,
    place: String,
}

impl Cluster {
    /// Finds the cluster and asks it something. The error says where and what to do.
    pub async fn connect(settings: &Settings) -> Result<Self, String> {
        let mut config = configuration(settings).await?;
        config.connect_timeout = Some(CONNECT_WITHIN);
        // What is tried again, and how often, is decided here.
        config.default_retry = false;
        if let Some(namespace) = &settings.namespace {
            config.default_namespace.clone_from(namespace);
        }
        let (namespace, url) = (config.default_namespace.clone(), config.cluster_url.to_string());
        let place = format!("namespace {namespace} of {}", url.trim_end_matches('/'));
        let client = Client::try_from(config).map_err(|why| format!("connect to {place}: {}", said(&why)))?;
        let cluster = Self {
            jobs: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            nodes: Api::all(client),
            place,
        };
        let asked = ListParams::default().labels(&job::selector(&settings.runner)).limit(1);
        match answered(cluster.jobs.list(&asked)).await {
            Ok(_) => Ok(cluster),
            Err(Trouble::Silent(why)) => Err(format!(
                "no cluster answers for {}: {why}; name another with --kubeconfig and --context, or see what `kubectl get jobs -n {namespace}` says",
                cluster.place
            )),
            Err(Trouble::Refused { said, .. }) => {
                Err(format!("list Jobs in {}: {said}; {PERMISSIONS}", cluster.place))
            }
        }
    }

    /// Which namespace of which cluster it is.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn jobs(&self) -> &Api<Job> {
        &self.jobs
    }

    pub fn pods(&self) -> &Api<Pod> {
        &self.pods
    }

    /// The machines of the cluster.
    pub async fn machines(&self) -> Result<Vec<Node>, String> {
        let found = answered(self.nodes.list(&ListParams::default())).await;
        Ok(found.map_err(|why| format!("list the nodes of the cluster: {why}"))?.items)
    }

    /// Makes a Job. One of that name that is there already is taken for it if it is ours: an earlier answer was lost.
    pub async fn make(&self, body: &Job, ours: impl Fn(&Job) -> bool) -> Result<(), Trouble> {
        let name = body.metadata.name.as_deref().unwrap_or_default();
        match answered(self.jobs.create(&PostParams::default(), body)).await {
            Ok(_) => Ok(()),
            Err(Trouble::Refused { code: 409, said }) => match answered(self.jobs.get(name)).await {
                Ok(found) if ours(&found) => Ok(()),
                Ok(_) => Err(Trouble::Refused { code: 409, said }),
                Err(Trouble::Refused { code: 404, .. }) => Err(Trouble::Silent(said)),
                Err(why) => Err(why),
            },
            Err(why) => Err(why),
        }
    }

    /// A Job as it is now, or nothing if it is not there. Asked until it is answered.
    pub async fn job(&self, name: &str) -> Option<Job> {
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match answered(self.jobs.get(name)).await {
                Ok(job) => return Some(job),
                Err(Trouble::Refused { code: 404, .. }) => return None,
                Err(_) => sleep(pause.next(None)).await,
            }
        }
    }

    /// Lets a Job run, until so many seconds after its start.
    pub async fn let_run(&self, name: &str, seconds: i64) -> Result<(), Trouble> {
        self.change(name, json!({"spec": {"parallelism": 1, "activeDeadlineSeconds": seconds}})).await
    }

    /// Lets it run until so many seconds after its start.
    pub async fn move_deadline(&self, name: &str, seconds: i64) -> Result<(), Trouble> {
        self.change(name, json!({"spec": {"activeDeadlineSeconds": seconds}})).await
    }

    async fn change(&self, name: &str, change: serde_json::Value) -> Result<(), Trouble> {
        let (params, change) = (PatchParams::default(), Patch::Merge(change));
        answered_within(CHANGE_WITHIN, self.jobs.patch(name, &params, &change)).await.map(drop)
    }

    /// Ends a pod within so many seconds, at least one: with none the cluster would forget it at once, whether it has
    /// ended or not. Tried until the cluster took it, or there is nothing to end.
    pub async fn end_pod(&self, name: &str, seconds: u32) {
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        let params = DeleteParams::default().grace_period(seconds.max(1));
        while let Err(why) = answered(self.pods.delete(name, &params)).await {
            if matches!(why, Trouble::Refused { code: 404, .. }) {
                return;
            }
            tracing::warn!(pod = name, %why, "a pod could not be ended; it is tried again");
            sleep(pause.next(None)).await;
        }
    }

    /// Removes a Job whose pod has ended. Given up at last: the cluster forgets it by itself.
    pub async fn remove(&self, name: &str) {
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        for _ in 0..REMOVALS {
            match answered(self.jobs.delete(name, &DeleteParams::background())).await {
                Ok(_) | Err(Trouble::Refused { code: 404, .. }) => return,
                Err(_) => sleep(pause.next(None)).await,
            }
        }
        tracing::warn!(
            job = name,
            "a Job that has ended could not be removed; the cluster forgets it by itself"
        );
    }

    /// Ends a Job and what runs of it, and waits until the cluster says that none of it is there.
    pub async fn end(&self, name: &str) {
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut told = false;
        loop {
            match self.ask_end(name).await {
                Ok(true) => return,
                Err(why) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(job = name, %why, "a Job could not be ended; it is tried again");
                }
                _ => {}
            }
            sleep(pause.next(None)).await;
        }
    }

    /// Has a Job and its pod ended, once, and says whether neither is there. It is deleted in the foreground: it is there
    /// for as long as its pod is.
    pub async fn ask_end(&self, name: &str) -> Result<bool, Trouble> {
        match answered(self.jobs.delete(name, &DeleteParams::foreground())).await {
            Ok(_) => Ok(false),
            Err(Trouble::Refused { code: 404, .. }) => Ok(true),
            Err(why) => Err(why),
        }
    }

    /// Everything of a kind that carries these labels.
    pub async fn labelled<K>(&self, all: &Api<K>, labels: &str) -> Result<Vec<K>, Trouble>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        Ok(answered(all.list(&ListParams::default().labels(labels))).await?.items)
    }

    /// What a pod writes, from its beginning, until it has ended and all of it is read.
    pub async fn read_output(self, pod: String, to: mpsc::Sender<Vec<u8>>, ended: CancellationToken) {
        let mut read = 0;
        loop {
            let last = ended.is_cancelled();
            let whole = self.read_on(&pod, &mut read, &to).await.is_ok();
            if last || to.is_closed() {
                return;
            }
            let again = if whole { SEEMED_OVER } else { READ_AGAIN };
            // What ended with its pod is whole.
            if timeout(again, ended.cancelled()).await.is_ok() && whole {
                return;
            }
        }
    }

    async fn read_on(&self, pod: &str, read: &mut u64, to: &mpsc::Sender<Vec<u8>>) -> Result<(), String> {
        let params =
            LogParams { container: Some(job::CONTAINER.to_owned()), follow: true, ..LogParams::default() };
        let stream = answered(self.pods.log_stream(pod, &params)).await.map_err(|why| why.to_string())?;
        let mut stream = std::pin::pin!(stream);
        // A stream begins with the first byte again.
        let mut known = *read;
        let mut buffer = vec![0; 8192];
        loop {
            let count = stream.read(&mut buffer).await.map_err(|why| why.to_string())?;
            if count == 0 {
                return Ok(());
            }
            let skipped = usize::try_from(known).unwrap_or(usize::MAX).min(count);
            known -= skipped as u64;
            *read += (count - skipped) as u64;
            if skipped < count && to.send(buffer[skipped..count].to_vec()).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// What to do when the cluster forbids something.
pub(super) const PERMISSIONS: &str = "config/kubernetes-rbac.yaml holds what a runner must be allowed";

async fn configuration(settings: &Settings) -> Result<Config, String> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let remedy = "name a file with --kubeconfig, a context of it with --context, or start the runner inside the cluster";
    if let Some(file) = &settings.kubeconfig {
        let told = |why: &dyn std::fmt::Display| format!("--kubeconfig {}: {why}; {remedy}", file.display());
        let read = Kubeconfig::read_from(Path::new(file)).map_err(|why| told(&why))?;
        return Config::from_custom_kubeconfig(read, &options).await.map_err(|why| told(&why));
    }
    if let Some(context) = &settings.context {
        let config = Config::from_kubeconfig(&options).await;
        return config.map_err(|why| format!("--context {context}: {why}; {remedy}"));
    }
    Config::infer().await.map_err(|why| format!("no cluster is configured: {why}; {remedy}"))
}

/// What a call brought, within a time.
pub(super) async fn answered<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
    answered_within(ANSWER_WITHIN, call).await
}

async fn answered_within<T>(
    time: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Trouble> {
    match timeout(time, call).await {
        Ok(answer) => answer.map_err(|why| trouble(&why)),
        Err(_) => Err(Trouble::Silent(format!("nothing within {} s", time.as_secs()))),
    }
}

pub(super) fn trouble(why: &Error) -> Trouble {
    match why {
        // Too many calls, a token that is just being replaced, a conflict with a change of somebody else, no longer.
        Error::Api(status) if !matches!(status.code, 401 | 408 | 429 | 500..) && !is_conflict(status) => {
            Trouble::Refused { code: status.code, said: said(why) }
        }
        _ => Trouble::Silent(said(why)),
    }
}

fn is_conflict(status: &kube::core::Status) -> bool {
    status.code == 409 && status.reason == "Conflict"
}

/// The cluster's own words, or what broke at the bottom of it.
fn said(why: &Error) -> String {
    if let Error::Api(status) = why {
        let words = if status.message.is_empty() { &status.reason } else { &status.message };
        return format!("{words} ({})", status.code);
    }
    let mut bottom: &dyn std::error::Error = why;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    let (top, bottom) = (why.to_string(), bottom.to_string());
    if top.contains(&bottom) { top } else { format!("{top}: {bottom}") }
}
