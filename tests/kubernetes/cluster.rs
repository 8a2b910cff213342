//! A scripted Kubernetes cluster: what it holds, and the words in which a story says what happens there.
//!
//! It keeps Jobs, pods and machines, acts on them as the cluster's own controllers do as far as the back end relies on
//! it (`controllers.rs`), refuses what the real API refuses (`rules.rs`), and is spoken to over real HTTP (`api.rs`). It is
//! no Kubernetes: no real cluster has been seen by these stories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{api, controllers};

/// Longer than anything here takes; a story that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NAMESPACE: &str = "ci";

/// One change of something, as watches show it.
#[derive(Debug, Clone)]
pub struct Event {
    pub version: u64,
    pub resource: &'static str,
    pub kind: &'static str,
    pub object: Value,
}

/// What a process does when it is asked to end.
#[derive(Debug, Clone, Copy)]
pub enum OnTerm {
    /// It ends with this code.
    Ends(i32),
    /// It has no ear for it.
    Deaf,
}

/// What goes wrong with the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Everything is answered with this status.
    Failing(u16),
    /// Nothing is answered.
    CutOff,
    /// What is asked for is done, and the answer is lost.
    LosesAnswers,
    /// This verb alone is forbidden.
    Forbids(&'static str),
}

#[derive(Debug)]
pub struct State {
    pub version: u64,
    pub jobs: BTreeMap<String, Value>,
    pub pods: BTreeMap<String, Value>,
    pub nodes: Vec<Value>,
    pub events: Vec<Event>,
    /// What happened before is remembered no more.
    pub oldest: u64,
    /// Which verbs were used on which resources.
    pub calls: BTreeSet<(String, String)>,
    /// How often each was, by verb and name.
    pub counts: BTreeMap<String, usize>,
    pub logs: BTreeMap<String, Vec<u8>>,
    /// Pods of whose output somebody has read something.
    pub read: BTreeSet<String>,
    /// When the Jobs began, on the controller's own clock.
    pub begun: BTreeMap<String, Instant>,
    pub on_term: OnTerm,
    pub weather: Weather,
    /// Whether the controller of Jobs is there.
    pub controls: bool,
    /// Whether the machines hear of what they are told.
    pub machines_hear: bool,
    /// Whether pods begin by themselves.
    pub starts_pods: bool,
    /// Pods that were forgotten without waiting for their end.
    pub forced: Vec<String>,
    /// Pods that have run, and until when the last of them did.
    pub ran: BTreeMap<String, Option<Instant>>,
    /// Raised to break watches and streams of output.
    pub generation: u64,
}

/// A cluster on a free port.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    pub changed: watch::Sender<u64>,
    dir: Arc<TempDir>,
    _serving: Arc<AbortOnDropHandle<()>>,
}

