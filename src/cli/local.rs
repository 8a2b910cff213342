//! A whole Longshore in this process, on real parts: a table in a file, HTTP on a free port, runners that speak
//! to it over HTTP. `demo` and `bench` run on it.
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
use crate::runner::{Runner, RunnerConfig, RunnerError};

/// How long runners may take to register.
const REGISTER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A dispatcher and its runners.
#[derive(Debug)]
pub(super) struct Local {
    dispatcher: Running,
    stop: CancellationToken,
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
        let scratch = Scratch::below(base)?;
        let data = scratch.path.join("table").display().to_string();
        let own = [("server.listen", "127.0.0.1:0"), ("server.data", data.as_str())];
        let flags = own.iter().chain(settings).map(|(key, value)| Flag {
            name: key,
            key,
            value: (*value).to_owned(),
        });
        let settings = config::load(None, [], &flags.collect::<Vec<_>>())?;
        let stop = CancellationToken::new();
        let dispatcher = embedded::start(&settings, stop.clone()).await?;
        let stop_runners = CancellationToken::new();
        Ok(Self { dispatcher, stop, runners: JoinSet::new(), stop_runners, scratch })
    }

    /// Where its HTTP API answers.
    pub(super) fn url(&self) -> String {
        self.dispatcher.url()
    }

    /// Adds a runner.
    pub(super) fn add(&mut self, spec: RunnerSpec<'_>, backend: Arc<dyn Backend>) -> Result<(), Failure> {
        let id = RunnerId::parse(spec.id).expect("runners of the program have legal names");
        let offer = Offer {
            kinds: BTreeSet::from([Kind::Job, Kind::Build]),
            queues: BTreeSet::new(),
            arch: spec.arch.into(),
            os: "linux".into(),
            labels: Default::default(),
            taints: BTreeSet::new(),
            resources: Some(Resources::new(spec.cpu, spec.memory)),
            slots: spec.slots,
        };
        let data = self.scratch.path.join(spec.id);
        let config = RunnerConfig { cost: spec.cost, ..RunnerConfig::new(id, Arc::new(offer), data) };
        let link = HttpLink::new(&self.url()).map_err(|why| Failure::Broken(why.to_string()))?;
        self.runners.spawn(Runner::new(config, Arc::new(link), backend).run(self.stop_runners.clone()));
        Ok(())
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
        self.stop.cancel();
        self.dispatcher.finished().await;
        Ok(())
    }
}

/// A directory that goes with its owner.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn below(base: Option<&Path>) -> Result<Self, Failure> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = base.join(format!("longshore-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&path)
            .map_err(|why| Failure::Broken(format!("make directory {}: {why}", path.display())))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans up temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
