//! What a runner must not forget when it dies: reports nobody has taken yet, which process groups are its, and what it
//! began that can be gone on with.
//!
//! Law: an end is durable before it is sent, and stays until the dispatcher has taken it. A start that is lost
//! costs nothing: the heartbeat lists it. One process has the outbox; a second is told so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, Durability, ReadableTable, TableDefinition};

use super::backend::ProcessGroup;
use super::session::Restored;
use crate::model::{AssignmentMessage, Delivery, Held, LastSeen, Report, Reported, TaskId};
use crate::wire::message::{Said, read_delivery, read_reports, write_delivery, write_report};

/// The last number of those kept at once → a line for each: its number, a space, the report as JSON.
const REPORTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reports");
/// The number through which reports were taken, under 0.
const TAKEN: TableDefinition<'_, u8, u64> = TableDefinition::new("taken");
/// `id token` → process group, start of its first process.
const RUNNING: TableDefinition<'_, &str, (i32, u64)> = TableDefinition::new("running");
/// `id token` → the assignment, as a delivery of it alone.
const BEGUN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("begun");
/// The table (as two halves of its id) and turn last heard of, under 0.
const SEEN: TableDefinition<'_, u8, (u64, u64, u64)> = TableDefinition::new("seen");

const FILE: &str = "runner.redb";

/// The outbox of one runner.
#[derive(Debug)]
pub struct Outbox {
    database: Database,
    path: PathBuf,
}

/// The outbox cannot be used. The message names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error("{} is in use by another runner; stop it or give this one a data directory of its own", path.display())]
    InUse { path: PathBuf },
    #[error("{doing} {}: {why}; see that the directory is writable and the disk not full", path.display())]
    Broken { doing: &'static str, path: PathBuf, why: Box<redb::Error> },
    #[error("make {}: {why}; give a data directory this user may write", path.display())]
    NoDirectory { path: PathBuf, why: std::io::Error },
}

/// What an earlier start left.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Left {
    pub restored: Restored,
    pub running: Vec<(Held, ProcessGroup)>,
    /// What was begun and can be gone on with, for all that is known.
    pub begun: Vec<AssignmentMessage>,
}

impl Left {
    /// Of what was begun, the newest attempt of each task, if its end was not kept.
    pub fn unended(&self) -> Vec<AssignmentMessage> {
        let is_end = |(_, report): &(u64, Report)| matches!(report.what, Reported::End(_));
        let ends = self.restored.reports.iter().filter(|kept| is_end(kept));
        let ended: Vec<Held> =
            ends.map(|(_, report)| Held { id: report.id.clone(), token: report.token }).collect();
        let mut newest: BTreeMap<&TaskId, &AssignmentMessage> = BTreeMap::new();
        for begun in &self.begun {
            let one = newest.entry(&begun.id).or_insert(begun);
            if one.token < begun.token {
                *one = begun;
            }
        }
        newest.into_values().filter(|begun| !ended.contains(&begun.held())).cloned().collect()
    }
}

/// One thing to keep or to drop.
#[derive(Debug, Clone, PartialEq)]
pub enum Keep {
    Report {
        number: u64,
        report: Report,
    },
    Forget {
        through: u64,
    },
    Running(Held, ProcessGroup),
    /// It is about to be started, and may outlive this process.
    Begun(AssignmentMessage),
    Gone(Held),
    Seen(LastSeen),
}

impl Keep {
    /// Whether losing it would break a promise.
    pub(super) fn matters(&self) -> bool {
        match self {
            Keep::Report { report, .. } => matches!(report.what, Reported::End(_)),
            Keep::Running(..) | Keep::Begun(_) | Keep::Seen(_) => true,
            Keep::Forget { .. } | Keep::Gone(_) => false,
        }
    }

    fn forgets(&self) -> Option<u64> {
        if let Keep::Forget { through } = self { Some(*through) } else { None }
    }

    fn seen(&self) -> Option<&LastSeen> {
        if let Keep::Seen(seen) = self { Some(seen) } else { None }
    }

    pub(super) fn is_start(&self) -> bool {
        matches!(self, Keep::Report { report, .. } if !matches!(report.what, Reported::End(_)))
    }
}

