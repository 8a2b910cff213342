//! The guard: a small process beside the runner that ends its work when the runner cannot.
//!
//! Law: nothing that the guard was told of runs past the deadline it was last given, and no process past the end of the
//! process that gave it. The deadline counts on the clock that goes on through suspension. A group is told of by its
//! first process itself, before it becomes the command: whenever the runner stops, the guard knows what runs.
//!
//! The runner holds one end of a socket, the guard the other as its standard input. Whole notes of one size go one
//! way; a runner that is gone is the end of the stream. A guard that is gone ends the runner. Containers of a runner
//! that was killed are guarded on until the deadline, or until the guard of the next start has taken over ([`door`]).

mod door;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ProcessGroup;
use super::docker::Containers;
use crate::model::Token;
use crate::runner::boottime;
use door::Door;

/// The argument that makes a program of ours the guard.
pub const WORD: &str = "guard";
/// How long a guard may take to say that it is there.
const THERE_WITHIN: Duration = Duration::from_secs(10);
/// The longest sleep: timers do not count suspension, the deadline does.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// How often groups are ended again that should be gone.
const END_AGAIN: Duration = Duration::from_millis(50);
/// With so many groups those are looked for that are gone without a word.
const MANY: usize = 1_024;
const HELLO: u8 = b'!';

/// Bytes of one note.
const SIZE: usize = 32;

/// What a guard is told, and what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    /// Work may run until then, since the machine started.
    Until(Duration),
    /// A group begins, whose processes carry the token.
    Begins { group: i32, token: Token },
    /// A group was ended; its number may be given to others from now on.
    Over { group: i32 },
    /// It is to take over from the guard of an earlier start, and to say what that guarded.
    TakeOver,
    /// The containers with this mark are guarded, and may run until then.
    Guarded(Guarded),
    /// Nothing is guarded that could be taken over.
    Nothing,
    /// The runner ends in order: what is left is to end with it.
    Farewell,
}

/// Containers that outlived their runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guarded {
    /// Until when they may run, since the machine started.
    pub until: Duration,
    /// The start of the runner that their labels name.
    pub begun: Uuid,
}

type Bytes = [u8; SIZE];

