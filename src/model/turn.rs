//! A turn as the table keeps it: everything that was decided at once.
//!
//! Law: turn n+1 stands directly after turn n, whole or not at all. Applying a turn's changes to the rows
//! before it gives the rows after it, whoever applies them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fact::Fact;
use super::{Key, Row, Time};

/// The newest form of a turn this version writes and reads.
pub const FORMAT: u32 = 2;

/// Who decided a turn: the leader, and a number it never uses twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TurnId {
    pub leader: Uuid,
    pub counter: u64,
}

/// One committed turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    pub format: u32,
    pub number: u64,
    pub id: TurnId,
    pub epoch: u32,
    /// Log time.
    pub at: Time,
    /// The leader's last turn: whoever follows may take over at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
}

/// One row to put or to delete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Put(Row),
    Delete(Key),
}

impl Change {
    /// The key of the row it is about.
    pub fn key(&self) -> Key {
        match self {
            Change::Put(row) => row.key(),
            Change::Delete(key) => key.clone(),
        }
    }
}

/// The last turn of a table. Turn 0 is the empty table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub number: u64,
    pub id: TurnId,
    pub epoch: u32,
    pub at: Time,
    #[serde(default)]
    pub released: bool,
}

impl Head {
    /// The head of a table nothing was written to.
    pub fn empty() -> Self {
        let id = TurnId { leader: Uuid::nil(), counter: 0 };
        Self { number: 0, id, epoch: 1, at: Time(0), released: true }
    }
}

impl TurnRecord {
    /// This turn as the head of its table.
    pub fn head(&self) -> Head {
        Head { number: self.number, id: self.id, epoch: self.epoch, at: self.at, released: self.released }
    }
}
