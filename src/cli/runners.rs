//! `runners`: who offers what, what they hold, and why one is idle.

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::paper::{Ink, Paper, text};
use super::{Client, Remote};
use crate::model::resources::amount_text;

/// List runners, or look at one
#[derive(Debug, Args)]
pub(super) struct Runners {
    /// Look at this one
    runner: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Runners {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, paper) = self.remote.open()?;
        if let Some(id) = self.runner {
            let runner = client.get(&format!("/v1/runners/{id}"), &[]).await?;
            if paper.is_json() {
                paper.json(&runner)
            } else {
                one(paper, &runner)
            }
            return Ok(());
        }
        let runners = list(&client).await?;
        if paper.is_json() {
            paper.json(&json!({"runners": runners}));
        } else {
            all(paper, &runners);
        }
        Ok(())
    }
}

/// Every runner the server knows.
pub(super) async fn list(client: &Client) -> Result<Vec<Value>, Failure> {
    let mut runners = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let query: Vec<_> = after.take().map(|after| ("after", after)).into_iter().collect();
        let mut page = client.get("/v1/runners", &query).await?;
        if let Some(Value::Array(found)) = page.get_mut("runners").map(Value::take) {
            runners.extend(found);
        }
        after = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if after.is_none() {
            return Ok(runners);
        }
    }
}

fn all(paper: Paper, runners: &[Value]) {
    if runners.is_empty() {
        paper.line("no runners; `longshore runner` offers this machine");
        return;
    }
    let rows = runners.iter().map(|runner| {
        let plain = |text: String| (text, Ink::Plain);
        let state = text(runner, "state");
        let tasks = runner.get("assignments").and_then(Value::as_array).map_or(0, Vec::len);
        vec![
            (text(runner, "id").to_owned(), Ink::Strong),
            (state.to_owned(), Ink::of(state)),
            plain(platform(runner)),
            plain(share(runner, "cpu")),
            plain(share(runner, "memory")),
            plain(tasks.to_string()),
            (why_idle(runner).to_owned(), Ink::Faint),
        ]
    });
    let headings = ["RUNNER", "STATE", "PLATFORM", "CPU", "MEMORY", "TASKS", "WHY IT GETS NOTHING MORE"];
    paper.table(&headings, rows.collect());
}

fn one(paper: Paper, runner: &Value) {
    let state = text(runner, "state");
    let head = (paper.ink(Ink::Strong, text(runner, "id")), paper.ink(Ink::of(state), state));
    paper.line(format!("{} is {}", head.0, head.1));
    let idle = why_idle(runner);
    if !idle.is_empty() {
        paper.line(format!("  {idle}"));
    }
    paper.line("");
    let platform = platform(runner);
    let held = |name: &str| format!("{} in use", share(runner, name));
    for (name, value) in [("platform", platform), ("cpu", held("cpu")), ("memory", held("memory"))] {
        paper.line(format!("  {name:<10}{value}"));
    }
    for name in ["slots", "class", "cost", "queues", "group", "kinds", "labels", "taints", "version"] {
        let found = runner.get(name).or_else(|| runner.get("capacity")?.get(name));
        if let Some(value) = found.map(plainly).filter(|value| !value.is_empty()) {
            paper.line(format!("  {name:<10}{value}"));
        }
    }
    let assignments =
        runner.get("assignments").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if assignments.is_empty() {
        return;
    }
    paper.line("");
    let rows = assignments.iter().map(|held| {
        let field = |name: &str| (text(held, name).to_owned(), Ink::Plain);
        vec![(text(held, "id").to_owned(), Ink::Strong), field("state"), field("token")]
    });
    paper.table(&["TASK", "STATE", "TOKEN"], rows.collect());
}

fn why_idle(runner: &Value) -> &str {
    match text(runner, "idle") {
        "" => text(runner, "reason"),
        idle => idle,
    }
}

fn platform(runner: &Value) -> String {
    let or_any = |name: &str| match text(runner, name) {
        "" => "any".to_owned(),
        word => word.to_owned(),
    };
    format!("{}/{}", or_any("os"), or_any("arch"))
}

/// `held / capacity` of one resource; an opaque runner has none.
fn share(runner: &Value, name: &str) -> String {
    let of = |what: &str| runner.get(what)?.get(name).map(|amount| shown(name, amount));
    match (of("held"), of("capacity")) {
        (held, Some(capacity)) => format!("{} / {capacity}", held.unwrap_or_else(|| "0".to_owned())),
        _ => "-".to_owned(),
    }
}

fn shown(name: &str, amount: &Value) -> String {
    match amount.as_u64() {
        Some(bytes) if name == "memory" && bytes > 0 => amount_text("memory", bytes),
        _ => plainly(amount),
    }
}

fn plainly(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plainly).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name}={}", plainly(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}
