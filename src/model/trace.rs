//! The trace a task belongs to, as its producer says it in a `traceparent` (W3C Trace Context).
//!
//! Law: it decides nothing and refuses nothing: what is no `traceparent` is as good as none. It is passed on as it
//! came; one of a later version is passed on as version 00, with the parts of it that version 00 has.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whose doing a task is: `00-<trace>-<parent>-<flags>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent {
    /// The trace; not 0.
    trace: u128,
    /// The span that caused the task; not 0.
    parent: u64,
    flags: u8,
}

/// The bytes of version 00, which every later version begins with.
const LENGTH: usize = 55;
/// The flag that every version has: the trace is recorded.
const SAMPLED: u8 = 1;

impl Traceparent {
    /// The header, the field of a submission and the field of a row.
    pub const NAME: &str = "traceparent";
    /// The variable of the work's environment.
    pub const VARIABLE: &str = "TRACEPARENT";

    /// Reads what a producer said; nothing where that is no `traceparent`.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let mut parts = known.split('-');
        let mut next = |digits: usize| {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            parts.next().filter(|part| part.len() == digits && part.bytes().all(is_digit))
        };
        let (version, trace, parent, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let (rest, flags) = match version {
            "ff" => return None,
            "00" => (&text[LENGTH..], flags),
            _ => (text[LENGTH..].strip_prefix('-').map_or(&text[LENGTH..], |_| ""), flags & SAMPLED),
        };
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let parent = u64::from_str_radix(parent, 16).ok().filter(|parent| *parent != 0)?;
        rest.is_empty().then_some(Self { trace, parent, flags })
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.parent, self.flags)
    }
}

impl Serialize for Traceparent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Traceparent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no traceparent")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_a_producer_said_is_passed_on_as_it_came() {
        for said in [SAID, "00-00000000000000000000000000000001-0000000000000001-03"] {
            assert_eq!(Traceparent::parse(said).expect("well-formed").to_string(), said);
        }
    }

    #[test]
    fn a_later_version_is_passed_on_as_far_as_this_one_goes() {
        for later in [SAID.replacen("00", "cc", 1), SAID.replacen("00", "01", 1) + "-what-comes-later"] {
            assert_eq!(Traceparent::parse(&later).map(|read| read.to_string()).as_deref(), Some(SAID));
        }
        let flags = SAID.replacen("00", "cc", 1).replace("-01", "-ff");
        assert_eq!(Traceparent::parse(&flags).map(|read| read.to_string()).as_deref(), Some(SAID));
    }

    #[test]
    fn what_is_no_traceparent_is_as_good_as_none() {
        for malformed in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-0001",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902é7-01",
            "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Traceparent::parse(malformed), None, "{malformed:?}");
        }
    }
}
