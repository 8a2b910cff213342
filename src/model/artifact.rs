//! Artifacts: what tasks read and make, by name; which runner holds one; and how long a task waits for such a runner.
//!
//! Law: an artifact's name says nothing about where it is. Where it is stands in the holdings, one row for each
//! runner and artifact, so that news of one artifact is one small row.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{RunnerId, Time, text};

/// The name of an artifact: any text of 1 to 256 bytes, such as a digest. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactId(Arc<str>);

/// Why a text is not the name of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactIdError {
    #[error("is empty; an artifact's name has 1 to {} bytes", ArtifactId::MAX)]
    Empty,
    #[error("has {bytes} bytes; an artifact's name has at most {}", ArtifactId::MAX)]
    TooLong { bytes: usize },
}

impl ArtifactId {
    /// The longest name, in bytes.
    pub const MAX: usize = 256;

    /// Checks `text` and makes a name of it.
    pub fn parse(text: &str) -> Result<Self, ArtifactIdError> {
        match text.len() {
            0 => Err(ArtifactIdError::Empty),
            bytes if bytes > Self::MAX => Err(ArtifactIdError::TooLong { bytes }),
            _ => Ok(Self(text.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ArtifactId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ArtifactId {
    type Err = ArtifactIdError;

    fn from_str(text: &str) -> Result<Self, ArtifactIdError> {
        Self::parse(text)
    }
}

impl Serialize for ArtifactId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ArtifactId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|why| serde::de::Error::custom(format!("artifact {text:?} {why}")))
    }
}

/// One artifact on one runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub runner: RunnerId,
    pub artifact: ArtifactId,
    /// Place in the order in which holdings became known; the smallest of a runner is forgotten first.
    pub sequence: u64,
}

/// What a task reads and makes. Never both empty: such a task has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Named")]
pub struct Artifacts {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<ArtifactId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<ArtifactId>,
    /// Bytes of all the names as JSON writes them: whoever asks how large a task's row is reads none of them.
    #[serde(skip)]
    pub written: usize,
}

/// Artifacts as a row names them.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    inputs: Vec<ArtifactId>,
    #[serde(default)]
    output: Option<ArtifactId>,
}

impl From<Named> for Artifacts {
    fn from(Named { inputs, output }: Named) -> Self {
        let written = inputs.iter().chain(&output).map(|name| text::written(name.as_str())).sum();
        Self { inputs, output, written }
    }
}

impl Artifacts {
    /// The inputs and the output; nothing where both are empty.
    pub fn of(inputs: Vec<ArtifactId>, output: Option<ArtifactId>) -> Option<Arc<Self>> {
        (!inputs.is_empty() || output.is_some()).then(|| Arc::new(Named { inputs, output }.into()))
    }
}

/// How long a pending task waits for runners that hold something of its own. It begins once in a task's life, and
/// its ends are fixed when it begins; the first end only ever moves to an earlier time, and the second with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Until then only runners that hold its output may have it.
    pub cache_until: Time,
    /// From then on until this, also runners that hold one of its inputs; after it, any.
    pub deps_until: Time,
}

/// What a runner says about changes of the artifacts it holds, again and again until an answer confirms the number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArtifactNews {
    /// Grows with every change within one incarnation.
    pub number: u64,
    pub added: Vec<ArtifactId>,
    pub removed: Vec<ArtifactId>,
}
