//! Runs a task's command as a process group of this machine. `spec.image` is ignored: there is no container.
//!
//! Law: nothing of an attempt outlives its end. The group is ended when its first process has ended, while that
//! process is still unwaited-for, so that the group's number cannot have been given to anybody else. If the runner
//! stops or dies, its guard ends every group; what even that leaves, the next start of the runner ends.
//!
//! The command gets the runner's own environment, over it the task's, over that `LONGSHORE_*`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::guard::{Beginning, Guard};
use super::output::{KEPT_BYTES, Output};
use super::{Backend, ProcessGroup, Start, StartFailed, Stops, Work, group};
use crate::model::{AttemptOutcome, End, Kind, Traceparent, WorkOrder, time::format_span};

/// How long output is still read after everything of the group has ended: somebody who left the group may hold
/// the pipe open for ever.
const READ_ON: Duration = Duration::from_secs(1);

/// The program that runs, by a name that stays right if its file is replaced.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// Runs commands as processes.
#[derive(Debug, Clone)]
pub struct ProcessBackend {
    spawner: mpsc::Sender<Order>,
    guard: Guard,
    /// Between TERM and KILL of work that has run out of its time.
    timeout_grace: Duration,
}

struct Order {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

impl ProcessBackend {
    /// Starts `program` as the guard of its work, and the thread that starts processes. `program` is the `longshore`
    /// binary, or any whose main gives itself to [`guard::stand`](super::guard::stand) when it is called as
    /// `program guard`; [`THIS_PROGRAM`] where that is the running one. Blocks until the guard is there.
    ///
    /// The kernel ends a process when the *thread* that started it ends, so one thread starts them all; it
    /// lives as long as this back end or any of its work.
    pub fn new(program: impl AsRef<Path>, timeout_grace: Duration) -> io::Result<Self> {
        let guard = Guard::start(program.as_ref())?;
        let (spawner, orders) = mpsc::channel::<Order>();
        std::thread::Builder::new().name("longshore-start".to_owned()).spawn(move || {
            for Order { mut command, answer } in orders {
                let child = command.spawn();
                // Whoever asked may have gone: then nobody wants the process either.
                if let Err(Ok(mut child)) = answer.send(child) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        Ok(Self { spawner, guard, timeout_grace })
    }

    /// The guard of its work.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        let gone = |_| io::Error::other("the thread that starts processes has ended; restart the runner");
        self.spawner.send(Order { command, answer }).map_err(|_| gone(()))?;
        child.await.map_err(|_| gone(()))?
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    async fn start(&self, start: Start) -> Result<Work, StartFailed> {
        let order = &start.order;
        let Some(program) = order.command.first() else {
            let reason = "spec.command is empty; this runner starts processes and needs a command";
            return Err(StartFailed { reason: reason.to_owned() });
        };
        let failed = |why: io::Error| StartFailed { reason: start_failure(program, order, &why) };
        if let Some(workdir) = &order.workdir
            && !std::path::Path::new(workdir).is_dir()
        {
            let reason = format!("start {program}: workdir {workdir} is no directory on this runner");
            return Err(StartFailed { reason });
        }
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = command(&start, program);
        command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        begin_guarded(&mut command, self.guard.begins(start.held.token));
        let child = self.spawn(command).await.map_err(failed)?;
        let child = Leader::of(child, self.guard.clone()).map_err(failed)?;
        let output = Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        let watch = Watch {
            group: child.group,
            leader: child,
            guard: self.guard.clone(),
            output: Output::of(output),
            stops: start.stops,
            limit: order.timeout,
            timeout_grace: self.timeout_grace,
            _spawner: self.spawner.clone(),
        };
        Ok(Work { group: Some(watch.group), end: Box::pin(watch.until_end()) })
    }

    fn hold_until(&self, until: Duration) {
        self.guard.hold_until(until);
    }

    async fn broken(&self) -> String {
        self.guard.gone().await;
        "the guard of its work is gone".to_owned()
    }
}

fn command(start: &Start, program: &str) -> Command {
    let order = &start.order;
    let mut command = Command::new(program);
    match &order.traceparent {
        Some(trace) => command.env(Traceparent::VARIABLE, trace.to_string()),
        // The runner's own is not the work's.
        None => command.env_remove(Traceparent::VARIABLE),
    };
    command.args(&order.command[1..]).envs(&order.env).process_group(0);
    if let Some(workdir) = &order.workdir {
        command.current_dir(workdir);
    }
    let build = match start.kind {
        Kind::Build => Some(&start.held.id),
        Kind::Job => order.build.as_ref(),
    };
    command
        .env("LONGSHORE_TASK", start.held.id.as_str())
        .env("LONGSHORE_ATTEMPT", start.attempt.to_string())
        .env(group::MARKER, start.held.token.to_string());
    match build {
        Some(build) => command.env("LONGSHORE_BUILD", build.as_str()),
        None => command.env_remove("LONGSHORE_BUILD"),
    };
    if let Some(url) = &start.url {
        command.env("LONGSHORE_URL", &**url);
    }
    command
}

/// Has the process tell the guard of itself, and the kernel end it when the thread that starts it ends.
#[allow(unsafe_code)]
fn begin_guarded(command: &mut Command, mut beginning: Beginning) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes a few system calls through rustix and neither allocates,
    // locks nor unwinds, so it is safe in a child of a process with several threads.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above: then the signal will never come.
            if rustix::process::getppid() == Some(parent) {
                beginning.say()
            } else {
                Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()))
            }
        });
    }
}

