//! What earlier starts of a runner left in the cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Trouble};
use super::pod::{self, Stage};
use super::{Settings, job};
use crate::model::time::format_span;
use crate::runner::pause::Pause;

/// How long a start waits for it to end.
const GONE_WITHIN: Duration = Duration::from_secs(120);

/// Ends and removes the Jobs of earlier starts of this runner and their pods, and waits until none is there; says how many
/// Jobs there were.
pub(super) async fn end_earlier(cluster: &Cluster, settings: &Settings) -> Result<usize, String> {
    let mut pause = Pause::new(Duration::from_millis(200), Duration::from_secs(5));
    let give_up = Instant::now() + GONE_WITHIN;
    let mut ended = BTreeSet::new();
    loop {
        let left = once(cluster, settings, &mut ended).await;
        if matches!(&left, Ok(left) if left.is_empty()) {
            return Ok(ended.len());
        }
        if Instant::now() >= give_up {
            let (runner, time) = (&settings.runner, format_span(GONE_WITHIN));
            return Err(match left {
                Err(why) => format!("look for what an earlier start of {runner} left: {why}"),
                Ok(left) => format!(
                    "what an earlier start of {runner} left is still there after {time}: {}; a machine that does not answer may keep it: remove that from the cluster, or delete the pods with --force once nothing of them can run",
                    left.join(", ")
                ),
            });
        }
        sleep(pause.next(None)).await;
    }
}

/// Has all of it ended, once; returns what is there still.
async fn once(
    cluster: &Cluster,
    settings: &Settings,
    ended: &mut BTreeSet<String>,
) -> Result<Vec<String>, Trouble> {
    let labels = job::selector(&settings.runner);
    let earlier = |found: &ObjectMeta| job::is_of(found, &settings.runner) && !job::is_ours(found, settings);
    let jobs = cluster.labelled(cluster.jobs(), &labels).await?;
    let jobs: Vec<String> =
        jobs.into_iter().filter(|job| earlier(&job.metadata)).filter_map(|job| job.metadata.name).collect();
    for job in &jobs {
        ended.insert(job.clone());
        cluster.ask_end(job).await?;
    }
    // Whoever removed a Job may have left its pod.
    let pods = cluster.labelled(cluster.pods(), &labels).await?;
    let runs = |pod: &Pod| !matches!(pod::read(pod, 0), Stage::Ended(_));
    let pods: Vec<String> = pods
        .into_iter()
        .filter(|pod| earlier(&pod.metadata) && runs(pod))
        .filter_map(|pod| pod.metadata.name)
        .collect();
    for pod in &pods {
        cluster.end_pod(pod, 1).await;
    }
    Ok(jobs
        .into_iter()
        .map(|job| format!("Job {job}"))
        .chain(pods.into_iter().map(|pod| format!("pod {pod}")))
        .collect())
}
