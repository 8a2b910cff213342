//! Reading a file without ever writing to it.
//!
//! Law: what is written goes to memory and is read back from there; the file stays as it was, byte for byte.
//! So a file that was not closed cleanly can be recovered in memory and looked at, also where writing is not
//! permitted, and a damaged one stays what a person can still examine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard};

const BLOCK: u64 = 4096;

/// A file with writes that only memory knows of.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// Bytes from here on are not the file's: beyond its end, or once cut off.
    file_ends: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    /// Lays memory over `file`.
    pub(super) fn over(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let written = Mutex::new(Written { length, file_ends: length, blocks: BTreeMap::new() });
        Ok(Self { file, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().expect("no one panics while holding the blocks")
    }

    /// One whole block, zero where there is nothing.
    fn block(&self, written: &Written, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(block) = written.blocks.get(&number) {
            return Ok(block.clone());
        }
        let start = number * BLOCK;
        let mut block = vec![0; index(BLOCK)].into_boxed_slice();
        let there = index(written.file_ends.saturating_sub(start).min(BLOCK));
        self.file.read_exact_at(&mut block[..there], start)?;
        Ok(block)
    }
}

impl redb::StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset + out.len() as u64 > written.length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early"));
        }
        for piece in pieces(offset, out.len()) {
            let block = self.block(&written, piece.block)?;
            out[piece.outside].copy_from_slice(&block[piece.within]);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        if length < written.length {
            let last = length / BLOCK;
            let mut cut = self.block(&written, last)?;
            cut[index(length % BLOCK)..].fill(0);
            written.blocks.split_off(&last);
            written.blocks.insert(last, cut);
            written.file_ends = written.file_ends.min(length);
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for piece in pieces(offset, data.len()) {
            let mut block = self.block(&written, piece.block)?;
            block[piece.within].copy_from_slice(&data[piece.outside]);
            written.blocks.insert(piece.block, block);
        }
        written.length = written.length.max(offset + data.len() as u64);
        Ok(())
    }
}

/// The part of a read or a write that falls into one block.
struct Piece {
    block: u64,
    within: std::ops::Range<usize>,
    outside: std::ops::Range<usize>,
}

fn pieces(offset: u64, length: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = index(at % BLOCK);
        let take = (index(BLOCK) - start).min(length - done);
        let piece = Piece { block: at / BLOCK, within: start..start + take, outside: done..done + take };
        done += take;
        (take > 0).then_some(piece)
    })
}

/// A number no larger than a block.
fn index(number: u64) -> usize {
    usize::try_from(number).expect("at most a block")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use redb::StorageBackend;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_file_stays_as_it_was() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&[7; 5000]).expect("writes");
        let overlay = Overlay::over(file.reopen().expect("opens")).expect("a length");
        overlay.write(4000, &[1; 200]).expect("memory");
        let mut read = [0; 300];
        overlay.read(3950, &mut read).expect("within the file");
        assert_eq!((read[49], read[50], read[249], read[250]), (7, 1, 1, 7));
        assert!(overlay.read(4900, &mut [0; 101]).is_err());

        overlay.set_len(4100).expect("memory");
        overlay.set_len(9000).expect("memory");
        overlay.read(4090, &mut read).expect("within the length");
        assert_eq!((read[0], read[9], read[10], read[299]), (1, 1, 0, 0));
        assert_eq!(std::fs::read(file.path()).expect("reads"), vec![7; 5000]);
    }
}
