//! `guard`: started by a runner beside itself, never by people.

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
}

impl Guard {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let containers = self.containers_of.zip(self.docker).map(|(begun, host)| Containers { host, begun });
        guard::stand(containers).await.map_err(|why| Failure::Broken(format!("guard of a runner: {why}")))
    }
}
