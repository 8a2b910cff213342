//! The Job of an attempt: what the cluster is told to make.
//!
//! Laws: a Job is made with a parallelism of 0, so that the cluster runs nothing of it before its deadline stands
//! (`deadline.rs`); it is tried once, by one pod. It may take no more than its task asks for, sees nothing of the
//! cluster's own API, and carries the runner, its start, the task, the attempt and the token.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, PodSpec, PodTemplateSpec, ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use uuid::Uuid;

use super::super::{Start, StartFailed};
use super::{KILL_GRACE, Settings, whole_seconds};
use crate::model::{RunnerId, WorkOrder};

/// The label that tells the Jobs and pods of one runner from all others; in full as an annotation.
const RUNNER: &str = "longshore/runner";
/// The label with the id of one start of the runner.
const BEGUN: &str = "longshore/start";
const TASK: &str = "longshore/task";
const ATTEMPT: &str = "longshore/attempt";
const TOKEN: &str = "longshore/token";
/// The only container of a pod.
pub(super) const CONTAINER: &str = "task";
/// What a pod writes the name of its Job to.
pub(super) const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The longest name of a Job, and the longest value of a label.
const LONGEST: usize = 63;
/// The cluster forgets a Job that has ended after so long, if nobody removed it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The name of the Job of an attempt: readable where it can be, else made of a hash of both.
pub(super) fn name(settings: &Settings, start: &Start) -> String {
    let (runner, token) = (&settings.runner, start.held.token);
    let name = format!("longshore-{runner}-{}-{}-{}", token.epoch, token.turn, token.index);
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // Three numbers at its end and none in a hash: no two attempts share a name.
    if name.len() <= LONGEST && name.chars().all(legal) {
        return name;
    }
    format!("longshore-{}", hash(&format!("{runner} {token}")))
}

/// What finds the Jobs and pods of a runner.
pub(super) fn selector(runner: &RunnerId) -> String {
    format!("{RUNNER}={}", label_value(runner.as_str()))
}

/// Whether these are the notes of something of this runner: a label may stand for several, its annotation does not.
pub(super) fn is_of(found: &ObjectMeta, runner: &RunnerId) -> bool {
    annotation(found, RUNNER) == Some(runner.as_str())
}

/// Whether it was made by this very start of the runner.
pub(super) fn is_ours(found: &ObjectMeta, settings: &Settings) -> bool {
    is_of(found, &settings.runner) && annotation(found, BEGUN) == Some(settings.begun.to_string().as_str())
}

fn annotation<'a>(found: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    found.annotations.as_ref()?.get(name).map(String::as_str)
}

/// What the cluster is to make of an attempt.
pub(super) fn body(settings: &Settings, start: &Start, name: &str) -> Result<Job, StartFailed> {
    let order = &start.order;
    let image = order.image.as_deref().filter(|image| !image.is_empty());
    let Some(image) = image else {
        let reason = "spec.image is empty; this runner runs containers and needs an image";
        return Err(StartFailed::anywhere(reason));
    };
    if !order.mounts.is_empty() {
        let reason = "spec.mounts: this runner runs pods, which see no directory of a machine; leave it out, or ask for a label of another runner";
        return Err(StartFailed::here(reason));
    }
    let env = start.environment().into_iter();
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        // What Docker calls the command, Kubernetes calls the arguments.
        args: (!order.command.is_empty()).then(|| order.command.clone()),
        env: Some(env.map(|(name, value)| EnvVar { name, value: Some(value), value_from: None }).collect()),
        working_dir: order.workdir.clone(),
        resources: resources(settings, order),
        ..Container::default()
    };
    let metadata = metadata(settings, start);
    let pod = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // The first process is then none of the task's: TERM reaches commands that have no ear for it, and what they
        // leave behind is waited for, and ended with the container.
        share_process_namespace: Some(&*order.os != "windows"),
        termination_grace_period_seconds: Some(whole_seconds(KILL_GRACE)),
        active_deadline_seconds: longest(settings, order),
        node_selector: places(order)?,
        tolerations: tolerations(settings, order),
        ..PodSpec::default()
    };
    let template = PodTemplateSpec { metadata: Some(metadata.clone()), spec: Some(pod) };
    let spec = JobSpec {
        parallelism: Some(0),
        completions: Some(1),
        backoff_limit: Some(0),
        pod_replacement_policy: Some("Failed".to_owned()),
        active_deadline_seconds: Some(whole_seconds(settings.running_within).max(1)),
        ttl_seconds_after_finished: i32::try_from(FORGOTTEN_AFTER.as_secs()).ok(),
        template,
        ..JobSpec::default()
    };
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..metadata };
    Ok(Job { metadata, spec: Some(spec), status: None })
}

