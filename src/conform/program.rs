//! The program that is tried: started, asked to end, killed, and swept up.
//!
//! Law: whatever a case started is gone after it. What the program started is known by a variable it inherited, and
//! work also by the file it marks, whichever process group or session it has moved to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// The variable all processes of a case inherit.
const MARKER: &str = "LONGSHORE_CONFORM";
/// How the names of marked files begin.
pub const MARKS: &str = "marks-";
/// How long killed processes may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How the program of a case is started.
#[derive(Debug, Clone)]
pub struct Start {
    pub command: String,
    /// Its variables; each also stands for its placeholder in the command.
    pub variables: Vec<(&'static str, String)>,
    /// The directory of the case.
    pub directory: PathBuf,
}

/// A program that was started and may have ended.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
    directory: PathBuf,
}

impl Start {
    /// Starts it.
    pub fn start(&self) -> io::Result<Program> {
        let log = self.directory.join("log");
        let written: File = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = Command::new("sh");
        // The shell becomes the program, so that what is sent to it is sent to the program.
        command.arg("-c").arg(format!("exec {}", self.filled())).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(written.try_clone()?).stderr(written);
        // Settings of whoever tries it are not the program's.
        let ours = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("LONGSHORE_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env(MARKER, &self.directory);
        Ok(Program { child: command.spawn()?, log, directory: self.directory.clone() })
    }

    /// The command with its placeholders filled: `{url}` for `LONGSHORE_URL`, and so on.
    fn filled(&self) -> String {
        self.variables.iter().fold(self.command.clone(), |command, (name, value)| {
            let placeholder = name.trim_start_matches("LONGSHORE_").to_lowercase();
            command.replace(&format!("{{{placeholder}}}"), value)
        })
    }
}

impl Program {
    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends TERM to its first process, as a supervisor does.
    pub fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// Kills its first process alone, or all of its tree.
    pub async fn kill(&mut self, tree: bool) {
        self.send(Signal::KILL);
        // Only one that was killed is waited for here, so it ends.
        let _ = self.child.wait().await;
        if tree {
            sweep(&self.directory).await;
        }
    }

    /// The last line it wrote.
    pub fn last_line(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
        last.chars().take(300).collect()
    }

    fn send(&self, signal: Signal) {
        // One that was seen to have ended has no id any more, and needs no signal.
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(id, signal);
        }
    }
}

/// Kills every process of the case in `directory`, until there is none.
pub async fn sweep(directory: &Path) {
    let give_up = Instant::now() + GONE_WITHIN;
    loop {
        let left = processes_of(directory);
        for id in &left {
            // One that has gone meanwhile is what is wanted.
            let _ = kill_process(*id, Signal::KILL);
        }
        if left.is_empty() || Instant::now() > give_up {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Every process that runs for the case in `directory`; what has ended and waits to be reaped has no arguments and
/// no variables.
pub fn processes_of(directory: &Path) -> Vec<Pid> {
    let marked = format!("{MARKER}={}", directory.display()).into_bytes();
    let marks = directory.join(MARKS);
    let named = marks.as_os_str().as_encoded_bytes();
    let own = rustix::process::getpid();
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = listed.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let of_it = |id: &Pid| {
        let read = |what: &str| fs::read(format!("/proc/{}/{what}", id.as_raw_nonzero())).unwrap_or_default();
        read("environ").split(|byte| *byte == 0).any(|entry| entry == marked)
            || read("cmdline").windows(named.len()).any(|part| part == named)
    };
    ids.filter(|id| *id != own && of_it(id)).collect()
}
