//! A day of a small CI system: what is submitted, what it is to show, and how each task must end.
//!
//! Law: how a task ends never depends on how fast anything is.

use serde_json::{Value, json};

use crate::cli::local::RunnerSpec;

/// The task that is cancelled while it runs.
pub(super) const CANCELLED: &str = "soak-test";

/// The task that fails once and is repeated.
pub(super) const FLAKY: &str = "flaky-e2e";

/// The three runners: a cheap small one, a dear large one, and one of another architecture.
pub(super) const RUNNERS: [RunnerSpec<'static>; 3] = [
    RunnerSpec { id: "small", arch: "amd64", cpu: 2_000, memory: 4 << 30, slots: 16, cost: 1.0 },
    RunnerSpec { id: "large", arch: "amd64", cpu: 4_000, memory: 8 << 30, slots: 16, cost: 3.0 },
    RunnerSpec { id: "graviton", arch: "arm64", cpu: 2_000, memory: 4 << 30, slots: 16, cost: 2.0 },
];

/// One task and how it must end.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) id: String,
    /// What is submitted; a build submits its jobs itself.
    pub(super) task: Option<Value>,
    pub(super) outcome: &'static str,
    pub(super) exit_code: Option<i64>,
    /// What it shows.
    pub(super) shows: &'static str,
}

/// All tasks of the day, in the order in which they are submitted, and `small` more.
pub(super) fn plan(program: &str, small: usize) -> Vec<Planned> {
    let mut day = builds(program);
    day.push(
        job(CANCELLED, "exec sleep 600", json!({}))
            .ends("cancelled", None)
            .showing("cancelled while it runs"),
    );
    day.push(
        job("train-model", "true", json!({"resources": {"gpu": 8}}))
            .ends("rejected", None)
            .showing("no runner could ever run it"),
    );
    day.push(
        job("lint", "echo 'src/lib.rs:7: unused variable'; exit 3", json!({}))
            .ends("failed", Some(3))
            .showing("fails with its own exit code"),
    );
    let second_time_lucky = "sleep 0.2; test \"$LONGSHORE_ATTEMPT\" -gt 1";
    day.push(job(FLAKY, second_time_lucky, json!({"retries": 2})).showing("fails once and is repeated"));
    let arm = json!({"arch": "arm64", "resources": {"cpu": 2, "memory": "1GiB"}});
    day.push(job("firmware", "sleep 1.5", arm).showing("needs arm64"));
    let link = json!({"resources": {"cpu": 4, "memory": "6GiB"}});
    day.push(job("link-release", "sleep 1.2", link).showing("fits the large runner alone"));
    for number in 1..=18 {
        let work = format!("sleep {}.{}", number % 2, 5 + number % 4);
        day.push(job(&format!("unit-{number:02}"), &work, json!({})));
    }
    day.push(job("hotfix", "sleep 0.4", json!({"priority": 100})).showing("submitted last, placed first"));
    for number in 1..=small {
        let tiny = json!({"resources": {"cpu": "100m", "memory": "16MiB"}});
        day.push(job(&format!("small-{number}"), "true", tiny));
    }
    day
}

/// Builds, and the jobs they submit from inside.
fn builds(program: &str) -> Vec<Planned> {
    let needs = |arch: &str| json!({"arch": arch, "resources": {"cpu": 1, "memory": "512MiB"}});
    let (amd, arm) = (needs("amd64"), needs("arm64"));
    let web =
        build("web", program, &[("web-unit", "amd64", "1.1"), ("web-browser", "amd64", "1.9")], json!([amd]));
    let app = build(
        "app",
        program,
        &[("app-amd64", "amd64", "0.9"), ("app-arm64", "arm64", "1.2")],
        json!([amd, arm]),
    );
    let own = |id: &str| Planned {
        id: id.to_owned(),
        task: None,
        outcome: "succeeded",
        exit_code: Some(0),
        shows: "submitted by its build",
    };
    vec![web, own("web-unit"), own("web-browser"), app, own("app-amd64"), own("app-arm64")]
}

/// A build that submits its jobs and waits for them, with this very program.
fn build(id: &str, program: &str, jobs: &[(&str, &str, &str)], shapes: Value) -> Planned {
    let submit = |(job, arch, seconds): &(&str, &str, &str)| {
        format!(
            "\"$LONGSHORE\" submit --wait --id {job} --arch {arch} --cpu 1 --memory 512MiB -- sleep {seconds} & jobs=\"$jobs $!\"; "
        )
    };
    let submits: String = jobs.iter().map(submit).collect();
    let script = format!("{submits}ended=0; for job in $jobs; do wait $job || ended=1; done; exit $ended");
    let spec = json!({"command": ["sh", "-c", script], "env": {"LONGSHORE": program}});
    let task = json!({
        "id": id, "kind": "build", "jobs": shapes, "spec": spec, "resources": {"cpu": 1, "memory": "512MiB"},
    });
    let shows = "a build: submits jobs and waits for them";
    Planned { id: id.to_owned(), task: Some(task), outcome: "succeeded", exit_code: Some(0), shows }
}

/// A job that runs a line of shell, with what `more` says of it besides.
fn job(id: &str, script: &str, more: Value) -> Planned {
    let mut task = json!({
        "id": id, "resources": {"cpu": 1, "memory": "256MiB"}, "spec": {"command": ["sh", "-c", script]},
    });
    let fields = task.as_object_mut().expect("it was made as one");
    fields.extend(more.as_object().expect("more fields").clone());
    Planned { id: id.to_owned(), task: Some(task), outcome: "succeeded", exit_code: Some(0), shows: "" }
}

impl Planned {
    fn ends(self, outcome: &'static str, exit_code: Option<i64>) -> Self {
        Self { outcome, exit_code, ..self }
    }

    fn showing(self, shows: &'static str) -> Self {
        Self { shows, ..self }
    }

    /// How it must end, in words.
    pub(super) fn expected(&self) -> String {
        match self.exit_code {
            Some(code) if code != 0 => format!("{} ({code})", self.outcome),
            _ => self.outcome.to_owned(),
        }
    }

    /// Whether the server's word about the task is what was planned.
    pub(super) fn is_met_by(&self, told: &Value) -> bool {
        let code = told.get("exit_code").and_then(Value::as_i64);
        told.get("state").and_then(Value::as_str) == Some("ended")
            && told.get("outcome").and_then(Value::as_str) == Some(self.outcome)
            && (self.exit_code.is_none() || code == self.exit_code)
    }
}
