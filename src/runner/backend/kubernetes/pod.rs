//! What a pod's status says of an attempt: whether its container runs, never will, or how it ended.
//!
//! Law: a task answers only for what its own container did. A pod that was evicted, preempted, deleted by somebody else
//! or lost with its machine says nothing about the task, whatever its container's exit code.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStateWaiting, Pod};

use super::super::StartFailed;
use super::super::ending::{Exit, out_of_memory, signal_text};
use super::job;

/// What is said of a pod that its own machine has ended, and of a Job that its cluster has.
const TIMED_OUT: &str = "DeadlineExceeded";

/// Where an attempt is, as its pod says.
#[derive(Debug)]
pub(super) enum Stage {
    /// It has not begun, and what is said to be in its way.
    Waiting(Option<String>),
    /// It never will.
    Stuck(StartFailed),
    Running,
    Ended(Ended),
}

/// How a pod ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub exit: Exit,
    /// Why its end is none of the task's own.
    pub lost: Option<String>,
    /// Somebody or something deleted it.
    pub deleted: bool,
}

/// Reads a pod. `memory` is the bytes its task named, or 0.
pub(super) fn read(pod: &Pod, memory: u64) -> Stage {
    let status = pod.status.clone().unwrap_or_default();
    let container =
        status.container_statuses.unwrap_or_default().into_iter().find(|one| one.name == job::CONTAINER);
    let state = container.and_then(|one| one.state).unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or_default();
    let over = matches!(phase, "Succeeded" | "Failed");
    if over && status.reason.as_deref() == Some(TIMED_OUT) {
        let code = state.terminated.map(|ended| ended.exit_code).filter(|code| *code != 0);
        let by_itself = Some("timed out: its pod was ended by its own deadline".to_owned());
        return Stage::Ended(Ended { exit: Exit { code, by_itself }, ..Ended::default() });
    }
    match state {
        ContainerState { terminated: Some(ended), .. } => match cannot_run(&ended) {
            Some(why) => Stage::Stuck(why),
            None => Stage::Ended(Ended {
                exit: exit(&ended, memory),
                lost: lost(pod),
                deleted: pod.metadata.deletion_timestamp.is_some(),
            }),
        },
        ContainerState { running: Some(_), .. } if !over => Stage::Running,
        // It has ended and nobody saw how: its machine did not let it begin, or was lost.
        _ if over && phase == "Failed" => {
            let why = lost(pod).unwrap_or_else(|| "its pod has failed, and nobody says why".to_owned());
            Stage::Ended(Ended { lost: Some(why), ..Ended::default() })
        }
        _ if over => {
            Stage::Ended(Ended { exit: Exit { code: Some(0), by_itself: None }, ..Ended::default() })
        }
        ContainerState { waiting: Some(waiting), .. } => waits(waiting),
        _ => Stage::Waiting(unscheduled(pod)),
    }
}

/// How an attempt ended whose pod is gone: what was last seen of it, and what its Job says.
pub(super) fn gone(pod: Option<&Pod>, job: Option<&Job>, memory: u64) -> Ended {
    let seen = pod.map(|pod| read(pod, memory));
    match seen {
        Some(Stage::Ended(ended)) => ended,
        _ if job.and_then(|job| job.status.as_ref()?.succeeded) == Some(1) => {
            Ended { exit: Exit { code: Some(0), by_itself: None }, ..Ended::default() }
        }
        _ => {
            let why = pod.and_then(lost).unwrap_or_else(|| "its pod was removed by somebody else".to_owned());
            Ended { lost: Some(why), deleted: true, ..Ended::default() }
        }
    }
}

/// Whether the cluster has ended the Job because its deadline was over.
pub(super) fn is_overdue(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter().any(|one| one.status == "True" && one.reason.as_deref() == Some(TIMED_OUT))
    })
}

/// Why no container is made, or none yet.
fn waits(waiting: ContainerStateWaiting) -> Stage {
    let reason = waiting.reason.unwrap_or_default();
    let message = waiting.message.filter(|message| !message.is_empty());
    let said = message.map_or_else(|| reason.clone(), |message| format!("{reason}: {message}"));
    match reason.as_str() {
        // No cluster can read such a name.
        "InvalidImageName" => Stage::Stuck(StartFailed::anywhere(format!("spec.image: {said}"))),
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "ImageInspectError" => {
            Stage::Stuck(StartFailed::here(format!("pull its image: {said}")))
        }
        "CreateContainerConfigError" | "CreateContainerError" => {
            Stage::Stuck(StartFailed::here(format!("make its container: {said}")))
        }
        _ => Stage::Waiting(Some(said)),
    }
}

/// What its image lacks is the task's own fault: the program it names, most of all.
fn cannot_run(ended: &ContainerStateTerminated) -> Option<StartFailed> {
    let reason = ended.reason.as_deref()?;
    let said = ended.message.as_deref().unwrap_or(reason);
    matches!(reason, "StartError" | "ContainerCannotRun")
        .then(|| StartFailed::anywhere(format!("start its container: {said}")))
}

