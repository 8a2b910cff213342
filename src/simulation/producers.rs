//! The producers: what is submitted, when, how often, and what is cancelled.
//!
//! Law: a producer asks until it is answered, and only an answer counts as told. Jobs of a build are submitted
//! from inside its work, and no longer when that has stopped.

use std::sync::Arc;

use serde_json::{Value, json};

use super::inbox::Mail;
use super::pullers::TOPIC;
use super::runners::artifact;
use super::schedule::Event;
use super::world::World;
use crate::core::input::Submitted;
use crate::model::{Held, Id, Kind, NewTask, Offer, RunnerId, TaskId};
use crate::wire::submission::read_task;

/// One task that somebody wants.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub task: Arc<NewTask>,
    /// The jobs this build will submit.
    pub jobs: Vec<TaskId>,
    /// It runs until it is cancelled.
    pub endless: bool,
    /// The attempt of a build from inside which it is submitted.
    inside: Option<(RunnerId, Held)>,
    told: bool,
    cancel_told: bool,
    asks: bool,
}

impl Plan {
    /// A job whose producer was told that it will run.
    pub fn is_told_job(&self) -> bool {
        self.told && self.task.shape.kind == Kind::Job
    }

    /// Whether it may have to wait for others of its group, or for somebody to pull it.
    pub fn waits_for_others(&self) -> bool {
        self.task.shape.group.is_some() || self.task.shape.queue.as_str() == TOPIC
    }
}

pub(super) fn named(text: &str) -> Id {
    Id::parse(text).expect("a legal name")
}

impl World {
    /// Draws everything that will be submitted.
    pub(super) fn plan_everything(&mut self) {
        for number in 0..self.options.builds {
            let latest = if self.options.builds_first { 50 } else { self.options.submit_within };
            self.plan_build(number, latest);
        }
        let mut groups = self.draw_groups();
        for number in 0..self.options.jobs {
            let id = format!("j{number}");
            let mut task = self.draw_job();
            let word = &mut self.random;
            task["id"] = id.as_str().into();
            task["priority"] = (*word.pick(&[0, 0, 0, 5, -5])).into();
            task["max_attempts"] = (*word.pick(&[3, 3, 10])).into();
            task["retries"] = (*word.pick(&[0, 0, 1])).into();
            if word.chance(30) {
                task["arch"] = "riscv".into();
            }
            if word.chance(60) {
                let begin = crate::model::Time(super::replicas::BEGINNING + word.below(40_000));
                task["not_before"] = begin.rfc3339().into();
            }
            if word.chance(100) {
                task["if_unplaceable"] = (*word.pick(&["fail_after=20s", "fail"])).into();
            }
            if word.chance(40) {
                task["expires_in"] = "20s".into();
            }
            if self.options.pullers > 0 && self.random.chance(600) {
                task["queue"] = TOPIC.into();
            } else {
                self.join_group(&mut task, &mut groups);
            }
            let endless = self.faults.message_lost > 0 && self.random.chance(30);
            if number % 3 == 1 && !endless {
                task["timeout"] = ["4s", "12s", "40s"][number / 3 % 3].into();
            }
            let first = if self.options.builds_first { 60 } else { 0 };
            let at = first + self.random.below(self.options.submit_within);
            self.plan(task, Vec::new(), endless, Some(at));
        }
    }

    fn draw_groups(&mut self) -> Vec<Value> {
        let count = self.options.groups;
        let word = &mut self.random;
        let draw = |number| {
            let mut group = json!({"id": format!("g{number}"), "index": 0});
            group["ordered"] = word.chance(500).into();
            group["stop_on_failure"] = word.chance(500).into();
            if word.chance(600) {
                group["max_runners"] = word.between(1, 2).into();
            }
            group
        };
        (0..count).map(draw).collect()
    }

    /// Makes a job one of a group, more often than not; the next of that group gets the next index.
    fn join_group(&mut self, task: &mut Value, groups: &mut [Value]) {
        if groups.is_empty() || self.random.chance(300) {
            return;
        }
        let place = self.random.place(groups.len());
        task["group"] = groups[place].clone();
        let next = groups[place]["index"].as_u64().expect("a number") + 1;
        groups[place]["index"] = next.into();
    }

