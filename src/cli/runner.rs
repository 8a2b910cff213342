//! `runner`: offers this machine, or a part of it, to a dispatcher.
//!
//! Law: what is not said is found out from the machine. A stop hands back what was not started, ends what runs,
//! and leaves; whatever a killed runner left is cleaned up by the next start in the same directory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::nats::NatsArgs;
use super::process::ProcessArgs;
use super::{LogArgs, key_value, machine, signals};
use crate::model::resources::{parse_cpu, parse_memory};
use crate::model::time::parse_span;
use crate::model::{ClassId, GroupId, IntentId, Kind, Offer, QueueId, Resources, RunnerId};
use crate::runner::backend::process::THIS_PROGRAM;
use crate::runner::backend::{Backend, DockerBackend, NoopBackend, docker};
use crate::runner::http::HttpLink;
use crate::runner::link::Link;
use crate::runner::nats::NatsLink;
use crate::runner::{Runner as Sdk, RunnerConfig, RunnerError};
use crate::telemetry::logs;

/// Offer this machine to a dispatcher and run what it assigns
#[derive(Debug, Args)]
pub(super) struct Runner {
    /// Where the server answers over HTTP; with --nats only the work is told [default: http://127.0.0.1:8080]
    #[arg(long, env = "LONGSHORE_URL", hide_env_values = true)]
    url: Option<String>,
    #[command(flatten)]
    nats: NatsArgs,
    /// Name of this runner [default: the machine's name]
    #[arg(long)]
    id: Option<RunnerId>,
    /// Cores to offer, like 2 or 0.5 or 500m [default: all this process may use]
    #[arg(long, value_parser = parse_cpu)]
    cpu: Option<u64>,
    /// Memory to offer, like 512MiB or 2GiB [default: all this process may use]
    #[arg(long, value_parser = parse_memory)]
    memory: Option<u64>,
    /// Another resource to offer, like gpu=2
    #[arg(long = "resource", value_name = "NAME=COUNT", value_parser = counted)]
    resources: Vec<(String, u64)>,
    /// Offer no amounts: its slots alone bound what it takes
    #[arg(long, conflicts_with_all = ["cpu", "memory", "resources"])]
    slots_only: bool,
    /// Tasks at once, whatever they ask for
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: u32,
    /// Architecture it offers [default: this machine's; of a cluster, the one its nodes have in common]
    #[arg(long)]
    arch: Option<String>,
    /// Operating system it offers [default: this machine's]
    #[arg(long)]
    os: Option<String>,
    /// A label tasks may ask for
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// Take only tasks that tolerate this
    #[arg(long = "taint", value_name = "TAINT")]
    taints: Vec<String>,
    /// Take only tasks from this queue [default: any]
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<QueueId>,
    /// Take only tasks of this group, and leave when it has nothing more for this runner
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupId>,
    /// Take only this kind: job or build [default: both]
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<KindArg>,
    /// Price of one placement here; the lowest is taken first
    #[arg(long, default_value_t = 1.0, value_parser = price)]
    cost: f64,
    /// The class of runner it belongs to
    #[arg(long)]
    class: Option<ClassId>,
    /// The intent it was started for
    #[arg(long, requires = "class")]
    intent: Option<IntentId>,
    /// Where it keeps what must survive it [default: a directory of its id in this user's state directory]
    #[arg(long)]
    data: Option<PathBuf>,
    /// What runs the work
    #[arg(long, value_enum, default_value_t = BackendArg::Process)]
    backend: BackendArg,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    docker: DockerArgs,
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    kubernetes: Box<super::kubernetes::KubernetesArgs>,
    /// Time between asking work to end and ending it
    #[arg(long, default_value = "10s", value_parser = parse_span)]
    grace: Duration,
    /// How long it may take until work runs, its image fetched; what takes longer has failed to start
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = start_timeout)]
    start_timeout: Duration,
    /// How much of what one task writes is kept with the dispatcher; 0 keeps the last lines alone
    #[arg(long, default_value = "1MiB", value_parser = parse_memory)]
    output_limit: u64,
    /// A variable, of the task or of this runner, whose value is masked in what tasks write
    #[arg(long = "mask", value_name = "NAME")]
    masked: Vec<String>,
    /// Leave when standard input ends: for programs that start runners and may die
    #[arg(long)]
    leave_on_eof: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum KindArg {
    Job,
    Build,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum BackendArg {
    /// Each task's command, as a process group of this machine
    Process,
    /// Each task's image and command, as a container of Docker or Podman
    Docker,
    /// Each task's image and command, as a Job of a Kubernetes cluster
    Kubernetes,
    /// Nothing: each task has succeeded at once
    Noop,
}

/// How the back end `docker` makes containers.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct DockerArgs {
    /// The engine's socket [default: unix:///var/run/docker.sock]
    #[arg(long = "docker", value_name = "SOCKET", env = "DOCKER_HOST", hide_env_values = true)]
    host: Option<String>,
    /// When images are fetched
    #[arg(long, value_enum, default_value_t = PullArg::Missing)]
    pull: PullArg,
    /// A directory that tasks may mount, with what lies in it [default: none]
    #[arg(long = "mount", value_name = "DIR")]
    mounts: Vec<PathBuf>,
    /// The network containers join [default: the engine's]
    #[arg(long)]
    network: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum PullArg {
    /// When the engine does not have it
    #[default]
    Missing,
    /// Before every start
    Always,
    /// Never
    Never,
}

impl Runner {
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::install(self.log.logging());
        let mut config = self.config()?;
        let (link, server) = self.link(&config.id).await?;
        let backend = self.open_backend(&mut config).await?;
        let stop = signals::stop_asked()?;
        if self.leave_on_eof {
            signals::stop_at_end_of_input(&stop);
        }
        tracing::info!(
            runner = %config.id, server, data = %config.data_dir.display(),
            offer = %config.offer.resources.clone().unwrap_or_default(), slots = config.offer.slots,
            arch = &*config.offer.arch, os = &*config.offer.os, "runner started"
        );
        Sdk::new(config, link, backend).run(stop).await.map_err(said)
    }

    /// The way to the dispatcher, and where that is.
    async fn link(&self, id: &RunnerId) -> Result<(Arc<dyn Link>, String), Failure> {
        let http = |url: &str| HttpLink::new(url).map_err(|why| Failure::Usage(format!("--url: {why}")));
        let Some(named) = self.nats.named(format!("runner-{id}"))? else {
            let url = self.url.as_deref().unwrap_or("http://127.0.0.1:8080");
            return Ok((Arc::new(http(url)?), url.to_owned()));
        };
        let told = self.url.as_deref().map(http).transpose()?.and_then(|link| link.url());
        let connection = named.connect().await?;
        let link = NatsLink::open(connection, named.names.clone(), id, told).await;
        Ok((Arc::new(link.map_err(|why| Failure::Broken(why.to_string()))?), named.place()))
    }

    /// What runs the work; of a cluster, what it offers comes with it.
    async fn open_backend(&self, config: &mut RunnerConfig) -> Result<Arc<dyn Backend>, Failure> {
        let broken = |name: &str, why: String| Failure::Broken(format!("--backend {name}: {why}"));
        Ok(match self.backend {
            BackendArg::Process => {
                let backend = self.process.open(self.grace, &config.id);
                Arc::new(backend.map_err(|why| broken("process", why))?)
            }
            BackendArg::Docker => {
                let mut settings = docker::Settings::new(config.id.clone());
                settings.timeout_grace = self.grace;
                settings.home = Some(config.data_dir.clone());
                settings.mounts.clone_from(&self.docker.mounts);
                settings.network.clone_from(&self.docker.network);
                if let Some(host) = &self.docker.host {
                    settings.host.clone_from(host);
                }
                settings.pull = match self.docker.pull {
                    PullArg::Missing => docker::Pull::Missing,
                    PullArg::Always => docker::Pull::Always,
                    PullArg::Never => docker::Pull::Never,
                };
                let backend = DockerBackend::new(THIS_PROGRAM, settings).await;
                Arc::new(backend.map_err(|why| broken("docker", why))?)
            }
            #[cfg(feature = "kubernetes")]
            BackendArg::Kubernetes => {
                let asked = super::kubernetes::Asked {
                    arch: self.arch.as_deref(),
                    os: self.os.as_deref(),
                    cpu: self.cpu,
                    memory: self.memory,
                    slots_only: self.slots_only,
                };
                let opened = self.kubernetes.open(&asked, self.grace, config).await;
                Arc::new(opened.map_err(|why| broken("kubernetes", why))?)
            }
            #[cfg(not(feature = "kubernetes"))]
            BackendArg::Kubernetes => {
                let why =
                    "this program was built without it; build it with `cargo build --features kubernetes`";
                return Err(Failure::Usage(format!("--backend kubernetes: {why}")));
            }
            BackendArg::Noop => Arc::new(NoopBackend),
        })
    }

    fn config(&self) -> Result<RunnerConfig, Failure> {
        let id = self.id.clone().unwrap_or_else(machine::name);
        let data_dir = match &self.data {
            Some(data) => data.clone(),
            None => {
                let state = machine::state_directory().ok_or_else(|| {
                    Failure::Usage(
                        "--data: neither XDG_STATE_HOME nor HOME is set; name a directory".to_owned(),
                    )
                })?;
                state.join(format!("runner-{id}"))
            }
        };
        let kinds: BTreeSet<Kind> = self.kinds.iter().map(|kind| kind.kind()).collect();
        let offer = Offer {
            kinds: if kinds.is_empty() { BTreeSet::from([Kind::Job, Kind::Build]) } else { kinds },
            queues: self.queues.iter().filter(|queue| queue.as_str() != "*").cloned().collect(),
            arch: self.arch.clone().unwrap_or_else(|| machine::arch().to_owned()).into(),
            os: self.os.clone().unwrap_or_else(|| machine::os().to_owned()).into(),
            labels: self
                .labels
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
            taints: self.taints.iter().map(|taint| taint.as_str().into()).collect(),
            group: self.group.clone(),
            resources: if self.slots_only { None } else { Some(self.resources()?) },
            slots: self.slots,
            open: false,
        };
        Ok(RunnerConfig {
            cost: self.cost,
            class: self.class.clone(),
            intent: self.intent.clone(),
            stop_grace: self.grace,
            start_timeout: self.start_timeout,
            output_limit: self.output_limit,
            masked: self.masked.clone(),
            ..RunnerConfig::new(id, Arc::new(offer), data_dir)
        })
    }

    fn resources(&self) -> Result<Resources, Failure> {
        let memory = self.memory.or_else(machine::memory);
        let memory = memory.ok_or_else(|| {
            Failure::Usage("--memory: this machine does not say how much it has".to_owned())
        })?;
        let mut resources = Resources::new(self.cpu.unwrap_or_else(machine::cpu), memory);
        resources.other = self.resources.iter().map(|(name, count)| (name.as_str().into(), *count)).collect();
        Ok(resources)
    }
}

impl KindArg {
    fn kind(self) -> Kind {
        match self {
            KindArg::Job => Kind::Job,
            KindArg::Build => Kind::Build,
        }
    }
}

fn counted(text: &str) -> Result<(String, u64), String> {
    let (name, count) = key_value(text)?;
    let count = count.parse().map_err(|_| "expected NAME=COUNT with a whole number".to_owned())?;
    Ok((name, count))
}

fn start_timeout(text: &str) -> Result<Duration, String> {
    let time = parse_span(text).map_err(|why| why.to_string())?;
    if time.is_zero() { Err("expected more than 0, like 10m".to_owned()) } else { Ok(time) }
}

fn price(text: &str) -> Result<f64, String> {
    let price: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if price.is_finite() && price >= 0.0 { Ok(price) } else { Err("expected 0 or more".to_owned()) }
}

fn said(why: RunnerError) -> Failure {
    match why {
        RunnerError::Refused { .. } => Failure::Usage(why.to_string()),
        RunnerError::Outbox(_) | RunnerError::StillThere(_) | RunnerError::Backend { .. } => {
            Failure::Broken(why.to_string())
        }
    }
}
