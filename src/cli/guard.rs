//! `guard`: started by a runner beside itself, never by people.

use clap::Args;

use super::failure::Failure;
use crate::runner::backend::guard;

/// End a runner's work when the runner cannot
#[derive(Debug, Args)]
pub(super) struct Guard {}

impl Guard {
    pub(super) async fn run(self) -> Result<(), Failure> {
        guard::stand().await.map_err(|why| {
            Failure::Usage(format!(
                "guard: standard input is not a runner's socket ({why}); runners start this themselves"
            ))
        })
    }
}