impl Outbox {
    /// Opens the outbox in `directory`, making both if they are not there, and reads what is in it.
    pub fn open(directory: &Path) -> Result<(Self, Left), OutboxError> {
        let path = directory.join(FILE);
        std::fs::create_dir_all(directory)
            .map_err(|why| OutboxError::NoDirectory { path: directory.to_owned(), why })?;
        let database = match Database::create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(OutboxError::InUse { path }),
            Err(why) => return Err(broken("open", &path, why.into())),
        };
        let outbox = Self { database, path };
        let left = outbox.read().map_err(|why| broken("read", &outbox.path, why))?;
        Ok((outbox, left))
    }

    /// Keeps whatever is written waiting until this is over.
    #[cfg(test)]
    pub(super) fn hold_writes(&self) -> redb::WriteTransaction {
        self.database.begin_write().expect("a transaction")
    }

    /// Keeps and drops a batch as one transaction, on disk before it returns if anything in it matters.
    pub fn write(&self, batch: &[Keep]) -> Result<(), OutboxError> {
        self.try_write(batch).map_err(|why| broken("write", &self.path, why))
    }

    /// Opens the tables that something is written to: each costs a little, and a runner of short tasks writes often.
    fn try_write(&self, batch: &[Keep]) -> Result<(), redb::Error> {
        if batch.iter().all(Keep::is_start) {
            return Ok(());
        }
        let mut transaction = self.database.begin_write()?;
        if !batch.iter().any(Keep::matters) {
            transaction.set_durability(Durability::None)?;
        }
        if let Some((last, lines)) = ends(batch) {
            transaction.open_table(REPORTS)?.insert(last, lines.as_slice())?;
        }
        if let Some(through) = batch.iter().filter_map(Keep::forgets).max() {
            transaction.open_table(REPORTS)?.retain_in(..=through, |_, _| false)?;
            transaction.open_table(TAKEN)?.insert(0, through)?;
        }
        if batch.iter().any(|keep| matches!(keep, Keep::Running(..) | Keep::Begun(_) | Keep::Gone(_))) {
            let mut running = transaction.open_table(RUNNING)?;
            let mut begun = transaction.open_table(BEGUN)?;
            for keep in batch {
                match keep {
                    Keep::Running(held, group) => {
                        running.insert(key(held).as_str(), (group.id, group.started))?;
                    }
                    Keep::Begun(one) => {
                        let alone = Delivery { assignments: vec![one.clone()], stop: Vec::new() };
                        begun.insert(key(&one.held()).as_str(), write_delivery(&alone).as_slice())?;
                    }
                    Keep::Gone(held) => {
                        running.remove(key(held).as_str())?;
                        begun.remove(key(held).as_str())?;
                    }
                    Keep::Report { .. } | Keep::Forget { .. } | Keep::Seen(_) => {}
                }
            }
        }
        if let Some(last) = batch.iter().rev().find_map(Keep::seen) {
            let (high, low) = last.table.as_u64_pair();
            transaction.open_table(SEEN)?.insert(0, (high, low, last.turn))?;
        }
        Ok(transaction.commit()?)
    }

    fn read(&self) -> Result<Left, redb::Error> {
        // For writing, so that a new file gets its tables.
        let transaction = self.database.begin_write()?;
        let mut left = Left::default();
        {
            let mut taken = transaction.open_table(TAKEN)?;
            let through = taken.get(0)?.map_or(0, |through| through.value());
            for entry in transaction.open_table(REPORTS)?.iter()? {
                let (_, lines) = entry?;
                for line in lines.value().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    match read_line(line) {
                        Ok(kept) => {
                            left.restored.reports.extend(kept.filter(|(number, _)| *number > through))
                        }
                        Err(why) => tracing::error!(%why, "a kept report was unreadable"),
                    }
                }
            }
            if left.restored.reports.is_empty() {
                // Numbers begin anew.
                taken.remove(0)?;
            }
            for entry in transaction.open_table(RUNNING)?.iter()? {
                let (key, group) = entry?;
                let (id, started) = group.value();
                left.running.extend(held(key.value()).map(|held| (held, ProcessGroup { id, started })));
            }
            for entry in transaction.open_table(BEGUN)?.iter()? {
                match read_delivery(entry?.1.value()) {
                    Ok(alone) => left.begun.extend(alone.assignments),
                    Err(why) => tracing::error!(%why, "what was begun is unreadable"),
                }
            }
            if let Some(seen) = transaction.open_table(SEEN)?.get(0)? {
                let (high, low, turn) = seen.value();
                left.restored.last_seen =
                    Some(LastSeen { table: uuid::Uuid::from_u64_pair(high, low), turn });
            }
        }
        transaction.commit()?;
        Ok(left)
    }
}

/// The ends in a batch as lines, and the number of the last.
fn ends(batch: &[Keep]) -> Option<(u64, Vec<u8>)> {
    let mut lines = Vec::new();
    let mut last = None;
    for keep in batch {
        if let Keep::Report { number, report } = keep
            && !keep.is_start()
        {
            lines.extend_from_slice(number.to_string().as_bytes());
            lines.push(b' ');
            lines.extend(write_report(report));
            lines.push(b'\n');
            last = last.max(Some(*number));
        }
    }
    last.map(|last| (last, lines))
}

/// Reads one line of [`ends`].
fn read_line(line: &[u8]) -> Result<impl Iterator<Item = (u64, Report)>, String> {
    let text = std::str::from_utf8(line).map_err(|why| why.to_string())?;
    let (number, json) = text.split_once(' ').ok_or("it has no number")?;
    let number: u64 = number.parse().map_err(|why: std::num::ParseIntError| why.to_string())?;
    let read = read_reports(json.as_bytes(), Said::default()).map_err(|why| why.to_string())?;
    Ok(read.into_iter().map(move |report| (number, report)))
}

fn broken(doing: &'static str, path: &Path, why: redb::Error) -> OutboxError {
    OutboxError::Broken { doing, path: path.to_owned(), why: Box::new(why) }
}

fn key(held: &Held) -> String {
    format!("{} {}", held.id, held.token)
}

fn held(key: &str) -> Option<Held> {
    let (id, token) = key.split_once(' ')?;
    Some(Held { id: id.parse().ok()?, token: token.parse().ok()? })
}
