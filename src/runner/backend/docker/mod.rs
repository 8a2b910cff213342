//! Runs a task as a container, with Docker or with Podman by its Docker-compatible socket.
//!
//! Law: every container carries the id of the runner and of this start of it. The guard ends what runs past its time,
//! whether the runner is stopped or was killed; a start that comes before that goes on with it, under the same mark.
//! What else an earlier start left is removed before anything begins, and what a runner that ends in order leaves goes
//! with it. A container is removed after its end, and only then is the end told.

mod container;
mod engine;
mod left;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ContainerCreateBody;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::ending::Ending;
use super::guard::{Guard, Guarded};
use super::output::Tail;
use super::{Adopted, Backend, Start, StartFailed, Stops, Work};
use crate::model::{AttemptOutcome, End, Held, Resources, RunnerId};
use crate::runner::boottime;
use container::BEGUN;
pub use engine::USUAL_SOCKET;
use engine::{Engine, Refusal};
pub use left::Containers;
use left::Found;

/// How often, and after which pause, it is looked for what a killed runner's last requests may still bring.
const LOOKS: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long output is still read after a container has ended.
const READ_ON: Duration = Duration::from_secs(1);

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pull {
    /// When the engine does not have it.
    #[default]
    Missing,
    /// Before every start.
    Always,
    Never,
}

/// How containers are made.
#[derive(Debug, Clone)]
pub struct Settings {
    pub runner: RunnerId,
    /// The engine's socket, like `unix:///var/run/docker.sock`.
    pub host: String,
    pub pull: Pull,
    /// Directories of this machine that tasks may mount, and what lies in them.
    pub mounts: Vec<PathBuf>,
    /// The network containers join; the engine's own default if there is none.
    pub network: Option<String>,
    /// Between TERM and KILL of work that has run out of its time.
    pub timeout_grace: Duration,
    /// Tells this start of the runner from all others.
    pub begun: Uuid,
    /// The runner's own directory, the same at each start: with it a start goes on with what one that was killed had
    /// begun. Without it, containers end with their runner.
    pub home: Option<PathBuf>,
}

impl Settings {
    /// The usual settings of a start that begins now.
    pub fn new(runner: RunnerId) -> Self {
        Self {
            runner,
            host: USUAL_SOCKET.to_owned(),
            pull: Pull::default(),
            mounts: Vec::new(),
            network: None,
            timeout_grace: Duration::from_secs(10),
            begun: Uuid::now_v7(),
            home: None,
        }
    }
}

/// Runs containers.
#[derive(Debug, Clone)]
pub struct DockerBackend {
    engine: Engine,
    guard: Guard,
    settings: Arc<Settings>,
    /// The mark of the start whose containers are gone on with.
    taken_over: Arc<OnceLock<Uuid>>,
}

impl DockerBackend {
    /// Connects to the engine and starts `program` as the guard, as [`ProcessBackend::new`](super::ProcessBackend::new)
    /// does. The error is a sentence that says what to do.
    pub async fn new(program: impl AsRef<Path>, mut settings: Settings) -> Result<Self, String> {
        let engine = Engine::connect(&settings.host).await?;
        for mount in &mut settings.mounts {
            let real = mount.canonicalize();
            *mount = real.map_err(|why| format!("--mount {}: {why}", mount.display()))?;
        }
        if let Some(home) = &settings.home {
            let made = std::fs::create_dir_all(home);
            made.map_err(|why| {
                format!("make {}: {why}; give a directory this user may write", home.display())
            })?;
        }
        let (program, arguments) = (program.as_ref().to_owned(), Containers::of(&settings).arguments());
        let guard = tokio::task::spawn_blocking(move || Guard::start(&program, &arguments)).await;
        let guard = guard.expect("starting a guard does not panic").map_err(|why| why.to_string())?;
        Ok(Self { engine, guard, settings: settings.into(), taken_over: Arc::default() })
    }

