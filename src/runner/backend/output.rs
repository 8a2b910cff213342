//! The last lines a process wrote, read without ever making it wait.
//!
//! Law: the pipe is always drained, whatever is kept; memory is bounded by what is kept.

use std::collections::VecDeque;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::OutputWriter;

/// How much of the output is kept, in bytes.
pub const KEPT_BYTES: usize = 4096;
/// How much of the output is kept, in lines.
pub const KEPT_LINES: usize = 40;

/// What was written so far: the last lines are kept, all of it is passed on.
#[derive(Debug, Default)]
pub(super) struct Tail {
    kept: VecDeque<u8>,
    all: OutputWriter,
}

impl Tail {
    pub(super) fn of(all: OutputWriter) -> Self {
        Self { kept: VecDeque::new(), all }
    }

    /// Takes in what was written next.
    pub(super) fn keep(&mut self, read: &[u8]) {
        self.all.write(read);
        let read = &read[read.len().saturating_sub(KEPT_BYTES)..];
        let too_many = (self.kept.len() + read.len()).saturating_sub(KEPT_BYTES);
        self.kept.drain(..too_many);
        self.kept.extend(read);
    }

    /// The last lines, at most `most` bytes of them.
    pub(super) fn text(&self, most: usize) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        let from = text.rmatch_indices('\n').nth(KEPT_LINES - 1).map_or(0, |(at, _)| at + 1);
        crate::wire::message::tail(&text[from..], most).to_owned()
    }
}

/// A pipe that is read to its end, and its tail.
#[derive(Debug)]
pub(super) struct Output {
    pipe: Option<Receiver>,
    pub(super) tail: Tail,
}

impl Output {
    pub(super) fn of(pipe: Receiver, all: OutputWriter) -> Self {
        Self { pipe: Some(pipe), tail: Tail::of(all) }
    }

    /// Reads what there is. Returns when everyone who could write has closed the pipe; never if it had
    /// returned before, so that it can stand beside other things to wait for.
    pub(super) async fn drain(&mut self) {
        let mut read = [0; 8192];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut read).await {
                Ok(0) | Err(_) => self.pipe = None,
                Ok(count) => self.tail.keep(&read[..count]),
            }
            if self.pipe.is_none() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Whether everyone who could write has closed the pipe.
    pub(super) fn is_over(&self) -> bool {
        self.pipe.is_none()
    }
}
