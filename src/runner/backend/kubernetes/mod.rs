//! Runs an attempt's image and command as a Job of a Kubernetes cluster, which is one runner with all its machines.
//!
//! Law: nothing of an attempt runs past the lease of its runner, as far as the cluster keeps its word: every Job has a
//! deadline that stands before anything of it runs and is moved while the lease is renewed, so that the cluster ends what a
//! runner that is gone, stopped or cut off cannot. What an earlier start left is ended before anything begins. A Job is
//! removed after its end, and only then is the end told.
//!
//! `docs/adr/0026-kubernetes.md` says what the cluster cannot promise.

mod attempt;
mod capacity;
mod cluster;
mod deadline;
mod job;
mod left;
mod pod;
mod sight;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::ending::Ending;
use super::output::Tail;
use super::{Backend, Start, StartFailed, Work};
use crate::model::{AttemptOutcome, End, RunnerId};
use attempt::{Attempt, Watch};
pub use capacity::{Capacity, Wanted};
use cluster::Cluster;
use deadline::Deadlines;
use sight::Sights;

/// The least time between TERM and KILL: with none at all a cluster forgets a pod without waiting for its end.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// How long before its lease's end a runner of a cluster begins to end its work: for the cluster's own time, and the second
/// between TERM and KILL.
pub const STOP_BY: Duration = Duration::from_secs(3);

/// Which cluster, and how its Jobs are made.
#[derive(Debug, Clone)]
pub struct Settings {
    pub runner: RunnerId,
    /// The file that names clusters; the usual ones if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// Which of its contexts; the current one if there is none.
    pub context: Option<String>,
    /// The namespace of its Jobs; that of the context if there is none.
    pub namespace: Option<String>,
    /// What the cluster calls the counts that tasks name. What is not named here is asked of nobody.
    pub resource_names: BTreeMap<Arc<str>, String>,
    /// What the runner's tasks must tolerate: their pods tolerate taints of these keys.
    pub taints: BTreeSet<Arc<str>>,
    /// How long it may take until a container runs: finding a place, fetching the image.
    pub running_within: Duration,
    /// Between TERM and KILL of work that has run out of its time.
    pub timeout_grace: Duration,
    /// Tells this start of the runner from all others.
    pub begun: Uuid,
}

impl Settings {
    /// The usual settings of a start that begins now.
    pub fn new(runner: RunnerId) -> Self {
        Self {
            runner,
            kubeconfig: None,
            context: None,
            namespace: None,
            resource_names: [("gpu".into(), "nvidia.com/gpu".to_owned())].into(),
            taints: BTreeSet::new(),
            running_within: Duration::from_secs(300),
            timeout_grace: Duration::from_secs(10),
            begun: Uuid::now_v7(),
        }
    }
}

/// Runs Jobs of a Kubernetes cluster.
#[derive(Debug, Clone)]
pub struct KubernetesBackend {
    cluster: Cluster,
    deadlines: Deadlines,
    sights: Sights,
    settings: Arc<Settings>,
    _duties: Arc<[AbortOnDropHandle<()>]>,
}

impl KubernetesBackend {
    /// Finds the cluster as kubectl would, asks it something, and begins to watch it. The error is a sentence that says
    /// what to do.
    pub async fn connect(settings: Settings) -> Result<Self, String> {
        let cluster = Cluster::connect(&settings).await?;
        let (deadlines, sights) = (Deadlines::new(cluster.clone()), Sights::default());
        let labels = job::selector(&settings.runner);
        let duties = [
            tokio::spawn(sights.clone().watch(cluster.jobs().clone(), labels.clone())),
            tokio::spawn(sights.clone().watch(cluster.pods().clone(), labels)),
            tokio::spawn(deadlines.clone().keep()),
        ];
        let duties = duties.map(AbortOnDropHandle::new).into_iter().collect();
        Ok(Self { cluster, deadlines, sights, settings: settings.into(), _duties: duties })
    }

    /// Which namespace of which cluster it is.
    pub fn place(&self) -> &str {
        self.cluster.place()
    }

    /// What the cluster's machines offer together now. The error says what to do.
    pub async fn capacity(&self, wanted: Wanted<'_>) -> Result<Capacity, String> {
        let remedy = "name what to offer with --cpu and --memory, or with --slots-only";
        let machines = self
            .cluster
            .machines()
            .await
            .map_err(|why| format!("{why}; {}, or {remedy}", cluster::PERMISSIONS))?;
        let found = capacity::sum(&machines, wanted, &self.settings.taints, &self.settings.resource_names);
        if found.machines == 0 {
            let of = machines.len();
            return Err(format!(
                "none of the {of} nodes of the cluster is ready and takes pods of this runner; {remedy}"
            ));
        }
        Ok(found)
    }

    fn attempt(&self, start: &Start, job: &str) -> Attempt {
        Attempt {
            cluster: self.cluster.clone(),
            deadlines: self.deadlines.clone(),
            following: self.sights.follow(job),
            job: job.to_owned(),
            memory: start.order.resources.memory,
            made: false,
            may_run: false,
            removed: false,
            trouble: None,
        }
    }
}

#[async_trait]
impl Backend for KubernetesBackend {
    async fn start(&self, start: Start) -> Result<Work, StartFailed> {
        let (settings, mut stops) = (&*self.settings, start.stops.clone());
        let name = job::name(settings, &start);
        let body = job::body(settings, &start, &name)?;
        let mut attempt = self.attempt(&start, &name);
        let running = tokio::select! {
            biased;
            _ = stops.next() => None,
            running = timeout(settings.running_within, attempt.until_running(settings, &body)) => Some(running),
        };
        let failed = match running {
            Some(Ok(Ok(()))) => {
                let ending = Ending::new(start.order.timeout, settings.timeout_grace);
                let watch = Watch::of(attempt, Tail::of(start.output.clone()), stops, ending);
                return Ok(Work { group: None, end: Box::pin(watch.until_end()) });
            }
            Some(Ok(Err(why))) => Some(why),
            Some(Err(_)) => Some(attempt.not_running_within(settings.running_within)),
            None => None,
        };
        attempt.undo().await;
        match failed {
            Some(why) => Err(why),
            None => {
                let message = Some("stopped before its container had started".into());
                let end = End {
                    outcome: AttemptOutcome::Cancelled,
                    exit_code: None,
                    message,
                    artifacts: Vec::new(),
                };
                Ok(Work { group: None, end: Box::pin(std::future::ready(end)) })
            }
        }
    }

    async fn clean_up(&self) -> Result<usize, String> {
        left::end_earlier(&self.cluster, &self.settings).await
    }

    fn hold_until(&self, until: Duration) {
        self.deadlines.hold_until(until);
    }
}

/// As seconds, a part of one counted as a whole.
fn whole_seconds(time: Duration) -> i64 {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX)
}
