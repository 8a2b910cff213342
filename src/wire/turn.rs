//! Turns and rows as JSON: the form they have in every table.
//!
//! Law: decoding what was encoded gives an equal turn. Each row is encoded once, and the very bytes that stand
//! in the turn are the ones a snapshot keeps, so the log and the rows cannot tell two stories. A turn of a newer
//! format is an error that says so; fields of tasks, runners and the pool that this version does not know survive.

use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::turn::FORMAT;
use crate::model::{Change, Fact, Head, Row, Time, TurnId, TurnRecord};

/// A turn as bytes, with the place of every row within them.
#[derive(Debug, Clone)]
pub struct EncodedTurn {
    bytes: Vec<u8>,
    /// One for each change; empty for a delete.
    rows: Vec<Range<usize>>,
    facts: Range<usize>,
}

/// Why bytes are not a turn or a row.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "turn {number} has format {format}, the newest this version reads is {known}; run the version that wrote it, or a newer one"
    )]
    Newer { number: u64, format: u32, known: u32 },
    #[error("decode {what}: {source}")]
    Malformed { what: &'static str, source: serde_json::Error },
}

impl EncodedTurn {
    /// The whole turn.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole turn, to be sent.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The row that change number `index` puts; `None` if it deletes.
    pub fn row(&self, index: usize) -> Option<&[u8]> {
        self.rows.get(index).filter(|place| !place.is_empty()).map(|place| &self.bytes[place.clone()])
    }

    /// The list of facts; `None` if there are none.
    pub fn facts(&self) -> Option<&[u8]> {
        (!self.facts.is_empty()).then(|| &self.bytes[self.facts.clone()])
    }
}

/// Encodes a turn.
pub fn encode(turn: &TurnRecord) -> EncodedTurn {
    let mut bytes = Vec::with_capacity(256 + 512 * turn.changes.len() + 256 * turn.facts.len());
    let TurnRecord { format, number, id, epoch, at, released, .. } = *turn;
    write(&mut bytes, &Opening { format, number, id, epoch, at, released });
    bytes.pop(); // the closing brace: changes and facts go inside

    let mut rows = Vec::with_capacity(turn.changes.len());
    if !turn.changes.is_empty() {
        bytes.extend_from_slice(b",\"changes\":[");
        for change in &turn.changes {
            if !rows.is_empty() {
                bytes.push(b',');
            }
            rows.push(write_change(&mut bytes, change));
        }
        bytes.push(b']');
    }
    let mut facts = 0..0;
    if !turn.facts.is_empty() {
        bytes.extend_from_slice(b",\"facts\":");
        facts = write(&mut bytes, &turn.facts);
    }
    bytes.push(b'}');
    EncodedTurn { bytes, rows, facts }
}

/// Reads a turn, and refuses one of a newer format by name even if its fields look familiar.
pub fn decode(bytes: &[u8]) -> Result<TurnRecord, DecodeError> {
    let newer = |number, format| DecodeError::Newer { number, format, known: FORMAT };
    match read::<TurnRecord>("turn", bytes) {
        Ok(turn) if turn.format > FORMAT => Err(newer(turn.number, turn.format)),
        Ok(turn) => Ok(turn),
        Err(why) => match read::<Numbers>("turn", bytes) {
            Ok(Numbers { number, format }) if format > FORMAT => Err(newer(number, format)),
            _ => Err(why),
        },
    }
}

/// Reads one row.
pub fn decode_row(bytes: &[u8]) -> Result<Row, DecodeError> {
    read("row", bytes)
}

/// Encodes one row, exactly as it stands within a turn.
pub fn encode_row(row: &Row) -> Vec<u8> {
    encode_plain(row)
}

/// How many bytes [`encode_row`] makes of a row.
pub fn length_of_row(row: &Row) -> usize {
    struct Length(usize);
    impl std::io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, row).expect("rows have text keys and nothing is written");
    length.0
}

/// Reads the facts of one turn.
pub fn decode_facts(bytes: &[u8]) -> Result<Vec<Fact>, DecodeError> {
    read("facts", bytes)
}

/// Reads a head.
pub fn decode_head(bytes: &[u8]) -> Result<Head, DecodeError> {
    read("head", bytes)
}

/// Encodes a head.
pub fn encode_head(head: &Head) -> Vec<u8> {
    encode_plain(head)
}

/// What a turn says before its changes.
#[derive(Serialize)]
struct Opening {
    format: u32,
    number: u64,
    id: TurnId,
    epoch: u32,
    at: Time,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    released: bool,
}

/// What every format of a turn says of itself.
#[derive(serde::Deserialize)]
struct Numbers {
    #[serde(default)]
    number: u64,
    format: u32,
}

fn write_change(bytes: &mut Vec<u8>, change: &Change) -> Range<usize> {
    match change {
        Change::Put(row) => {
            bytes.extend_from_slice(b"{\"put\":");
            let place = write(bytes, row);
            bytes.push(b'}');
            place
        }
        Change::Delete(_) => {
            write(bytes, change);
            0..0
        }
    }
}

