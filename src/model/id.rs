//! Names: one validated, cheaply cloned string for tasks, runners, queues, tenants and classes.
//!
//! Law: an `Id` is always one NATS token and a legal KV key, `[A-Za-z0-9_=-]{1,128}`, so it can stand in a
//! subject, a key, a path and a label without escaping.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A validated name. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(Arc<str>);

/// The id of a task (a job or a build).
pub type TaskId = Id;
/// The id of a task that is a build.
pub type BuildId = Id;
/// The id of a runner.
pub type RunnerId = Id;
/// The id of a group of tasks.
pub type GroupId = Id;
/// The id of a queue.
pub type QueueId = Id;
/// The id of a tenant.
pub type TenantId = Id;
/// The id of a runner class.
pub type ClassId = Id;
/// The id of an intent.
pub type IntentId = Id;

/// Why a text is not a legal name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("is empty; a name has 1 to 128 characters of A-Z a-z 0-9 _ = -")]
    Empty,
    #[error("has {length} characters; at most 128 are allowed")]
    TooLong { length: usize },
    #[error("has {found:?} at position {position}; allowed are A-Z a-z 0-9 _ = -")]
    Illegal { found: char, position: usize },
}

impl Id {
    /// The longest legal name, in characters.
    pub const MAX: usize = 128;

    /// Checks `text` and makes a name of it.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'=' | b'-');
        if let Some(position) = text.bytes().position(|c| !legal(c)) {
            // All before it are of one byte.
            let found = text[position..].chars().next().expect("a character begins there");
            return Err(IdError::Illegal { found, position });
        }
        if text.len() > Self::MAX {
            return Err(IdError::TooLong { length: text.len() });
        }
        Ok(Self(text.into()))
    }

    /// Whether another copy of this name shares its text.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Reading)
    }
}

struct Reading;

impl Visitor<'_> for Reading {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
        Id::parse(text).map_err(|why| E::custom(format!("name {text:?} {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_illegal_name_is_refused_with_the_character_and_its_position() {
        assert_eq!(Id::parse("a.b"), Err(IdError::Illegal { found: '.', position: 1 }));
        assert_eq!(Id::parse(""), Err(IdError::Empty));
        assert_eq!(Id::parse(&"x".repeat(129)), Err(IdError::TooLong { length: 129 }));
        assert!(Id::parse("build-42_a=b").is_ok());
    }
}
