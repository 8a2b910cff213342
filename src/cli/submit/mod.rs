//! `submit`: a command, or tasks from a file, become tasks of the dispatcher; with `--wait`, until they have ended.
//!
//! Law: a task is named before it is sent, so sending it again can never make two of it. With `--wait`, the exit
//! code is the work's own; if several failed, it is 1.

mod packs;
mod wait;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Body, Client};
use super::failure::Failure;
use super::paper::{Ink, Paper, counted, text, took};
use super::ps::standing;
use super::{Remote, key_value};
use crate::model::Id;
use crate::model::resources::{parse_cpu, parse_memory};
use crate::model::time::parse_span;
pub(super) use packs::Pack;
use packs::Packs;
pub(super) use wait::ended_of;
use wait::until_ended;

/// How long to wait when the server has no room for more pending tasks.
const WINDOW_FULL: Duration = Duration::from_secs(1);
/// How many refused or failed tasks are told of one by one.
const SHOWN: usize = 20;

/// Submit a command, or tasks from a file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  longshore submit --wait -- make test
  longshore submit --cpu 4 --memory 8GiB --arch arm64 -- ./build.sh
  longshore submit --image alpine:3 --memory 64MiB -- echo hello
  longshore submit tasks.ndjson
  generate-tasks | longshore submit - --wait")]
pub(super) struct Submit {
    /// A file with one task, {"tasks": […]}, or one task a line; - reads standard input
    #[arg(conflicts_with_all = ["command", "Asked"])]
    file: Option<String>,
    #[command(flatten)]
    asked: Asked,
    /// Wait until all have ended, and exit as the work did
    #[arg(long)]
    wait: bool,
    /// The command to run
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// What the task of a command is like.
#[derive(Debug, Args)]
struct Asked {
    /// Name of the task [default: made up from the command]
    #[arg(long)]
    id: Option<Id>,
    /// job, or build: a build may submit jobs of its own
    #[arg(long, value_parser = ["job", "build"])]
    kind: Option<String>,
    /// Cores, like 2 or 0.5 or 500m
    #[arg(long, value_parser = |text: &str| parse_cpu(text).map(|_| text.to_owned()))]
    cpu: Option<String>,
    /// Memory, like 512MiB or 2GiB
    #[arg(long, value_parser = |text: &str| parse_memory(text).map(|_| text.to_owned()))]
    memory: Option<String>,
    /// Queue it waits in
    #[arg(long)]
    queue: Option<Id>,
    /// -1000 to 1000; the higher is placed first
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    priority: Option<i32>,
    /// The build this job belongs to [default: $LONGSHORE_BUILD]
    #[arg(long)]
    build: Option<Id>,
    /// Only on this architecture, like amd64 or arm64
    #[arg(long)]
    arch: Option<String>,
    /// Only on this operating system
    #[arg(long)]
    os: Option<String>,
    /// Only on runners with this label
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// A variable for the command
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    env: Vec<(String, String)>,
    /// The image it runs in, where runners run containers
    #[arg(long)]
    image: Option<String>,
    /// A directory of the runner's machine that the container sees, if the runner allows it
    #[arg(long = "mount", value_name = "SOURCE:TARGET[:ro]", requires = "image")]
    mounts: Vec<String>,
    /// The directory it runs in
    #[arg(long)]
    workdir: Option<String>,
    /// How long it may run, like 90s or 1h
    #[arg(long, value_parser = |text: &str| parse_span(text).map(|_| text.to_owned()))]
    timeout: Option<String>,
}

impl Submit {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.file.is_none() && self.command.is_empty() {
            let why =
                "nothing to submit; give a command, `longshore submit -- make test`, or a file of tasks";
            return Err(Failure::Usage(why.to_owned()));
        }
        let (client, paper) = self.remote.open()?;
        let mut sent = Sent::default();
        match &self.file {
            None => {
                let mut pack = Pack::default();
                pack.push(&self.asked.task(&self.command));
                sent.send(&client, pack).await?;
            }
            Some(file) => send_all(&client, paper, file, &mut sent).await?,
        }
        if !self.wait {
            return sent.show(paper);
        }
        let ended = until_ended(&client, paper, std::mem::take(&mut sent.taken)).await?;
        show_ended(&client, paper, sent.refused, ended).await
    }
}