    fn draw_job(&mut self) -> Value {
        let slots_only = self.options.slots.is_some();
        let word = &mut self.random;
        let cpu = if slots_only { "500m" } else { *word.pick(&["250m", "500m", "1000m", "2000m"]) };
        let mut task = json!({"kind": "job", "resources": {"cpu": cpu, "memory": "64MiB"}});
        if !slots_only && word.chance(250) {
            task["arch"] = (*word.pick(&["amd64", "arm64"])).into();
        }
        if !slots_only && word.chance(100) {
            task["labels"] = json!({"zone": "eu"});
        }
        if word.chance(300) {
            task["queue"] = "fast".into();
        }
        if word.chance(300) {
            task["tolerations"] = json!(["spot"]);
        }
        task
    }

    fn plan_build(&mut self, number: usize, latest: u64) {
        let id = format!("b{number}");
        let shape = self.draw_job();
        let mut build = self.draw_job();
        build["kind"] = "build".into();
        build["id"] = id.as_str().into();
        build["max_attempts"] = 10.into();
        let mut declared = shape.clone();
        declared.as_object_mut().expect("an object").remove("kind");
        build["jobs"] = json!([declared]);
        let queue = build.get("queue").cloned().unwrap_or_else(|| "default".into());
        let count = self.random.between(1, self.options.jobs_of_build);
        let group = (self.options.groups > 0 && self.random.chance(400)).then(|| format!("of-{id}"));
        let ordered = group.is_some() && self.random.chance(500);
        if let Some(group) = &group {
            build["jobs"][0]["group"] = json!({"id": group});
        }
        let mut jobs = Vec::new();
        for place in 0..count {
            let mut job = shape.clone();
            let name = format!("{id}-{place}");
            job["id"] = name.as_str().into();
            job["build"] = id.as_str().into();
            // What a declared shape leaves out, it has from its build.
            for inherited in ["arch", "labels", "tolerations"] {
                if job.get(inherited).is_none() && build.get(inherited).is_some() {
                    job[inherited] = build[inherited].clone();
                }
            }
            if job.get("queue").is_none() {
                job["queue"] = queue.clone();
            }
            if let Some(group) = &group {
                job["group"] = json!({"id": group, "max_runners": 1, "ordered": ordered, "index": place});
            }
            jobs.push(named(&name));
            self.plan(job, Vec::new(), false, None);
        }
        let at = self.random.below(latest);
        self.plan(build, jobs, false, Some(at));
    }

    /// What a task makes and reads: one in two makes something, two in three read something.
    fn name_artifacts(&self, task: &mut Value) {
        let number = self.plans.len() as u64;
        if number.is_multiple_of(2) {
            task["output"] = artifact(number / 2).as_str().into();
        }
        let inputs: Vec<String> =
            (0..number % 3).map(|place| artifact(number / 3 + place).to_string()).collect();
        task["inputs"] = json!(inputs);
    }

    fn plan(&mut self, mut task: Value, jobs: Vec<TaskId>, endless: bool, at: Option<u64>) {
        self.name_artifacts(&mut task);
        let task = read_task(task.to_string().as_bytes(), Kind::Job, &self.settings)
            .expect("a world submits what can be read");
        let id = task.id.clone();
        let possible = self.runners.values().any(|runner| could_run(&runner.offer, &task));
        self.checkers.planned_task(&task, task.build.is_none() && task.shape.kind == Kind::Job && possible);
        if let Some(at) = at {
            self.schedule.put(at, Event::Submit { id: id.clone() });
            if self.random.chance(200) {
                let later = at + self.random.below(60_000);
                self.schedule.put(later, Event::Repeat { id: id.clone() });
            }
            if endless || self.random.chance(100) {
                let later = at + self.random.below(20_000);
                self.schedule.put(later, Event::Cancel { id: id.clone() });
            }
        }
        let asks = at.is_some();
        let plan = Plan { task, jobs, endless, inside: None, told: false, cancel_told: false, asks };
        self.plans.insert(id, plan);
    }

