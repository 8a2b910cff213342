//! Pieces of output as JSON.

use serde::Serialize;

use super::Malformed;
use super::fields::{Fields, Required, json};
use crate::model::OutputPiece;

/// The most pieces in one payload.
pub const MOST_PIECES: usize = 100;
/// The most bytes of an attempt's output that can be named.
pub const MOST_OUTPUT: u64 = 1 << 30;

#[derive(Serialize)]
struct PieceJson<'a> {
    id: &'a str,
    token: String,
    from: u64,
    text: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    last: bool,
}

impl<'a> PieceJson<'a> {
    fn of(piece: &'a OutputPiece) -> Self {
        let OutputPiece { id, token, from, text, last } = piece;
        Self { id: id.as_str(), token: token.to_string(), from: *from, text, last: *last }
    }
}

#[derive(Serialize)]
struct PiecesJson<'a> {
    output: Vec<PieceJson<'a>>,
}

/// Writes pieces; the path names the runner.
pub fn write_pieces(pieces: &[OutputPiece]) -> Vec<u8> {
    super::message::bytes(&PiecesJson { output: pieces.iter().map(PieceJson::of).collect() })
}

/// Reads pieces: `{"output": [{"id", "token", "from", "text", "last"}]}`.
pub fn read_pieces(body: &[u8]) -> Result<Vec<OutputPiece>, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    fields.objects("output", MOST_PIECES)?.iter().map(read).collect()
}

/// Writes one piece.
pub fn write_piece(piece: &OutputPiece) -> Vec<u8> {
    super::message::bytes(&PieceJson::of(piece))
}

/// Reads one piece.
pub fn read_piece(body: &[u8]) -> Result<OutputPiece, Malformed> {
    let value = json(body)?;
    read(&Fields::of_payload(&value)?)
}

fn read(fields: &Fields<'_>) -> Result<OutputPiece, Malformed> {
    let text = fields.text("text").required(fields, "text")?;
    let from = fields.number("from")?.unwrap_or(0);
    if from.saturating_add(text.len() as u64) > MOST_OUTPUT {
        let why = format!("with its text that is beyond {MOST_OUTPUT} bytes; send less of it");
        return Err(Malformed::value(fields.path("from"), &from.into(), why));
    }
    Ok(OutputPiece {
        id: fields.id("id").required(fields, "id")?,
        token: fields.parsed("token").required(fields, "token")?,
        from,
        text: text.into(),
        last: fields.flag("last")?.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, Token};

    #[test]
    fn pieces_are_read_as_they_were_written() {
        let token = Token { epoch: 1, turn: 7, index: 0 };
        let piece = |from, last| OutputPiece {
            id: Id::parse("t1").expect("a name"),
            token,
            from,
            text: "a\n€".into(),
            last,
        };
        let pieces = [piece(0, false), piece(5, true)];
        assert_eq!(read_pieces(&write_pieces(&pieces)).expect("well-formed"), pieces);
        assert_eq!(read_piece(&write_piece(&pieces[1])).expect("well-formed"), pieces[1]);
        let far = br#"{"id": "t1", "token": "1.7.0", "from": 1073741824, "text": "x"}"#;
        let why = read_piece(far).expect_err("too far").to_string();
        assert!(why.contains("from") && why.contains("1073741824"), "{why}");
    }
}
