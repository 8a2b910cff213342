//! `guard`: started by a runner beside itself, never by people.

use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::failure::Failure;
use crate::runner::backend::docker::Containers;
use crate::runner::backend::guard;

/// End a runner's work when the runner cannot
#[derive(Debug, Args)]
pub(super) struct Guard {
    /// Guard the containers of this start of a runner as well
    #[arg(long, value_name = "START", requires = "docker")]
    containers_of: Option<Uuid>,
    /// The socket of their engine
    #[arg(long, value_name = "SOCKET")]
    docker: Option<String>,
    /// The runner's directory, where the guard of its next start takes over from this one
    #[arg(long, value_name = "DIR", requires = "containers_of")]
    home: Option<PathBuf>,
}

impl Guard {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let home = self.home;
        let containers = self.containers_of.zip(self.docker);
        let containers = containers.map(|(begun, host)| Containers { host, begun, home });
        guard::stand(containers).await.map_err(|why| Failure::Broken(format!("guard of a runner: {why}")))
    }
}
