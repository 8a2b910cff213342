//! A runner in Rust: each task's command in a container of its image where a container engine answers, and as a
//! process of this machine where none does.
//!
//!     cargo run --example runner -- http://127.0.0.1:8080 my-runner

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore::model::RunnerId;
use longshore::runner::Runner;
use longshore::runner::backend::process::THIS_PROGRAM;
use longshore::runner::backend::{Backend, DockerBackend, ProcessBackend, docker, guard};
use tokio::signal::unix::{SignalKind, signal};

/// Between asking work to stop and ending it.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Back ends start this program again, beside it, to end their work should it be stopped or die.
    if guard::stand_if_called().await? {
        return Ok(());
    }
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let id = arguments.next().unwrap_or_else(|| "example".to_owned());
    let data_dir = std::env::temp_dir().join(format!("longshore-{id}"));
    let runner = Runner::builder()
        .url(url)
        .id(&id)
        .data_dir(&data_dir)
        .cpu(2.0)
        .memory(4 << 30)
        .grace(GRACE)
        .leave_wait(Duration::from_secs(1))
        .backend(backend(id.parse()?, data_dir).await?)
        .build()
        .await?;
    let mut terminated = signal(SignalKind::terminate())?;
    let asked = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    };
    Ok(runner.run_until(asked).await?)
}

async fn backend(id: RunnerId, home: PathBuf) -> Result<Arc<dyn Backend>, Box<dyn Error>> {
    let mut settings = docker::Settings::new(id);
    settings.timeout_grace = GRACE;
    // Killed and started again in time, it goes on with the containers it had.
    settings.home = Some(home);
    if let Ok(host) = std::env::var("DOCKER_HOST") {
        settings.host = host;
    }
    Ok(match DockerBackend::new(THIS_PROGRAM, settings).await {
        Ok(containers) => Arc::new(containers),
        Err(why) => {
            eprintln!("{why}; commands run as processes of this machine, whatever their image");
            Arc::new(ProcessBackend::new(THIS_PROGRAM, GRACE)?)
        }
    })
}