impl Note {
    fn bytes(self) -> Bytes {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let nanos = |until: Duration| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
        let word: u32 = match self {
            Note::Until(until) => {
                put(8, &nanos(until));
                0
            }
            Note::Begins { group, token } => {
                put(4, &group.to_le_bytes());
                put(8, &token.turn.to_le_bytes());
                put(16, &token.epoch.to_le_bytes());
                put(20, &token.index.to_le_bytes());
                1
            }
            Note::Over { group } => {
                put(4, &group.to_le_bytes());
                2
            }
            Note::TakeOver => 3,
            Note::Guarded(Guarded { until, begun }) => {
                put(8, &nanos(until));
                put(16, begun.as_bytes());
                4
            }
            Note::Nothing => 5,
            Note::Farewell => 6,
        };
        put(0, &word.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let four = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes");
        let group = i32::from_le_bytes(four(4));
        let long = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let until = Duration::from_nanos(long);
        Some(match u32::from_le_bytes(four(0)) {
            0 => Note::Until(until),
            1 => {
                let (epoch, index) = (u32::from_le_bytes(four(16)), u32::from_le_bytes(four(20)));
                Note::Begins { group, token: Token { epoch, turn: long, index } }
            }
            2 => Note::Over { group },
            3 => Note::TakeOver,
            4 => {
                let begun = Uuid::from_bytes(bytes[16..SIZE].try_into().expect("sixteen bytes"));
                Note::Guarded(Guarded { until, begun })
            }
            5 => Note::Nothing,
            6 => Note::Farewell,
            _ => return None,
        })
    }
}

/// The runner's end.
#[derive(Debug, Clone)]
pub struct Guard {
    line: Arc<Line>,
    /// In nanoseconds since the machine started.
    until: Arc<AtomicU64>,
    gone: CancellationToken,
    pid: i32,
}

/// The socket to the guard. Whoever drops it ends in order: one that was killed does not get to it.
#[derive(Debug)]
struct Line(UnixStream);

impl Drop for Line {
    fn drop(&mut self) {
        // One that does not hear it is gone.
        let _ = self.send(&Note::Farewell.bytes());
    }
}

impl Line {
    /// Sends one note whole, or fails at once.
    fn send(&self, note: &Bytes) -> io::Result<()> {
        match rustix::net::send(&self.0, note, SendFlags::NOSIGNAL) {
            Ok(SIZE) => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(why) => Err(why.into()),
        }
    }
}

/// What a process says of itself before it becomes the command of an attempt.
#[derive(Debug)]
pub(super) struct Beginning {
    line: Arc<Line>,
    note: Bytes,
}

impl Beginning {
    /// Says it. Allocates nothing and locks nothing, so that a process that was just forked may call it.
    pub(super) fn say(&mut self) -> io::Result<()> {
        let group = rustix::process::getpid().as_raw_pid();
        self.note[4..8].copy_from_slice(&group.to_le_bytes());
        self.line.send(&self.note)
    }
}

impl Guard {
    /// Starts `program guard` with these arguments and waits until it is there. Blocks.
    pub fn start(program: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let (line, its) = UnixStream::pair()?;
        let mut child = Command::new(program)
            .arg(WORD)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            // What ends a whole terminal's group does not end the guard before the runner.
            .process_group(0)
            .spawn()
            .map_err(|why| {
                io::Error::new(why.kind(), format!("start {} {WORD}: {why}", program.display()))
            })?;
        let pid = rustix::process::Pid::from_child(&child).as_raw_pid();
        let gone = CancellationToken::new();
        let ended = gone.clone();
        std::thread::Builder::new().name("longshore-guard".to_owned()).spawn(move || {
            let _ = child.wait();
            ended.cancel();
        })?;
        let mut hello = [0];
        line.set_read_timeout(Some(THERE_WITHIN))?;
        (&line).read_exact(&mut hello).map_err(|why| {
            io::Error::new(why.kind(), format!("{} {WORD} does not answer: {why}", program.display()))
        })?;
        line.set_nonblocking(true)?;
        Ok(Self { line: Arc::new(Line(line)), until: Arc::new(AtomicU64::new(u64::MAX)), gone, pid })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets all work run until then, counted from when the machine started.
    pub(super) fn hold_until(&self, until: Duration) {
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        if self.until.swap(nanos, Ordering::Relaxed) != nanos {
            self.tell(Note::Until(until));
        }
    }

    /// Has this guard take over from that of an earlier start, and says what it has from it: nothing if there is no such
    /// guard. Told before anything else. Blocks.
    pub(super) fn take_over(&self) -> io::Result<Option<Guarded>> {
        let mut line = &self.line.0;
        line.set_nonblocking(false)?;
        self.line.send(&Note::TakeOver.bytes())?;
        let mut answer = [0; SIZE];
        line.read_exact(&mut answer)?;
        line.set_nonblocking(true)?;
        let Some(Note::Guarded(guarded)) = Note::read(&answer) else { return Ok(None) };
        let nanos = u64::try_from(guarded.until.as_nanos()).unwrap_or(u64::MAX);
        self.until.store(nanos, Ordering::Relaxed);
        Ok(Some(guarded))
    }

    /// Whether the guard has ended all work by now.
    pub(super) fn is_over(&self) -> bool {
        boottime() >= Duration::from_nanos(self.until.load(Ordering::Relaxed))
    }

    pub(super) fn begins(&self, token: Token) -> Beginning {
        Beginning { line: self.line.clone(), note: Note::Begins { group: 0, token }.bytes() }
    }

    /// A group was ended. To be said while its first process is unwaited-for.
    pub(super) fn over(&self, group: ProcessGroup) {
        self.tell(Note::Over { group: group.id });
    }

    /// Waits until the guard is gone, or no longer listens.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    fn tell(&self, note: Note) {
        if let Err(why) = self.line.send(&note.bytes()) {
            tracing::error!(%why, "the guard of this runner's work cannot be told");
            self.gone.cancel();
        }
    }
}

/// The groups a guard knows, and until when they may run.
#[derive(Debug)]
struct Watched {
    until: Duration,
    groups: BTreeMap<i32, (ProcessGroup, Token)>,
    many: usize,
    /// The runner has said that it ends in order.
    farewell: bool,
}

impl Watched {
    fn take(&mut self, note: Note) {
        match note {
            Note::Until(until) => self.until = until,
            Note::Begins { group, token } => {
                if self.groups.len() >= self.many {
                    self.groups.retain(|_, (group, _)| group.is_there());
                    self.many = MANY.max(2 * self.groups.len());
                }
                // One that is gone already needs no guard.
                if let Some(found) = ProcessGroup::of_leader(group) {
                    self.groups.insert(group, (found, token));
                }
            }
            Note::Over { group } => {
                self.groups.remove(&group);
            }
            Note::Farewell => self.farewell = true,
            Note::TakeOver | Note::Guarded(_) | Note::Nothing => {}
        }
    }

    /// How long nothing happens by itself.
    fn pause(&self) -> Duration {
        let left = self.until.saturating_sub(boottime());
        if left.is_zero() { END_AGAIN } else { left.min(LONGEST_SLEEP) }
    }

    fn is_over(&self) -> bool {
        boottime() >= self.until
    }

    fn end(&self) {
        // A first process that is there has not been waited for: its number is still its own. One that could not become
        // its command is gone without a word.
        let there = self.groups.values().filter(|(group, _)| group.is_there());
        there.for_each(|(group, _)| group.signal(Signal::KILL));
    }
}

/// Is the guard, as [`stand`], if this process was started as one by a back end that was given
/// [`THIS_PROGRAM`](super::process::THIS_PROGRAM); says whether it was. The first thing a main does whose runner uses
/// such a back end: `if stand_if_called().await? { return Ok(()) }`.
pub async fn stand_if_called() -> io::Result<bool> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == WORD => stand(Containers::named(rest)).await.map(|()| true),
        _ => Ok(false),
    }
}