impl Asked {
    fn task(&self, command: &[String]) -> Value {
        let mut task = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            task.extend(value.map(|value| (name.to_owned(), value)));
        };
        let name = |id: &Id| id.to_string();
        put("id", Some(self.id.as_ref().map_or_else(|| made_up_id(command), name).into()));
        put("kind", self.kind.clone().map(Value::from));
        put("queue", self.queue.as_ref().map(name).map(Value::from));
        put("priority", self.priority.map(Value::from));
        let own = || std::env::var("LONGSHORE_BUILD").ok().filter(|build| !build.is_empty());
        put("build", self.build.as_ref().map(name).or_else(own).map(Value::from));
        put("arch", self.arch.clone().map(Value::from));
        put("os", self.os.clone().map(Value::from));
        put("timeout", self.timeout.clone().map(Value::from));
        let resources = [("cpu", &self.cpu), ("memory", &self.memory)];
        let resources: Map<String, Value> = resources
            .into_iter()
            .filter_map(|(name, amount)| Some((name.to_owned(), amount.clone()?.into())))
            .collect();
        put("resources", (!resources.is_empty()).then(|| resources.into()));
        let labels: BTreeMap<_, _> = self.labels.iter().cloned().collect();
        put("labels", (!labels.is_empty()).then(|| json!(labels)));
        let env: BTreeMap<_, _> = self.env.iter().cloned().collect();
        let mut spec = Map::from_iter([("command".to_owned(), json!(command))]);
        spec.extend(self.image.clone().map(|image| ("image".to_owned(), image.into())));
        spec.extend(self.workdir.clone().map(|workdir| ("workdir".to_owned(), workdir.into())));
        spec.extend((!env.is_empty()).then(|| ("env".to_owned(), json!(env))));
        spec.extend((!self.mounts.is_empty()).then(|| ("mounts".to_owned(), json!(self.mounts))));
        put("spec", Some(spec.into()));
        task.into()
    }
}

/// A name nobody has used: the program's, and twelve digits drawn by lot.
fn made_up_id(command: &[String]) -> String {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let program: String = program.chars().filter(legal).take(40).collect();
    let drawn = uuid::Uuid::now_v7().simple().to_string();
    let program = if program.is_empty() { "task" } else { &program };
    format!("{program}-{}", &drawn[20..])
}

async fn send_all(client: &Client, paper: Paper, file: &str, sent: &mut Sent) -> Result<(), Failure> {
    let (source, name): (Box<dyn BufRead>, &str) = match file {
        "-" => (Box::new(std::io::stdin().lock()), "standard input"),
        path => {
            let opened = std::fs::File::open(path);
            let opened = opened.map_err(|why| Failure::Usage(format!("open {path}: {why}")))?;
            (Box::new(BufReader::new(opened)), path)
        }
    };
    if file == "-" && std::io::stdin().is_terminal() {
        eprintln!("reading tasks from the terminal, one a line; Ctrl-D ends them");
    }
    let mut packs = Packs::new(source, name)?;
    let spinner = paper.spinner("submitting");
    while let Some(pack) = packs.next()? {
        sent.send(client, pack).await?;
        spinner.set_message(format!("{} submitted", counted(sent.answers() as u64)));
    }
    spinner.finish_and_clear();
    Ok(())
}

/// What the server answered so far.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Tasks the server has.
    pub(super) taken: Vec<String>,
    /// Answers to tasks it did not take.
    pub(super) refused: Vec<Value>,
    admitted: usize,
}

impl Sent {
    /// Sends one pack, and again what the server has no room for, until every task of it is decided.
    pub(super) async fn send(&mut self, client: &Client, mut pack: Pack) -> Result<(), Failure> {
        while !pack.ids.is_empty() {
            let answers = client.post("/v1/tasks", Body::Text(&pack.body())).await?;
            let answers = answers.as_array().cloned().unwrap_or_default();
            if answers.len() != pack.ids.len() {
                let why = format!("the server answered {} of {} tasks", answers.len(), pack.ids.len());
                return Err(Failure::Broken(why));
            }
            let mut full = Vec::new();
            for (place, answer) in answers.into_iter().enumerate() {
                match text(&answer, "answer") {
                    "admitted" | "accepted" => {
                        self.admitted += 1;
                        self.taken.push(pack.ids[place].clone());
                    }
                    "duplicate" => self.taken.push(pack.ids[place].clone()),
                    "full" => full.push(place),
                    _ => self.refused.push(answer),
                }
            }
            pack = pack.only(&full);
            if !pack.ids.is_empty() {
                tokio::time::sleep(WINDOW_FULL).await;
            }
        }
        Ok(())
    }

