//! Log time: milliseconds since the Unix epoch, as the turns carry it; and spans as people write them.
//!
//! Law: within one table, `Time` never goes backwards. Nothing in the core reads a clock; time arrives.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant in log time, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The time from `earlier` to this one; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339, in UTC, with milliseconds.
    pub fn rfc3339(self) -> String {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(at) => format!("{at:.3}"),
            Err(_) => self.0.to_string(),
        }
    }

    /// Reads an RFC 3339 date and time. The error says what is wrong with it.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        let at: jiff::Timestamp = text.parse().map_err(|why: jiff::Error| why.to_string())?;
        u64::try_from(at.as_millisecond()).map(Self).map_err(|_| "is before 1970".to_owned())
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Reads a span such as `"250ms"`, `"15s"`, `"5m"`, `"1h"`, `"2d"`; several parts add up (`"1h30m"`).
/// The error says what is expected.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a span like \"250ms\", \"15s\", \"5m\", \"1h30m\" or \"2d\"";
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
        let scale = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED.to_owned()),
        };
        millis = number
            .checked_mul(scale)
            .and_then(|part| millis.checked_add(part))
            .ok_or("is too long a span")?;
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// Writes a span the way [`parse_span`] reads it, with at most two units.
pub fn format_span(span: Duration) -> String {
    let millis = span.as_millis();
    let (big, big_unit, small, small_unit) = match millis {
        0..1_000 => return format!("{millis}ms"),
        1_000..60_000 => (millis / 1_000, "s", millis % 1_000, "ms"),
        60_000..3_600_000 => (millis / 60_000, "m", millis % 60_000 / 1_000, "s"),
        3_600_000..86_400_000 => (millis / 3_600_000, "h", millis % 3_600_000 / 60_000, "m"),
        _ => (millis / 86_400_000, "d", millis % 86_400_000 / 3_600_000, "h"),
    };
    if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
}

/// Spans in rows, payloads and configuration: written as text, read from text.
pub mod span {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a span as text.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_exact(*span))
    }

    /// Reads a span from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_span(&text).map_err(|why| D::Error::custom(format!("{text:?}: {why}")))
    }

    /// The same for a span that may be absent.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        /// Writes a span as text, or null.
        pub fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match span {
                Some(span) => serializer.serialize_str(&super::super::format_exact(*span)),
                None => serializer.serialize_none(),
            }
        }

        /// Reads a span from text, or nothing from null.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            Option::<String>::deserialize(deserializer)?
                .map(|text| {
                    super::super::parse_span(&text)
                        .map_err(|why| D::Error::custom(format!("{text:?}: {why}")))
                })
                .transpose()
        }
    }
}

fn format_exact(span: Duration) -> String {
    let short = format_span(span);
    if parse_span(&short) == Ok(span) { short } else { format!("{}ms", span.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them_and_written_back() {
        assert_eq!(parse_span("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_span("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_span("fast").is_err());
        assert!(parse_span("10").is_err());
        assert_eq!(format_span(Duration::from_secs(5400)), "1h30m");
        assert_eq!(format_exact(Duration::from_millis(3_600_001)), "3600001ms");
    }

    #[test]
    fn log_time_reads_as_rfc3339() {
        let at = Time::parse_rfc3339("2026-01-01T00:00:00Z").expect("a date");
        assert_eq!(at.rfc3339(), "2026-01-01T00:00:00.000Z");
        assert!(Time::parse_rfc3339("tomorrow").is_err());
    }
}