/// Is the guard until the other end of standard input is gone, and ends what is left then: processes, and containers if
/// it is to guard any. Those of a runner that was killed it guards on until their time is over, and leaves them to the
/// guard of the next start if that comes first.
pub async fn stand(containers: Option<Containers>) -> io::Result<()> {
    // Whoever ends the runner means the runner: it says itself when nothing is left to guard.
    let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let line = std::io::stdin();
    let line = UnixStream::from(rustix::io::dup(&line)?);
    line.set_nonblocking(true)?;
    let mut line = tokio::net::UnixStream::from_std(line)?;
    line.ready(Interest::WRITABLE).await?;
    line.try_write(&[HELLO])?;
    let watched = Watched { until: Duration::MAX, groups: BTreeMap::new(), many: MANY, farewell: false };
    let home = containers.as_ref().and_then(|containers| containers.home.as_deref());
    let door = home.map(Door::of).transpose()?;
    let mut standing = Standing { watched, containers, door, ending: None };
    standing.attend(&mut line).await;
    standing.end_processes_left();
    if standing.was_relieved().await {
        return Ok(());
    }
    match standing.containers {
        Some(containers) => containers.remove().await.map_err(io::Error::other),
        None => Ok(()),
    }
}

/// What a guard has and does.
struct Standing {
    watched: Watched,
    containers: Option<Containers>,
    door: Option<Door>,
    ending: Option<JoinHandle<Result<(), String>>>,
}

impl Standing {
    /// Listens to the runner until it is gone, and ends its work whenever its time is over.
    async fn attend(&mut self, line: &mut tokio::net::UnixStream) {
        let (mut read, mut filled) = ([0; 256 * SIZE], 0);
        loop {
            tokio::select! {
                count = line.read(&mut read[filled..]) => {
                    let count = count.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    filled += count;
                    for note in read[..filled].chunks_exact(SIZE).filter_map(Note::read) {
                        match note {
                            Note::TakeOver => self.take_over(line).await,
                            note => self.watched.take(note),
                        }
                    }
                    let rest = filled % SIZE;
                    read.copy_within(filled - rest..filled, 0);
                    filled = rest;
                }
                () = tokio::time::sleep(self.watched.pause()) => {}
            }
            if self.watched.is_over() {
                self.end();
            }
        }
    }

    /// Takes over from the guard of an earlier start, if there is one, and answers what that guarded.
    async fn take_over(&mut self, line: &mut tokio::net::UnixStream) {
        let taken = match &mut self.door {
            Some(door) => door.take_over().await,
            None => None,
        };
        if let (Some(Guarded { until, begun }), Some(containers)) = (taken, &mut self.containers) {
            self.watched.until = until;
            containers.begun = begun;
        }
        // A runner that is gone by now is found to be so by the next reading.
        let _ = line.write_all(&taken.map_or(Note::Nothing, Note::Guarded).bytes()).await;
    }

    fn end(&mut self) {
        self.watched.end();
        if let Some(containers) = self.containers.clone()
            && self.ending.as_ref().is_none_or(JoinHandle::is_finished)
        {
            self.ending = Some(tokio::spawn(async move { containers.end().await }));
        }
    }

    /// The runner is gone, and nobody keeps numbers from being given again: only what proves to be its work is ended.
    fn end_processes_left(&mut self) {
        for (group, token) in std::mem::take(&mut self.watched.groups).into_values() {
            let left = group.processes_of(token);
            let _ = group.end_left_behind("", token).inspect_err(|why| eprintln!("{why}"));
            if !left.is_empty() {
                eprintln!("the runner is gone: ended {} processes of attempt {token}", left.len());
            }
        }
    }

    /// Guards on what a killed runner left, until its time is over; whether another guard has taken over before that.
    async fn was_relieved(&self) -> bool {
        let (Some(door), Some(containers)) = (&self.door, &self.containers) else { return false };
        // A runner that never said until when anything may run has begun nothing.
        let killed = !self.watched.farewell && self.watched.until != Duration::MAX;
        if !killed || !door.is_open() || self.watched.is_over() {
            return false;
        }
        let over = async {
            while !self.watched.is_over() {
                tokio::time::sleep(self.watched.pause()).await;
            }
        };
        tokio::select! {
            biased;
            () = door.hand_over(Guarded { until: self.watched.until, begun: containers.begun }) => true,
            () = over => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let token = Token { epoch: 3, turn: 1 << 40, index: 7 };
        let notes = [
            Note::Until(Duration::from_nanos(123_456_789_012)),
            Note::Begins { group: 4711, token },
            Note::Over { group: 4711 },
            Note::TakeOver,
            Note::Guarded(Guarded { until: Duration::from_nanos(7), begun: Uuid::from_u128(u128::MAX - 1) }),
            Note::Nothing,
            Note::Farewell,
        ];
        for note in notes {
            assert_eq!(Note::read(&note.bytes()), Some(note));
        }
        assert_eq!(Note::read(&[9; SIZE]), None);
    }
}
