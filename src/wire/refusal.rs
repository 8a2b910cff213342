//! What the dispatcher answers over NATS when it does not do what a runner asked: the error document
//! `{"error": {"code": "…", "detail": "…"}}`.
//!
//! Law: a reply is either the documented payload or this document, and nothing else has a field `error`. `code`
//! is stable and made for programs, the same words as in the problems over HTTP; `detail` is for people.

use serde::Serialize;

use super::fields::{Fields, json};
use super::message::bytes;

/// The request cannot be read: the same words will never be taken.
pub const MALFORMED: &str = "malformed";
/// The table takes nothing at the moment.
pub const FROZEN: &str = "frozen";
/// No runner of that name is known: register.
pub const UNKNOWN_RUNNER: &str = "unknown_runner";
/// Another incarnation of the runner is known.
pub const CONFLICT: &str = "conflict";

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} [{code}]")]
pub struct Refusal {
    /// One of the codes of this module, or one a newer dispatcher knows.
    pub code: String,
    pub detail: String,
}

impl Refusal {
    /// A refusal with one of the codes of this module.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self { code: code.to_owned(), detail: detail.into() }
    }
}

/// Writes the error document.
pub fn write(refusal: &Refusal) -> Vec<u8> {
    bytes(&Document { error: ErrorJson { code: &refusal.code, detail: &refusal.detail } })
}

/// Reads a reply as an error document; `None` if it is none. One that says less than it should is one still.
pub fn read(body: &[u8]) -> Option<Refusal> {
    let value = json(body).ok()?;
    let fields = Fields::of_payload(&value).ok()?;
    fields.get("error")?;
    let error = fields.object("error").ok().flatten();
    let text = |name| error.as_ref()?.text(name).ok().flatten().map(str::to_owned);
    Some(Refusal {
        code: text("code").unwrap_or_else(|| "unknown".to_owned()),
        detail: text("detail").unwrap_or_else(|| "no reason was given".to_owned()),
    })
}

#[derive(Serialize)]
struct Document<'a> {
    error: ErrorJson<'a>,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    code: &'a str,
    detail: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_document_is_read_back_and_a_payload_is_none() {
        let refusal = Refusal::new(CONFLICT, "another start of r1 is known");
        assert_eq!(
            String::from_utf8(write(&refusal)).expect("text"),
            r#"{"error":{"code":"conflict","detail":"another start of r1 is known"}}"#
        );
        assert_eq!(read(&write(&refusal)), Some(refusal));
        for body in [r#"{"number":1,"stop":[]}"#, r#"{"error":null}"#, "[]", "no JSON"] {
            assert_eq!(read(body.as_bytes()), None, "{body}");
        }
        assert_eq!(read(br#"{"error":"oh"}"#), Some(Refusal::new("unknown", "no reason was given")));
        assert_eq!(
            read(br#"{"error":{"code":"tired"}}"#),
            Some(Refusal::new("tired", "no reason was given"))
        );
    }
}
