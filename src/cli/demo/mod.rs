//! `demo`: a CI day in one process, on real parts, over the public API, checked to the last task; with a NATS
//! server, on two dispatchers of which the leader is stopped in the middle.
//!
//! Law: it succeeds only if every task ended exactly as planned. It waits for facts; nothing in it depends on
//! how fast this machine is.

mod board;
mod day;
mod replicas;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::failure::Failure;
use super::local::Local;
use super::nats::{Named, NatsArgs};
use super::paper::{Ink, Paper, counted, text, took};
use super::ps::standing;
use super::submit::{Pack, Sent, ended_of};
use super::{Form, signals};
use crate::runner::backend::process::THIS_PROGRAM;
use crate::runner::backend::{Backend, ProcessBackend};
use crate::telemetry::logs::{self, Format, Level, Logging};
use crate::wire::subject::{DEFAULT_POOL, Names};
use board::Board;
use day::Planned;
use replicas::{Replicas, TakeOver};

/// How long the whole day may take, and each hundred small tasks besides.
const DAY: Duration = Duration::from_secs(120);
const HUNDRED_SMALL: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Watch a CI day on three small runners, all in this process
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Add so many small jobs
    #[arg(long, default_value_t = 0, value_name = "N")]
    tasks: usize,
    /// Go on afterwards until Ctrl-C, to look around; over NATS the streams stay
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    form: Form,
}

/// Nobody knows this fleet but us: what fits on none of its runners is rejected at once.
const SETTINGS: [(&str, &str); 1] = [("verdict.settle", "0s")];

impl Demo {
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::install(Logging { format: Format::Text, level: Level::Error });
        let paper = Paper::new(self.form);
        let stop = signals::stop_asked()?;
        if let Some(named) = self.nats.named("demo".to_owned())? {
            return self.run_replicas(&named, paper, &stop).await;
        }
        let mut local = Local::start(None, &SETTINGS).await?;
        let shown = tokio::select! {
            shown = self.show(&mut local, paper) => shown,
            () = stop.cancelled() => Err(interrupted()),
        };
        if self.keep && shown.is_ok() {
            stop.cancelled().await;
        }
        let stopped = local.stop().await;
        shown.and(stopped)
    }

    async fn run_replicas(
        &self,
        named: &Named,
        paper: Paper,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        if named.names != Names::of_pool(DEFAULT_POOL) {
            let why = "--pool: the demo makes a pool of its own and removes it; leave it out";
            return Err(Failure::Usage(why.to_owned()));
        }
        let mut replicas = Replicas::start(named, &SETTINGS).await?;
        let shown = tokio::select! {
            shown = self.show_replicas(&mut replicas, paper) => shown,
            () = stop.cancelled() => Err(interrupted()),
        };
        if self.keep && shown.is_ok() {
            stop.cancelled().await;
        }
        let ended = replicas.end(self.keep).await;
        shown.and(ended)
    }

    async fn show(&self, local: &mut Local, paper: Paper) -> Result<(), Failure> {
        let url = local.url();
        let client = Client::new(&url)?;
        let backend = backend()?;
        for runner in day::RUNNERS {
            local.add(runner, backend.clone())?;
        }
        local.ready(&client).await?;
        let plan = self.plan()?;
        if !paper.is_json() {
            introduce(paper, &plan, || {
                paper.line(format!("  dispatcher  {url}, with a durable table"));
            });
        }
        let began = Instant::now();
        let mut board = Board::new(paper);
        let ended = tokio::select! {
            ended = timeout(self.limit(), live(&client, &plan)) => ended,
            failure = board.follow(&client) => Ok(Err(failure)),
        };
        board.clear();
        let told = match ended {
            Ok(told) => told?,
            Err(_) => all_of(&client, &plan).await?,
        };
        report(paper, &plan, &told, began, (&url, self.keep), None)
    }

    async fn show_replicas(&self, replicas: &mut Replicas, paper: Paper) -> Result<(), Failure> {
        let url = replicas.local.url();
        let client = Client::new(&url)?;
        replicas.add_runners(&backend()?).await?;
        replicas.local.ready(&client).await?;
        let plan = self.plan()?;
        if !paper.is_json() {
            introduce(paper, &plan, || replicas.introduce(paper));
        }
        let began = Instant::now();
        let mut board = Board::new(paper);
        let (voice, producer) = (board.voice(), replicas.producer());
        let day = async {
            producer.submit(&plan).await?;
            let submitted = plan.iter().filter(|planned| planned.task.is_some());
            let ids = submitted.map(|planned| planned.id.clone()).collect();
            let (ended, cancelled, change) = tokio::join!(
                ended_of(&client, ids),
                producer.cancel(&client),
                replicas.change_leaders(&plan, &voice)
            );
            ended?;
            cancelled?;
            change
        };
        let ended = tokio::select! {
            ended = timeout(self.limit(), day) => ended,
            failure = board.follow(&client) => Ok(Err(failure)),
        };
        board.clear();
        let told = all_of(&client, &plan).await?;
        let change = match ended {
            Ok(change) => {
                let mut change = change?;
                replicas.judge(&told, &mut change).await?;
                change
            }
            Err(_) => TakeOver::never(),
        };
        report(paper, &plan, &told, began, (&url, self.keep), Some(&change))
    }

    fn plan(&self) -> Result<Vec<Planned>, Failure> {
        let program = std::env::current_exe();
        let program = program.map_err(|why| Failure::Broken(format!("find this program: {why}")))?;
        Ok(day::plan(&program.display().to_string(), self.tasks))
    }

    /// How long the day may take.
    fn limit(&self) -> Duration {
        DAY + HUNDRED_SMALL * u32::try_from(self.tasks / 100).unwrap_or(u32::MAX)
    }
}

