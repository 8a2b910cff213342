//! `cancel`: a task shall not run, or no longer.

use clap::Args;
use serde_json::{Value, json};

use super::Remote;
use super::failure::Failure;

/// Cancel a task, and with a build its jobs
#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The task
    id: String,
    /// Why, for whoever asks later
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Cancel {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, paper) = self.remote.open()?;
        let query: Vec<_> = self.reason.map(|reason| ("reason", reason)).into_iter().collect();
        let answer = client.delete(&format!("/v1/tasks/{}", self.id), &query).await?;
        if paper.is_json() {
            paper.json(&if answer == Value::Null { json!({"id": self.id}) } else { answer });
        } else if answer["remembered"] == true {
            paper.line(format!(
                "{} is not known here; should a submission from before this be on its way, it ends at once",
                self.id
            ));
        } else {
            paper.line(format!("{} is asked to end; `longshore why {0}` says how far that is", self.id));
        }
        Ok(())
    }
}