fn write<T: Serialize>(bytes: &mut Vec<u8>, value: &T) -> Range<usize> {
    let start = bytes.len();
    serde_json::to_writer(&mut *bytes, value).expect("rows have text keys and memory takes all bytes");
    start..bytes.len()
}

fn encode_plain<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, value);
    bytes
}

fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError::Malformed { what, source })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{Id, Key, Lifecycle, LifecycleState, Queue, QueueId};

    fn id(text: &str) -> Id {
        Id::parse(text).expect("a name")
    }

    fn turn() -> TurnRecord {
        let queue = Queue { id: id("q"), paused: true, since: Time(7) };
        let lifecycle = Lifecycle {
            id: id("t"),
            kind: crate::model::Kind::Job,
            queue: id("q"),
            tenant: id("x"),
            state: LifecycleState::Pending,
            outcome: None,
            reason: Some("said \"no\"".into()),
            runner: None,
            attempt: 0,
            token: None,
            at: Time(9),
            waited_ms: None,
            ran_ms: None,
            exit_code: None,
        };
        TurnRecord {
            format: FORMAT,
            number: 3,
            id: TurnId { leader: Uuid::nil(), counter: 4 },
            epoch: 1,
            at: Time(9),
            released: true,
            changes: vec![
                Change::Put(Row::Queue(queue)),
                Change::Delete(Key::Task(id("t"))),
                Change::Delete(Key::Pool),
                Change::Put(Row::Spec { id: id("t"), body: "{\"a\":1}".into() }),
            ],
            facts: vec![Fact::Task(lifecycle), Fact::BuildsSafe],
        }
    }

    #[test]
    fn a_turn_is_read_back_as_it_was_written() {
        for turn in [turn(), TurnRecord { changes: vec![], facts: vec![], released: false, ..turn() }] {
            let encoded = encode(&turn);
            assert_eq!(decode(encoded.bytes()).expect("a turn"), turn);
            // The spliced form is the one the model's own derive writes.
            assert_eq!(encoded.bytes(), serde_json::to_vec(&turn).expect("encodes"));
        }
    }

    #[test]
    fn the_rows_and_facts_of_a_turn_can_be_cut_out_of_its_bytes() {
        let encoded = encode(&turn());
        let row = decode_row(encoded.row(0).expect("a row is put")).expect("a row");
        assert_eq!(row.key(), Key::Queue(QueueId::parse("q").expect("a name")));
        assert_eq!(encoded.row(0).expect("a row is put"), encode_row(&row));
        assert_eq!(length_of_row(&row), encode_row(&row).len());
        assert_eq!(encoded.row(1), None);
        assert_eq!(decode_facts(encoded.facts().expect("facts")).expect("facts"), turn().facts);
    }

    #[test]
    fn a_newer_format_is_refused_with_its_number_whatever_else_it_says() {
        let familiar = encode(&TurnRecord { format: FORMAT + 1, ..turn() });
        let strange = br#"{"format":7,"number":12,"moves":{"a":[1]}}"#;
        let said = decode(familiar.bytes()).expect_err("newer").to_string();
        assert!(
            said.starts_with(&format!(
                "turn 3 has format {}, the newest this version reads is {FORMAT}",
                FORMAT + 1
            )),
            "{said}"
        );
        let said = decode(strange).expect_err("newer").to_string();
        assert!(said.starts_with("turn 12 has format 7"), "{said}");
        let said = decode(b"{\"format\":1}").expect_err("incomplete").to_string();
        assert!(said.contains("missing field"), "{said}");
    }

    #[test]
    fn fields_of_rows_that_a_newer_version_wrote_survive_a_rewrite() {
        let task = r#"{"task":{"id":"t","shape":{"kind":"job","queue":"q","resources":{"cpu":1,"memory":2}},
            "tenant":"x","limits":{"max_attempts":3},"content":"00000000-0000-0000-0000-000000000000",
            "sequence":1,"submitted":2,"state":{"pending":{"since":2}},"colour":"red","nested":{"a":[1,null]}}}"#;
        let runner = r#"{"runner":{"id":"r","incarnation":"i","offer":{"kinds":["job"],"slots":1},"cost":0.5,
            "standing":"ready","registered":1,"rack":{"row":7}}}"#;
        let pool = r#"{"pool":{"frozen":null,"paused_since":3,"motto":"festina lente"}}"#;
        for (text, name, pointer) in [
            (task, "colour", "/task/nested/a/1"),
            (runner, "rack", "/runner/rack/row"),
            (pool, "motto", "/pool/motto"),
        ] {
            let row = decode_row(text.as_bytes()).expect("a row");
            let again = encode_row(&row);
            assert!(String::from_utf8_lossy(&again).contains(name));
            let before: serde_json::Value = serde_json::from_str(text).expect("json");
            let after: serde_json::Value = serde_json::from_slice(&again).expect("json");
            assert_eq!(after.pointer(pointer), before.pointer(pointer));
            assert_eq!(decode_row(&again).expect("a row"), row);
        }
    }
}
