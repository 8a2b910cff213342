//! What pages are called.
//!
//! Law: a page's name has the turn it was made for, so two leaderships never mean different pages by one name.

use std::fmt;

use crate::model::{Row, TaskState};

/// What stands on a page, and the first part of its key: what changes often apart from what hardly ever does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Folder {
    Pending,
    Assigned,
    Ended,
    Runners,
    Artifacts,
    Specs,
    Other,
}

impl Folder {
    pub(super) const ALL: [Folder; 7] = [
        Folder::Pending,
        Folder::Assigned,
        Folder::Ended,
        Folder::Runners,
        Folder::Artifacts,
        Folder::Specs,
        Folder::Other,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Folder::Pending => "pending",
            Folder::Assigned => "assigned",
            Folder::Ended => "ended",
            Folder::Runners => "runners",
            Folder::Artifacts => "artifacts",
            Folder::Specs => "specs",
            Folder::Other => "other",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|folder| folder.as_str() == text)
    }

    /// Where a row stands.
    pub(super) fn of(row: &Row) -> Self {
        match row {
            Row::Task(task) => match task.state {
                TaskState::Pending { .. } => Folder::Pending,
                TaskState::Assigned(_) | TaskState::Running(_) => Folder::Assigned,
                TaskState::Ended(_) => Folder::Ended,
            },
            Row::Runner(_) => Folder::Runners,
            Row::Holding(_) => Folder::Artifacts,
            Row::Spec { .. } => Folder::Specs,
            Row::Queue(_)
            | Row::Class(_)
            | Row::Intent(_)
            | Row::EarlyCancel(_)
            | Row::Group(_)
            | Row::Reservation(_)
            | Row::Pool(_) => Folder::Other,
        }
    }
}

/// The name of a page: `pending.3118-4` is the fifth page made for turn 3118.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PageId {
    pub(super) folder: Folder,
    /// The turn it was made for.
    pub(super) made: u64,
    pub(super) number: u32,
}

impl PageId {
    /// The page a key names, if it names one.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let (folder, name) = key.split_once('.')?;
        let (made, number) = name.split_once('-')?;
        Some(Self { folder: Folder::parse(folder)?, made: made.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}", self.folder.as_str(), self.made, self.number)
    }
}

/// Whether a key is that of a page.
pub(super) fn is_page(key: &str) -> bool {
    key.split_once('.').is_some_and(|(folder, _)| Folder::parse(folder).is_some())
}
