//! `completions`: teaches a shell the commands and their options.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::failure::Failure;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "For example: longshore completions bash > ~/.local/share/bash-completion/completions/longshore"
)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "longshore", &mut script);
        // Whoever stops reading wants no more of it.
        let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), &script);
        Ok(())
    }
}