/// What a Job and its pod are known again by. Ids that may be no label stand hashed among the labels.
fn metadata(settings: &Settings, start: &Start) -> ObjectMeta {
    let notes = [
        (RUNNER, settings.runner.to_string()),
        (BEGUN, settings.begun.to_string()),
        (TASK, start.held.id.to_string()),
        (ATTEMPT, start.attempt.to_string()),
        (TOKEN, start.held.token.to_string()),
    ];
    let labels = notes.iter().map(|(name, value)| ((*name).to_owned(), label_value(value))).collect();
    let annotations = notes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }
}

/// Only amounts a task *names* are asked for and enforced, as requests that are limits.
fn resources(settings: &Settings, order: &WorkOrder) -> Option<ResourceRequirements> {
    let asked = &order.resources;
    let cpu = (asked.cpu > 0).then(|| ("cpu".to_owned(), Quantity(format!("{}m", asked.cpu))));
    let memory = (asked.memory > 0).then(|| ("memory".to_owned(), Quantity(asked.memory.to_string())));
    // What the cluster has no word for, such as licenses, is counted by the dispatcher alone.
    let other = asked.other.iter().filter(|(_, count)| **count > 0).filter_map(|(name, count)| {
        Some((settings.resource_names.get(&**name)?.clone(), Quantity(count.to_string())))
    });
    let all: BTreeMap<String, Quantity> = cpu.into_iter().chain(memory).chain(other).collect();
    (!all.is_empty()).then(|| ResourceRequirements {
        requests: Some(all.clone()),
        limits: Some(all),
        ..ResourceRequirements::default()
    })
}

/// After how long a pod's own machine ends it, also if nobody else reaches that machine: later than this runner would.
fn longest(settings: &Settings, order: &WorkOrder) -> Option<i64> {
    let longest = order.timeout?.saturating_add(settings.running_within + settings.timeout_grace);
    Some(whole_seconds(longest.saturating_add(KILL_GRACE)))
}

/// Where in the cluster it may run.
fn places(order: &WorkOrder) -> Result<Option<BTreeMap<String, String>>, StartFailed> {
    let mut places = BTreeMap::new();
    for (name, value) in [("kubernetes.io/arch", &order.arch), ("kubernetes.io/os", &order.os)] {
        if !value.is_empty() {
            places.insert(name.to_owned(), value.to_string());
        }
    }
    for (name, value) in &order.labels {
        if !is_label_name(name) || !is_label_value(value) {
            let why =
                format!("labels: {name}={value} is no label that a machine of a Kubernetes cluster can have");
            return Err(StartFailed::here(why));
        }
        places.insert(name.to_string(), value.to_string());
    }
    Ok((!places.is_empty()).then_some(places))
}

