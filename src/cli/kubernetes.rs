//! `runner --backend kubernetes`: which cluster, and what of it is offered.
//!
//! Law: what the operator names is offered as named; what is not named is what the cluster's machines have together, of the
//! architecture they have in common, or of any. Nothing is taken from the machine the runner happens to be on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::key_value;
use crate::model::{Offer, Resources};
use crate::runner::RunnerConfig;
use crate::runner::backend::KubernetesBackend;
use crate::runner::backend::kubernetes::{STOP_BY, Settings, Wanted};

/// How long a cluster may take to remove a Job whose pod does not run.
const UNDONE_WITHIN: Duration = Duration::from_secs(60);

/// How the back end `kubernetes` finds its cluster and makes Jobs.
#[derive(Debug, Clone, Args)]
pub(super) struct KubernetesArgs {
    /// The file that names clusters [default: as kubectl, or the cluster it runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of that file [default: the current one]
    #[arg(long)]
    context: Option<String>,
    /// The namespace of its Jobs [default: the context's]
    #[arg(long, short)]
    namespace: Option<String>,
    /// What the cluster calls a count that tasks name, like gpu=amd.com/gpu [default: gpu=nvidia.com/gpu]
    #[arg(long = "resource-name", value_name = "NAME=RESOURCE", value_parser = key_value)]
    resource_names: Vec<(String, String)>,
}

/// What the operator says of the runner.
pub(super) struct Asked<'a> {
    pub arch: Option<&'a str>,
    pub os: Option<&'a str>,
    pub cpu: Option<u64>,
    pub memory: Option<u64>,
    pub slots_only: bool,
}

impl KubernetesArgs {
    /// Finds the cluster, and lets the runner offer what it is asked to offer of it.
    pub(super) async fn open(
        &self,
        asked: &Asked<'_>,
        grace: Duration,
        config: &mut RunnerConfig,
    ) -> Result<KubernetesBackend, String> {
        let usual = Settings::new(config.id.clone());
        let named = self.resource_names.iter();
        let mut resource_names = usual.resource_names.clone();
        resource_names.extend(named.map(|(name, theirs)| (name.as_str().into(), theirs.clone())));
        let settings = Settings {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            resource_names,
            taints: config.offer.taints.clone(),
            running_within: config.start_timeout,
            timeout_grace: grace,
            ..usual
        };
        let backend = KubernetesBackend::connect(settings).await?;
        let os = asked.os.unwrap_or("linux");
        let mut offer = Offer {
            arch: asked.arch.unwrap_or_default().into(),
            os: os.into(),
            ..Offer::clone(&config.offer)
        };
        let (mut machines, given) = (None, asked.cpu.zip(asked.memory));
        if asked.slots_only || given.is_some() {
            offer.resources = given.map(|(cpu, memory)| Resources { cpu, memory, ..named_counts(&offer) });
        } else {
            let found = backend.capacity(Wanted { arch: asked.arch, os }).await?;
            machines = Some(found.machines);
            offer.arch = asked.arch.or(found.arch.as_deref()).unwrap_or_default().into();
            let mut resources = found.resources;
            resources.cpu = asked.cpu.unwrap_or(resources.cpu);
            resources.memory = asked.memory.unwrap_or(resources.memory);
            resources.other.extend(named_counts(&offer).other);
            offer.resources = Some(resources);
        }
        tracing::info!(cluster = backend.place(), nodes = machines, "cluster found");
        config.offer = Arc::new(offer);
        config.stop_by = STOP_BY;
        // The back end knows what a pod waits for: it is the first to say so.
        config.start_timeout += UNDONE_WITHIN;
        Ok(backend)
    }
}

/// The counts the operator named.
fn named_counts(offer: &Offer) -> Resources {
    offer.resources.clone().unwrap_or_default()
}