fn backend() -> Result<Arc<dyn Backend>, Failure> {
    let backend = ProcessBackend::new(THIS_PROGRAM, Duration::from_secs(2));
    Ok(Arc::new(backend.map_err(|why| Failure::Broken(format!("start processes: {why}")))?))
}

fn interrupted() -> Failure {
    Failure::Broken("the demo was interrupted".to_owned())
}

/// Submits the day, cancels what is to be cancelled, and waits until all have ended; what the server says of
/// each, in the order of the plan.
async fn live(client: &Client, plan: &[Planned]) -> Result<Vec<Value>, Failure> {
    let mut sent = Sent::default();
    let mut ids = Vec::new();
    let tasks: Vec<(&str, &Value)> =
        plan.iter().filter_map(|planned| Some((planned.id.as_str(), planned.task.as_ref()?))).collect();
    for some in tasks.chunks(1_000) {
        let mut pack = Pack::default();
        for (id, task) in some {
            pack.push(task);
            ids.push((*id).to_owned());
        }
        sent.send(client, pack).await?;
    }
    let cancelled = async {
        while text(&client.get(&format!("/v1/tasks/{}", day::CANCELLED), &[]).await?, "state") != "running" {
            sleep(LOOK_AGAIN).await;
        }
        let reason = ("reason", "the branch was deleted".to_owned());
        client.delete(&format!("/v1/tasks/{}", day::CANCELLED), &[reason]).await
    };
    let (ended, cancelled) = tokio::join!(ended_of(client, ids), cancelled);
    ended?;
    cancelled?;
    all_of(client, plan).await
}

/// What the server says of every task of the plan.
async fn all_of(client: &Client, plan: &[Planned]) -> Result<Vec<Value>, Failure> {
    let mut told = Vec::with_capacity(plan.len());
    for planned in plan {
        told.push(match client.get(&format!("/v1/tasks/{}", planned.id), &[]).await {
            Err(Failure::Problem(problem)) if problem.status == 404 => {
                json!({"id": planned.id, "state": "never submitted"})
            }
            answer => answer?,
        });
    }
    Ok(told)
}

fn introduce(paper: Paper, plan: &[Planned], dispatchers: impl FnOnce()) {
    paper.line(format!(
        "{} a CI day, in one process, on real parts",
        paper.ink(Ink::Strong, "Longshore demo:")
    ));
    paper.line("");
    dispatchers();
    for runner in day::RUNNERS {
        let (cpu, memory) = (runner.cpu / 1_000, runner.memory >> 30);
        let arch = runner.arch;
        paper.line(format!(
            "  runner      {:<10}{cpu} cpu, {memory} GiB, {arch}, cost {}",
            runner.id, runner.cost
        ));
    }
    let submitted = plan.iter().filter(|planned| planned.task.is_some()).count();
    let by_builds = plan.len() - submitted;
    paper.line(format!(
        "  submitted   {} tasks; two builds among them submit {by_builds} more",
        counted(submitted as u64)
    ));
    paper.line("");
}

