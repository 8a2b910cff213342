//! How far the output of each attempt was sent, so that another start of the runner can go on from there.
//!
//! Law: a position is written after what stands before it was taken, and survives the death of this process, not that of
//! the machine: then nothing is left whose output could be gone on with. Nothing waits for a disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::model::{Held, Token};

/// How far one attempt's output was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// Bytes the work wrote that were sent, masked or left out.
    pub written: u64,
    /// Bytes that were sent.
    pub sent: u64,
}

/// A small file for each attempt.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    directory: PathBuf,
}

impl Positions {
    /// Those of the runner whose data is in `data_dir`.
    pub(super) fn of(data_dir: &Path) -> Self {
        Self { directory: data_dir.join("output") }
    }

    /// Where the output of an attempt was; its beginning if nothing was sent of it.
    pub(super) fn get(&self, held: &Held) -> Position {
        let mut bytes = [0; 16];
        let read = fs::File::open(self.file(held.token)).and_then(|file| file.read_exact_at(&mut bytes, 0));
        if read.is_err() {
            return Position::default();
        }
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Position { written: long(0), sent: long(8) }
    }

    /// Notes how far the output of an attempt was sent; `None`: all of it.
    pub(super) fn put(&self, held: &Held, position: Option<Position>) {
        let file = self.file(held.token);
        let Some(Position { written, sent }) = position else {
            let _ = fs::remove_file(file);
            return;
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&written.to_le_bytes());
        bytes[8..].copy_from_slice(&sent.to_le_bytes());
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.directory)?;
            // Sixteen bytes in one call, over those before: a reader never finds a part.
            OpenOptions::new().create(true).truncate(false).write(true).open(&file)?.write_all_at(&bytes, 0)
        };
        if let Err(why) = write() {
            tracing::warn!(task = %held.id, %why, "how far its output was sent could not be noted");
        }
    }

    /// Forgets all attempts but these.
    pub(super) fn keep(&self, kept: &[Held]) {
        let kept: Vec<String> = kept.iter().map(|held| held.token.to_string()).collect();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if !kept.iter().any(|name| *name == entry.file_name().to_string_lossy()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn file(&self, token: Token) -> PathBuf {
        self.directory.join(token.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Id;

    fn held(index: u32) -> Held {
        Held { id: Id::parse("t1").expect("a name"), token: Token { epoch: 1, turn: 2, index } }
    }

    #[test]
    fn a_position_is_found_again_until_it_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let positions = Positions::of(directory.path());
        assert_eq!(positions.get(&held(1)), Position::default());
        let (early, late) = (Position { written: 7, sent: 5 }, Position { written: 70, sent: 50 });
        positions.put(&held(1), Some(early));
        positions.put(&held(1), Some(late));
        positions.put(&held(2), Some(early));
        positions.put(&held(3), Some(early));
        positions.put(&held(3), None);
        positions.keep(&[held(1), held(3)]);
        let found = [1, 2, 3].map(|index| positions.get(&held(index)));
        assert_eq!(found, [late, Position::default(), Position::default()]);
    }
}