fn exit(ended: &ContainerStateTerminated, memory: u64) -> Exit {
    let code = ended.exit_code;
    let by_itself = match ended.reason.as_deref() {
        Some("OOMKilled") => Some(out_of_memory(memory)),
        _ if code > 128 => Some(format!("ended by {}", signal_text(code - 128))),
        _ => None,
    };
    // Out of memory is no success, whatever the first process made of it.
    let code = Some(code).filter(|code| *code != 0 || by_itself.is_none());
    Exit { code, by_itself }
}

/// Why the end of a pod is none of its task's own.
fn lost(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref();
    let words = |reason: &str, message: Option<&str>| match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    };
    let disrupted = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|one| one.type_ == "DisruptionTarget" && one.status == "True"));
    let why = status
        .and_then(|status| Some(words(status.reason.as_deref()?, status.message.as_deref())))
        .or_else(|| {
            disrupted.map(|one| words(one.reason.as_deref().unwrap_or("disrupted"), one.message.as_deref()))
        });
    match why {
        Some(why) => Some(format!("its pod was lost: {why}")),
        None if pod.metadata.deletion_timestamp.is_some() => {
            Some("its pod was deleted by somebody else".to_owned())
        }
        None => None,
    }
}

/// What the cluster says of a pod for which it found no place.
fn unscheduled(pod: &Pod) -> Option<String> {
    let all = pod.status.as_ref()?.conditions.as_ref()?;
    let one = all.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    let reason = one.reason.as_deref().unwrap_or("not scheduled");
    Some(one.message.as_ref().map_or_else(|| reason.to_owned(), |message| format!("{reason}: {message}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).expect("a pod")
    }

    fn terminated(phase: &str, state: Value) -> Pod {
        let container = json!({"name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": state}});
        pod(json!({"phase": phase, "containerStatuses": [container]}))
    }

    fn ended(pod: &Pod) -> Ended {
        match read(pod, 64 << 20) {
            Stage::Ended(ended) => ended,
            other => panic!("it has not ended: {other:?}"),
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let of = |code: i32, reason: &str| {
            let phase = if code == 0 { "Succeeded" } else { "Failed" };
            let ended = ended(&terminated(phase, json!({"exitCode": code, "reason": reason})));
            assert_eq!(ended.lost, None);
            (ended.exit.code, ended.exit.by_itself)
        };
        assert_eq!(of(0, "Completed"), (Some(0), None));
        assert_eq!(of(3, "Error"), (Some(3), None));
        assert_eq!(of(137, "Error"), (Some(137), Some("ended by signal 9 (KILL)".to_owned())));
        let oom = Some("out of memory: the kernel ended it at its limit of 64MiB".to_owned());
        assert_eq!(of(137, "OOMKilled"), (Some(137), oom.clone()));
        assert_eq!(of(0, "OOMKilled"), (None, oom));
    }

    #[test]
    fn an_end_that_is_none_of_the_tasks_own_says_whose() {
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."});
        let said = ended(&pod(evicted)).lost.expect("it is lost");
        assert_eq!(said, "its pod was lost: Evicted: The node was low on resource: memory.");
        let mut preempted = terminated("Failed", json!({"exitCode": 0, "reason": "Completed"}));
        let condition =
            json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"});
        let condition = serde_json::from_value(condition).expect("a condition");
        preempted.status.as_mut().expect("a status").conditions = Some(vec![condition]);
        assert_eq!(ended(&preempted).lost.as_deref(), Some("its pod was lost: PreemptionByScheduler"));
    }

    #[test]
    fn what_never_begins_says_whose_fault_that_is() {
        let waiting = |reason: &str| {
            let container = json!({"name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": "as it is"}}});
            match read(&pod(json!({"phase": "Pending", "containerStatuses": [container]})), 0) {
                Stage::Stuck(why) => Some((why.reason, why.own_fault)),
                Stage::Waiting(why) => {
                    assert_eq!(why, Some(format!("{reason}: as it is")));
                    None
                }
                other => panic!("{other:?}"),
            }
        };
        let invalid = Some(("spec.image: InvalidImageName: as it is".to_owned(), true));
        assert_eq!(waiting("InvalidImageName"), invalid);
        let pull = Some(("pull its image: ImagePullBackOff: as it is".to_owned(), false));
        assert_eq!(waiting("ImagePullBackOff"), pull);
        assert_eq!(waiting("ContainerCreating"), None);
        let missing =
            terminated("Failed", json!({"exitCode": 128, "reason": "StartError", "message": "no such file"}));
        assert!(
            matches!(read(&missing, 0), Stage::Stuck(why) if why.own_fault && why.reason.contains("no such file"))
        );
    }

    #[test]
    fn of_a_pod_that_is_gone_its_job_has_the_last_word() {
        let done: Job =
            serde_json::from_value(json!({"metadata": {}, "status": {"succeeded": 1}})).expect("a Job");
        let running = pod(json!({"phase": "Running"}));
        assert_eq!(gone(Some(&running), Some(&done), 0).exit.code, Some(0));
        let lost = gone(Some(&running), None, 0);
        assert_eq!(lost.lost.as_deref(), Some("its pod was removed by somebody else"));
    }
}
