//! The directory of a table: which files stand there, whose table they hold, and who may open them.
//!
//! Law: an empty table is only ever made where no table was before. `longshore.id` stays behind as the mark
//! that one was; a missing, empty, foreign or damaged file is an error that names it and says what to do. One
//! process at a time holds `longshore.lock`. A file is first looked at through memory, so an error at opening
//! has changed nothing.

use std::any::Any;
use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase};
use uuid::Uuid;

use super::overlay::Overlay;
use super::schema::{self, Failure};
use crate::model::Head;
use crate::ports::TableError;
use crate::wire::turn::DecodeError;

/// Memory the file's pages may take while it is open.
const CACHE_BYTES: usize = 256 << 20;

/// Where a table's files stand.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
    pub(super) file: PathBuf,
    id: PathBuf,
    lock: PathBuf,
}

/// A table that was opened, with what is known of it.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) table: Uuid,
    pub(super) head: Head,
    /// Held until the table is closed.
    pub(super) lock: File,
}

impl Place {
    /// The files of the table in `dir`.
    pub(super) fn of(dir: &Path) -> Self {
        let file = |name| dir.join(name);
        Self {
            dir: dir.to_owned(),
            file: file("longshore.redb"),
            id: file("longshore.id"),
            lock: file("longshore.lock"),
        }
    }

    /// Opens the table, or makes an empty one where none ever was.
    pub(super) fn open(&self) -> Result<Opened, TableError> {
        fs::create_dir_all(&self.dir).map_err(|why| unreadable("create directory", &self.dir, &why))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(|why| unreadable("open", &self.lock, &why))?;
        self.hold(lock.try_lock())?;

        let named = self.named_table()?;
        match (self.length()?, named) {
            (None, None) => self.create()?,
            (None, Some(table)) => return Err(self.gone(table)),
            (Some(_), _) => {}
        }
        self.look(named)?;
        let (db, table, head) = guarded(|| self.reopen()).map_err(|why| self.error(why))?;
        if named.is_none() {
            self.name(table).map_err(|why| unreadable("write", &self.id, &why))?;
        }
        Ok(Opened { db, table, head, lock })
    }

    /// Opens the table to look at it; nothing is ever written.
    pub(super) fn open_unwritten(&self) -> Result<Opened, TableError> {
        let named = self.named_table()?;
        if self.length()?.is_none() {
            return Err(match named {
                Some(table) => self.gone(table),
                None => TableError::Unreadable {
                    what: self.file.display().to_string(),
                    why: "there is no table here; name the directory the server was started with".to_owned(),
                },
            });
        }
        self.look(named)
    }

    /// Opens the file again, whose lock is still held.
    pub(super) fn reopen(&self) -> Result<(Database, Uuid, Head), Failure> {
        let db = Builder::new().set_cache_size(CACHE_BYTES).open(&self.file)?;
        let reading = db.begin_read()?;
        let (table, head) = (schema::table_id(&reading)?, schema::head(&reading)?);
        reading.close()?;
        Ok((db, table, head))
    }

    /// What a failure with the file means to whoever asked.
    pub(super) fn error(&self, why: Failure) -> TableError {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let what = self.file.display().to_string();
        match why {
            Failure::File(redb::Error::DatabaseAlreadyOpen) => TableError::InUse { what },
            Failure::File(redb::Error::UpgradeRequired(version)) => TableError::Unreadable {
                what,
                why: format!(
                    "it has version {version} of the file format; open it with the release that wrote it"
                ),
            },
            Failure::File(redb::Error::Io(io))
                if !matches!(io.kind(), InvalidData | InvalidInput | UnexpectedEof) =>
            {
                TableError::Unreadable { what, why: io.to_string() }
            }
            why @ (Failure::File(redb::Error::PreviousIo)
            | Failure::Decode { why: DecodeError::Newer { .. }, .. }) => {
                TableError::Unreadable { what, why: why.to_string() }
            }
            why => TableError::Damaged { what, why: why.to_string() },
        }
    }

