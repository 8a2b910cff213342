//! `why`: why a task waits, or what became of it, in the dispatcher's own words.

use clap::Args;
use serde_json::Value;

use super::Remote;
use super::failure::Failure;
use super::paper::{Ink, Paper, text};
use super::ps::standing;

/// Explain why a task waits, or what became of it
#[derive(Debug, Args)]
pub(super) struct Why {
    /// The task
    id: String,
    #[command(flatten)]
    remote: Remote,
}

impl Why {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, paper) = self.remote.open()?;
        let why = client.get(&format!("/v1/tasks/{}/why", self.id), &[]).await?;
        if paper.is_json() {
            paper.json(&why);
            return Ok(());
        }
        let task = client.get(&format!("/v1/tasks/{}", self.id), &[]).await?;
        show(paper, &self.id, &task, &why);
        Ok(())
    }
}

fn show(paper: Paper, id: &str, task: &Value, why: &Value) {
    let (word, ink) = standing(task);
    let mut head = format!("{}: {}", paper.ink(Ink::Strong, id), paper.ink(ink, word));
    if let Some(position) = why.get("position").and_then(Value::as_u64) {
        head.push_str(&format!(", {}", in_line(position)));
    }
    paper.line(head);
    for reason in strings(why, "reasons") {
        paper.line(format!("  {reason}"));
    }
    misfits(paper, "RUNNER", why.get("runners"));
    misfits(paper, "CLASS", why.get("classes"));
}

fn in_line(before: u64) -> String {
    match before {
        0 => "first in line".to_owned(),
        1 => "with 1 task before it".to_owned(),
        more => format!("with {more} tasks before it"),
    }
}

fn strings<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    value.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn misfits(paper: Paper, heading: &str, list: Option<&Value>) {
    let rows: Vec<_> = list
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|entry| {
            let misfit = match text(entry, "detail") {
                "" => ("nothing: it fits".to_owned(), Ink::Good),
                detail => (detail.to_owned(), Ink::Plain),
            };
            vec![(text(entry, "id").to_owned(), Ink::Strong), misfit]
        })
        .collect();
    if !rows.is_empty() {
        paper.line("");
        paper.table(&[heading, "WHAT IS IN THE WAY"], rows);
    }
}