fn report(
    paper: Paper,
    plan: &[Planned],
    told: &[Value],
    began: Instant,
    (url, keeps): (&str, bool),
    change: Option<&TakeOver>,
) -> Result<(), Failure> {
    let ran_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let met: Vec<bool> = plan.iter().zip(told).map(|(planned, told)| planned.is_met_by(told)).collect();
    let missed = met.iter().filter(|met| !**met).count();
    let as_expected = missed == 0 && change.is_none_or(|change| change.wrong.is_empty());
    let ended = if as_expected { Ok(()) } else { Err(Failure::Work(1)) };
    if paper.is_json() {
        let tasks = plan.iter().zip(told).zip(&met).map(|((planned, told), met)| {
            let field = |name: &str| told.get(name).cloned().unwrap_or_default();
            json!({
                "id": planned.id, "kind": field("kind"), "runner": field("runner"), "waited_ms": field("waited_ms"),
                "ran_ms": field("ran_ms"), "outcome": field("outcome"), "exit_code": field("exit_code"),
                "reason": field("reason"), "expected": planned.expected(), "as_expected": met,
            })
        });
        paper.json(&json!({
            "as_expected": as_expected, "took_ms": ran_ms, "url": url, "tasks": tasks.collect::<Vec<_>>(),
            "takeover": change.map(TakeOver::json),
        }));
        return ended;
    }
    let rows = plan.iter().zip(told).zip(&met);
    // Small tasks are many and all alike: only those that went wrong are shown.
    let rows = rows.filter(|((planned, _), met)| !**met || !planned.id.starts_with("small-"));
    let rows = rows.map(|((planned, told), met)| row(planned, told, *met)).collect();
    paper.table(&["TASK", "KIND", "RUNNER", "WAITED", "RAN", "ENDED", "", "WHAT IT SHOWS"], rows);
    paper.line("");
    summary(paper, plan, told, ran_ms, missed);
    if let Some(change) = change {
        change.show(paper);
    }
    if keeps {
        paper.line(format!("It goes on at {url} until Ctrl-C. In another terminal:"));
        for what in ["ps", "runners", "why train-model", "submit --wait -- uname -a"] {
            let (command, rest) =
                what.split_once(" --").map_or((what, ""), |(command, _)| (command, &what[command.len()..]));
            paper.line(format!("  longshore {command} --url {url}{rest}"));
        }
    } else {
        paper.line("Next: `longshore demo --keep` to look around in it, or for real work on this machine:");
        for what in ["longshore serve", "longshore runner", "longshore submit --wait -- uname -a"] {
            paper.line(format!("  {what}"));
        }
    }
    ended
}

fn row(planned: &Planned, told: &Value, met: bool) -> Vec<(String, Ink)> {
    let plain = |text: &str| (text.to_owned(), Ink::Plain);
    let span =
        |field: &str| (told.get(field).and_then(Value::as_u64).map(took).unwrap_or_default(), Ink::Plain);
    let mark = if met {
        ("✓".to_owned(), Ink::Good)
    } else {
        (format!("✗ expected {}", planned.expected()), Ink::Bad)
    };
    vec![
        (planned.id.clone(), Ink::Strong),
        plain(text(told, "kind")),
        plain(text(told, "runner")),
        span("waited_ms"),
        span("ran_ms"),
        standing(told),
        mark,
        (planned.shows.to_owned(), Ink::Faint),
    ]
}

fn summary(paper: Paper, plan: &[Planned], told: &[Value], ran_ms: u64, missed: usize) {
    let mut share: Vec<String> = Vec::new();
    for runner in day::RUNNERS {
        let count = told.iter().filter(|told| text(told, "runner") == runner.id).count();
        share.push(format!("{} ran {}", runner.id, counted(count as u64)));
    }
    let (all, span) = (counted(plan.len() as u64), took(ran_ms));
    let line = match missed {
        0 => paper.ink(Ink::Good, format!("All {all} tasks ended as they should, in {span}.")),
        some => paper.ink(Ink::Bad, format!("{some} of {all} tasks did not end as they should, in {span}.")),
    };
    paper.line(format!("{line} {}.", share.join(", ")));
}
