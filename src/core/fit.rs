//! Fit: can this runner take this task, and if not, what exactly is in the way?
//!
//! Law: the planner, the verdict, the rule for builds and `why` all ask these functions, so an explanation can
//! never disagree with a placement. They look at one shape and one offer and know no other task or runner.

use std::fmt;
use std::sync::Arc;

use crate::model::resources::amount_text;
use crate::model::{GroupId, Kind, Offer, QueueId, Resources, Shape, TaskId, Time};

/// What tasks take of a runner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub resources: Resources,
    pub slots: u32,
}

impl Usage {
    /// Adds one task of `shape`.
    pub fn add(&mut self, shape: &Shape) {
        self.resources.add(&shape.resources);
        self.slots += 1;
    }

    /// Takes one task of `shape` away, which was added before.
    pub fn subtract(&mut self, shape: &Shape) {
        self.resources.subtract(&shape.resources);
        self.slots -= 1;
    }

    /// Whether nothing is taken.
    pub fn is_empty(&self) -> bool {
        self.slots == 0
    }
}

/// A named reason why a runner cannot take a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    Kind {
        needs: Kind,
    },
    Queue {
        needs: QueueId,
    },
    /// The runner is dedicated to a group.
    Group {
        takes: GroupId,
    },
    Arch {
        needs: Arc<str>,
        has: Arc<str>,
    },
    Os {
        needs: Arc<str>,
        has: Arc<str>,
    },
    Label {
        name: Arc<str>,
        needs: Arc<str>,
        has: Option<Arc<str>>,
    },
    Taint {
        taint: Arc<str>,
    },
    /// More of a resource than the whole runner has.
    TooLarge {
        resource: Arc<str>,
        needs: u64,
        has: u64,
    },
    /// More of a resource than is free at the moment.
    Busy {
        resource: Arc<str>,
        needs: u64,
        free: u64,
    },
    NoSlot {
        slots: u32,
    },
    Held {
        reason: Arc<str>,
    },
    Draining,
    Lost,
    /// Tasks are asked for there one by one, and nobody asks.
    NotAsking,
    /// The queue has a subscription: nothing on it is pushed to a runner.
    Pulled {
        queue: QueueId,
    },
    /// A program asks for the group's tasks by way of the runners it bound: nothing of it goes elsewhere.
    GroupPulled {
        group: GroupId,
    },
    /// The runner refused this very task, or it did not reach it, and it is not asked again yet.
    RefusedBefore,
    /// The task waits for runners that hold something of its own, and this one does not.
    HoldsNothingOfIt,
    /// It is kept for another task, which fits there at the latest at `fits_by` if that can be told.
    Reserved {
        task: TaskId,
        fits_by: Option<Time>,
    },
    /// The task's group is bound to as many runners as it may be, and this is none of them.
    GroupFull {
        group: GroupId,
        runners: usize,
    },
    /// Another task of the ordered group goes first.
    NotItsTurn {
        group: GroupId,
        first: TaskId,
    },
    /// Started here, the build would leave no room for a job of a running build.
    NoRoomForJobs {
        shape: Arc<Shape>,
    },
    /// Nothing that could hold the build has room for its jobs beside it.
    JobsNeverFit {
        shape: Arc<Shape>,
    },
}

