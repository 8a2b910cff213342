//! Containers nobody watches any more: of an earlier start, and of a runner that is stopped or gone.

use std::time::Duration;

use tokio::time::sleep;
use uuid::Uuid;

use super::Settings;
use super::container::{BEGUN, RUNNER};
use super::engine::Engine;

/// How long a guard goes on trying once the runner is gone.
const TRIES: u32 = 600;
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The containers of one start of a runner, as its guard knows them.
#[derive(Debug, Clone)]
pub struct Containers {
    pub host: String,
    pub begun: Uuid,
}

impl Containers {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { host: settings.host.clone(), begun: settings.begun }
    }

    /// What a guard is called with.
    pub(super) fn arguments(&self) -> Vec<String> {
        vec!["--containers-of".to_owned(), self.begun.to_string(), "--docker".to_owned(), self.host.clone()]
    }

    /// Those a guard was called for with `arguments`, if it was called for any.
    pub(in crate::runner::backend) fn named(arguments: &[String]) -> Option<Self> {
        match arguments {
            [_, begun, _, host] => Some(Self { host: host.clone(), begun: begun.parse().ok()? }),
            _ => None,
        }
    }

    /// Ends all of them, once.
    pub async fn end(&self) -> Result<(), String> {
        let engine = Engine::connect(&self.host).await?;
        for (id, _) in self.list(&engine).await? {
            engine.signal(&id, rustix::process::Signal::KILL).await;
        }
        Ok(())
    }

    /// Ends and removes all of them, and waits for an engine that does not answer.
    pub async fn remove(&self) -> Result<(), String> {
        let mut last = Ok(());
        for _ in 0..TRIES {
            last = self.try_remove().await;
            if last.is_ok() {
                break;
            }
            sleep(ASK_AGAIN).await;
        }
        last
    }

    async fn try_remove(&self) -> Result<(), String> {
        let engine = Engine::connect(&self.host).await?;
        for (id, _) in self.list(&engine).await? {
            engine.remove(&id).await;
        }
        Ok(())
    }

    async fn list(
        &self,
        engine: &Engine,
    ) -> Result<Vec<(String, std::collections::HashMap<String, String>)>, String> {
        engine.labelled(&[(BEGUN, &self.begun.to_string())]).await
    }
}

/// Removes the containers of earlier starts of this runner; says how many there were.
pub(super) async fn remove_earlier(engine: &Engine, settings: &Settings) -> Result<usize, String> {
    let mine = settings.begun.to_string();
    let found = engine.labelled(&[(RUNNER, settings.runner.as_str())]).await?;
    let earlier: Vec<String> =
        found.into_iter().filter(|(_, labels)| labels.get(BEGUN) != Some(&mine)).map(|(id, _)| id).collect();
    for id in &earlier {
        engine.remove(id).await;
    }
    let left = engine.labelled(&[(RUNNER, settings.runner.as_str())]).await?;
    if left.iter().any(|(id, _)| earlier.contains(id)) {
        return Err(format!("containers of an earlier start of {} could not be removed", settings.runner));
    }
    Ok(earlier.len())
}
