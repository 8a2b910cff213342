//! `intents`: which runners are asked for, for what, and what became of it.

use clap::Args;
use serde_json::{Value, json};

use super::Remote;
use super::client::Client;
use super::failure::Failure;
use super::paper::{Ink, text};

/// List the runners that are asked for
#[derive(Debug, Args)]
pub(super) struct Intents {
    #[command(flatten)]
    remote: Remote,
}

impl Intents {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, paper) = self.remote.open()?;
        let intents = list(&client).await?;
        if paper.is_json() {
            paper.json(&json!({"intents": intents}));
            return Ok(());
        }
        if intents.is_empty() {
            paper.line(
                "nothing is asked for; intents ask for runners of the classes the configuration declares",
            );
            return Ok(());
        }
        let rows = intents.iter().map(|intent| {
            let number =
                |name: &str| (intent.get(name).and_then(Value::as_u64).unwrap_or(0).to_string(), Ink::Plain);
            let state = text(intent, "state");
            vec![
                (text(intent, "id").to_owned(), Ink::Strong),
                (text(intent, "class").to_owned(), Ink::Plain),
                (state.to_owned(), Ink::of(state)),
                number("asked"),
                number("starting"),
                number("waiting"),
                (text(intent, "reason").to_owned(), Ink::Faint),
            ]
        });
        paper.table(&["INTENT", "CLASS", "STATE", "ASKED", "STARTING", "TASKS", "WHY"], rows.collect());
        Ok(())
    }
}

/// Every intent there is.
pub(super) async fn list(client: &Client) -> Result<Vec<Value>, Failure> {
    let mut intents = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let query: Vec<_> = after.take().map(|after| ("after", after)).into_iter().collect();
        let mut page = client.get("/v1/intents", &query).await?;
        if let Some(Value::Array(found)) = page.get_mut("intents").map(Value::take) {
            intents.extend(found);
        }
        after = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if after.is_none() {
            return Ok(intents);
        }
    }
}
