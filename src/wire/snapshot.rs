//! A snapshot as JSON: pages of rows, and the pointer that says which pages make it up.
//!
//! Law: a pointer names a turn and the pages that have, together with the turns after that one, all rows; and for each
//! page the turn after which it was written: a page that is older than that is not the one it means. A pointer of a newer format is an error
//! that says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::turn::DecodeError;
use crate::model::turn::FORMAT;
use crate::model::{Head, Row};

/// Some of the rows as they stood after a turn; what changed shortly before it may be missing.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Page {
    pub turn: u64,
    pub rows: Vec<Row>,
}

/// What a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pointer {
    pub format: u32,
    /// The turn after which the rows stood like this, but for those that a turn after it has changed.
    pub turn: u64,
    /// Where that turn, and nothing after it, had been written: what comes later is read from the log.
    pub sequence: u64,
    pub head: Head,
    /// Each page's key, and the turn it was written for.
    pub pages: BTreeMap<String, u64>,
}

/// Encodes a page; each row as it stands within a turn.
pub fn encode_page<'a>(turn: u64, rows: impl IntoIterator<Item = &'a Row>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Written<'a> {
        turn: u64,
        rows: Vec<&'a Row>,
    }
    encode(&Written { turn, rows: rows.into_iter().collect() })
}

/// Reads a page.
pub fn decode_page(bytes: &[u8]) -> Result<Page, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError::Malformed { what: "page", source })
}

/// Encodes a pointer.
pub fn encode_pointer(pointer: &Pointer) -> Vec<u8> {
    encode(pointer)
}

/// Reads a pointer, and refuses one of a newer format.
pub fn decode_pointer(bytes: &[u8]) -> Result<Pointer, DecodeError> {
    #[derive(Deserialize)]
    struct Numbers {
        format: u32,
        #[serde(default)]
        turn: u64,
    }
    let malformed = |source| DecodeError::Malformed { what: "snapshot", source };
    let Numbers { format, turn } = serde_json::from_slice(bytes).map_err(malformed)?;
    if format > FORMAT {
        return Err(DecodeError::Newer { number: turn, format, known: FORMAT });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("rows have text keys and memory takes all bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, Queue, Time};

    #[test]
    fn a_page_is_read_back_as_it_was_written() {
        let id = Id::parse("q").expect("a name");
        let rows = vec![Row::Queue(Queue { id, paused: true, since: Time(7) })];
        let bytes = encode_page(9, &rows);
        assert!(bytes.starts_with(br#"{"turn":9,"rows":[{"queue":{"#));
        assert_eq!(decode_page(&bytes).expect("a page"), Page { turn: 9, rows });
    }

    #[test]
    fn a_pointer_is_read_back_and_a_newer_one_refused() {
        let pages = BTreeMap::from([("pending.3-0".to_owned(), 9)]);
        let pointer = Pointer { format: FORMAT, turn: 9, sequence: 12, head: Head::empty(), pages };
        assert_eq!(decode_pointer(&encode_pointer(&pointer)).expect("a pointer"), pointer);
        let newer = encode_pointer(&Pointer { format: FORMAT + 1, ..pointer });
        assert!(matches!(decode_pointer(&newer), Err(DecodeError::Newer { number: 9, .. })));
    }
}
