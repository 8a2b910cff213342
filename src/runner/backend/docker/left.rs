//! Containers nobody watches any more: of an earlier start, and of a runner that is stopped or gone.
//!
//! Law: a container is gone on with only if its labels name the attempt and its command is known to have begun.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::{ContainerState, ContainerStateStatusEnum};
use tokio::time::sleep;
use uuid::Uuid;

use super::super::Start;
use super::Settings;
use super::container::{BEGUN, RUNNER, TASK, TOKEN};
use super::engine::Engine;
use crate::model::Time;

/// How long a guard goes on trying once the runner is gone.
const TRIES: u32 = 600;
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The containers of one start of a runner, as its guard knows them.
#[derive(Debug, Clone)]
pub struct Containers {
    pub host: String,
    pub begun: Uuid,
    /// Where the guard of the next start finds this one, if what is left may be gone on with.
    pub home: Option<PathBuf>,
}

impl Containers {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { host: settings.host.clone(), begun: settings.begun, home: settings.home.clone() }
    }

    /// What a guard is called with.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let words = ["--containers-of", &self.begun.to_string(), "--docker", &self.host];
        let home = self.home.iter().flat_map(|home| ["--home".into(), home.clone().into_os_string()]);
        words.into_iter().map(OsString::from).chain(home).collect()
    }

    /// Those a guard was called for with `arguments`, if it was called for any.
    pub(in crate::runner::backend) fn named(arguments: &[OsString]) -> Option<Self> {
        let [_, begun, _, host, home @ ..] = arguments else { return None };
        let (host, begun) = (host.to_str()?.to_owned(), begun.to_str()?.parse().ok()?);
        Some(Self { host, begun, home: home.get(1).map(PathBuf::from) })
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

    async fn list(&self, engine: &Engine) -> Result<Vec<(String, HashMap<String, String>)>, String> {
        engine.labelled(&[(BEGUN, &self.begun.to_string())]).await
    }
}

/// What an engine says of a container that an earlier start began.
#[derive(Debug)]
pub(super) struct Found {
    /// The engine's own name for it.
    pub name: String,
    /// How long ago its command began.
    pub ran: Duration,
}

/// Finds the container of each of these attempts that was begun under this mark and whose command has begun, whether or
/// not it has ended.
pub(super) async fn find(
    engine: &Engine,
    settings: &Settings,
    mark: Uuid,
    begun: Vec<Start>,
) -> Result<Vec<(Start, Found)>, String> {
    let here = engine.labelled(&[(RUNNER, settings.runner.as_str()), (BEGUN, &mark.to_string())]).await?;
    let now = Time(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0));
    let mut found = Vec::new();
    for start in begun {
        let Some((name, _)) = here.iter().find(|(_, labels)| is_of(labels, &start)) else { continue };
        let state = engine.state(name).await?;
        if let Some(since) = state.and_then(|state| command_began(&state)) {
            found.push((start, Found { name: name.clone(), ran: now.since(since) }));
        }
    }
    Ok(found)
}

fn is_of(labels: &HashMap<String, String>, start: &Start) -> bool {
    let is = |label: &str, text: &str| labels.get(label).is_some_and(|found| found == text);
    is(TASK, start.held.id.as_str()) && is(TOKEN, &start.held.token.to_string())
}

/// When the command of a container began that runs or has ended by itself; nothing of one that was made and not
/// started, whose exit code would be 0.
fn command_began(state: &ContainerState) -> Option<Time> {
    use ContainerStateStatusEnum::{EXITED, PAUSED, RUNNING};
    let whole = matches!(state.status, Some(RUNNING | PAUSED | EXITED));
    state.started_at.as_deref().filter(|_| whole).and_then(|at| Time::parse_rfc3339(at).ok())
}

/// Removes the containers of this runner but for `mine`; says how many there were.
pub(super) async fn remove_others(
    engine: &Engine,
    settings: &Settings,
    mine: impl Fn(&str, &HashMap<String, String>) -> bool,
) -> Result<usize, String> {
    let of_runner = [(RUNNER, settings.runner.as_str())];
    let found = engine.labelled(&of_runner).await?.into_iter();
    let others: Vec<String> =
        found.filter(|(name, labels)| !mine(name, labels)).map(|(name, _)| name).collect();
    for name in &others {
        engine.remove(name).await;
    }
    if engine.labelled(&of_runner).await?.iter().any(|(name, _)| others.contains(name)) {
        return Err(format!("containers of an earlier start of {} could not be removed", settings.runner));
    }
    Ok(others.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_container_whose_command_began_can_be_gone_on_with() {
        use ContainerStateStatusEnum::{CREATED, DEAD, EXITED, RUNNING};
        let began = |status, at: &str| {
            let state = ContainerState {
                status: Some(status),
                started_at: Some(at.to_owned()),
                ..ContainerState::default()
            };
            command_began(&state).is_some()
        };
        let (never, once) = ("0001-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789Z");
        assert!(began(RUNNING, once) && began(EXITED, once));
        assert!(
            !began(CREATED, never) && !began(EXITED, never) && !began(CREATED, once) && !began(DEAD, once)
        );
        assert!(command_began(&ContainerState::default()).is_none());
    }
}