impl Misfit {
    /// The word for it in payloads and labels.
    pub fn word(&self) -> &'static str {
        match self {
            Misfit::Kind { .. } => "kind",
            Misfit::Queue { .. } => "queue",
            Misfit::Arch { .. } => "arch",
            Misfit::Group { .. } => "group",
            Misfit::Os { .. } => "os",
            Misfit::Label { .. } => "label",
            Misfit::Taint { .. } => "taint",
            Misfit::TooLarge { .. } => "too_large",
            Misfit::Busy { .. } => "busy",
            Misfit::NoSlot { .. } => "no_slot",
            Misfit::Held { .. } => "held",
            Misfit::Draining => "draining",
            Misfit::Lost => "lost",
            Misfit::NotAsking => "not_asking",
            Misfit::Pulled { .. } => "pulled",
            Misfit::GroupPulled { .. } => "group_pulled",
            Misfit::RefusedBefore => "refused_before",
            Misfit::HoldsNothingOfIt => "holds_nothing_of_it",
            Misfit::Reserved { .. } => "reserved",
            Misfit::GroupFull { .. } => "group_full",
            Misfit::NotItsTurn { .. } => "not_its_turn",
            Misfit::NoRoomForJobs { .. } => "no_room_for_jobs",
            Misfit::JobsNeverFit { .. } => "jobs_never_fit",
        }
    }

    /// How near the runner came to fitting: one of the wrong kind is farther than one too small, and nearest is one that
    /// only has to become free.
    pub fn closeness(&self) -> u8 {
        match self {
            Misfit::Kind { .. } => 0,
            Misfit::Queue { .. }
            | Misfit::Group { .. }
            | Misfit::Pulled { .. }
            | Misfit::GroupPulled { .. } => 1,
            Misfit::Os { .. } => 2,
            Misfit::Arch { .. } => 3,
            Misfit::Taint { .. } => 4,
            Misfit::Label { .. } => 5,
            Misfit::TooLarge { .. } => 6,
            Misfit::Lost => 7,
            Misfit::RefusedBefore | Misfit::Draining | Misfit::Held { .. } => 8,
            _ => 9,
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Kind { needs } => write!(f, "takes no {needs}s"),
            Misfit::Queue { needs } => write!(f, "takes nothing from queue {needs}"),
            Misfit::Group { takes } => write!(f, "takes only tasks of group {takes}"),
            Misfit::Arch { needs, has } => write!(f, "needs arch {needs}; it has {}", or_none(has)),
            Misfit::Os { needs, has } => write!(f, "needs os {needs}; it has {}", or_none(has)),
            Misfit::Label { name, needs, has } => {
                write!(f, "needs label {name}={needs}; it has {}", has.as_deref().map_or("none", |has| has))
            }
            Misfit::Taint { taint } => write!(f, "does not tolerate taint {taint}"),
            Misfit::TooLarge { resource, needs, has } => write!(
                f,
                "needs {resource} {}; it has {resource} {}",
                amount_text(resource, *needs),
                amount_text(resource, *has)
            ),
            Misfit::Busy { resource, needs, free } => write!(
                f,
                "needs {resource} {}; {} is free now",
                amount_text(resource, *needs),
                amount_text(resource, *free)
            ),
            Misfit::NoSlot { slots } => write!(f, "all {slots} slots are taken"),
            Misfit::Held { reason } => write!(f, "is held: {reason}"),
            Misfit::Draining => f.write_str("is draining"),
            Misfit::Lost => f.write_str("is lost"),
            Misfit::NotAsking => f.write_str("has no request open"),
            Misfit::Pulled { queue } => {
                write!(
                    f,
                    "is sent nothing from queue {queue}, which has a subscription (queues.{queue}.delivery)"
                )
            }
            Misfit::GroupPulled { group } => write!(f, "is not bound to group {group}, which is pulled"),
            Misfit::RefusedBefore => f.write_str("refused this task and is not asked again yet"),
            Misfit::HoldsNothingOfIt => f.write_str("holds nothing of what the task waits for"),
            Misfit::Reserved { task, fits_by: None } => write!(f, "is kept for {task}"),
            Misfit::Reserved { task, fits_by: Some(at) } => {
                write!(f, "is kept for {task}, which fits by {at}")
            }
            Misfit::GroupFull { group, runners } => {
                write!(
                    f,
                    "is not among the {runners} runners that group {group} is bound to, and it may have no more"
                )
            }
            Misfit::NotItsTurn { group, first } => {
                write!(f, "cannot have it before {first}, which goes first in group {group}")
            }
            Misfit::NoRoomForJobs { shape } => {
                write!(f, "started here it would leave no room for a {shape} of a running build")
            }
            Misfit::JobsNeverFit { shape } => {
                write!(f, "no runner would have room for its {shape} beside it")
            }
        }
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none named" } else { text }
}