fn start_failure(program: &str, order: &WorkOrder, why: &io::Error) -> String {
    match (why.kind(), &order.workdir) {
        (io::ErrorKind::NotFound, _) => format!("start {program}: no such program on this runner"),
        (_, Some(workdir)) => format!("start {program} in {workdir}: {why}"),
        (_, None) => format!("start {program}: {why}"),
    }
}

/// The first process of a group, not waited for yet. Dropped, it takes its group with it.
struct Leader {
    child: Option<Child>,
    ended: AsyncFd<OwnedFd>,
    group: ProcessGroup,
    guard: Guard,
}

impl Leader {
    fn of(mut child: Child, guard: Guard) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_child(&child);
        let watched =
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from).and_then(watched);
        let group = ProcessGroup::of_leader(pid.as_raw_pid());
        match (watched, group) {
            (Ok(ended), Some(group)) => Ok(Self { child: Some(child), ended, group, guard }),
            (watched, _) => {
                let group = ProcessGroup { id: pid.as_raw_pid(), started: 0 };
                group.signal(Signal::KILL);
                guard.over(group);
                let _ = child.wait();
                Err(watched.err().unwrap_or_else(|| io::Error::other("/proc does not show the process")))
            }
        }
    }

    /// Waits until the process has ended, and leaves it unwaited-for.
    async fn ended(&self) {
        // The guard is kept unread: the descriptor stays readable for ever.
        if self.ended.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends what is left of the group and takes the status of its first process.
    fn finish(mut self) -> io::Result<ExitStatus> {
        let mut child = self.child.take().expect("a leader is finished once");
        self.end_group();
        child.wait()
    }

    fn end_group(&self) {
        self.group.signal(Signal::KILL);
        self.guard.over(self.group);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.end_group();
            // It ends now; waiting for it keeps its number from lingering and must not hold up the runtime.
            std::thread::spawn(move || child.wait());
        }
    }
}

// Deprecated for types that give away a descriptor they do not own; this one is owned. The way that replaces it
// is unsafe, and there is one unsafe place here.
#[allow(deprecated)]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// What is known of running work while its end is awaited.
struct Watch {
    leader: Leader,
    group: ProcessGroup,
    guard: Guard,
    output: Output,
    stops: Stops,
    limit: Option<Duration>,
    timeout_grace: Duration,
    _spawner: mpsc::Sender<Order>,
}

/// Why it was made to end, and how hard.
struct Made {
    timed_out: bool,
    grace: Duration,
    /// When it is ended by KILL; `None` once it was.
    end_at: Option<Instant>,
}

