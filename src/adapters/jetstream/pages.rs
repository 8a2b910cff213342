//! Pages.

/// Where pages of rows stand.
pub(super) const FOLDERS: [&str; 6] = ["pending", "assigned", "ended", "runners", "specs", "other"];

/// Whether a key is that of a page.
pub(super) fn is_page(key: &str) -> bool {
    key.split_once('.').is_some_and(|(folder, _)| FOLDERS.contains(&folder))
}
