//! `ps`: which tasks there are, and where they stand.

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::paper::{Ink, Paper, text, took};
use super::{Client, Remote};

/// How many tasks are asked for at once.
const PAGE: usize = 1_000;

/// List tasks
#[derive(Debug, Args)]
pub(super) struct Ps {
    /// Only tasks in this state: pending, assigned, running or ended
    #[arg(long, value_parser = ["pending", "assigned", "running", "ended"])]
    state: Option<String>,
    /// Only jobs, or only builds
    #[arg(long, value_parser = ["job", "build"])]
    kind: Option<String>,
    /// Only tasks on this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only tasks of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only jobs of this build
    #[arg(long)]
    build: Option<String>,
    /// Only tasks of this group
    #[arg(long)]
    group: Option<String>,
    /// Show at most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    remote: Remote,
}

impl Ps {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, paper) = self.remote.open()?;
        let filters = [
            ("state", &self.state),
            ("kind", &self.kind),
            ("queue", &self.queue),
            ("tenant", &self.tenant),
            ("build", &self.build),
            ("group", &self.group),
        ];
        let filters: Vec<(&str, String)> =
            filters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        let (tasks, more) = list(&client, &filters, self.limit).await?;
        if paper.is_json() {
            paper.json(&json!({"tasks": tasks, "more": more}));
            return Ok(());
        }
        show(paper, &tasks);
        if more {
            paper.line(paper.ink(Ink::Faint, format!("… and more; --limit {} shows them", self.limit * 10)));
        }
        Ok(())
    }
}

/// Up to `limit` tasks that match, and whether there are more.
pub(super) async fn list(
    client: &Client,
    filters: &[(&str, String)],
    limit: usize,
) -> Result<(Vec<Value>, bool), Failure> {
    let mut tasks: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = filters.to_vec();
        query.push(("limit", PAGE.min(limit - tasks.len()).to_string()));
        query.extend(after.take().map(|after| ("after", after)));
        let mut page = client.get("/v1/tasks", &query).await?;
        if let Some(Value::Array(found)) = page.get_mut("tasks").map(Value::take) {
            tasks.extend(found);
        }
        after = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if after.is_none() || tasks.len() >= limit {
            return Ok((tasks, after.is_some()));
        }
    }
}

fn show(paper: Paper, tasks: &[Value]) {
    if tasks.is_empty() {
        paper.line("no such tasks");
        return;
    }
    let rows = tasks.iter().map(|task| {
        let plain = |text: String| (text, Ink::Plain);
        let span = |field: &str| plain(task.get(field).and_then(Value::as_u64).map(took).unwrap_or_default());
        vec![
            (text(task, "id").to_owned(), Ink::Strong),
            plain(text(task, "kind").to_owned()),
            plain(text(task, "queue").to_owned()),
            standing(task),
            plain(text(task, "runner").to_owned()),
            span("waited_ms"),
            span("ran_ms"),
            (text(task, "reason").to_owned(), Ink::Faint),
        ]
    });
    paper.table(&["TASK", "KIND", "QUEUE", "STATE", "RUNNER", "WAITED", "RAN", "REASON"], rows.collect());
}

/// The word for where a task stands: its state, or how it ended.
pub(super) fn standing(task: &Value) -> (String, Ink) {
    let word = match text(task, "outcome") {
        "" => text(task, "state"),
        outcome => outcome,
    };
    let code = task.get("exit_code").and_then(Value::as_i64).filter(|code| *code != 0);
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    (format!("{word}{code}"), Ink::of(word))
}
