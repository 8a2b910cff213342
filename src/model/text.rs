//! How long a text is as it is written.
//!
//! Law: exactly what JSON takes within its quotes.

/// The bytes of a text within JSON.
pub fn written(text: &str) -> usize {
    // Nearly every text is written as it is; whether this one is can be seen of many bytes at once.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (written_byte(byte) == 1));
    if is_plain { text.len() } else { text.bytes().map(written_byte).sum() }
}

fn written_byte(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}