impl Cluster {
    pub async fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let state = State {
            version: 1,
            jobs: BTreeMap::new(),
            pods: BTreeMap::new(),
            nodes: Vec::new(),
            events: Vec::new(),
            oldest: 0,
            calls: BTreeSet::new(),
            counts: BTreeMap::new(),
            logs: BTreeMap::new(),
            read: BTreeSet::new(),
            begun: BTreeMap::new(),
            on_term: OnTerm::Ends(143),
            weather: Weather::Fair,
            controls: true,
            machines_hear: true,
            starts_pods: true,
            forced: Vec::new(),
            ran: BTreeMap::new(),
            generation: 0,
        };
        let (state, changed) = (Arc::new(Mutex::new(state)), watch::Sender::new(1));
        let (listener, port) = api::listen().await;
        write_kubeconfig(dir.path(), port);
        let serving = tokio::spawn(api::serve(listener, state.clone(), changed.clone()));
        let _serving = Arc::new(AbortOnDropHandle::new(serving));
        Self { state, changed, dir: Arc::new(dir), _serving }
    }

    /// The file that names it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something as the story says, and lets everybody see it.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        controllers::act(&self.state, &self.changed);
        result
    }

    /// Waits until it holds something.
    pub async fn until<T>(&self, what: &str, mut fact: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let waited = async {
            loop {
                if let Some(found) = fact(&self.state()) {
                    return found;
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), changed.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never true: {what}"))
    }

    /// The one pod there is, once there is one.
    pub async fn pod(&self) -> String {
        self.until("there is a pod", |state| state.pods.keys().next().cloned()).await
    }

    /// The one pod there is, once its container runs.
    pub async fn running_pod(&self) -> String {
        let running = |state: &State| {
            let is_running = |pod: &Value| pod["status"]["phase"] == "Running";
            state.pods.iter().find(|(_, pod)| is_running(pod)).map(|(name, _)| name.clone())
        };
        self.until("a pod runs", running).await
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.jobs.is_empty() && state.pods.is_empty()
    }

    pub fn writes(&self, pod: &str, text: &str) {
        self.change(|state| state.logs.entry(pod.to_owned()).or_default().extend(text.as_bytes()));
    }

    /// Its process ends by itself.
    pub fn exits(&self, pod: &str, code: i32) {
        self.change(|state| state.end_container(pod, code, if code == 0 { "Completed" } else { "Error" }));
    }

    pub fn runs_out_of_memory(&self, pod: &str) {
        self.change(|state| state.end_container(pod, 137, "OOMKilled"));
    }

    /// Its container cannot be made, and why.
    pub fn waits(&self, pod: &str, reason: &str, message: &str) {
        let waiting = json!({"waiting": {"reason": reason, "message": message}});
        self.change(|state| {
            state.set_pod(pod, |pod| pod["status"]["containerStatuses"] = container(waiting));
        });
    }

    /// No machine has room for it.
    pub fn finds_no_place(&self, pod: &str, message: &str) {
        let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]);
        self.change(|state| state.set_pod(pod, |pod| pod["status"]["conditions"] = condition));
    }

    /// Its machine is short of something and ends it.
    pub fn evicts(&self, pod: &str, message: &str) {
        self.change(|state| {
            let status = &mut state.pods.get_mut(pod).expect("the pod is there")["status"];
            status["reason"] = json!("Evicted");
            status["message"] = json!(message);
            state.end_container(pod, 137, "Error");
        });
    }

    /// Something more important takes its place.
    pub fn preempts(&self, pod: &str) {
        let condition =
            json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
        self.change(|state| {
            state.set_pod(pod, |pod| pod["status"]["conditions"] = condition);
            state.ask_end(pod, 1);
        });
    }

    /// Its machine is gone from the cluster, and it with it; nobody saw how it ended.
    pub fn loses(&self, pod: &str) {
        self.change(|state| {
            state.stopped(pod);
            state.remove_pod(pod);
        });
    }

    /// Somebody else deletes the Job.
    pub fn deletes_job(&self) {
        self.change(|state| {
            let name = state.jobs.keys().next().cloned().expect("a Job");
            state.delete_job(&name, "Background");
        });
    }

    pub fn weather(&self, weather: Weather) {
        self.change(|state| {
            state.weather = weather;
            state.generation += 1;
        });
    }

    /// All watches and streams break off.
    pub fn breaks_streams(&self) {
        self.change(|state| state.generation += 1);
    }

    /// What happened so far can no longer be asked for.
    pub fn forgets_what_happened(&self) {
        self.change(|state| {
            state.oldest = state.version;
            state.events.clear();
            state.generation += 1;
        });
    }

    pub fn used(&self, verb: &str) -> usize {
        self.state().counts.get(verb).copied().unwrap_or(0)
    }
}

/// The statuses of a pod's only container.
pub fn container(state: Value) -> Value {
    json!([{"name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
}

fn write_kubeconfig(dir: &Path, port: u16) {
    let text = format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: story, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]
users: [{{name: nobody, user: {{}}}}]
contexts: [{{name: story, context: {{cluster: story, user: nobody, namespace: {NAMESPACE}}}}}]
current-context: story
"
    );
    std::fs::write(dir.join("config"), text).expect("the directory can be written");
}
