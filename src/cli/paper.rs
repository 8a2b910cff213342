//! What a command writes: tables and sentences for people, JSON for machines, progress for the impatient.
//!
//! Law: standard output carries results and nothing else; colours and moving lines only ever go to a terminal.
//! A reader that has gone away (`| head`) is no error.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::Form;

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paper {
    json: bool,
    colours: bool,
    moving: bool,
}

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Strong,
    Faint,
    Good,
    Bad,
    Busy,
}

impl Paper {
    /// Paper in the form that was asked for.
    pub(super) fn new(form: Form) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json: form.json,
            colours: !form.json && !plain && std::io::stdout().is_terminal(),
            moving: !form.json && std::io::stderr().is_terminal(),
        }
    }

    /// Whether machines read it.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Whether lines may move: somebody watches.
    pub(super) fn is_moving(self) -> bool {
        self.moving
    }

    /// Writes one JSON value on one line.
    pub(super) fn json(self, value: &Value) {
        write(&format!("{value}\n"));
    }

    /// Writes a line for people.
    pub(super) fn line(self, text: impl AsRef<str>) {
        write(&format!("{}\n", text.as_ref()));
    }

    /// Writes rows under their headings; widths follow the longest entries.
    pub(super) fn table(self, headings: &[&str], rows: Vec<Vec<(String, Ink)>>) {
        write(&format!("{}\n", self.table_text(headings, rows)));
    }

    /// The same as text.
    pub(super) fn table_text(self, headings: &[&str], rows: Vec<Vec<(String, Ink)>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.colours {
            table.set_content_arrangement(ContentArrangement::Dynamic).enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(headings.iter().map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
        table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|(text, ink)| ink.cell(text))));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.to_string();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// The text in its colour, if there are colours.
    pub(super) fn ink(self, ink: Ink, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        match ink.code().filter(|_| self.colours) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// A bar for `length` steps; shown only on a terminal, and only when it takes longer than a moment.
    pub(super) fn progress(self, length: u64, what: &str) -> ProgressBar {
        let target = if self.moving { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        let style = ProgressStyle::with_template("{prefix} {bar:30.cyan/dim} {pos}/{len} {msg:.dim}");
        bar.set_style(style.expect("the template is legal").progress_chars("━━─"));
        bar.set_prefix(what.to_owned());
        bar
    }

    /// A turning sign with a message; shown only on a terminal.
    pub(super) fn spinner(self, what: &str) -> ProgressBar {
        let target = if self.moving { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{spinner:.cyan} {msg}").expect("the template is legal"));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

impl Ink {
    /// The colour of a word for a state or an outcome.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "succeeded" | "ready" => Ink::Good,
            "failed" | "exhausted" | "rejected" | "expired" | "lost" => Ink::Bad,
            "running" | "assigned" | "held" | "draining" => Ink::Busy,
            "cancelled" => Ink::Faint,
            _ => Ink::Plain,
        }
    }

    fn code(self) -> Option<&'static str> {
        match self {
            Ink::Plain => None,
            Ink::Strong => Some("1"),
            Ink::Faint => Some("2"),
            Ink::Good => Some("32"),
            Ink::Bad => Some("31"),
            Ink::Busy => Some("36"),
        }
    }

    fn cell(self, text: String) -> Cell {
        let cell = Cell::new(text);
        match self {
            Ink::Plain => cell,
            Ink::Strong => cell.add_attribute(Attribute::Bold),
            Ink::Faint => cell.add_attribute(Attribute::Dim),
            Ink::Good => cell.fg(comfy_table::Color::Green),
            Ink::Bad => cell.fg(comfy_table::Color::Red),
            Ink::Busy => cell.fg(comfy_table::Color::Cyan),
        }
    }
}

/// A length of time as people say it: `840ms`, `12.4s`, `3m05s`, `2h10m`.
pub(super) fn took(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds}ms"),
        1_000..60_000 => format!("{}.{}s", milliseconds / 1_000, milliseconds % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", milliseconds / 60_000, milliseconds % 60_000 / 1_000),
        _ => format!("{}h{:02}m", milliseconds / 3_600_000, milliseconds % 3_600_000 / 60_000),
    }
}

/// A count with thousands kept apart: `1_234_567` reads `1,234,567`.
pub(super) fn counted(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A field of a JSON object as text; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn write(text: &str) {
    // Whoever stops reading wants no more of it.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_counts_read_as_people_say_them() {
        assert_eq!(took(840), "840ms");
        assert_eq!(took(12_449), "12.4s");
        assert_eq!(took(185_000), "3m05s");
        assert_eq!(counted(1_234_567), "1,234,567");
        assert_eq!(counted(999), "999");
    }
}
