//! `logs`: what the work of a task wrote.
//!
//! Law: what the work wrote goes to standard output and nothing else does.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::Remote;
use super::failure::Failure;
use crate::model::Token;

/// Show what the work of a task wrote
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The task
    id: String,
    /// Go on until the task has ended, through all its attempts
    #[arg(long, short)]
    follow: bool,
    /// The attempt with this token [default: the last one]
    #[arg(long)]
    token: Option<Token>,
    #[command(flatten)]
    remote: Remote,
}

impl Logs {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, paper) = self.remote.open()?;
        let mut query = vec![("follow", self.follow.to_string())];
        query.extend(self.token.map(|token| ("token", token.to_string())));
        let mut response = client.stream(&format!("/v1/tasks/{}/logs", self.id), &query).await?;
        let mut all = String::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|why| Failure::Broken(format!("the output broke off: {why}")))?
        {
            if paper.is_json() {
                all.push_str(&String::from_utf8_lossy(&chunk));
                continue;
            }
            let mut out = std::io::stdout().lock();
            // Whoever reads no more, like `head`, has seen enough.
            if out.write_all(&chunk).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
        }
        if paper.is_json() {
            paper.json(&json!({"id": self.id, "output": all}));
        }
        Ok(())
    }
}
