//! The real binary as real processes: servers, runners and commands, each ended by its own id, also on a panic.

#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

/// Longer than anything here takes; a story that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The binary, without any setting of whoever runs the tests.
pub fn longshore() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Waits until `fact` holds and says what it found.
pub fn wait_for<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    wait_up_to(PATIENCE, what, fact)
}

/// The same with a limit of its own.
#[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
pub fn wait_up_to<T>(limit: Duration, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(began.elapsed() < limit, "{what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that does not outlive its test.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        Self { child: command.spawn().expect("the binary starts") }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits until it has.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).expect("it is still there");
        wait_for("the process stops when it is asked to", || self.child.try_wait().expect("its status"))
    }

    /// Kills it, as a failing machine would.
    pub fn kill(mut self) {
        self.end();
    }

    /// Stops its clock: it keeps its connections and does nothing.
    pub fn pause(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::STOP).expect("it is still there");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::CONT).expect("it is still there");
    }

    /// The first line it says, if its standard output is piped; empty if it ended without one.
    pub fn first_line(&mut self) -> String {
        let mut first = String::new();
        let stdout = self.child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut first).expect("it can be read");
        first
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    fn end(&mut self) {
        // One that is gone by now is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// `longshore serve` in a directory.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    pub url: String,
    pub data: PathBuf,
}

impl Server {
    /// On a free port.
    pub fn start(data: &Path) -> Self {
        Self::start_at(data, "127.0.0.1:0", &[])
    }

    /// On an address, with further arguments.
    pub fn start_at(data: &Path, listen: &str, more: &[&OsStr]) -> Self {
        let mut command = longshore();
        command.args(["serve", "--log-level", "warn", "--listen", listen, "--data"]).arg(data).args(more);
        Self::started(&mut command, data)
    }

    /// On a free port, its data in `dir`, with leases of 3 s.
    pub fn with_short_leases(dir: &Path) -> Self {
        Self::with_leases(dir, 3)
    }

    /// The same with leases of so many seconds.
    pub fn with_leases(dir: &Path, seconds: u32) -> Self {
        let config = dir.join("longshore.toml");
        let text = format!(
            "[lease]\nttl = \"{seconds}s\"\nheartbeat = \"1s\"\nmargin = \"1s\"\nassignment_deadline = \"2s\"\n"
        );
        std::fs::write(&config, text).expect("the directory can be written");
        Self::start_at(&dir.join("data"), "127.0.0.1:0", &["--config".as_ref(), config.as_os_str()])
    }

    /// With a command line of its own.
    pub fn started(command: &mut Command, data: &Path) -> Self {
        let mut process = Process::start(command.stdout(Stdio::piped()));
        let first = process.first_line();
        let url = first.split_whitespace().find(|word| word.starts_with("http://"));
        let url = url.unwrap_or_else(|| panic!("no address in {first:?}")).to_owned();
        Self { process, url, data: data.to_owned() }
    }

    /// On a free port, as a replica that shares its table over NATS.
    pub fn replica(nats: &str, dir: &Path) -> Self {
        Self::start_at(&dir.join("unused"), "127.0.0.1:0", &["--nats".as_ref(), nats.as_ref()])
    }

    /// The address it listens on.
    pub fn address(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    /// Runs a command against it.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        longshore().args(args).env("LONGSHORE_URL", &self.url).output().expect("the binary runs")
    }

    /// Runs a command that must succeed and answer in JSON.
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Value {
        let args: Vec<A> = args.into_iter().collect();
        let output = longshore().args(&args).arg("--json").env("LONGSHORE_URL", &self.url).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it answers in JSON")
    }

    /// The task as `ps` shows it.
    pub fn task(&self, id: &str) -> Option<Value> {
        let tasks = self.json(["ps", "--limit", "10000"]);
        tasks["tasks"].as_array().expect("a list").iter().find(|task| task["id"] == id).cloned()
    }

    /// Waits until a task is in this state.
    pub fn wait_until(&self, id: &str, state: &str) -> Value {
        wait_for(&format!("{id} is {state}"), || self.task(id).filter(|task| task["state"] == state))
    }

    /// Waits until so many runners are ready.
    pub fn wait_for_runners(&self, count: usize) {
        wait_for(&format!("{count} runners are ready"), || {
            let runners = self.json(["runners"]);
            let ready = |runner: &&Value| runner["state"] == "ready";
            (runners["runners"].as_array().expect("a list").iter().filter(ready).count() == count)
                .then_some(())
        });
    }
}

/// Starts `longshore runner`, its data in a directory of its own below `dir`.
pub fn runner(url: &str, id: &str, dir: &Path, more: &[&str]) -> Process {
    let mut command = longshore();
    command.args(["runner", "--log-level", "warn", "--url", url, "--id", id, "--memory", "8GiB"]);
    command.arg("--data").arg(dir.join(id)).args(more);
    Process::start(&mut command)
}

/// The same over NATS.
pub fn runner_on_nats(nats: &str, id: &str, dir: &Path, more: &[&str]) -> Process {
    let mut command = longshore();
    command.args(["runner", "--log-level", "warn", "--nats", nats, "--id", id, "--memory", "8GiB"]);
    command.arg("--data").arg(dir.join(id)).args(more);
    Process::start(&mut command)
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
