//! What a cluster does by itself: the controller of Jobs, the machines that run pods, and what is deleted with its owner.
//!
//! Time is real and deadlines count in whole seconds from a start that is told without its part of a second, as there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::cluster::{Event, OnTerm, State, container};

/// Does everything that follows from what changed, and wakes whoever watches.
pub fn act(state: &Arc<Mutex<State>>, changed: &watch::Sender<u64>) {
    let (version, soonest) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let soonest = state.control();
        (state.version, soonest)
    };
    changed.send_replace(version);
    if let Some(at) = soonest {
        let (state, changed) = (state.clone(), changed.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            act(&state, &changed);
        });
    }
}

impl State {
    /// Acts until nothing follows any more; says when time alone will change something.
    fn control(&mut self) -> Option<Instant> {
        let mut soonest: Option<Instant> = None;
        let jobs: Vec<String> = self.jobs.keys().cloned().collect();
        let controlled = if self.controls { jobs.as_slice() } else { &[] };
        for job in controlled {
            if let Some(at) = self.control_job(job) {
                soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
            }
        }
        let pods: Vec<String> = self.pods.keys().cloned().collect();
        for pod in pods {
            if let Some(at) = self.run_pod(&pod) {
                soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
            }
        }
        for job in jobs {
            let deleted = |job: &Value| job["metadata"]["deletionTimestamp"].is_string();
            if self.jobs.get(&job).is_some_and(deleted) && self.pod_of(&job).is_none() {
                self.remove_job(&job);
            }
        }
        soonest
    }

    fn control_job(&mut self, name: &str) -> Option<Instant> {
        let now = Instant::now();
        let job = self.jobs.get(name)?.clone();
        let finished = condition(&job, "Complete") || condition(&job, "Failed");
        if finished || job["metadata"]["deletionTimestamp"].is_string() {
            return None;
        }
        if job["status"]["startTime"].is_null() {
            self.begun.insert(name.to_owned(), now);
            let start = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
            self.set_job(name, |job| job["status"] = json!({"startTime": start, "active": 0, "ready": 0}));
        }
        let begun = *self.begun.get(name)?;
        let pod = self.pod_of(name);
        let over = begun
            + Duration::from_secs(job["spec"]["activeDeadlineSeconds"].as_u64().unwrap_or(u64::MAX / 4));
        let phase =
            pod.as_ref().and_then(|pod| self.pods[pod]["status"]["phase"].as_str().map(str::to_owned));
        let targeted = condition(&job, "FailureTarget");
        match (phase.as_deref(), pod) {
            (Some("Succeeded"), _) => self.finish(name, "Complete", "succeeded", "CompletionsReached"),
            (Some("Failed"), _) if !targeted => self.finish(name, "Failed", "failed", "BackoffLimitExceeded"),
            (None | Some("Failed"), _) if targeted => {
                self.finish(name, "Failed", "failed", "DeadlineExceeded")
            }
            (_, pod) if now >= over && !targeted => {
                let condition =
                    json!({"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"});
                self.set_job(name, |job| push(&mut job["status"]["conditions"], condition));
                if let Some(pod) = pod {
                    self.ask_end(&pod, grace_of(&self.pods[&pod]));
                }
                return self.control_job(name);
            }
            // A pod that is no more counts as one that has failed.
            (None, None) if self.ran_pod(name) => {
                self.finish(name, "Failed", "failed", "BackoffLimitExceeded")
            }
            (None, None) if job["spec"]["parallelism"] == 1 => self.make_pod(name),
            _ => {}
        }
        (now < over && over < now + Duration::from_secs(3_600)).then_some(over)
    }

    fn finish(&mut self, name: &str, kind: &str, count: &str, reason: &str) {
        let condition = json!({"type": kind, "status": "True", "reason": reason});
        self.set_job(name, |job| {
            job["status"][count] = json!(1);
            push(&mut job["status"]["conditions"], condition);
        });
    }

    fn ran_pod(&self, job: &str) -> bool {
        self.jobs[job]["metadata"]["annotations"]["story/pod"].is_string()
    }

