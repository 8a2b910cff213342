//! Runners as processes of this machine: started for an intent, asked to leave, waited for.
//!
//! Law: a runner's standard input ends with the provisioner, and the runner leaves with it. Each is a process group
//! of its own, so that what is typed at a terminal reaches the provisioner alone.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use clap::ValueEnum;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cli::LogArgs;
use crate::cli::failure::Failure;
use crate::cli::paper::text;
use crate::cli::runner::BackendArg;
use crate::model::RunnerId;

/// The most characters of a class's name in a runner's.
const MOST_OF_CLASS: usize = 80;

/// How runners are started.
#[derive(Debug)]
pub(super) struct Start {
    program: PathBuf,
    url: String,
    data: PathBuf,
    backend: BackendArg,
    log: LogArgs,
    started: u64,
}

/// A runner that was started.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) id: RunnerId,
    pub(super) class: String,
    pub(super) intent: String,
    /// The dispatcher knows it.
    pub(super) seen: bool,
    pub(super) idle_since: Option<Instant>,
    process: std::process::Child,
    data: PathBuf,
    asked_to_leave: bool,
}

impl Start {
    pub(super) fn new(
        url: String,
        data: PathBuf,
        backend: BackendArg,
        log: LogArgs,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe();
        let program = program.map_err(|why| Failure::Broken(format!("find this program: {why}")))?;
        std::fs::create_dir_all(&data)
            .map_err(|why| Failure::Usage(format!("--data: make {}: {why}", data.display())))?;
        Ok(Self { program, url, data, backend, log, started: 0 })
    }

    /// Starts a runner for an intent, with what its class offers.
    pub(super) fn runner(&mut self, intent: &Value) -> Result<Child, String> {
        self.started += 1;
        let class = text(intent, "class");
        let named: String = class.chars().take(MOST_OF_CLASS).collect();
        let whole = Uuid::now_v7().simple().to_string();
        let id = format!("{named}-{}-{}", self.started, &whole[whole.len() - 8..]);
        let id = RunnerId::parse(&id).map_err(|why| format!("name runner {id:?}: {why}"))?;
        let data = self.data.join(id.as_str());
        let mut command = Command::new(&self.program);
        command.args(["runner", "--leave-on-eof", "--url", &self.url, "--id", id.as_str()]);
        command.args(["--class", class, "--intent", text(intent, "id"), "--data"]).arg(&data);
        command.args(["--backend", &word(self.backend), "--log", &word(self.log.log)]);
        command.args(["--log-level", &word(self.log.log_level)]);
        command.args(offered(intent.get("offer").unwrap_or(&Value::Null)));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let process = command.spawn().map_err(|why| format!("start {}: {why}", self.program.display()))?;
        tracing::info!(runner = %id, class, process = process.id(), "runner process started");
        Ok(Child {
            id,
            class: class.to_owned(),
            intent: text(intent, "id").to_owned(),
            seen: false,
            idle_since: None,
            process,
            data,
            asked_to_leave: false,
        })
    }
}

/// The word of an option's value.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is hidden").get_name().to_owned()
}

/// What a class offers, as the options of `longshore runner`.
fn offered(offer: &Value) -> Vec<String> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut args = Vec::new();
    let mut say = |option: &str, value: String| args.extend([format!("--{option}"), value]);
    for (option, list) in [("kind", "kinds"), ("queue", "queues"), ("taint", "taints")] {
        let values = offer.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        values.iter().for_each(|value| say(option, plain(value)));
    }
    for name in ["arch", "os", "slots", "cost"] {
        if let Some(value) = offer.get(name).map(plain).filter(|value| !value.is_empty()) {
            say(name, value);
        }
    }
    let pairs = |name: &str| offer.get(name).and_then(Value::as_object).cloned();
    for (name, value) in pairs("labels").unwrap_or_default() {
        say("label", format!("{name}={}", plain(&value)));
    }
    match pairs("resources") {
        None => args.push("--slots-only".to_owned()),
        Some(resources) => {
            for (name, amount) in resources {
                match name.as_str() {
                    "cpu" | "memory" => say(&name, plain(&amount)),
                    _ => say("resource", format!("{name}={}", plain(&amount))),
                }
            }
        }
    }
    args
}

impl Child {
    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Asks it to leave, once.
    pub(super) fn terminate(&mut self) {
        if !std::mem::replace(&mut self.asked_to_leave, true) && self.ended().is_none() {
            tracing::info!(runner = %self.id, "runner asked to leave");
            // One that has ended by itself is what was wanted.
            let _ = rustix::process::kill_process(Pid::from_child(&self.process), Signal::TERM);
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Removes what it kept: nobody starts under its name again.
    pub(super) fn forget_data(&self) {
        if let Err(why) = std::fs::remove_dir_all(&self.data) {
            tracing::debug!(data = %self.data.display(), %why, "a runner's data stays");
        }
    }
}