    /// Whether some producer still waits for an answer.
    pub(super) fn producers_ask(&self) -> bool {
        self.plans.values().any(|plan| plan.asks && !plan.told)
    }

    pub(super) fn submit_from_inside(&mut self, runner: &RunnerId, build: &Held, job: &TaskId) {
        let plan = self.plans.get_mut(job).expect("a job of this world");
        plan.inside = Some((runner.clone(), build.clone()));
        // Another attempt of the build knows nothing of what the one before was told.
        plan.told = false;
        if !plan.asks {
            plan.asks = true;
            self.schedule.put(self.now, Event::Submit { id: job.clone() });
        }
    }

    pub(super) fn submit(&mut self, id: &TaskId) {
        let plan = &self.plans[id];
        let gone = plan.inside.as_ref().is_some_and(|(runner, held)| !self.is_at_work(runner, held));
        if plan.told || gone {
            self.plans.get_mut(id).expect("it was just there").asks = false;
            return;
        }
        self.post(Event::SubmissionArrives { id: id.clone() });
        let again = self.now + self.random.between(1_500, 4_000);
        self.schedule.put(again, Event::Submit { id: id.clone() });
    }

    pub(super) fn post(&mut self, event: Event) {
        for delay in self.delays() {
            self.schedule.put(self.now + delay, event.clone());
        }
    }

    pub(super) fn submission_arrives(&mut self, id: &TaskId) {
        let task = self.plans[id].task.clone();
        self.checkers.submitted(&task);
        self.inbox.put(Mail::Submit(task), None, self.now);
        if self.options.told_when_stored {
            self.post(Event::Told { id: id.clone(), answer: Submitted::Admitted });
        }
    }

    pub(super) fn tell_producer(&mut self, mail: &Mail, answer: Submitted) {
        let Mail::Submit(task) = mail else { return };
        if !matches!(answer, Submitted::Full { .. }) {
            self.post(Event::Told { id: task.id.clone(), answer });
        }
    }

    pub(super) fn told(&mut self, id: &TaskId, answer: &Submitted) {
        self.plans.get_mut(id).expect("it was submitted").told = true;
        self.checkers.told(self.now, id, answer);
    }

    pub(super) fn cancel(&mut self, id: &TaskId) {
        let plan = &self.plans[id];
        let over = plan.cancel_told && (!plan.endless || self.checkers.has_ended(id));
        if over {
            return;
        }
        if plan.told || !plan.endless {
            self.post(Event::CancelArrives { id: id.clone() });
        }
        let again = self.now + self.random.between(3_000, 6_000);
        self.schedule.put(again, Event::Cancel { id: id.clone() });
    }

    pub(super) fn cancel_arrives(&mut self, id: &TaskId) {
        self.checkers.cancelled(id);
        self.inbox.put(Mail::Cancel { id: id.clone() }, None, self.now);
        if self.options.told_when_stored {
            self.post(Event::CancelTold { id: id.clone() });
        }
    }

    pub(super) fn tell_canceller(&mut self, mail: &Mail) {
        if let Mail::Cancel { id } = mail {
            self.post(Event::CancelTold { id: id.clone() });
        }
    }

    pub(super) fn cancel_told(&mut self, id: &TaskId) {
        self.statistics.cancelled += 1;
        self.plans.get_mut(id).expect("it was submitted").cancel_told = true;
    }
}

/// Whether a runner with this offer could run the task were it empty, judged without the dispatcher's words.
pub(super) fn could_run(offer: &Offer, task: &NewTask) -> bool {
    let shape = &task.shape;
    offer.kinds.contains(&shape.kind)
        && (offer.group.is_none() || offer.group == shape.group)
        && (offer.queues.is_empty() || offer.queues.contains(&shape.queue))
        && (shape.arch.is_empty() || shape.arch == offer.arch)
        && shape.labels.iter().all(|(name, value)| offer.labels.get(name) == Some(value))
        && offer.taints.is_subset(&shape.tolerations)
        && offer.resources.as_ref().is_none_or(|has| shape.resources.cpu <= has.cpu)
}
