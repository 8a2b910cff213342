//! `intents`: which runners are asked for, for what, and what became of it.

use clap::Args;
use serde_json::Value;

use super::Remote;
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
        let found = client.get("/v1/intents", &[]).await?;
        if paper.is_json() {
            paper.json(&found);
            return Ok(());
        }
        let intents = found.get("intents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
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
