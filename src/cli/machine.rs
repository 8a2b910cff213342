//! What this machine is and has: the defaults of a runner.
//!
//! Law: nothing here fails. What cannot be found out is absent, and the runner asks for it by its option.

use std::path::PathBuf;

use crate::model::{Id, RunnerId};
pub(super) use crate::runner::machine::{arch, os};

/// The machine's name as a legal id: what is not legal becomes `-`.
pub(super) fn name() -> RunnerId {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    legal(name.unwrap_or_default().trim())
}

fn legal(name: &str) -> RunnerId {
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' };
    let name: String = name.chars().take(Id::MAX).map(keep).collect();
    let name = name.trim_matches('-');
    Id::parse(name).unwrap_or_else(|_| Id::parse("runner").expect("a legal name"))
}

/// Cpus this process may use, in thousandths of a core.
pub(super) fn cpu() -> u64 {
    std::thread::available_parallelism().map_or(1_000, |cpus| cpus.get() as u64 * 1_000)
}

/// Memory this process may use, in bytes: the machine's, or less if a control group says so.
pub(super) fn memory() -> Option<u64> {
    let read = |path| std::fs::read_to_string(path).ok();
    let info = read("/proc/meminfo")?;
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let limit = read("/sys/fs/cgroup/memory.max").and_then(|limit| limit.trim().parse().ok());
    Some((total << 10).min(limit.unwrap_or(u64::MAX)))
}

/// Where this user's programs keep what must survive them.
pub(super) fn state_directory() -> Option<PathBuf> {
    let named =
        |variable: &str| std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")))?;
    Some(state.join("longshore"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_name_is_made_a_legal_id() {
        assert_eq!(legal("build-7.example.org").as_str(), "build-7-example-org");
        assert_eq!(legal("").as_str(), "runner");
        assert_eq!(legal("…").as_str(), "runner");
    }
}
