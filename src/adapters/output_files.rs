//! Output in files of the data directory: one for each attempt, in a directory for each task.
//!
//! Law: a piece stands at its own place in its file, so keeping it twice changes nothing. A file that has grown too old,
//! or with the newer ones is more than what may be kept, goes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::model::{OutputPiece, RunnerId, TaskId, Time, Token};
use crate::ports::{OutputError, OutputPage, OutputStore};

/// The most bytes of one page.
const PAGE: usize = 256 << 10;
/// What stands beside the file of an attempt that will write nothing more.
const OVER: &str = "over";
const LOG: &str = "log";

/// Output below one directory.
#[derive(Debug, Clone)]
pub struct OutputFiles {
    root: PathBuf,
}

impl OutputFiles {
    /// Output below `root`, which is made when there is some.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Removes what at `now` is older than `age`, then the oldest until at most `bytes` are left. Blocks.
    pub fn prune(&self, bytes: u64, age: Duration, now: Time) -> Result<(), OutputError> {
        self.said("prune", self.try_prune(bytes, age, SystemTime::UNIX_EPOCH + Duration::from_millis(now.0)))
    }

    fn try_prune(&self, bytes: u64, age: Duration, now: SystemTime) -> io::Result<()> {
        let mut files = Vec::new();
        for shard in entries(&self.root)? {
            for task in entries(&shard)? {
                for file in entries(&task)? {
                    let about = fs::metadata(&file)?;
                    files.push((about.modified()?, about.len(), file));
                }
            }
        }
        files.sort();
        let mut kept: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (changed, size, file) in files {
            let old = now.duration_since(changed).is_ok_and(|since| since > age);
            if !old && kept <= bytes {
                break;
            }
            kept -= size;
            fs::remove_file(&file)?;
            // Only the last of a task takes the directory along.
            let _ = file.parent().map(fs::remove_dir);
        }
        Ok(())
    }

    fn directory(&self, task: &TaskId) -> PathBuf {
        // A directory with all tasks that ever wrote would be slow to look into.
        let shard = task.as_str().bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        self.root.join(format!("{shard:02x}")).join(task.as_str())
    }

    fn try_keep(&self, piece: &OutputPiece) -> io::Result<()> {
        let directory = self.directory(&piece.id);
        fs::create_dir_all(&directory)?;
        let log = directory.join(format!("{}.{LOG}", piece.token));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(log)?;
        file.write_all_at(piece.text.as_bytes(), piece.from)?;
        if piece.last {
            File::create(directory.join(format!("{}.{OVER}", piece.token)))?;
        }
        Ok(())
    }

    fn try_attempts(&self, task: &TaskId) -> io::Result<Vec<Token>> {
        let mut tokens: Vec<Token> = entries(&self.directory(task))?
            .iter()
            .filter(|file| file.extension().is_some_and(|ending| ending == LOG))
            .filter_map(|file| file.file_stem()?.to_str()?.parse().ok())
            .collect();
        tokens.sort_unstable();
        Ok(tokens)
    }

    fn try_read(&self, task: &TaskId, token: Token, from: u64) -> io::Result<OutputPage> {
        let directory = self.directory(task);
        // Looked at first: what is written later is read by the next page.
        let over = directory.join(format!("{token}.{OVER}")).exists();
        let file = match File::open(directory.join(format!("{token}.{LOG}"))) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return Ok(OutputPage { next: from, ..OutputPage::default() });
            }
            Err(why) => return Err(why),
        };
        let mut bytes = vec![0; PAGE];
        let mut filled = 0;
        while filled < PAGE {
            match file.read_at(&mut bytes[filled..], from + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        // A character may be cut by the end of the page, or not be there as a whole yet.
        let whole = match std::str::from_utf8(&bytes) {
            Err(why) if why.error_len().is_none() && why.valid_up_to() > 0 => why.valid_up_to(),
            _ => bytes.len(),
        };
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        Ok(OutputPage { text, next: from + whole as u64, over: over && filled < PAGE })
    }

    fn said<T>(&self, doing: &str, done: io::Result<T>) -> Result<T, OutputError> {
        done.map_err(|why| OutputError {
            what: format!("{doing} output in {}", self.root.display()),
            why: why.to_string(),
        })
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, OutputError> {
        let own = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&own)).await;
        self.said(doing, done.expect("files are read and written without a panic"))
    }
}

/// What stands in a directory; nothing if it is not there.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(why) => Err(why),
    }
}

#[async_trait]
impl OutputStore for OutputFiles {
    async fn keep(&self, _runner: &RunnerId, pieces: &[OutputPiece]) -> Result<(), OutputError> {
        let pieces = pieces.to_vec();
        self.off_thread("keep", move |own| pieces.iter().try_for_each(|piece| own.try_keep(piece))).await
    }

    async fn attempts(&self, task: &TaskId) -> Result<Vec<Token>, OutputError> {
        let task = task.clone();
        self.off_thread("read", move |own| own.try_attempts(&task)).await
    }

    async fn read(&self, task: &TaskId, token: Token, from: u64) -> Result<OutputPage, OutputError> {
        let task = task.clone();
        self.off_thread("read", move |own| own.try_read(&task, token, from)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Id;

    fn piece(id: &str, from: u64, text: &str, last: bool) -> OutputPiece {
        let token = Token { epoch: 1, turn: 2, index: 3 };
        OutputPiece { id: Id::parse(id).expect("a name"), token, from, text: text.into(), last }
    }

    #[tokio::test]
    async fn pieces_are_read_in_their_places_however_often_and_in_whatever_order_they_came() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = OutputFiles::new(dir.path().join("output"));
        let (runner, id) = (Id::parse("r1").expect("a name"), Id::parse("t1").expect("a name"));
        assert_eq!(files.attempts(&id).await, Ok(Vec::new()));
        let pieces =
            [piece("t1", 4, "two\n", true), piece("t1", 0, "one\n", false), piece("t1", 0, "one\n", false)];
        files.keep(&runner, &pieces).await.expect("they are kept");
        let token = files.attempts(&id).await.expect("they can be read")[0];
        let page = files.read(&id, token, 0).await.expect("it can be read");
        assert_eq!(page, OutputPage { text: "one\ntwo\n".to_owned(), next: 8, over: true });
        assert_eq!(files.read(&id, token, 8).await.expect("it can be read").text, "");
    }

    #[tokio::test]
    async fn the_oldest_goes_first_and_what_is_too_old_goes_anyway() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = OutputFiles::new(dir.path().join("output"));
        let runner = Id::parse("r1").expect("a name");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (number, id) in ["t1", "t2", "t3"].into_iter().enumerate() {
            files.keep(&runner, &[piece(id, 0, "0123456789", false)]).await.expect("it is kept");
            let path = entries(&files.directory(&Id::parse(id).expect("a name"))).expect("it is there");
            let ago = Duration::from_secs(100 - 10 * number as u64);
            File::options()
                .write(true)
                .open(&path[0])
                .expect("a file")
                .set_modified(now - ago)
                .expect("it is set");
        }
        let left = || {
            let all = ["t1", "t2", "t3"].map(|id| Id::parse(id).expect("a name"));
            all.into_iter()
                .filter(|id| !files.try_attempts(id).expect("it can be read").is_empty())
                .collect::<Vec<_>>()
        };
        files.try_prune(25, Duration::from_secs(1_000), now).expect("it is pruned");
        assert_eq!(left().len(), 2, "t1 was the oldest");
        files.try_prune(1_000, Duration::from_secs(85), now).expect("it is pruned");
        assert_eq!(left(), [Id::parse("t3").expect("a name")]);
    }
}
