//! Malformed: why a payload another program sent cannot be read.
//!
//! Law: it names the field by its path, shows what stood there, and says what was expected, so that whoever
//! wrote the payload can correct it without reading our code.

use std::fmt;

use super::json::Json;

/// A field that cannot be read. An empty `field` is the payload as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The path of the field: `resources.memory`, `reports[3].token`.
    pub field: String,
    /// What stood there, if it says something, and what was expected.
    pub message: String,
}

impl Malformed {
    /// The longest value that is repeated in a message, in characters.
    const SHOWN: usize = 64;

    /// Says of `field` what `message` says: `is missing`, `has 65 entries; at most 64 are allowed`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// Shows the value that stood in `field` and why it cannot be taken.
    pub fn value(field: impl Into<String>, value: &Json<'_>, why: impl fmt::Display) -> Self {
        let text = value.to_string();
        let shown: String = text.chars().take(Self::SHOWN).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        Self { field: field.into(), message: format!("({shown}{more}): {why}") }
    }

    /// Says something of the payload as a whole.
    pub fn payload(message: impl Into<String>) -> Self {
        Self::new("", message)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "the payload {}", self.message),
            field => write!(f, "field \"{field}\" {}", self.message),
        }
    }
}

impl std::error::Error for Malformed {}