    fn make_pod(&mut self, job: &str) {
        let template = self.jobs[job]["spec"]["template"].clone();
        let name = format!("{job}-x{}", self.version);
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"],
            "spec": template["spec"], "status": {"phase": "Pending"}});
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["uid"] = json!(format!("uid-{name}"));
        pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(job);
        self.jobs.get_mut(job).expect("it is there")["metadata"]["annotations"]["story/pod"] = json!(name);
        self.pods.insert(name.clone(), pod);
        self.tell("pods", "ADDED", &name);
        if self.starts_pods {
            self.begin(&name);
        }
    }

    /// A machine takes the pod and its container runs.
    fn begin(&mut self, pod: &str) {
        self.ran.insert(pod.to_owned(), None);
        self.set_pod(pod, |pod| {
            pod["spec"]["nodeName"] = json!("machine-1");
            pod["status"] =
                json!({"phase": "Running", "containerStatuses": container(json!({"running": {}}))});
        });
    }

    /// What a machine does to a pod that is to end.
    fn run_pod(&mut self, name: &str) -> Option<Instant> {
        let pod = self.pods.get(name)?.clone();
        let asked = pod["metadata"]["deletionTimestamp"].is_string();
        let runs = pod["status"]["phase"] == "Running";
        if !asked || (runs && !self.machines_hear) {
            return None;
        }
        if !runs {
            self.remove_pod(name);
            return None;
        }
        if let OnTerm::Ends(code) = self.on_term {
            self.end_container(name, code, if code == 0 { "Completed" } else { "Error" });
            self.remove_pod(name);
            return None;
        }
        let since = self.begun.entry(format!("end of {name}")).or_insert_with(Instant::now);
        let kill = *since + Duration::from_secs(grace_of(&pod));
        if Instant::now() < kill {
            return Some(kill);
        }
        self.end_container(name, 137, "Error");
        self.remove_pod(name);
        None
    }

    /// The container has ended with this code.
    pub fn end_container(&mut self, pod: &str, code: i32, reason: &str) {
        self.stopped(pod);
        let state = json!({"terminated": {"exitCode": code, "reason": reason}});
        self.set_pod(pod, |pod| {
            pod["status"]["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
            pod["status"]["containerStatuses"] = container(state);
        });
    }

    pub fn stopped(&mut self, pod: &str) {
        if let Some(until) = self.ran.get_mut(pod) {
            until.get_or_insert_with(Instant::now);
        }
    }

    /// Asks a pod to end within so many seconds; never later than it was asked before.
    pub fn ask_end(&mut self, name: &str, seconds: u64) {
        let Some(pod) = self.pods.get(name) else { return };
        let scheduled = pod["spec"]["nodeName"].is_string();
        let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let before = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
        if seconds == 0 && scheduled && !over {
            self.forced.push(name.to_owned());
        }
        if seconds == 0 || over || !scheduled {
            return self.remove_pod(name);
        }
        let seconds = before.map_or(seconds, |before| before.min(seconds));
        self.set_pod(name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(seconds);
        });
    }

    pub fn delete_job(&mut self, name: &str, propagation: &str) {
        let pod = self.pod_of(name);
        if let Some(pod) = &pod {
            self.ask_end(pod, grace_of(&self.pods[pod]));
        }
        if propagation == "Foreground" && self.pod_of(name).is_some() {
            let now = jiff::Timestamp::now().to_string();
            self.set_job(name, |job| job["metadata"]["deletionTimestamp"] = json!(now));
        } else {
            self.remove_job(name);
        }
    }

    fn pod_of(&self, job: &str) -> Option<String> {
        let of = |pod: &&Value| pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == job;
        self.pods.values().find(of).and_then(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned)
    }

    pub fn set_pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        change(self.pods.get_mut(name).expect("the pod is there"));
        self.tell("pods", "MODIFIED", name);
    }

    pub fn set_job(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        change(self.jobs.get_mut(name).expect("the Job is there"));
        self.tell("jobs", "MODIFIED", name);
    }

    pub fn remove_pod(&mut self, name: &str) {
        self.tell("pods", "DELETED", name);
        self.pods.remove(name);
    }

    fn remove_job(&mut self, name: &str) {
        self.tell("jobs", "DELETED", name);
        self.jobs.remove(name);
    }

    /// Gives what changed a version, and watches an event.
    pub fn tell(&mut self, resource: &'static str, kind: &'static str, name: &str) {
        self.version += 1;
        let version = self.version;
        let all = if resource == "jobs" { &mut self.jobs } else { &mut self.pods };
        let Some(object) = all.get_mut(name) else { return };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = object.clone();
        self.events.push(Event { version, resource, kind, object });
    }
}

fn grace_of(pod: &Value) -> u64 {
    let asked = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
    asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(30)
}

fn condition(job: &Value, kind: &str) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == kind && one["status"] == "True"))
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}
