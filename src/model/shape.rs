//! What decides where a task may run: the shape a task asks for, and the offer a runner makes.
//!
//! Law: two tasks of equal shape fit on exactly the same runners at every moment. Inputs, output, tenant,
//! priority, build and times are not part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{GroupId, QueueId, Resources};

/// What a task is: an ordinary job, or a build that may submit jobs of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Job,
    Build,
}

impl Kind {
    /// The word in subjects, labels and payloads.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Job => "job",
            Kind::Build => "build",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a task asks of a runner. An empty `arch` or `os` matches any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shape {
    pub kind: Kind,
    pub queue: QueueId,
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub arch: Arc<str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub os: Arc<str>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tolerations: BTreeSet<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
}

impl Shape {
    /// Whether every runner that can run `wider` can also run this: it asks for nothing more.
    pub fn within(&self, wider: &Shape) -> bool {
        self.queue == wider.queue
            && self.group == wider.group
            && self.resources.within(&wider.resources)
            && (self.arch.is_empty() || self.arch == wider.arch)
            && (self.os.is_empty() || self.os == wider.os)
            && self.labels.iter().all(|(name, value)| wider.labels.get(name) == Some(value))
            && wider.tolerations.is_subset(&self.tolerations)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on queue {}: {}", self.kind, self.queue, self.resources)?;
        if !self.arch.is_empty() {
            write!(f, ", arch {}", self.arch)?;
        }
        if !self.os.is_empty() {
            write!(f, ", os {}", self.os)?;
        }
        self.labels.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))?;
        self.group.iter().try_for_each(|group| write!(f, ", group {group}"))
    }
}

/// What a runner offers, whatever it holds at the moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// The kinds it takes.
    pub kinds: BTreeSet<Kind>,
    /// The queues it takes from; empty means any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub queues: BTreeSet<QueueId>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub arch: Arc<str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub os: Arc<str>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub taints: BTreeSet<Arc<str>>,
    /// The only group it takes tasks of; none for a runner that takes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Amounts it has in all; `None` for an opaque back end, which is bounded by its slots alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The number of tasks it takes at once.
    pub slots: u32,
    /// What it does not name does not bound it: an empty arch or os, and a label it does not have, match any task.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
}
