//! The container of an attempt: what the engine is told to make.
//!
//! Law: whatever is made carries the runner, its start, the task, the attempt and the token as labels, so that it is
//! known again. It may take no more than its task asks for, and sees nothing of the machine but what the operator
//! allowed.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use bollard::models::{ContainerCreateBody, ContainerState, HostConfig};
use uuid::Uuid;

use super::super::ending::{Exit, out_of_memory, signal_text};
use super::super::{Start, StartFailed};
use super::Settings;
use crate::model::{Resources, resources::amount_text};

/// The label with the runner's id.
pub(super) const RUNNER: &str = "longshore.runner";
/// The label with the id of one start of the runner, and of those that went on with what it began.
pub(super) const BEGUN: &str = "longshore.start";
pub(super) const TASK: &str = "longshore.task";
pub(super) const TOKEN: &str = "longshore.token";

/// Docker makes no container with less memory, in bytes; with other engines little less leaves room for nothing.
const LEAST_MEMORY: u64 = 6 << 20;

/// The name of the container of an attempt.
pub(super) fn name(settings: &Settings, start: &Start) -> String {
    format!("longshore-{}-{}", settings.runner, start.held.token)
}

/// What the engine is to make of an attempt, under this mark.
pub(super) fn body(
    settings: &Settings,
    begun: Uuid,
    start: &Start,
) -> Result<ContainerCreateBody, StartFailed> {
    let order = &start.order;
    let texts = [
        (RUNNER, settings.runner.to_string()),
        (BEGUN, begun.to_string()),
        (TASK, start.held.id.to_string()),
        ("longshore.attempt", start.attempt.to_string()),
        (TOKEN, start.held.token.to_string()),
    ];
    let labels: HashMap<String, String> =
        texts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let env = start.environment().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let Resources { cpu, memory, .. } = order.resources;
    if (1..LEAST_MEMORY).contains(&memory) {
        let (asked, least) = (amount_text("memory", memory), amount_text("memory", LEAST_MEMORY));
        let reason = format!(
            "resources.memory is {asked}; a container takes {least} at least: ask for that, or for none"
        );
        return Err(StartFailed::anywhere(reason));
    }
    let memory = (memory > 0).then(|| i64::try_from(memory).unwrap_or(i64::MAX));
    let host = HostConfig {
        nano_cpus: (cpu > 0).then(|| i64::try_from(cpu * 1_000_000).unwrap_or(i64::MAX)),
        memory,
        // Swap would let it take more than it asked for.
        memory_swap: memory,
        binds: Some(binds(&settings.mounts, &order.mounts)?),
        network_mode: settings.network.clone(),
        // Somebody has to wait for what the command leaves behind.
        init: Some(true),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        image: order.image.as_deref().map(str::to_owned),
        cmd: (!order.command.is_empty()).then(|| order.command.clone()),
        env: Some(env),
        working_dir: order.workdir.clone(),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// The mounts a task asks for, each of which must lie in a directory the operator allowed.
fn binds(allowed: &[PathBuf], asked: &[String]) -> Result<Vec<String>, StartFailed> {
    let wrong = |mount: &str, why: &str| StartFailed::anywhere(format!("spec.mounts: {mount}: {why}"));
    let refuse = |mount: &str, why: &str| StartFailed::here(format!("spec.mounts: {mount}: {why}"));
    for mount in asked {
        let mut parts = mount.split(':');
        let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
            return Err(wrong(mount, "expected SOURCE:TARGET or SOURCE:TARGET:ro"));
        };
        if !matches!((parts.next(), parts.next()), (None | Some("ro" | "rw"), None)) {
            return Err(wrong(mount, "expected SOURCE:TARGET or SOURCE:TARGET:ro"));
        }
        let (source, target) = (Path::new(source), Path::new(target));
        let plain = |path: &Path| {
            path.is_absolute()
                && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        };
        if !plain(source) || !plain(target) {
            return Err(wrong(mount, "both paths must be absolute and without .."));
        }
        // What a link points to is mounted, so that is what must be allowed.
        let real = source.canonicalize().map_err(|why| refuse(mount, &why.to_string()))?;
        if !allowed.iter().any(|allowed| real.starts_with(allowed)) {
            let list: Vec<String> = allowed.iter().map(|path| path.display().to_string()).collect();
            let list = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
            let why =
                format!("this runner lets tasks mount {list}; start it with --mount {}", source.display());
            return Err(refuse(mount, &why));
        }
    }
    Ok(asked.to_vec())
}

/// How a container ended; `None` if somebody else took it away.
pub(super) fn exit(state: Option<ContainerState>, resources: &Resources) -> Exit {
    let Some(state) = state else {
        let by_itself = Some("its container was removed by somebody else".to_owned());
        return Exit { code: None, by_itself };
    };
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    let by_itself = if state.oom_killed == Some(true) {
        Some(out_of_memory(resources.memory))
    } else if let Some(why) = state.error.filter(|why| !why.is_empty()) {
        Some(why)
    } else {
        code.filter(|code| *code > 128).map(|code| format!("ended by {}", signal_text(code - 128)))
    };
    // Out of memory is no success, whatever the first process made of it.
    let code = code.filter(|code| *code != 0 || by_itself.is_none());
    Exit { code, by_itself }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_mounts_only_what_lies_in_an_allowed_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there");
        let (allowed, other) = (root.join("allowed"), root.join("other"));
        std::fs::create_dir_all(allowed.join("cache")).expect("a directory");
        std::fs::create_dir_all(&other).expect("a directory");
        std::os::unix::fs::symlink(&other, allowed.join("away")).expect("a link");
        let ask = |mount: String| binds(std::slice::from_ref(&allowed), &[mount]).map_err(|why| why.reason);
        let allowed = allowed.display();
        assert_eq!(ask(format!("{allowed}/cache:/cache:ro")), Ok(vec![format!("{allowed}/cache:/cache:ro")]));
        for (mount, why) in [
            (format!("{}:/x", other.display()), "this runner lets tasks mount"),
            (format!("{allowed}/away:/x"), "this runner lets tasks mount"),
            (format!("{allowed}/../other:/x"), "without .."),
            (format!("{allowed}/cache"), "expected SOURCE:TARGET"),
            (format!("{allowed}/cache:/x:rw:z"), "expected SOURCE:TARGET"),
            (format!("{allowed}/none:/x"), "No such file"),
            ("cache:/x".to_owned(), "absolute"),
        ] {
            let said = ask(mount).expect_err("it is refused");
            assert!(said.starts_with("spec.mounts: ") && said.contains(why), "{said}");
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let resources = Resources::new(1_000, 64 << 20);
        let of = |state: Option<ContainerState>| {
            let exit = exit(state, &resources);
            (exit.code, exit.by_itself)
        };
        let state = |code, oom| ContainerState {
            exit_code: Some(code),
            oom_killed: Some(oom),
            ..ContainerState::default()
        };
        assert_eq!(of(Some(state(0, false))), (Some(0), None));
        assert_eq!(of(Some(state(3, false))), (Some(3), None));
        assert_eq!(of(Some(state(137, false))), (Some(137), Some("ended by signal 9 (KILL)".to_owned())));
        let oom = Some("out of memory: the kernel ended it at its limit of 64MiB".to_owned());
        assert_eq!(of(Some(state(137, true))), (Some(137), oom.clone()));
        assert_eq!(of(Some(state(0, true))), (None, oom));
        assert_eq!(of(None).0, None);
    }
}