    /// The guard of its containers.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// What its containers are known by.
    fn mark(&self) -> Uuid {
        *self.taken_over.get().unwrap_or(&self.settings.begun)
    }

    /// What an earlier start began and its guard still held. What is made from here on is guarded with it.
    async fn take_over(&self) -> Result<Option<Guarded>, String> {
        if self.settings.home.is_none() {
            return Ok(None);
        }
        let guard = self.guard.clone();
        let taken = tokio::task::spawn_blocking(move || guard.take_over()).await;
        let taken = taken.expect("taking over does not panic");
        // What the guard has taken over unheard would not be known by the same mark.
        let taken = taken.map_err(|why| format!("its guard does not say what it took over: {why}"))?;
        if let Some(Guarded { begun, .. }) = taken {
            self.taken_over.get_or_init(|| begun);
        }
        Ok(taken)
    }

    fn watch(&self, container: Container, start: Start, ending: Ending) -> Work {
        let watch = Watch {
            output: self.engine.output(&container.name),
            container,
            guard: self.guard.clone(),
            tail: Tail::of(start.output),
            stops: start.stops,
            ending,
            resources: start.order.resources.clone(),
        };
        Work { group: None, end: Box::pin(watch.until_end()) }
    }

    /// Removes what the engine may still make of what it was asked for when its runner was killed. No token is started
    /// twice, so none of these names is used again.
    fn remove_late(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let engine = self.engine.clone();
        tokio::spawn(async move {
            for _ in 0..LOOKS {
                for name in &names {
                    engine.remove(name).await;
                }
                sleep(LOOK_AGAIN).await;
            }
        });
    }

    async fn bring(&self, image: &str) -> Result<(), StartFailed> {
        let failed = |doing: &str, why: String| StartFailed::here(format!("{doing} image {image}: {why}"));
        let has = || async { self.engine.has(image).await.map_err(|why| failed("look for", why)) };
        match self.settings.pull {
            Pull::Never if !has().await? => {
                let why = "this runner does not have it, and is told to pull none (--pull never)";
                Err(failed("start", why.to_owned()))
            }
            Pull::Missing if !has().await? => {
                self.engine.pull(image).await.map_err(|why| failed("pull", why))
            }
            Pull::Always => self.engine.pull(image).await.map_err(|why| failed("pull", why)),
            Pull::Never | Pull::Missing => Ok(()),
        }
    }

    /// Starts the container `name` of an attempt.
    async fn run(
        &self,
        name: &str,
        image: &str,
        body: ContainerCreateBody,
    ) -> Result<Container, StartFailed> {
        let container = Container { engine: self.engine.clone(), name: name.to_owned(), removed: false };
        match self.engine.run(name, body).await {
            Ok(()) => Ok(container),
            Err(Refusal { said, own_fault }) => {
                Err(StartFailed { reason: format!("start a container of {image}: {said}"), own_fault })
            }
        }
    }
}

#[async_trait]
impl Backend for DockerBackend {
    async fn start(&self, start: Start) -> Result<Work, StartFailed> {
        let (name, mut stops) = (container::name(&self.settings, &start), start.stops.clone());
        let image = start.order.image.as_deref().filter(|image| !image.is_empty());
        let Some(image) = image else {
            let reason = "spec.image is empty; this runner runs containers and needs an image";
            return Err(StartFailed::anywhere(reason));
        };
        let body = container::body(&self.settings, self.mark(), &start)?;
        tokio::select! {
            biased;
            _ = stops.next() => return Ok(stopped(format!("stopped before image {image} was there"))),
            there = self.bring(image) => there?,
        }
        let ending = Ending::new(start.order.timeout, self.settings.timeout_grace);
        let container = tokio::select! {
            biased;
            _ = stops.next() => None,
            container = self.run(&name, image, body) => Some(container?),
        };
        let Some(container) = container else {
            // What the engine was about to start is gone when this is told.
            self.engine.until_removed(&name).await;
            return Ok(stopped("stopped before its container had started".to_owned()));
        };
        Ok(self.watch(container, start, ending))
    }

