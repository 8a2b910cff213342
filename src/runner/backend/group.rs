//! Process groups: how work is known again, and how what is left of it is ended.
//!
//! Law: a process is only ended as left behind if it stands in the recorded group, the group is still the one
//! that was recorded, and its own environment names the token. A number alone proves nothing: numbers are
//! given again.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::model::Token;

/// The variable that marks every process of an attempt.
pub const MARKER: &str = "LONGSHORE_TOKEN";
/// How long processes that were ended may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A process group and when its first process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessGroup {
    /// The id of the group, which is that of its first process.
    pub id: i32,
    /// In clock ticks since boot, as `/proc/<pid>/stat` says.
    pub started: u64,
}

/// Processes of an earlier start could not be ended.
#[derive(Debug, thiserror::Error)]
#[error(
    "end what is left of task {task} ({token}): processes {processes:?} of group {group} are still there after \
     {GONE_WITHIN:?}; end them by hand, then start the runner again"
)]
pub struct StillThere {
    pub task: String,
    pub token: String,
    pub group: i32,
    pub processes: Vec<i32>,
}

/// A line of `/proc/<pid>/stat`, as far as it matters.
struct Stat {
    state: u8,
    group: i32,
    started: u64,
}

impl ProcessGroup {
    /// The group whose first process is `pid`.
    pub fn of_leader(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { id: pid, started: stat.started })
    }

    /// Whether its first process is there, running or unwaited-for.
    pub(super) fn is_there(self) -> bool {
        Self::of_leader(self.id) == Some(self)
    }

    /// Sends a signal to all of the group; nobody being left is no error.
    ///
    /// The caller knows that the group is still its own: its first process has not been waited for.
    pub(super) fn signal(self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.id)
            && let Err(why) = rustix::process::kill_process_group(pid, signal)
            && why != rustix::io::Errno::SRCH
        {
            tracing::warn!(group = self.id, ?signal, %why, "a process group could not be signalled");
        }
    }

    /// Waits until nothing of an ended group runs any more, but no longer than a moment: a process the kernel
    /// cannot end now it will not end sooner for being waited for.
    pub(super) async fn until_gone(self) {
        let Some(group) = Pid::from_raw(self.id) else { return };
        for _ in 0..100 {
            // Most groups are empty by now, which costs one call to see; only others are looked for.
            if rustix::process::test_kill_process_group(group).is_err() || !pids().any(|pid| self.has(pid)) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The processes of this group that carry the token.
    pub fn processes_of(self, token: Token) -> Vec<i32> {
        // If the number was given again to a new first process, the recorded group is gone.
        if stat(self.id).is_some_and(|leader| leader.started != self.started) {
            return Vec::new();
        }
        let mark = format!("{MARKER}={token}");
        pids().filter(|pid| self.has(*pid) && marked(*pid, mark.as_bytes())).collect()
    }

    fn has(self, pid: i32) -> bool {
        stat(pid).is_some_and(|stat| stat.group == self.id && stat.state != b'Z')
    }

    /// Ends what is left of an attempt in this group and waits until it is gone. Blocks.
    pub fn end_left_behind(self, task: &str, token: Token) -> Result<usize, StillThere> {
        let mut ended = 0;
        let mut waited = Duration::ZERO;
        loop {
            let processes = self.processes_of(token);
            if processes.is_empty() {
                return Ok(ended);
            }
            if waited >= GONE_WITHIN {
                let (task, token) = (task.to_owned(), token.to_string());
                return Err(StillThere { task, token, group: self.id, processes });
            }
            ended = ended.max(processes.len());
            for pid in processes.into_iter().filter_map(Pid::from_raw) {
                // One that is gone by now is what was wanted.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(LOOK_AGAIN);
            waited += LOOK_AGAIN;
        }
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn marked(pid: i32, mark: &[u8]) -> bool {
    let environment: io::Result<Vec<u8>> = std::fs::read(format!("/proc/{pid}/environ"));
    environment.is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|variable| variable == mark))
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses; what follows the last one is plain.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}
