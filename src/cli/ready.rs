//! `ready`: would a server take a command now? For probes where nothing else speaks HTTP.
//!
//! Law: it asks once and says what it was told; whoever probes knows how often and how long to try.

use clap::Args;
use serde_json::json;

use super::Remote;
use super::failure::Failure;

/// Say whether a server would take a command now; if not, why, with an exit code other than 0
#[derive(Debug, Args)]
pub(super) struct Ready {
    #[command(flatten)]
    remote: Remote,
}

impl Ready {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, paper) = self.remote.open()?;
        client.text("/readyz").await?;
        if paper.is_json() {
            paper.json(&json!({"ready": true}));
        } else {
            paper.line("ready");
        }
        Ok(())
    }
}
