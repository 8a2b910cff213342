//! A whole Longshore in this process, on real parts: a table in a file or on NATS, HTTP on free ports, runners
//! that speak to it. `demo` and `bench` run on it.
//!
//! Law: nothing of it outlives it. Runners leave before the dispatcher stops, and the directory goes last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::embedded::{self, Running};
use super::failure::Failure;
use super::paper::text;
use super::runners;
use crate::config::{self, Flag};
use crate::model::{Kind, Offer, Resources, RunnerId};
use crate::runner::backend::Backend;
use crate::runner::http::HttpLink;
use crate::runner::link::Link;
use crate::runner::{Runner, RunnerConfig, RunnerError};
use crate::runtime::Stopped;

/// How long runners may take to register.
const REGISTER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Dispatchers and their runners.
#[derive(Debug)]
pub(super) struct Local {
    /// Each with what stops it, in the order they were started.
    dispatchers: Vec<(Running, CancellationToken)>,
    runners: JoinSet<Result<(), RunnerError>>,
    stop_runners: CancellationToken,
    scratch: Scratch,
}

/// What a runner of it is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunnerSpec<'a> {
    pub(super) id: &'a str,
    pub(super) arch: &'a str,
    /// Thousandths of a core.
    pub(super) cpu: u64,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) slots: u32,
    pub(super) cost: f64,
}

impl Local {
    /// Starts a dispatcher in a directory of its own below `base`, by default where temporary files are.
    /// `settings` are keys of the configuration with their values.
    pub(super) async fn start(
        base: Option<&Path>,
        settings: &[(&'static str, &str)],
    ) -> Result<Self, Failure> {
        let mut local = Self::empty(base)?;
        let data = local.scratch.path.join("table").display().to_string();
        let own = [("server.listen", "127.0.0.1:0"), ("server.data", data.as_str())];
        let own: Vec<_> = own.iter().chain(settings).copied().collect();
        let stop = CancellationToken::new();
        let dispatcher = embedded::start(&set(&own)?, stop.clone()).await?;
        local.join(dispatcher, stop);
        Ok(local)
    }

    /// Nothing but a directory below `base`: dispatchers are still to join.
    pub(super) fn empty(base: Option<&Path>) -> Result<Self, Failure> {
        Ok(Self {
            dispatchers: Vec::new(),
            runners: JoinSet::new(),
            stop_runners: CancellationToken::new(),
            scratch: Scratch::below(base)?,
        })
    }

    /// Takes in a dispatcher that `stop` stops.
    pub(super) fn join(&mut self, dispatcher: Running, stop: CancellationToken) {
        self.dispatchers.push((dispatcher, stop));
    }

    /// Stops the dispatcher that joined first, and waits until it has.
    pub(super) async fn stop_first(&mut self) -> Stopped {
        let (dispatcher, stop) = self.dispatchers.remove(0);
        stop.cancel();
        dispatcher.finished().await
    }

    /// Where the HTTP API of the dispatcher that joined last answers.
    pub(super) fn url(&self) -> String {
        self.dispatchers.last().expect("a dispatcher has joined").0.url()
    }

    /// Adds a runner that speaks HTTP.
    pub(super) fn add(&mut self, spec: RunnerSpec<'_>, backend: Arc<dyn Backend>) -> Result<(), Failure> {
        let link = HttpLink::new(&self.url()).map_err(|why| Failure::Broken(why.to_string()))?;
        self.add_on(spec, Arc::new(link), backend);
        Ok(())
    }

    /// Adds a runner that speaks over `link`.
    pub(super) fn add_on(&mut self, spec: RunnerSpec<'_>, link: Arc<dyn Link>, backend: Arc<dyn Backend>) {
        let id = RunnerId::parse(spec.id).expect("runners of the program have legal names");
        let offer = Offer {
            kinds: BTreeSet::from([Kind::Job, Kind::Build]),
            queues: BTreeSet::new(),
            arch: spec.arch.into(),
            os: "linux".into(),
            labels: Default::default(),
            taints: BTreeSet::new(),
            group: None,
            resources: Some(Resources::new(spec.cpu, spec.memory)),
            slots: spec.slots,
            open: false,
        };
        let data = self.scratch.path.join(spec.id);
        let config = RunnerConfig { cost: spec.cost, ..RunnerConfig::new(id, Arc::new(offer), data) };
        self.runners.spawn(Runner::new(config, link, backend).run(self.stop_runners.clone()));
    }

    /// Waits until all its runners are ready.
    pub(super) async fn ready(&mut self, client: &Client) -> Result<(), Failure> {
        let registered = async {
            loop {
                let known = runners::list(client).await?;
                if known.iter().filter(|runner| text(runner, "state") == "ready").count()
                    >= self.runners.len()
                {
                    return Ok(());
                }
                if let Some(ended) = self.runners.try_join_next() {
                    return Err(Failure::Broken(format!("a runner ended before it registered: {ended:?}")));
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        let late = || Failure::Broken(format!("the runners did not register within {REGISTER_WITHIN:?}"));
        timeout(REGISTER_WITHIN, registered).await.map_err(|_| late())?
    }

    /// Stops all of it in order.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.stop_runners.cancel();
        while let Some(ended) = self.runners.join_next().await {
            ended.expect("a runner does not panic").map_err(|why| Failure::Broken(why.to_string()))?;
        }
        // Those that follow go first: none of them has to take over.
        for (dispatcher, stop) in self.dispatchers.into_iter().rev() {
            stop.cancel();
            dispatcher.finished().await;
        }
        Ok(())
    }
}

/// The defaults with some keys set.
pub(super) fn set(keys: &[(&'static str, &str)]) -> Result<config::Settings, Failure> {
    let flag = |(key, value): &(&'static str, &str)| Flag { name: key, key, value: (*value).to_owned() };
    Ok(config::load(None, [], &keys.iter().map(flag).collect::<Vec<_>>())?)
}

/// A directory that goes with its owner.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn below(base: Option<&Path>) -> Result<Self, Failure> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = base.join(format!("longshore-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&path)
            .map_err(|why| Failure::Broken(format!("make directory {}: {why}", path.display())))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans up temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
