//! A control group (v2) for each attempt that names cpu or memory, and what is needed to have one.
//!
//! Law: an attempt takes no more than it named, whatever it starts and wherever that goes: a process leaves its process
//! group by itself, but not its control group. Nothing is moved but this process, and where it may not divide its own
//! control group, everything stays as it was.
//!
//! A control group with limits for its children may have no processes of its own. So the runner moves into a child,
//! which its guard is started in, and attempts get others beside it. All are named by the runner, so that its next
//! start finds what this one leaves.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Resources, RunnerId, Token};

/// The controllers that limits need.
const CONTROLLERS: [&str; 2] = ["cpu", "memory"];
const PROCESSES: &str = "cgroup.procs";
const KILL: &str = "cgroup.kill";
/// The time over which a quota of cpu counts.
const PERIOD_US: u64 = 100_000;
/// The least quota the kernel takes.
const LEAST_QUOTA_US: u64 = 1_000;
/// How long processes that were ended may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why attempts cannot be limited here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; start the runner alone in a control group (v2) with the controllers cpu and memory that it may write \
     (systemd: Delegate=cpu memory)"
)]
pub struct Unavailable(String);

/// The control group a runner was started in, divided: one child for itself, one for each limited attempt.
#[derive(Debug, Clone)]
pub struct Subtree {
    own: PathBuf,
    /// Of its own child; those of attempts are this, a dot, and the token. No runner's name has a dot.
    name: String,
}

impl Subtree {
    /// The one this process is in. Before [`ProcessBackend::new`](super::ProcessBackend::new), whose guard belongs into
    /// it too.
    pub fn of_this_process(runner: &RunnerId) -> Result<Self, Unavailable> {
        Self::open(&here()?, runner)
    }

    /// Divides the control group in this directory, and moves this process into it. It may hold no other processes,
    /// unless it is the root of all.
    pub fn open(own: &Path, runner: &RunnerId) -> Result<Self, Unavailable> {
        let path = own.join("cgroup.controllers");
        let has = std::fs::read_to_string(&path).map_err(|why| unavailable(&path.display(), &why))?;
        if !CONTROLLERS.iter().all(|needed| has.split_ascii_whitespace().any(|has| has == *needed)) {
            let (own, has) = (own.display(), has.trim());
            return Err(Unavailable(format!("{own} has the controllers [{has}], without cpu or memory")));
        }
        let subtree = Self { own: own.to_owned(), name: format!("longshore-{runner}") };
        let child = own.join(&subtree.name);
        let before = here();
        subtree.divide(&child).map_err(|why| {
            if let Ok(before) = before {
                let _ = set(&before, PROCESSES, "0");
            }
            let _ = std::fs::remove_dir(&child);
            match why.kind() {
                ErrorKind::ResourceBusy => Unavailable(format!("{} holds other processes", own.display())),
                _ => unavailable(&own.display(), &why),
            }
        })?;
        Ok(subtree)
    }

    fn divide(&self, child: &Path) -> io::Result<()> {
        match std::fs::create_dir(child) {
            Err(why) if why.kind() != ErrorKind::AlreadyExists => return Err(why),
            _ => {}
        }
        if !child.join(KILL).exists() {
            return Err(io::Error::other("the kernel has no cgroup.kill; it must be 5.14 or newer"));
        }
        set(child, PROCESSES, "0")?;
        set(&self.own, "cgroup.subtree_control", "+cpu +memory")
    }

    /// Makes the control group of an attempt; `None` for one that names neither cpu nor memory.
    pub(super) fn limit(&self, token: Token, named: &Resources) -> io::Result<Option<Cgroup>> {
        if named.cpu == 0 && named.memory == 0 {
            return Ok(None);
        }
        let cgroup = Cgroup { path: self.own.join(format!("{}.{token}", self.name)) };
        std::fs::create_dir(&cgroup.path)?;
        if named.cpu > 0 {
            set(&cgroup.path, "cpu.max", &cpu_max(named.cpu))?;
        }
        if named.memory > 0 {
            set(&cgroup.path, "memory.max", &named.memory.to_string())?;
            // Swap would let it take more than it named.
            match set(&cgroup.path, "memory.swap.max", "0") {
                Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
                _ => {}
            }
        }
        // Half of an attempt is worth nothing.
        set(&cgroup.path, "memory.oom.group", "1")?;
        Ok(Some(cgroup))
    }

    /// Ends and removes what earlier starts of this runner left, and says in how many control groups something ran.
    /// Blocks.
    pub(super) fn clean_up(&self) -> io::Result<usize> {
        let mut running = 0;
        let prefix = format!("{}.", self.name);
        for entry in std::fs::read_dir(&self.own)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                running += usize::from(is_populated(&entry.path()));
                end_now(&entry.path())?;
            }
        }
        Ok(running)
    }
}

