//! The rows of the table: everything the dispatcher knows.
//!
//! Law: a row is known by its key alone, and putting a row replaces what stood under its key. Two tables that
//! hold the same rows are the same table.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    ArtifactId, ClassId, Group, GroupId, Holding, Id, Intent, IntentId, Offer, QueueId, Reservation, Runner,
    RunnerId, Task, TaskId, Time,
};

/// One row. Rows are shared, never changed in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    Task(Arc<Task>),
    /// A task's body, written once beside its row.
    Spec {
        id: TaskId,
        body: Arc<str>,
    },
    Runner(Arc<Runner>),
    /// An artifact on a runner.
    Holding(Holding),
    Queue(Queue),
    Class(Arc<Class>),
    Intent(Arc<Intent>),
    EarlyCancel(EarlyCancel),
    /// A runner kept for a task.
    Reservation(Reservation),
    Group(Arc<Group>),
    Pool(Pool),
}

/// What a row is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    Task(TaskId),
    Spec(TaskId),
    Runner(RunnerId),
    Holding(RunnerId, ArtifactId),
    Queue(QueueId),
    Class(ClassId),
    Intent(IntentId),
    EarlyCancel(TaskId),
    Reservation(TaskId),
    Group(GroupId),
    Pool,
}

impl Row {
    /// The key this row stands under.
    pub fn key(&self) -> Key {
        match self {
            Row::Task(task) => Key::Task(task.id.clone()),
            Row::Spec { id, .. } => Key::Spec(id.clone()),
            Row::Runner(runner) => Key::Runner(runner.id.clone()),
            Row::Holding(holding) => Key::Holding(holding.runner.clone(), holding.artifact.clone()),
            Row::Queue(queue) => Key::Queue(queue.id.clone()),
            Row::Class(class) => Key::Class(class.id.clone()),
            Row::Intent(intent) => Key::Intent(intent.id.clone()),
            Row::EarlyCancel(cancel) => Key::EarlyCancel(cancel.id.clone()),
            Row::Reservation(reservation) => Key::Reservation(reservation.task.clone()),
            Row::Group(group) => Key::Group(group.id.clone()),
            Row::Pool(_) => Key::Pool,
        }
    }
}

impl Key {
    /// All kinds of rows.
    pub const KINDS: [&'static str; 11] = [
        "task",
        "spec",
        "runner",
        "holding",
        "queue",
        "class",
        "intent",
        "early_cancel",
        "reservation",
        "group",
        "pool",
    ];

    /// The word for the kind of row: the first part of a key as text.
    pub fn kind(&self) -> &'static str {
        match self {
            Key::Task(_) => "task",
            Key::Spec(_) => "spec",
            Key::Runner(_) => "runner",
            Key::Holding(..) => "holding",
            Key::Queue(_) => "queue",
            Key::Class(_) => "class",
            Key::Intent(_) => "intent",
            Key::EarlyCancel(_) => "early_cancel",
            Key::Reservation(_) => "reservation",
            Key::Group(_) => "group",
            Key::Pool => "pool",
        }
    }

    /// What the row is about, if that has one name.
    pub fn id(&self) -> Option<&Id> {
        match self {
            Key::Task(id)
            | Key::Spec(id)
            | Key::Runner(id)
            | Key::Queue(id)
            | Key::Class(id)
            | Key::Intent(id)
            | Key::EarlyCancel(id)
            | Key::Reservation(id)
            | Key::Group(id) => Some(id),
            Key::Holding(..) | Key::Pool => None,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())?;
        match (self, self.id()) {
            (Key::Holding(runner, artifact), _) => write!(f, ".{runner}.{artifact}"),
            (_, Some(id)) => write!(f, ".{id}"),
            (_, None) => Ok(()),
        }
    }
}

/// What an operator said of a queue. A queue nobody said anything of has no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    pub id: QueueId,
    pub paused: bool,
    /// Since when it has been as it is.
    pub since: Time,
}

/// A kind of runner that was seen once and has left: until it is forgotten, what it could run is not `never_fits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    pub id: ClassId,
    pub offer: Arc<Offer>,
    /// When a runner of it was last here.
    pub last_seen: Time,
}

/// A cancel that arrived before the submission it is meant for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyCancel {
    pub id: TaskId,
    pub reason: Arc<str>,
    /// It ends only a submission that is older than this in the inbox.
    pub sequence: u64,
    pub at: Time,
}

/// What holds for the whole pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Why nothing is decided any more, if so.
    pub frozen: Option<Arc<str>>,
    /// Since when some running build has had no room for a job of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsafe_since: Option<Time>,
    /// Since when an operator has paused the whole pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<Time>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl Pool {
    /// Whether an operator has paused the whole pool: nothing is placed but jobs of running builds.
    pub fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }
}

/// Fields of a row that this version does not know; they survive a rewrite.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "nearly every row has none: one word instead of three")]
pub struct Extra(Option<Box<BTreeMap<String, serde_json::Value>>>);

impl Extra {
    /// The bytes they take as they are written.
    pub fn written(&self) -> usize {
        let Some(fields) = &self.0 else { return 0 };
        serde_json::to_vec(fields).map_or(0, |bytes| bytes.len())
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.as_deref();
        let mut map = serializer.serialize_map(Some(fields.map_or(0, BTreeMap::len)))?;
        for (name, value) in fields.into_iter().flatten() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
        Ok(Self((!fields.is_empty()).then(|| Box::new(fields))))
    }
}
