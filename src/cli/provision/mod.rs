//! `provision`: answers intents by starting runners on this machine, and ends them when they are idle.
//!
//! Law: it starts nothing it was not asked for and did not acknowledge, and no more than `--max`. A runner it ends
//! was set to drain first and had nothing left, so no work is cut off. None of its runners outlives it. It speaks
//! the public HTTP API and nothing else: a provisioner for machines or containers is the same in any language.

mod children;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Body, Client};
use super::failure::Failure;
use super::paper::text;
use super::runner::BackendArg;
use super::{LogArgs, intents, machine, signals};
use crate::model::ClassId;
use crate::model::time::parse_span;
use crate::telemetry::logs;
use children::{Child, Start};

/// How often intents and runners are looked at; a little more or less each time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause before a class whose runners fail to start is tried again.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long runners may take to leave when this process is stopped.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// Start runners on this machine when tasks need them, and end them when they are idle
#[derive(Debug, Args)]
pub(super) struct Provision {
    /// Where the server answers
    #[arg(long, env = "LONGSHORE_URL", default_value = "http://127.0.0.1:8080", hide_env_values = true)]
    url: String,
    /// Serve the intents of this class; may be repeated
    #[arg(long = "class", value_name = "CLASS", required = true)]
    classes: Vec<ClassId>,
    /// What runs the work
    #[arg(long, value_enum, default_value_t = BackendArg::Process)]
    backend: BackendArg,
    /// End a runner that has had nothing to do for so long
    #[arg(long, default_value = "30s", value_parser = parse_span)]
    idle: Duration,
    /// Runners at once, of all classes together
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max: u32,
    /// Where the runners keep their data [default: a directory in this user's state directory]
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

/// The provisioner at work.
struct Provisioner {
    client: Client,
    start: Start,
    classes: Vec<ClassId>,
    idle: Duration,
    max: usize,
    children: Vec<Child>,
    /// Classes whose runners failed to start: until when, and for how long.
    failing: BTreeMap<String, (Instant, Duration)>,
    /// The server did not answer when it was last asked.
    alone: bool,
}

impl Provision {
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::install(self.log.logging());
        let data = match self.data {
            Some(data) => data,
            None => machine::state_directory().map(|state| state.join("provision")).ok_or_else(|| {
                Failure::Usage("--data: neither XDG_STATE_HOME nor HOME is set; name a directory".to_owned())
            })?,
        };
        let client = Client::new(&self.url)?;
        let start = Start::new(self.url, data, self.backend, self.log)?;
        let stop = signals::stop_asked()?;
        tracing::info!(classes = ?self.classes, max = self.max, "provisioner started");
        let mut provisioner = Provisioner {
            client,
            start,
            classes: self.classes,
            idle: self.idle,
            max: usize::try_from(self.max).expect("a small number"),
            children: Vec::new(),
            failing: BTreeMap::new(),
            alone: false,
        };
        provisioner.work(stop).await;
        provisioner.end_all().await;
        tracing::info!("provisioner stopped");
        Ok(())
    }
}

impl Provisioner {
    async fn work(&mut self, stop: CancellationToken) {
        let mut number = 0_u64;
        while !stop.is_cancelled() {
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = stop.cancelled() => return,
            };
            match looked {
                Err(why) if !self.alone => {
                    self.alone = true;
                    tracing::warn!(%why, "the server is asked again until it answers");
                }
                Err(_) => {}
                Ok(()) => self.alone = false,
            }
            number += 1;
            let _ = timeout(jittered(number), stop.cancelled()).await;
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        self.reap().await?;
        self.end_idle().await?;
        let intents = intents::list(&self.client).await?;
        for intent in intents.iter().filter(|intent| text(intent, "state") == "asked") {
            let class = text(intent, "class");
            let failing = self.failing.get(class).is_some_and(|(until, _)| Instant::now() < *until);
            if self.classes.iter().any(|known| known.as_str() == class) && !failing {
                self.serve(intent).await?;
            }
        }
        Ok(())
    }

