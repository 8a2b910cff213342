//! What a runner needs to know of a task to run it: what it asks of the machine, and what to start.
//!
//! Law: an amount the submission leaves out is 0 here. The default an operator set is the dispatcher's to
//! know; a runner that guessed it would refuse what fits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{ArtifactId, BuildId, Resources, Traceparent};

/// A task as its runner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkOrder {
    pub resources: Resources,
    pub arch: Arc<str>,
    pub os: Arc<str>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub tolerations: BTreeSet<Arc<str>>,
    /// The build a job belongs to.
    pub build: Option<BuildId>,
    /// The artifact it makes.
    pub output: Option<ArtifactId>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// The trace it belongs to.
    pub traceparent: Option<Traceparent>,
    pub image: Option<Arc<str>>,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    /// What a container is to see of the machine, each as `source:target` or `source:target:ro`.
    pub mounts: Vec<String>,
}
