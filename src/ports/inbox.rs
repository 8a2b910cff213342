//! What the turn loop asks of whatever feeds it with inputs.
//!
//! Law: after `read_reports(mark)`, every report that had arrived before the call is put before the loop, and
//! only then the mark. Nothing is taken from a runner before its mark came back: finished work whose report is
//! on its way is not lost work.

/// The feeding side of the turn loop.
pub trait Inbox: Send + Sync {
    /// Asks for all reports that have arrived so far, followed by `mark`.
    fn read_reports(&self, mark: u64);

    /// Why nothing has been read for so long that another replica should lead, if so.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Why what it held is gone, if so: until it is back no replica decides anything, and each says why.
    fn gone(&self) -> Option<String> {
        None
    }
}