impl Watch {
    async fn until_end(mut self) -> End {
        let mut made: Option<Made> = None;
        let limit = self.limit.map(|limit| Instant::now() + limit);
        loop {
            let end_at = made.as_ref().and_then(|made| made.end_at);
            let limit = limit.filter(|_| made.is_none());
            tokio::select! {
                biased;
                () = self.leader.ended() => break,
                grace = self.stops.next() => self.make_end(&mut made, false, grace),
                () = at(limit) => { let grace = self.timeout_grace; self.make_end(&mut made, true, grace); }
                () = at(end_at) => {
                    self.group.signal(Signal::KILL);
                    made.iter_mut().for_each(|made| made.end_at = None);
                }
                () = self.output.drain() => {}
            }
        }
        if made.is_none() && self.guard.is_over() {
            made = Some(Made { timed_out: false, grace: Duration::ZERO, end_at: None });
        }
        let status = self.leader.finish();
        self.group.until_gone().await;
        if !self.output.is_over() {
            // Whoever left the group and holds the pipe open is not waited for.
            let _ = timeout(READ_ON, self.output.drain()).await;
        }
        describe(status, made.as_ref(), self.limit, &self.output)
    }

    fn make_end(&self, made: &mut Option<Made>, timed_out: bool, grace: Duration) {
        let now = Instant::now();
        let first = made.is_none();
        let made = made.get_or_insert(Made { timed_out, grace, end_at: Some(now + grace) });
        if grace.is_zero() {
            made.grace = grace;
            made.end_at = None;
            self.group.signal(Signal::KILL);
        } else if first {
            self.group.signal(Signal::TERM);
        } else if made.end_at.is_some_and(|end_at| now + grace < end_at) {
            made.grace = grace;
            made.end_at = Some(now + grace);
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn describe(
    status: io::Result<ExitStatus>,
    made: Option<&Made>,
    limit: Option<Duration>,
    output: &Output,
) -> End {
    let (exit_code, by_itself) = match &status {
        Ok(status) => (status.code(), status.signal().map(signal_text)),
        Err(why) => (None, Some(format!("its end could not be read: {why}"))),
    };
    let how = |made: &Made| match made.end_at {
        Some(_) => format!("ended by TERM within a grace of {}", format_span(made.grace)),
        None if made.grace.is_zero() => "ended by KILL without a grace".to_owned(),
        None => format!("ended by KILL after a grace of {}", format_span(made.grace)),
    };
    let (outcome, reason) = match made {
        Some(made) if made.timed_out => {
            let limit = format_span(limit.unwrap_or_default());
            (AttemptOutcome::Failed, Some(format!("timed out after {limit}, {}", how(made))))
        }
        Some(made) => (AttemptOutcome::Cancelled, Some(format!("stopped: {}", how(made)))),
        None if exit_code == Some(0) => (AttemptOutcome::Succeeded, None),
        None => (AttemptOutcome::Failed, by_itself),
    };
    let room = KEPT_BYTES - reason.as_ref().map_or(0, |reason| (reason.len() + 1).min(KEPT_BYTES));
    let message = match (reason, output.tail(room)) {
        (None, tail) if tail.is_empty() => None,
        (None, tail) => Some(tail),
        (Some(reason), tail) if tail.is_empty() => Some(reason),
        (Some(reason), tail) => Some(format!("{reason}\n{tail}")),
    };
    End { outcome, exit_code, message: message.map(Into::into), artifacts: Vec::new() }
}

fn signal_text(signal: i32) -> String {
    let name = match signal {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        5 => "TRAP",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        9 => "KILL",
        10 => "USR1",
        11 => "SEGV",
        12 => "USR2",
        13 => "PIPE",
        14 => "ALRM",
        15 => "TERM",
        24 => "XCPU",
        25 => "XFSZ",
        31 => "SYS",
        _ => return format!("ended by signal {signal}"),
    };
    format!("ended by signal {signal} ({name})")
}