/// A task may tolerate only what the operator gave this runner as a taint: its pods come to no other reserved place.
fn tolerations(settings: &Settings, order: &WorkOrder) -> Option<Vec<Toleration>> {
    let tolerated = settings.taints.intersection(&order.tolerations);
    let all: Vec<Toleration> = tolerated
        .filter(|taint| is_label_name(taint))
        .map(|taint| Toleration {
            key: Some(taint.to_string()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        })
        .collect();
    (!all.is_empty()).then_some(all)
}

/// The text if a label may have it, else a hash of it.
fn label_value(text: &str) -> String {
    if is_label_value(text) { text.to_owned() } else { hash(text) }
}

fn hash(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}

/// `name`, or `prefix/name` with a domain as its prefix.
fn is_label_name(text: &str) -> bool {
    let domain = |prefix: &str| {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let part = |part: &str| {
            part.chars().all(legal) && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
        };
        prefix.len() <= 253 && prefix.split('.').all(part)
    };
    match text.split_once('/') {
        Some((prefix, name)) => domain(prefix) && is_word(name),
        None => is_word(text),
    }
}

fn is_word(text: &str) -> bool {
    let (first, last) = (text.chars().next(), text.chars().next_back());
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= LONGEST && edge(first) && edge(last) && text.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Held, Id, Kind, Token};
    use crate::runner::backend::stops;

    fn start(order: WorkOrder) -> Start {
        let token = Token { epoch: 1, turn: 77, index: 2 };
        let held = Held { id: Id::parse("t1").expect("a name"), token };
        let (_, stops) = stops();
        let (order, output) = (Arc::new(order), Default::default());
        Start { held, kind: Kind::Job, attempt: 2, url: None, order, stops, output }
    }

    fn settings(runner: &str) -> Settings {
        Settings::new(Id::parse(runner).expect("a name"))
    }

    fn is_name(text: &str) -> bool {
        text.len() <= 63 && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }

    #[test]
    fn a_job_has_a_legal_name_of_its_own_whatever_its_runner_is_called() {
        let longest = "r".repeat(128);
        let names: Vec<String> = ["r1", "R1", "r_1", "r=1", "-r1", &longest, &longest[1..]]
            .map(|runner| name(&settings(runner), &start(WorkOrder::default())))
            .to_vec();
        assert_eq!(names[0], "longshore-r1-1-77-2");
        assert!(names.iter().all(|name| is_name(name)), "{names:?}");
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn an_id_that_may_be_no_label_stands_hashed_among_them_and_in_full_beside_them() {
        let made = metadata(&settings("r=1"), &start(WorkOrder::default()));
        let label = &made.labels.as_ref().expect("labels")[RUNNER];
        assert!(is_label_value(label) && selector(&Id::parse("r=1").expect("a name")).ends_with(label));
        assert_eq!(annotation(&made, RUNNER), Some("r=1"));
        assert_eq!(made.labels.as_ref().expect("labels")[TOKEN], "1.77.2");
    }

    #[test]
    fn a_task_tolerates_only_what_is_a_taint_of_its_runner() {
        let settings = Settings { taints: ["spot".into(), "not a name".into()].into(), ..settings("r1") };
        let order = WorkOrder {
            tolerations: ["spot".into(), "node.kubernetes.io/unschedulable".into(), "not a name".into()]
                .into(),
            ..WorkOrder::default()
        };
        let keys: Vec<_> =
            tolerations(&settings, &order).expect("one").into_iter().map(|one| one.key).collect();
        assert_eq!(keys, [Some("spot".to_owned())]);
        assert_eq!(tolerations(&settings, &WorkOrder::default()), None);
    }

    #[test]
    fn labels_of_a_task_choose_among_the_machines_of_the_cluster() {
        let label = |name: &str| WorkOrder {
            arch: "arm64".into(),
            labels: [(name.into(), "eu".into())].into(),
            ..WorkOrder::default()
        };
        let places = |name: &str| places(&label(name));
        let chosen = places("topology.kubernetes.io/zone").expect("legal").expect("some");
        assert_eq!(chosen.len(), 2);
        assert_eq!(chosen["kubernetes.io/arch"], "arm64");
        assert!(!places("not a name").expect_err("it is refused").own_fault);
        assert_eq!(super::places(&WorkOrder::default()), Ok(None));
    }
}