/// What keeps a task of `shape` from ever running on a runner that makes `offer`, were it empty.
pub fn never(shape: &Shape, offer: &Offer) -> Option<Misfit> {
    if !offer.kinds.contains(&shape.kind) {
        return Some(Misfit::Kind { needs: shape.kind });
    }
    if !offer.queues.is_empty() && !offer.queues.contains(&shape.queue) {
        return Some(Misfit::Queue { needs: shape.queue.clone() });
    }
    if let Some(takes) = offer.group.as_ref().filter(|takes| shape.group.as_ref() != Some(*takes)) {
        return Some(Misfit::Group { takes: takes.clone() });
    }
    let bounds = |has: &str| !(offer.open && has.is_empty());
    if !shape.os.is_empty() && shape.os != offer.os && bounds(&offer.os) {
        return Some(Misfit::Os { needs: shape.os.clone(), has: offer.os.clone() });
    }
    if !shape.arch.is_empty() && shape.arch != offer.arch && bounds(&offer.arch) {
        return Some(Misfit::Arch { needs: shape.arch.clone(), has: offer.arch.clone() });
    }
    if let Some(taint) = offer.taints.iter().find(|taint| !shape.tolerations.contains(*taint)) {
        return Some(Misfit::Taint { taint: taint.clone() });
    }
    let other_label = shape.labels.iter().find(|(name, value)| match offer.labels.get(*name) {
        Some(has) => has != *value,
        None => !offer.open,
    });
    if let Some((name, needs)) = other_label {
        let has = offer.labels.get(name).cloned();
        return Some(Misfit::Label { name: name.clone(), needs: needs.clone(), has });
    }
    if offer.slots == 0 {
        return Some(Misfit::NoSlot { slots: 0 });
    }
    let shortage = offer.resources.as_ref().and_then(|has| shape.resources.shortage(has))?;
    Some(Misfit::TooLarge { resource: shortage.name.into(), needs: shortage.needs, has: shortage.has })
}

/// What keeps a task of `shape` from running beside `used` on a runner that makes `offer`; `never` was asked before.
pub fn room(shape: &Shape, offer: &Offer, used: &Usage) -> Option<Misfit> {
    if used.slots >= offer.slots {
        return Some(Misfit::NoSlot { slots: offer.slots });
    }
    let has = offer.resources.as_ref()?;
    let (needed, held) = (&shape.resources, &used.resources);
    let short = |name: &str, needs: u64, has: u64, held: u64| {
        let free = has.saturating_sub(held);
        (needs > free).then(|| Misfit::Busy { resource: name.into(), needs, free })
    };
    let other = |(name, needs): (&Arc<str>, &u64)| short(name, *needs, has.amount(name), held.amount(name));
    short("cpu", needed.cpu, has.cpu, held.cpu)
        .or_else(|| short("memory", needed.memory, has.memory, held.memory))
        .or_else(|| needed.other.iter().find_map(other))
}

/// The first field in which `offer` has less than `least`, with both values: what fits `least` may not fit it.
pub fn less(offer: &Offer, least: &Offer) -> Option<String> {
    let says = |field: &str, has: &dyn fmt::Display, needs: &dyn fmt::Display| {
        Some(format!("{field} ({has}) is less than {needs}"))
    };
    if let Some(kind) = least.kinds.difference(&offer.kinds).next() {
        return says("kinds", &format!("without {kind}"), &kind);
    }
    let missing = least.queues.difference(&offer.queues).next();
    if !offer.queues.is_empty() && (least.queues.is_empty() || missing.is_some()) {
        return says("queues", &"not all", &missing.map_or("any queue", |queue| queue.as_str()));
    }
    for (field, has, needs) in [("arch", &offer.arch, &least.arch), ("os", &offer.os, &least.os)] {
        if !needs.is_empty() && has != needs {
            return says(field, &or_none(has), needs);
        }
    }
    let label = least.labels.iter().find(|(name, value)| offer.labels.get(*name) != Some(value));
    if let Some((name, value)) = label {
        let has = offer.labels.get(name).map_or("none", |has| has);
        return says(&format!("labels.{name}"), &has, value);
    }
    if let Some(taint) = offer.taints.difference(&least.taints).next() {
        return says("taints", taint, &"no such taint");
    }
    if offer.slots < least.slots {
        return says("slots", &offer.slots, &least.slots);
    }
    let has = offer.resources.as_ref()?;
    let Some(needs) = &least.resources else {
        return says("resources", has, &"none named, bounded by slots alone");
    };
    let short = needs.shortage(has)?;
    let text = |amount| amount_text(short.name, amount);
    says(&format!("resources.{}", short.name), &text(short.has), &text(short.needs))
}
