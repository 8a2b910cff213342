//! A dispatcher with its table in a file: the directory, the table in it, and whether the server answers.

use std::path::Path;
use std::sync::Arc;

use super::replicas::ask;
use super::{Findings, bytes};
use crate::adapters::RedbTable;
use crate::cli::failure::Failure;
use crate::core::{Settings, State, invariant};
use crate::ports::{Table as _, TableError};

/// The directory and the address of a server that was not told others.
const DATA: &str = "longshore-data";
const URL: &str = "http://127.0.0.1:8080";
/// Free space below which it is time to act, and below which turns may be refused at any moment.
const LITTLE: u64 = 1 << 30;
const TOO_LITTLE: u64 = 64 << 20;

/// Looks at the directory and asks the servers.
pub(super) async fn look(found: &mut Findings, data: Option<&Path>, urls: &[String]) -> Result<(), Failure> {
    let dir = data.unwrap_or(Path::new(DATA));
    let in_use = if dir.is_dir() {
        directory(found, dir);
        table(found, dir).await
    } else {
        let says = format!("{} is not there", dir.display());
        found.warn("directory", says, "`longshore serve --data DIR` makes it; name another with --data");
        false
    };
    let named = !urls.is_empty();
    let default = [URL.to_owned()];
    for url in if named { urls } else { &default } {
        match ask(url).await {
            Ok(status) => status.judge(found, None),
            Err(Failure::Unreachable { why, .. }) if !named && !in_use => {
                let says = format!("no server answers at {url}: {why}");
                found.warn(
                    "dispatcher",
                    says,
                    "start one with `longshore serve`, or name another with --url",
                );
            }
            Err(Failure::Usage(why)) => return Err(Failure::Usage(why)),
            Err(why) => found.fail("dispatcher", format!("{url}: {why}"), ""),
        }
    }
    Ok(())
}

fn directory(found: &mut Findings, dir: &Path) {
    let tried = dir.join(format!("doctor-{}", uuid::Uuid::now_v7().simple()));
    match std::fs::write(&tried, "written and removed by longshore doctor")
        .and_then(|()| std::fs::remove_file(&tried))
    {
        Ok(()) => found.ok("directory", format!("{} can be written", dir.display())),
        Err(why) => {
            let says = format!("{} cannot be written: {why}", dir.display());
            found.fail("directory", says, "give it to the user the dispatcher runs as");
        }
    }
    let space = match rustix::fs::statvfs(dir) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(why) => {
            let says = format!("the free space of {} cannot be asked: {why}", dir.display());
            return found.warn("space", says, "look with df");
        }
    };
    let says = format!("{} free", bytes(space));
    match space {
        LITTLE.. => found.ok("space", says),
        TOO_LITTLE.. => found.warn("space", says, "make room: a full disk stops the dispatcher"),
        _ => found.fail("space", says, "make room now: turns are refused when the disk is full"),
    }
}

/// Looks at the table itself; whether a server has it open.
async fn table(found: &mut Findings, dir: &Path) -> bool {
    let checked = match RedbTable::check(dir) {
        Ok(_) => match RedbTable::inspect(dir) {
            Ok(table) => table.load().await,
            Err(why) => Err(why),
        },
        Err(why) => Err(why),
    };
    match checked {
        Ok(load) => {
            let (rows, turn) = (load.rows.len(), load.head.number);
            let state = State::load(Arc::new(Settings::default()), load.table, load.head, load.rows);
            let broken = invariant::check(&state);
            broken.iter().for_each(|rule| found.fail("table", rule, "keep the file, and report this"));
            if broken.is_empty() {
                found.ok("table", format!("{rows} rows after turn {turn}; no rule is broken"));
            }
            false
        }
        Err(TableError::InUse { .. }) => {
            found.ok("table", "a server has it open; `longshore table check` looks once it is stopped");
            true
        }
        Err(TableError::Unreadable { what, why }) => {
            found.warn(
                "table",
                format!("{what}: {why}"),
                "`longshore serve` makes a new one where there is none",
            );
            false
        }
        Err(why) => {
            found.fail("table", why.to_string(), "");
            false
        }
    }
}