    fn answers(&self) -> usize {
        self.taken.len() + self.refused.len()
    }

    /// Tells what became of the submission.
    fn show(self, paper: Paper) -> Result<(), Failure> {
        let duplicates = self.taken.len() - self.admitted;
        if paper.is_json() {
            let refused = self.refused.len();
            paper.json(&json!({
                "admitted": self.admitted, "duplicate": duplicates, "refused": self.refused, "ids": self.taken,
            }));
            return if refused == 0 { Ok(()) } else { Err(Failure::Work(1)) };
        }
        show_refused(paper, &self.refused);
        match &self.taken[..] {
            [id] if self.refused.is_empty() => {
                let word = if duplicates == 1 { "is known already" } else { "is admitted" };
                paper.line(format!(
                    "{} {word}; `longshore why {id}` tells how it goes",
                    paper.ink(Ink::Strong, id)
                ));
            }
            taken => {
                let refused = counted(self.refused.len() as u64);
                let (all, known) = (counted(taken.len() as u64), counted(duplicates as u64));
                paper.line(format!("{all} taken ({known} of them known already), {refused} refused"));
            }
        }
        if self.refused.is_empty() { Ok(()) } else { Err(Failure::Work(1)) }
    }
}

fn show_refused(paper: Paper, refused: &[Value]) {
    for answer in refused.iter().take(SHOWN) {
        let word = paper.ink(Ink::Bad, text(answer, "answer"));
        paper.line(format!("{} {word}: {}", text(answer, "id"), text(answer, "reason")));
    }
    if refused.len() > SHOWN {
        paper.line(format!("… and {} more were refused", counted((refused.len() - SHOWN) as u64)));
    }
}

/// Tells how the tasks ended, and fails as they did.
async fn show_ended(
    client: &Client,
    paper: Paper,
    refused: Vec<Value>,
    ended: Vec<Value>,
) -> Result<(), Failure> {
    let failed: Vec<&Value> = ended.iter().filter(|task| text(task, "outcome") != "succeeded").collect();
    if paper.is_json() {
        paper.json(&json!({"ended": ended, "refused": refused}));
    } else {
        show_refused(paper, &refused);
        let told: Vec<&Value> = if ended.len() == 1 { ended.iter().collect() } else { failed.clone() };
        for task in told.into_iter().take(SHOWN) {
            tell(client, paper, task).await;
        }
        if ended.len() > 1 {
            let (all, bad) = (counted((ended.len() - failed.len()) as u64), counted(failed.len() as u64));
            paper.line(format!("{all} succeeded, {bad} did not"));
        }
    }
    match (&failed[..], refused.len()) {
        ([], 0) => Ok(()),
        ([one], 0) => Err(Failure::Work(exit_code(one))),
        _ => Err(Failure::Work(1)),
    }
}

/// Tells how one task ended, and the last lines it wrote.
async fn tell(client: &Client, paper: Paper, task: &Value) {
    let (word, ink) = standing(task);
    let mut line = format!("{} {}", paper.ink(Ink::Strong, text(task, "id")), paper.ink(ink, word));
    match text(task, "runner") {
        "" => {}
        runner => line.push_str(&format!(" on {runner}")),
    }
    if let Some(ran) = task.get("ran_ms").and_then(Value::as_u64) {
        line.push_str(&format!(" after {}", took(ran)));
    }
    match text(task, "reason") {
        // An exit code was said already.
        reason if reason.is_empty() || reason.starts_with("exit code") => {}
        reason => line.push_str(&format!(": {reason}")),
    }
    paper.line(line);
    // The last lines are a courtesy: without them the outcome stands all the same.
    let Ok(whole) = client.get(&format!("/v1/tasks/{}", text(task, "id")), &[]).await else { return };
    for line in text(&whole, "message").lines() {
        paper.line(format!("  {} {line}", paper.ink(Ink::Faint, "│")));
    }
}

/// The work's own exit code, if it can be one of ours.
fn exit_code(task: &Value) -> u8 {
    let code = task.get("exit_code").and_then(Value::as_i64).and_then(|code| u8::try_from(code).ok());
    code.filter(|code| *code != 0).unwrap_or(1)
}