    async fn clean_up(&self) -> Result<usize, String> {
        let mine = self.mark().to_string();
        left::remove_others(&self.engine, &self.settings, |_, labels| labels.get(BEGUN) == Some(&mine)).await
    }

    fn outlives(&self) -> bool {
        self.settings.home.is_some()
    }

    async fn adopt(&self, begun: Vec<Start>) -> Result<Adopted, String> {
        let taken = self.take_over().await?;
        let until = taken.map(|guarded| guarded.until).unwrap_or_default();
        let may_run = until > boottime();
        let named = |start: &Start| (start.held.clone(), container::name(&self.settings, start));
        let mut names: BTreeMap<Held, String> = begun.iter().map(named).collect();
        let begun = if may_run { begun } else { Vec::new() };
        let found = left::find(&self.engine, &self.settings, self.mark(), begun).await?;
        let kept: BTreeSet<&str> = found.iter().map(|(_, found)| found.name.as_str()).collect();
        let ended = left::remove_others(&self.engine, &self.settings, |name, _| kept.contains(name)).await?;
        found.iter().for_each(|(start, _)| _ = names.remove(&start.held));
        self.remove_late(names.into_values().collect());
        let work = found.into_iter().map(|(start, Found { name, ran })| {
            let ending = Ending::since(start.order.timeout, self.settings.timeout_grace, ran);
            let container = Container { engine: self.engine.clone(), name, removed: false };
            (start.held.clone(), self.watch(container, start, ending))
        });
        Ok(Adopted { until, work: work.collect(), ended })
    }

    fn hold_until(&self, until: Duration) {
        self.guard.hold_until(until);
    }

    async fn broken(&self) -> String {
        self.guard.gone().await;
        "the guard of its containers is gone".to_owned()
    }
}

/// An attempt that was stopped before anything of it ran.
fn stopped(message: String) -> Work {
    let end = End {
        outcome: AttemptOutcome::Cancelled,
        exit_code: None,
        message: Some(message.into()),
        artifacts: Vec::new(),
    };
    Work { group: None, end: Box::pin(std::future::ready(end)) }
}

/// A container that is to be removed. Dropped before, it is ended and removed.
struct Container {
    engine: Engine,
    name: String,
    removed: bool,
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let (engine, name) = (self.engine.clone(), std::mem::take(&mut self.name));
        // Where no runtime is left, the guard does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.remove(&name).await });
        }
    }
}

/// What is known of a running container while its end is awaited.
struct Watch {
    container: Container,
    guard: Guard,
    output: BoxStream<'static, Vec<u8>>,
    tail: Tail,
    stops: Stops,
    ending: Ending,
    resources: Resources,
}

impl Watch {
    async fn until_end(mut self) -> End {
        let (engine, name) = (self.container.engine.clone(), self.container.name.clone());
        let mut ended = std::pin::pin!(engine.ended(&name));
        let state = loop {
            let signal = tokio::select! {
                biased;
                state = &mut ended => break state,
                grace = self.stops.next() => self.ending.ask(grace),
                signal = self.ending.due() => Some(signal),
                Some(chunk) = self.output.next() => {
                    self.tail.keep(&chunk);
                    None
                }
            };
            if let Some(signal) = signal {
                let (engine, name) = (engine.clone(), name.clone());
                tokio::spawn(async move { engine.signal(&name, signal).await });
            }
        };
        if self.guard.is_over() {
            self.ending.was_over();
        }
        let rest = async {
            while let Some(chunk) = self.output.next().await {
                self.tail.keep(&chunk);
            }
        };
        let _ = timeout(READ_ON, rest).await;
        engine.remove(&name).await;
        self.container.removed = true;
        self.ending.end(container::exit(state, &self.resources), &self.tail)
    }
}
