//! The door in a runner's directory at which the guard of one start finds that of the start before.
//!
//! Law: at each moment one guard at least holds what is handed over, and only one may be told a later deadline: the
//! earlier guard says until when, lets go only when it has read that the later one has taken it, and is gone before the
//! later one answers its runner. Who knocks while a runner lives waits.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{Guarded, Note, SIZE};

/// The socket's name in the directory.
const NAME: &str = "guard";
/// How long either side may take to say its word.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const TAKEN: u8 = b'+';

/// The door of one directory, and the guard that may stand at it.
#[derive(Debug)]
pub(super) struct Door {
    directory: File,
    listener: Option<UnixListener>,
}

impl Door {
    /// The door in `directory`, which is there.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: File::open(directory)?, listener: None })
    }

    /// Takes over what another guard holds here, if there is one, and stands at the door in its place.
    pub(super) async fn take_over(&mut self) -> Option<Guarded> {
        let taken = timeout(ANSWER_WITHIN, self.knock()).await.ok().and_then(Result::ok);
        let _ = std::fs::remove_file(self.path());
        match UnixListener::bind(self.path()) {
            Ok(listener) => self.listener = Some(listener),
            Err(why) => eprintln!("the next start of this runner will find nothing to go on with: {why}"),
        }
        taken
    }

    async fn knock(&self) -> io::Result<Guarded> {
        let mut other = UnixStream::connect(self.path()).await?;
        let mut said = [0; SIZE];
        other.read_exact(&mut said).await?;
        let Some(Note::Guarded(guarded)) = Note::read(&said) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        other.write_all(&[TAKEN]).await?;
        // An end without an error: it has read the word, and ends nothing any more.
        match other.read(&mut [0]).await? {
            0 => Ok(guarded),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Whether another guard would find this one.
    pub(super) fn is_open(&self) -> bool {
        self.listener.is_some()
    }

    /// Waits until another guard has taken this over.
    pub(super) async fn hand_over(&self, guarded: Guarded) {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        loop {
            let handed = async {
                let (mut other, _) = listener.accept().await?;
                let mut word = [0];
                let said = async {
                    other.write_all(&Note::Guarded(guarded).bytes()).await?;
                    other.read_exact(&mut word).await
                };
                timeout(ANSWER_WITHIN, said).await.map_err(io::Error::from)??;
                io::Result::Ok(word == [TAKEN])
            };
            if handed.await.unwrap_or(false) {
                return;
            }
        }
    }

    /// By way of the open directory: the names of sockets are short.
    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(NAME)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const HELD: Guarded = Guarded { until: Duration::from_secs(7), begun: Uuid::from_u128(1) };

    fn door(directory: &Path) -> Door {
        Door::of(directory).expect("the directory is there")
    }

    #[tokio::test]
    async fn what_one_guard_holds_the_next_takes_over_and_the_first_lets_go() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut first, mut second) = (door(directory.path()), door(directory.path()));
        assert_eq!(first.take_over().await, None, "nobody was there before");
        let handing = tokio::spawn(async move { first.hand_over(HELD).await });
        assert_eq!(second.take_over().await, Some(HELD));
        handing.await.expect("it has let go");
        let mut third = door(directory.path());
        let handing = tokio::spawn(async move { second.hand_over(HELD).await });
        assert_eq!(third.take_over().await, Some(HELD), "the next is found at the same door");
        handing.await.expect("it has let go");
    }

    #[tokio::test]
    async fn who_goes_without_taking_it_leaves_it_where_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut first, mut second) = (door(directory.path()), door(directory.path()));
        first.take_over().await;
        let path = first.path();
        let handing = tokio::spawn(async move { first.hand_over(HELD).await });
        let mut other = UnixStream::connect(&path).await.expect("somebody listens");
        other.read_exact(&mut [0; SIZE]).await.expect("it says what it holds");
        drop(other);
        assert_eq!(second.take_over().await, Some(HELD));
        handing.await.expect("it has let go");
    }

    #[tokio::test]
    async fn a_guard_that_goes_while_it_hands_over_has_handed_over_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut first, mut second) = (door(directory.path()), door(directory.path()));
        first.take_over().await;
        let listener = first.listener.take().expect("it listens");
        let taking = tokio::spawn(async move { second.take_over().await });
        let (mut other, _) = listener.accept().await.expect("somebody knocks");
        other.write_all(&Note::Guarded(HELD).bytes()).await.expect("it is said");
        other.readable().await.expect("the answer is there");
        // Its time is over before it has read that.
        drop(other);
        assert_eq!(taking.await.expect("no panic"), None);
    }
}