    /// Reads the file through memory: whose table it is, and that it is one.
    fn look(&self, named: Option<Uuid>) -> Result<Opened, TableError> {
        let file = File::open(&self.file).map_err(|why| unreadable("open", &self.file, &why))?;
        self.hold(file.try_lock_shared())?;
        let lock = file.try_clone().map_err(|why| unreadable("open", &self.file, &why))?;
        let look = || -> Result<_, Failure> {
            let overlay = Overlay::over(file).map_err(redb::Error::Io)?;
            let db = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(overlay)?;
            let reading = db.begin_read()?;
            let (table, head) = (schema::table_id(&reading)?, schema::head(&reading)?);
            reading.close()?;
            Ok((db, table, head))
        };
        let (db, table, head) = guarded(look).map_err(|why| self.error(why))?;
        match named.filter(|named| *named != table) {
            None => Ok(Opened { db, table, head, lock }),
            Some(named) => Err(self.damaged(format!(
                "it holds table {table}, but {} says that table {named} belongs here; put the right file back, or remove {} if this one is meant",
                self.id.display(),
                self.id.display()
            ))),
        }
    }

    /// Makes an empty table. A crash on the way leaves either none or a whole one.
    fn create(&self) -> Result<(), TableError> {
        let unfinished = self.dir.join("longshore.redb.new");
        let table = Uuid::now_v7();
        let make = || -> Result<(), Failure> {
            let _ = fs::remove_file(&unfinished);
            let db = Builder::new().create(&unfinished)?;
            schema::create(&db, table)?;
            drop(db);
            let settle = || {
                File::open(&unfinished)?.sync_all()?;
                fs::rename(&unfinished, &self.file)?;
                File::open(&self.dir)?.sync_all()
            };
            settle().map_err(|why| Failure::File(redb::Error::Io(why)))?;
            Ok(())
        };
        guarded(make).map_err(|why| self.error(why))
    }

    /// The length of the file; `None` if there is none.
    fn length(&self) -> Result<Option<u64>, TableError> {
        match fs::metadata(&self.file) {
            Ok(about) if !about.is_file() => Err(self.damaged("it is not a file".to_owned())),
            Ok(about) if about.len() == 0 => Err(self.damaged("it is empty (0 bytes)".to_owned())),
            Ok(about) => Ok(Some(about.len())),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(unreadable("open", &self.file, &why)),
        }
    }

    /// The table that `longshore.id` names, if it is there.
    fn named_table(&self) -> Result<Option<Uuid>, TableError> {
        let text = match fs::read(&self.id) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(unreadable("read", &self.id, &why)),
        };
        Uuid::try_parse_ascii(text.trim_ascii()).map(Some).map_err(|why| TableError::Damaged {
            what: self.id.display().to_string(),
            why: format!(
                "it names no table ({why}); if {} is the right table, remove it",
                self.file.display()
            ),
        })
    }

    fn name(&self, table: Uuid) -> io::Result<()> {
        let unfinished = self.dir.join("longshore.id.new");
        fs::write(&unfinished, format!("{table}\n"))?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &self.id)?;
        File::open(&self.dir)?.sync_all()
    }

    fn gone(&self, table: Uuid) -> TableError {
        self.damaged(format!(
            "it is gone, but {} says that table {table} was here; to start empty on purpose, remove {} as well",
            self.id.display(),
            self.id.display()
        ))
    }

    fn damaged(&self, why: String) -> TableError {
        TableError::Damaged { what: self.file.display().to_string(), why }
    }

    /// A lock that is not to be had means another process; a file system without locks is trusted.
    fn hold(&self, held: Result<(), TryLockError>) -> Result<(), TableError> {
        match held {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(TableError::InUse { what: self.file.display().to_string() }),
            Err(TryLockError::Error(why)) if why.kind() == io::ErrorKind::Unsupported => Ok(()),
            Err(TryLockError::Error(why)) => Err(unreadable("lock", &self.file, &why)),
        }
    }
}

/// Runs `job`, and takes a panic for what it is here: the file's pages contradict each other.
pub(super) fn guarded<T>(job: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| Err(contradiction(&*panic)))
}

/// What a panic while reading says.
pub(super) fn contradiction(panic: &(dyn Any + Send)) -> Failure {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no reason given");
    Failure::Contradiction(format!("its pages contradict each other ({said})"))
}

fn unreadable(doing: &str, what: &Path, why: &io::Error) -> TableError {
    TableError::Unreadable {
        what: format!("{doing} {}", what.display()),
        why: format!("{why}; check the path and its permissions"),
    }
}
