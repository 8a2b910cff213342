//! Calls to a container engine: Docker, or Podman by its Docker-compatible socket.
//!
//! Law: nothing is concluded from silence. An engine that does not answer is asked again; only its own word that a
//! container has ended, or is not there, ends the wait for it.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerState};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

/// Where an engine usually listens.
pub const USUAL_SOCKET: &str = "unix:///var/run/docker.sock";
/// How long one call may take; waiting for an end and reading output may take for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// The attempts to remove a container that has ended; the next start of the runner tries again.
const REMOVALS: u32 = 20;

/// Why a container was not started.
#[derive(Debug)]
pub(super) struct Refusal {
    pub said: String,
    /// Whether what was asked for is wrong, not this engine.
    pub own_fault: bool,
}

/// One engine.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    docker: Docker,
}

impl Engine {
    /// Connects to the socket `host` and agrees on a version. The error says where and what to do.
    pub async fn connect(host: &str) -> Result<Self, String> {
        let told = |why: &dyn std::fmt::Display| {
            format!(
                "no container engine answers at {host}: {why}; start Docker or Podman, or name its socket with --docker unix:///…"
            )
        };
        let path = host.strip_prefix("unix://").unwrap_or(host);
        if !path.starts_with('/') {
            return Err(told(&"expected unix:// and a path"));
        }
        let docker = Docker::connect_with_unix(path, ANSWER_WITHIN.as_secs(), bollard::API_DEFAULT_VERSION)
            .map_err(|why| told(&why))?;
        Ok(Self { docker: docker.negotiate_version().await.map_err(|why| told(&why))? })
    }

    /// Whether the engine has the image.
    pub async fn has(&self, image: &str) -> Result<bool, String> {
        match self.docker.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(why) if status(&why) == Some(404) => Ok(false),
            Err(why) => Err(said(&why)),
        }
    }

    /// Fetches an image.
    pub async fn pull(&self, image: &str) -> Result<(), String> {
        // Without a tag an engine would fetch all of them.
        let name = image.rsplit('/').next().unwrap_or(image);
        let tag = if name.contains([':', '@']) { "" } else { "latest" };
        let options = CreateImageOptionsBuilder::new().from_image(image).tag(tag).build();
        let steps = self.docker.create_image(Some(options), None, None);
        steps.try_for_each(|_| async { Ok(()) }).await.map_err(|why| said(&why))
    }

    /// Makes a container and starts it. If that fails nothing of it is left.
    pub async fn run(&self, name: &str, body: ContainerCreateBody) -> Result<(), Refusal> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        self.docker.create_container(Some(options), body).await.map_err(|why| Refusal {
            said: said(&why),
            // What is asked for makes no sense to any engine: too little memory, say.
            own_fault: status(&why) == Some(400),
        })?;
        if let Err(why) = self.docker.start_container(name, None).await {
            self.until_removed(name).await;
            return Err(Refusal { said: said(&why), own_fault: false });
        }
        Ok(())
    }

    /// What a container writes, from its beginning.
    pub fn output(&self, name: &str) -> BoxStream<'static, Vec<u8>> {
        let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).build();
        let chunks = self.docker.clone().logs(name, Some(options)).boxed();
        chunks.filter_map(async |chunk| Some(chunk.ok()?.into_bytes().to_vec())).boxed()
    }

    /// Waits until a container has ended, and says how; nothing if it is not there.
    pub async fn ended(&self, name: &str) -> Option<ContainerState> {
        let mut silent = false;
        loop {
            let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
            // An end with another code than 0 is told as an error, like a connection that broke.
            let _ = self.docker.wait_container(name, Some(options)).next().await;
            match self.state(name).await {
                Ok(Some(state)) if state.running != Some(true) && state.restarting != Some(true) => {
                    return Some(state);
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(why) if !std::mem::replace(&mut silent, true) => {
                    tracing::warn!(container = name, %why, "the container engine does not answer; it is asked again");
                }
                Err(_) => {}
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// How a container is now; nothing if it is not there.
    pub async fn state(&self, name: &str) -> Result<Option<ContainerState>, String> {
        match self.docker.inspect_container(name, None).await {
            Ok(found) => Ok(Some(found.state.unwrap_or_default())),
            Err(why) if status(&why) == Some(404) => Ok(None),
            Err(why) => Err(said(&why)),
        }
    }

    /// Sends a signal until the engine took it, or there is nothing to send it to.
    pub async fn signal(&self, name: &str, signal: Signal) {
        let word = if signal == Signal::TERM { "SIGTERM" } else { "SIGKILL" };
        loop {
            let options = KillContainerOptionsBuilder::new().signal(word).build();
            match timeout(ANSWER_WITHIN, self.docker.kill_container(name, Some(options))).await {
                Ok(Ok(())) => return,
                // Not there, or not running.
                Ok(Err(why)) if matches!(status(&why), Some(404 | 409)) => return,
                _ => sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Takes a container away that may run, and returns when the engine says that it is not there.
    pub async fn until_removed(&self, name: &str) {
        while !self.try_remove(name).await {
            sleep(ASK_AGAIN).await;
        }
    }

    async fn try_remove(&self, name: &str) -> bool {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.docker.remove_container(name, Some(options)).await;
        removed.is_ok() || removed.is_err_and(|why| status(&why) == Some(404))
    }

    /// Takes a container away that has ended, or whose end nobody waits for.
    pub async fn remove(&self, name: &str) {
        for _ in 0..REMOVALS {
            if self.try_remove(name).await {
                return;
            }
            sleep(ASK_AGAIN).await;
        }
        tracing::warn!(
            container = name,
            "a container that has ended could not be removed; the next start of this runner tries again"
        );
    }

    /// The names of all containers with these labels, each with its labels.
    pub async fn labelled(
        &self,
        labels: &[(&str, &str)],
    ) -> Result<Vec<(String, HashMap<String, String>)>, String> {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = self.docker.list_containers(Some(options)).await.map_err(|why| said(&why))?;
        let named = found.into_iter().filter_map(|one| Some((one.id?, one.labels.unwrap_or_default())));
        Ok(named.collect())
    }
}

fn status(why: &Error) -> Option<u16> {
    match why {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// The engine's own words, without those around them.
fn said(why: &Error) -> String {
    match why {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}
