//! Runs a task's command as a process group of this machine. `spec.image` is ignored: there is no container.
//!
//! Law: nothing of an attempt outlives its end. The group is ended when its first process has ended, while that
//! process is still unwaited-for, so that the group's number cannot have been given to anybody else. If the runner
//! stops or dies, its guard ends every group; what even that leaves, the next start of the runner ends.
//!
//! An attempt that names cpu or memory gets no more of them where the runner was given a control group to divide
//! ([`cgroup`](super::cgroup)); everything of it ends with that, also what left the process group.
//!
//! The command gets the runner's own environment, over it the task's, over that `LONGSHORE_*`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cgroup::{Cgroup, Subtree};
use super::ending::{Ending, Exit, out_of_memory, signal_text};
use super::guard::{Beginning, Guard};
use super::output::Output;
use super::rlimit::{NO_CORE, Rlimit};
use super::{Backend, ProcessGroup, Start, StartFailed, Stops, Work};
use crate::model::{End, Traceparent, WorkOrder};

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
    subtree: Option<Subtree>,
    rlimits: Arc<[Rlimit]>,
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
        let guard = Guard::start(program.as_ref(), &[])?;
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
        Ok(Self { spawner, guard, timeout_grace, subtree: None, rlimits: [NO_CORE].into() })
    }

    /// Has attempts limited to the cpu and memory they name.
    #[must_use]
    pub fn dividing(self, subtree: Subtree) -> Self {
        Self { subtree: Some(subtree), ..self }
    }

    /// Has each process of its work limited by these, besides that none leaves a core file. Refuses what is more than
    /// this process may give.
    pub fn limiting(self, limits: &[Rlimit]) -> Result<Self, String> {
        limits.iter().try_for_each(|limit| limit.make_room())?;
        let rlimits = self.rlimits.iter().chain(limits).copied().collect();
        Ok(Self { rlimits, ..self })
    }

    /// The guard of its work.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    fn cgroup(&self, start: &Start) -> io::Result<Option<Cgroup>> {
        let Some(subtree) = &self.subtree else { return Ok(None) };
        let cgroup = subtree.limit(start.held.token, &start.order.resources);
        cgroup.map_err(|why| io::Error::new(why.kind(), format!("limit its cpu and memory: {why}")))
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
            return Err(StartFailed::anywhere(reason));
        };
        let failed = |why: io::Error| StartFailed::here(start_failure(program, order, &why));
        if let Some(workdir) = &order.workdir
            && !std::path::Path::new(workdir).is_dir()
        {
            let reason = format!("start {program}: workdir {workdir} is no directory on this runner");
            return Err(StartFailed::here(reason));
        }
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = command(&start, program);
        command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        let cgroup = self.cgroup(&start).map_err(failed)?;
        let door = cgroup.as_ref().map(Cgroup::door).transpose().map_err(failed)?;
        begin_guarded(&mut command, self.guard.begins(start.held.token), door, self.rlimits.clone());
        let child = self.spawn(command).await.map_err(failed)?;
        let child = Leader::of(child, self.guard.clone()).map_err(failed)?;
        let output = Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        let watch = Watch {
            group: child.group,
            leader: child,
            cgroup,
            memory: order.resources.memory,
            guard: self.guard.clone(),
            output: Output::of(output, start.output.clone()),
            stops: start.stops,
            ending: Ending::new(order.timeout, self.timeout_grace),
            _spawner: self.spawner.clone(),
        };
        Ok(Work { group: Some(watch.group), end: Box::pin(watch.until_end()) })
    }

    async fn clean_up(&self) -> Result<usize, String> {
        let Some(subtree) = self.subtree.clone() else { return Ok(0) };
        let cleaned = tokio::task::spawn_blocking(move || subtree.clean_up()).await;
        cleaned.expect("ending what is left does not panic").map_err(|why| why.to_string())
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
    // The runner's own trace and build are not the work's.
    command.env_remove(Traceparent::VARIABLE).env_remove("LONGSHORE_BUILD");
    command.args(&order.command[1..]).envs(start.environment()).process_group(0);
    if let Some(workdir) = &order.workdir {
        command.current_dir(workdir);
    }
    command
}

/// Has the process put itself under its limits, tell the guard of itself, and the kernel end it when the thread that
/// starts it ends.
#[allow(unsafe_code)]
fn begin_guarded(
    command: &mut Command,
    mut beginning: Beginning,
    door: Option<File>,
    rlimits: Arc<[Rlimit]>,
) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes a few system calls through rustix and neither allocates,
    // locks nor unwinds, so it is safe in a child of a process with several threads.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above: then the signal will never come.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
            }
            if let Some(door) = &door {
                rustix::io::write(door, b"0")?;
            }
            rlimits.iter().try_for_each(|limit| limit.apply())?;
            beginning.say()
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
    cgroup: Option<Cgroup>,
    /// The bytes it named; 0 if it named none.
    memory: u64,
    group: ProcessGroup,
    guard: Guard,
    output: Output,
    stops: Stops,
    ending: Ending,
    _spawner: mpsc::Sender<Order>,
}

impl Watch {
    async fn until_end(mut self) -> End {
        loop {
            tokio::select! {
                biased;
                () = self.leader.ended() => break,
                grace = self.stops.next() => {
                    if let Some(signal) = self.ending.ask(grace) {
                        self.group.signal(signal);
                    }
                }
                signal = self.ending.due() => self.group.signal(signal),
                () = self.output.drain() => {}
            }
        }
        if self.guard.is_over() {
            self.ending.was_over();
        }
        let mut exit = exit_of(self.leader.finish());
        self.group.until_gone().await;
        if let Some(cgroup) = self.cgroup
            && cgroup.end().await
        {
            // Out of memory is no success, whatever the first process made of it.
            let code = exit.code.filter(|code| *code != 0);
            exit = Exit { code, by_itself: Some(out_of_memory(self.memory)) };
        }
        if !self.output.is_over() {
            // Whoever left the group and holds the pipe open is not waited for.
            let _ = timeout(READ_ON, self.output.drain()).await;
        }
        self.ending.end(exit, &self.output.tail)
    }
}

fn exit_of(status: io::Result<ExitStatus>) -> Exit {
    match status {
        Ok(status) => {
            let by_itself = status.signal().map(|signal| format!("ended by {}", signal_text(signal)));
            Exit { code: status.code(), by_itself }
        }
        Err(why) => Exit { code: None, by_itself: Some(format!("its end could not be read: {why}")) },
    }
}
