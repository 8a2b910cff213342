//! The fencing token of an assignment: table epoch, turn, index within the turn.
//!
//! Law: tokens of one table grow with every assignment; an older token never regains a task.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Three whole numbers compared in order, written `epoch.turn.index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Raised by restore, import and unfreeze.
    pub epoch: u32,
    /// The turn that made the assignment.
    pub turn: u64,
    /// The place of the assignment within its turn.
    pub index: u32,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.turn, self.index)
    }
}

/// The text is not three whole numbers joined by dots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token {0:?} is not three whole numbers joined by dots, like 1.3118.0")]
pub struct TokenError(String);

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.split('.');
        let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let token = (|| {
            Some(Token { epoch: next()?.try_into().ok()?, turn: next()?, index: next()?.try_into().ok()? })
        })();
        match (token, parts.next()) {
            (Some(token), None) => Ok(token),
            _ => Err(TokenError(text.to_owned())),
        }
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_as_numbers_and_not_as_text() {
        let older: Token = "1.9.0".parse().expect("a token");
        let newer: Token = "1.10.0".parse().expect("a token");
        assert!(older < newer);
        assert!("1.9".parse::<Token>().is_err());
        assert!("1.9.0.0".parse::<Token>().is_err());
    }
}
