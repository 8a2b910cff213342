//! Digests: whether two replicas hold the same rows, said in a few bytes.
//!
//! Law: a digest depends on the rows alone, in the order of their keys and as they stand in every table; not on
//! who made it, nor on how the rows came to be. Equal digests mean equal rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::turn::encode_row;
use crate::model::Row;

/// What rows of one kind come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub rows: usize,
    pub digest: Uuid,
}

/// What a set of rows comes to: all of it, and by kind of row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    #[serde(flatten)]
    pub all: Digest,
    pub kinds: BTreeMap<String, Digest>,
}

impl Digests {
    /// Of rows in any order.
    pub fn of(mut rows: Vec<Row>) -> Self {
        rows.sort_by_cached_key(Row::key);
        let mut kinds: BTreeMap<String, Digest> = BTreeMap::new();
        for row in &rows {
            let kind = row.key().kind();
            let start = Digest { rows: 0, digest: Uuid::nil() };
            let sum = match kinds.get_mut(kind) {
                Some(sum) => sum,
                None => kinds.entry(kind.to_owned()).or_insert(start),
            };
            // Each row is summed with what came before it: order and boundaries count.
            *sum = Digest { rows: sum.rows + 1, digest: Uuid::new_v5(&sum.digest, &encode_row(row)) };
        }
        let all = kinds.iter().fold(Uuid::nil(), |all, (kind, sum)| {
            Uuid::new_v5(&Uuid::new_v5(&all, kind.as_bytes()), sum.digest.as_bytes())
        });
        Self { all: Digest { rows: rows.len(), digest: all }, kinds }
    }

    /// What is not equal, in words: what `here` has, and what `there` has instead.
    pub fn differences(&self, here: &str, other: &Self, there: &str) -> Vec<String> {
        let mut kinds: Vec<&String> = self.kinds.keys().chain(other.kinds.keys()).collect();
        kinds.sort();
        kinds.dedup();
        let mut found = Vec::new();
        for kind in kinds {
            let (ours, theirs) = (self.kinds.get(kind), other.kinds.get(kind));
            if ours == theirs {
                continue;
            }
            let rows = |sum: Option<&Digest>| sum.map_or(0, |sum| sum.rows);
            found.push(match (rows(ours), rows(theirs)) {
                (ours, theirs) if ours == theirs => format!("its {ours} {kind} rows say something else"),
                (ours, theirs) => format!("{here} has {ours} {kind} rows, {there} has {theirs}"),
            });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, Queue, Time};

    fn queue(name: &str, since: u64) -> Row {
        Row::Queue(Queue { id: Id::parse(name).expect("a name"), paused: true, since: Time(since) })
    }

    fn body(text: &str) -> Row {
        Row::Spec { id: Id::parse("t").expect("a name"), body: text.into() }
    }

    #[test]
    fn the_same_rows_come_to_the_same_in_any_order() {
        let some = Digests::of(vec![queue("a", 1), body("x"), queue("b", 2)]);
        assert_eq!(some, Digests::of(vec![queue("b", 2), queue("a", 1), body("x")]));
        assert_eq!(some.differences("it", &some, "the log"), Vec::<String>::new());
        let text = serde_json::to_string(&some).expect("plain data");
        assert_eq!(serde_json::from_str::<Digests>(&text).expect("the same"), some);
    }

    #[test]
    fn whatever_differs_is_named_by_its_kind() {
        let some = Digests::of(vec![queue("a", 1), body("x")]);
        let other = Digests::of(vec![queue("a", 2), body("x")]);
        assert_ne!(some.all.digest, other.all.digest);
        assert_eq!(some.differences("it", &other, "the log"), ["its 1 queue rows say something else"]);
        let fewer = Digests::of(vec![queue("a", 1)]);
        assert_eq!(fewer.differences("it", &some, "the log"), ["it has 0 spec rows, the log has 1"]);
    }
}
