//! The outside behind the ports: tables that keep turns and their history, and the clock.
//!
//! Law: every table here passes the same laws (`tests/table_laws`). Rests on `ports` and `wire`; nothing in the
//! core knows of it.

mod acceptance;
pub mod faulty;
mod following;
pub mod jetstream;
pub mod memory;
pub mod output_files;
pub mod redb;
pub mod system_clock;

pub use faulty::{Fault, FaultyTable};
pub use jetstream::JetStreamTable;
pub use memory::MemoryTable;
pub use output_files::OutputFiles;
pub use redb::RedbTable;
pub use system_clock::SystemClock;