/// The control group of one attempt. Dropped, it is ended with all that is in it.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// What a process writes `0` into to be in it.
    pub(super) fn door(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join(PROCESSES))
    }

    /// Ends what is in it, also what left its process group, removes it, and says whether the kernel ended something
    /// for want of memory.
    pub(super) async fn end(self) -> bool {
        kill(&self.path);
        let mut waited = Duration::ZERO;
        while is_populated(&self.path) && waited < GONE_WITHIN {
            tokio::time::sleep(LOOK_AGAIN).await;
            waited += LOOK_AGAIN;
        }
        let out_of_memory =
            value(&self.path.join("memory.events"), "oom_kill").is_some_and(|count| count > 0);
        // One that cannot be removed yet is looked after by dropping it.
        let _ = remove(&self.path);
        out_of_memory
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.path.exists() {
            kill(&self.path);
            // What is in it ends now; waiting for that must not hold up the runtime.
            let path = std::mem::take(&mut self.path);
            std::thread::spawn(move || {
                if let Err(why) = end_now(&path) {
                    tracing::warn!(%why, "a control group is left to the next start of this runner");
                }
            });
        }
    }
}

/// Ends what is in a control group and removes it. Blocks.
fn end_now(cgroup: &Path) -> io::Result<()> {
    kill(cgroup);
    let mut waited = Duration::ZERO;
    while is_populated(cgroup) {
        if waited >= GONE_WITHIN {
            let cgroup = cgroup.display();
            let text =
                format!("processes in {cgroup} are still there after {GONE_WITHIN:?}; end them by hand");
            return Err(io::Error::other(text));
        }
        std::thread::sleep(LOOK_AGAIN);
        waited += LOOK_AGAIN;
    }
    remove(cgroup).map_err(|why| io::Error::new(why.kind(), format!("remove {}: {why}", cgroup.display())))
}

fn kill(cgroup: &Path) {
    match set(cgroup, KILL, "1") {
        Err(why) if why.kind() != ErrorKind::NotFound => {
            tracing::warn!(cgroup = %cgroup.display(), %why, "a control group could not be ended");
        }
        _ => {}
    }
}

fn is_populated(cgroup: &Path) -> bool {
    value(&cgroup.join("cgroup.events"), "populated") == Some(1)
}

fn unavailable(what: &impl std::fmt::Display, why: &io::Error) -> Unavailable {
    Unavailable(format!("{what}: {why}"))
}

/// The control group this process is in.
fn here() -> Result<PathBuf, Unavailable> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|why| unavailable(&path, &why));
    own(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
}

/// The directory of the control group that `/proc/self/cgroup` names, where `/proc/self/mountinfo` shows it.
fn own(cgroups: &str, mounts: &str) -> Result<PathBuf, Unavailable> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or_else(|| Unavailable("this machine has no control groups v2".to_owned()))?;
    let shown = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then_some(())?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A mount may show only a part of the hierarchy.
        Some(Path::new(point).join(Path::new(own).strip_prefix(root).ok()?).components().collect())
    });
    shown.ok_or_else(|| Unavailable(format!("no mount shows the control group {own}")))
}

fn cpu_max(milli: u64) -> String {
    let quota = milli.saturating_mul(PERIOD_US / 1_000).max(LEAST_QUOTA_US);
    format!("{quota} {PERIOD_US}")
}

fn set(cgroup: &Path, file: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(cgroup.join(file))?.write_all(value.as_bytes())
}

/// A number in a file of lines `name number`.
fn value(file: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Removes a control group in which nothing runs, and those the work has made within it.
fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 1 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                          30 24 0:26 / /sys/fs/cgroup/memory rw shared:8 - cgroup cgroup rw,memory\n\
                          31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_own_control_group_is_found_where_a_mount_shows_it() {
        let place = |cgroups: &str, mounts: &str| own(cgroups, mounts).map_err(|why| why.0);
        let there = |path: &str| Ok(PathBuf::from(path));
        let unit = "4:memory:/else\n0::/system.slice/runner.service\n";
        assert_eq!(place(unit, MOUNTS), there("/sys/fs/cgroup/system.slice/runner.service"));
        assert_eq!(place("0::/\n", MOUNTS), there("/sys/fs/cgroup"));
        let part = MOUNTS.replace("0:27 /", "0:27 /system.slice");
        assert_eq!(place(unit, &part), there("/sys/fs/cgroup/runner.service"));
        let hidden = "no mount shows the control group /user.slice".to_owned();
        assert_eq!(place("0::/user.slice\n", &part), Err(hidden.clone()));
        assert_eq!(place("0::/user.slice\n", ""), Err(hidden));
        assert_eq!(
            place("4:memory:/else\n", MOUNTS),
            Err("this machine has no control groups v2".to_owned())
        );
    }

    #[test]
    fn thousandths_of_a_core_are_a_quota_of_each_tenth_of_a_second() {
        assert_eq!(cpu_max(1_500), "150000 100000");
        assert_eq!(cpu_max(10), "1000 100000");
        assert_eq!(cpu_max(1), "1000 100000");
    }
}
