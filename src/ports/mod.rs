//! The seams to the world: small traits, each with its laws in its header. They rest on `model` alone.

pub mod clock;
pub mod history;
pub mod inbox;
pub mod outbox;
pub mod output;
pub mod table;

pub use clock::Clock;
pub use history::{History, HistoryQuery, TurnEvents};
pub use inbox::Inbox;
pub use outbox::Outbox;
pub use output::{OutputError, OutputPage, OutputStore};
pub use table::{Budget, Commit, Follow, Load, Table, TableError};