    /// Acknowledges as many runners as there is room for, and starts them.
    async fn serve(&mut self, intent: &Value) -> Result<(), Failure> {
        let asked = intent.get("asked").and_then(Value::as_u64).unwrap_or(0);
        let count = asked.min(self.max.saturating_sub(self.children.len()) as u64);
        let (id, class) = (text(intent, "id"), text(intent, "class"));
        if count == 0 {
            return Ok(());
        }
        if intent.get("offer").is_none_or(Value::is_null) {
            tracing::warn!(intent = id, class, "intent of a class that is not declared left alone");
            return Ok(());
        }
        let path = format!("/v1/intents/{id}/ack");
        match self.client.post_once(&path, Body::Json(&json!({"count": count}))).await {
            // Somebody else was faster, or it is not needed any more.
            Err(Failure::Problem(problem)) if matches!(problem.status, 404 | 409) => return Ok(()),
            answered => drop(answered?),
        }
        tracing::info!(intent = id, class, runners = count, "intent acknowledged");
        for _ in 0..count {
            match self.start.runner(intent) {
                Ok(child) => self.children.push(child),
                Err(why) => return self.failed(id, class, &why).await,
            }
        }
        Ok(())
    }

    /// Takes note of runners that have ended.
    async fn reap(&mut self) -> Result<(), Failure> {
        let mut ended = Vec::new();
        for place in (0..self.children.len()).rev() {
            if let Some(status) = self.children[place].ended() {
                ended.push((self.children.swap_remove(place), status));
            }
        }
        for (child, status) in ended {
            if status.success() {
                child.forget_data();
            }
            if child.seen || status.success() {
                tracing::info!(runner = %child.id, %status, "runner ended");
                continue;
            }
            let why = format!("runner {} ended before it registered: {status}", child.id);
            self.failed(&child.intent, &child.class, &why).await?;
        }
        Ok(())
    }

    /// Says that a class's runners do not start here, and leaves it alone for a while.
    async fn failed(&mut self, intent: &str, class: &str, why: &str) -> Result<(), Failure> {
        let before = self.failing.get(class).map_or(LOOK_EVERY, |(_, pause)| *pause);
        let pause = (before * 2).min(LONGEST_BACKOFF);
        self.failing.insert(class.to_owned(), (Instant::now() + pause, pause));
        tracing::warn!(intent, class, why, pause_ms = pause.as_millis(), "intent declined");
        let path = format!("/v1/intents/{intent}/decline");
        match self.client.post(&path, Body::Json(&json!({"reason": why}))).await {
            Err(Failure::Problem(problem)) if matches!(problem.status, 404 | 409) => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Sets runners to drain that have been idle for long enough, and ends those that have drained.
    async fn end_idle(&mut self) -> Result<(), Failure> {
        for child in &mut self.children {
            let path = format!("/v1/runners/{}", child.id);
            let runner = match self.client.get(&path, &[]).await {
                Err(Failure::Problem(problem)) if problem.status == 404 => continue,
                found => found?,
            };
            if !child.seen {
                child.seen = true;
                self.failing.remove(&child.class);
            }
            let busy =
                runner.get("assignments").and_then(Value::as_array).is_none_or(|held| !held.is_empty());
            if busy {
                child.idle_since = None;
                continue;
            }
            let since = *child.idle_since.get_or_insert_with(Instant::now);
            if text(&runner, "state") == "draining" {
                child.terminate();
            } else if since.elapsed() >= self.idle {
                tracing::info!(runner = %child.id, "idle runner set to drain");
                self.client.post(&format!("{path}/drain"), Body::None).await?;
            }
        }
        Ok(())
    }

    /// Asks every runner to leave, and ends those that do not.
    async fn end_all(&mut self) {
        self.children.iter_mut().for_each(Child::terminate);
        let left = async {
            while self.children.iter_mut().any(|child| child.ended().is_none()) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(LEAVE_WITHIN, left).await.is_err() {
            tracing::warn!("runners that did not leave in time are killed");
        }
        for mut child in self.children.drain(..) {
            match child.ended() {
                Some(status) if status.success() => child.forget_data(),
                Some(_) => {}
                None => child.kill(),
            }
        }
    }
}

/// The pause between two looks, so that provisioners started together do not ask together for ever.
fn jittered(number: u64) -> Duration {
    let salt = u64::from(std::process::id()).wrapping_add(number).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    LOOK_EVERY - Duration::from_millis(100) + Duration::from_millis(salt * 200 / 256)
}
