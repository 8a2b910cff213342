//! The rows as pages: which row stands on which page, and which pages must be written again.
//!
//! Laws, on which reading a half-written snapshot rests:
//! - a row leaves its page only after it has changed since the pointer's turn, so that the turns after that have it;
//!   whatever has not changed stands on exactly one of the pointer's pages;
//! - a page says of no row what it was not measured for: one that has changed since is left to the turns;
//! - pages are the property of the leadership that made them: their names have the turn they were made for, no
//!   other leadership uses them, and a new one begins with pages of its own;
//! - a page is only written again if a row on it changed.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::page_id::{Folder, PageId};
use crate::model::{Change, Head, Key, Row, TurnRecord, size};
use crate::wire::snapshot::{Pointer, encode_page};
use crate::wire::turn::length_of_row;

/// How large a page becomes, in bytes, by what its rows take at most; only a single row may be larger.
const PAGE_BYTES: usize = 384 << 10;

/// All rows after one turn, and the pages they stand on.
///
/// A row that is gone leaves nothing behind but a stale page: a busy dispatcher has far more of those than of rows.
#[derive(Debug)]
pub(super) struct Pages {
    head: Head,
    /// The head when rows were last put on pages.
    arranged: Head,
    /// One beside the other: a busy table would leave most places of a map of this size empty.
    rows: IndexMap<Key, Standing, FxBuildHasher>,
    /// Whether any row has changed since they were put on pages.
    changed: bool,
    pages: BTreeMap<PageId, Page>,
    /// How many pages were made for this turn.
    made: (u64, u32),
}

/// A row and where it stands.
#[derive(Debug)]
struct Standing {
    row: Row,
    place: Option<Place>,
    changed: bool,
}

/// A row's page, and how many bytes it takes there at most.
#[derive(Debug, Clone, Copy)]
struct Place {
    page: PageId,
    bytes: u32,
}

#[derive(Debug, Default)]
struct Page {
    rows: usize,
    bytes: usize,
    /// Whether it says anything but the rows that were put on it.
    stale: bool,
    /// The turn it was last written for.
    written: Option<u64>,
}

impl Pages {
    /// Rows that stand on no page yet.
    pub(super) fn of(head: Head, rows: Vec<Row>) -> Self {
        let standing = |row: Row| (row.key(), Standing { row, place: None, changed: true });
        Self {
            head,
            arranged: head,
            changed: !rows.is_empty(),
            rows: rows.into_iter().map(standing).collect(),
            pages: BTreeMap::new(),
            made: (0, 0),
        }
    }

    /// Leaves all pages to others.
    pub(super) fn begin_anew(&mut self) {
        self.pages.clear();
        for standing in self.rows.values_mut() {
            (standing.place, standing.changed) = (None, true);
        }
        self.changed = !self.rows.is_empty();
    }

    /// Takes in the next turn.
    pub(super) fn turn(&mut self, turn: &TurnRecord) {
        debug_assert_eq!(turn.number, self.head.number + 1, "turns are taken in one after the other");
        for change in &turn.changes {
            let key = change.key();
            match change {
                Change::Put(row) => match self.rows.get_mut(&key) {
                    Some(standing) => (standing.row, standing.changed) = (row.clone(), true),
                    None => {
                        self.rows.insert(key, Standing { row: row.clone(), place: None, changed: true });
                    }
                },
                Change::Delete(_) => {
                    let place = self.rows.swap_remove(&key).and_then(|gone| gone.place);
                    self.take_off(place);
                }
            }
        }
        self.changed |= !turn.changes.is_empty();
        self.head = turn.head();
    }

    /// The turn the rows stand for.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Whether any row has changed since rows were last put on pages.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Puts every row that has changed on a page.
    pub(super) fn arrange(&mut self) {
        (self.arranged, self.changed) = (self.head, false);
        let changed = |(key, standing): (&Key, &Standing)| standing.changed.then(|| key.clone());
        let mut changed: Vec<Key> = self.rows.iter().filter_map(changed).collect();
        changed.sort_unstable();
        let mut open: FxHashMap<Folder, PageId> = FxHashMap::default();
        for key in changed {
            let standing = &self.rows[&key];
            let (folder, bytes, before) = (Folder::of(&standing.row), length(&standing.row), standing.place);
            let page = match before.filter(|before| self.stays(*before, folder, bytes)) {
                Some(Place { page, .. }) => page,
                None => {
                    self.take_off(before);
                    let page = self.with_room(folder, bytes, &mut open);
                    self.put_on(page, bytes);
                    page
                }
            };
            let place = Some(Place { page, bytes: u32::try_from(bytes).expect("a row is one message") });
            let standing = self.rows.get_mut(&key).expect("it was just there");
            (standing.place, standing.changed) = (place, false);
        }
    }

    /// The pages that have to be written, with the rows on each.
    pub(super) fn stale(&self) -> BTreeMap<PageId, Vec<Key>> {
        let mut stale: BTreeMap<PageId, Vec<Key>> = BTreeMap::new();
        for (key, standing) in &self.rows {
            if let Some(Place { page, .. }) = standing.place.filter(|place| self.pages[&place.page].stale) {
                stale.entry(page).or_default().push(key.clone());
            }
        }
        stale.values_mut().for_each(|keys| keys.sort_unstable());
        stale
    }

    /// A page as it is to be written, of those of its rows that have not changed since they were put on it: the others
    /// are in the turns since, and make their page stale again when rows are put on pages next.
    pub(super) fn encode(&self, id: PageId, keys: &[Key]) -> Vec<u8> {
        let on_it =
            |standing: &&Standing| !standing.changed && standing.place.is_some_and(|place| place.page == id);
        let rows = keys.iter().filter_map(|key| self.rows.get(key).filter(on_it));
        encode_page(self.head.number, rows.map(|standing| &standing.row))
    }

    /// Notes that a page was written as it is.
    pub(super) fn wrote(&mut self, id: PageId) {
        if let Some(page) = self.pages.get_mut(&id) {
            page.stale = false;
            page.written = Some(self.head.number);
        }
    }

    /// The pointer to the pages, once those are written that had become stale; `sequence` is where the turn stands
    /// after which rows were put on them.
    pub(super) fn pointer(&self, format: u32, sequence: u64) -> Pointer {
        let pages = self.pages.iter().filter(|(_, page)| page.rows > 0);
        Pointer {
            format,
            turn: self.arranged.number,
            sequence,
            head: self.arranged,
            pages: pages.map(|(id, page)| (id.to_string(), page.written.unwrap_or(u64::MAX))).collect(),
        }
    }

    /// Forgets the pages that no row stands on any more, and names those of them that were ever written.
    pub(super) fn drop_empty(&mut self) -> Vec<PageId> {
        let mut written = Vec::new();
        self.pages.retain(|id, page| {
            written.extend(page.written.filter(|_| page.rows == 0).map(|_| *id));
            page.rows > 0
        });
        written
    }

    /// Whether a page is one of these.
    pub(super) fn has(&self, id: PageId) -> bool {
        self.pages.contains_key(&id)
    }

    /// Leaves a row where it is, if it may stand there.
    fn stays(&mut self, before: Place, folder: Folder, bytes: usize) -> bool {
        let Some(page) = self.pages.get_mut(&before.page) else { return false };
        let after = page.bytes - before.bytes as usize + bytes;
        if before.page.folder != folder || (after > PAGE_BYTES && page.rows > 1) {
            return false;
        }
        (page.bytes, page.stale) = (after, true);
        true
    }

    fn take_off(&mut self, place: Option<Place>) {
        let Some(Place { page, bytes }) = place else { return };
        if let Some(page) = self.pages.get_mut(&page) {
            page.rows -= 1;
            page.bytes -= bytes as usize;
            page.stale = true;
        }
    }

    fn put_on(&mut self, id: PageId, bytes: usize) {
        let page = self.pages.entry(id).or_default();
        page.rows += 1;
        page.bytes += bytes;
        page.stale = true;
    }

    /// A page with room for a row: one that is written anyway, else one that is half empty, else a new one.
    fn with_room(&mut self, folder: Folder, bytes: usize, open: &mut FxHashMap<Folder, PageId>) -> PageId {
        let room = |page: &Page| page.bytes + bytes <= PAGE_BYTES;
        if let Some(id) = open.get(&folder).filter(|id| self.pages.get(id).is_some_and(room)) {
            return *id;
        }
        let mut of_folder = self.pages.iter().filter(|(id, page)| id.folder == folder && room(page));
        let found = of_folder.clone().find(|(_, page)| page.stale);
        let found = found.or_else(|| of_folder.find(|(_, page)| page.bytes <= PAGE_BYTES / 2));
        let id = match found {
            Some((id, _)) => *id,
            None => self.new_page(folder),
        };
        open.insert(folder, id);
        id
    }

    fn new_page(&mut self, folder: Folder) -> PageId {
        let made = self.head.number;
        self.made = if self.made.0 == made { (made, self.made.1 + 1) } else { (made, 0) };
        PageId { folder, made, number: self.made.1 }
    }
}

/// How many bytes a row takes on a page at most. Most rows are of tasks, and those need not be written to know it.
fn length(row: &Row) -> usize {
    match row {
        Row::Task(_) | Row::Spec { .. } => size::of_row(row),
        _ => length_of_row(row) + 1,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::turn::FORMAT;
    use crate::model::{Id, Time, TurnId};
    use crate::wire::snapshot::decode_page;

    fn id(text: &str) -> Id {
        Id::parse(text).expect("a name")
    }

    fn spec(name: &str, bytes: usize) -> Change {
        Change::Put(Row::Spec { id: id(name), body: "x".repeat(bytes).into() })
    }

    fn gone(name: &str) -> Change {
        Change::Delete(Key::Spec(id(name)))
    }

    impl Pages {
        /// The page a row stands on.
        fn place(&self, key: &Key) -> PageId {
            self.rows[key].place.expect("it stands somewhere").page
        }
    }

    fn turn(pages: &Pages, changes: Vec<Change>) -> TurnRecord {
        TurnRecord {
            format: FORMAT,
            number: pages.head().number + 1,
            id: TurnId { leader: Uuid::nil(), counter: 1 },
            epoch: 1,
            at: Time(0),
            released: false,
            changes,
            facts: vec![],
        }
    }

    /// Takes in one turn with these changes, and writes what has become stale.
    fn write(pages: &mut Pages, changes: Vec<Change>) -> Vec<String> {
        pages.turn(&turn(pages, changes));
        pages.arrange();
        let stale = pages.stale();
        for (page, keys) in &stale {
            assert!(pages.encode(*page, keys).len() <= PAGE_BYTES + 100, "{page}");
            pages.wrote(*page);
        }
        stale.keys().map(PageId::to_string).collect()
    }

    #[test]
    fn only_pages_with_a_changed_row_are_written_again() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        let many = (0..15).map(|n| spec(&format!("t{n}"), 60 << 10)).collect();
        assert_eq!(write(&mut pages, many), ["specs.1-0", "specs.1-1", "specs.1-2"]);
        assert_eq!(write(&mut pages, vec![]), [""; 0]);
        let changed = pages.place(&Key::Spec(id("t5"))).to_string();
        for change in [spec("t5", 60 << 10), gone("t5")] {
            assert_eq!(write(&mut pages, vec![change]), std::slice::from_ref(&changed));
        }
    }

    #[test]
    fn a_row_that_did_not_change_stays_where_it_is() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        write(&mut pages, (0..40).map(|n| spec(&format!("t{n}"), 30 << 10)).collect());
        for round in 0..20_u32 {
            let before: Vec<(Key, PageId)> =
                pages.rows.keys().map(|key| (key.clone(), pages.place(key))).collect();
            let touched: Vec<String> = (0..5).map(|n| format!("t{}", (round * 7 + n * 11) % 40)).collect();
            let change = |(n, name): (usize, &String)| match n {
                0 => gone(name),
                _ => spec(name, (1 + (n + round as usize) % 4) * 20_000),
            };
            write(&mut pages, touched.iter().enumerate().map(change).collect());
            for (key, page) in &before {
                let Key::Spec(name) = key else { panic!("another row") };
                if !touched.contains(&name.to_string()) {
                    assert_eq!(pages.place(key), *page, "{name}");
                }
            }
            let keys: Vec<Key> = pages.rows.keys().cloned().collect();
            let mut on_pages: Vec<Row> = Vec::new();
            for page in pages.pages.keys() {
                on_pages.extend(decode_page(&pages.encode(*page, &keys)).expect("a page").rows);
            }
            assert_eq!(on_pages.len(), pages.rows.len());
            assert!(on_pages.iter().all(|row| &pages.rows[&row.key()].row == row));
        }
    }

    #[test]
    fn turns_go_on_while_pages_are_written_and_a_load_has_them() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        let mut log: Vec<TurnRecord> = Vec::new();
        let mut written: BTreeMap<PageId, Vec<u8>> = BTreeMap::new();
        let (mut dice, mut newer) = (7_u64, 0);
        let mut changes = |many: usize| -> Vec<Change> {
            let mut some = || {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (name, bytes) = (format!("t{}", (dice >> 33) % 40), (dice >> 50) as usize * 4);
                if bytes % 3 == 0 { gone(&name) } else { spec(&name, bytes) }
            };
            (0..many).map(|_| some()).collect()
        };
        for _ in 0..50 {
            log.push(turn(&pages, changes(8)));
            pages.turn(log.last().expect("a turn"));
            pages.arrange();
            for (page, keys) in pages.stale() {
                log.push(turn(&pages, changes(2)));
                pages.turn(log.last().expect("a turn"));
                let bytes = pages.encode(page, &keys);
                assert!(bytes.len() <= PAGE_BYTES + 100, "{page}: {}", bytes.len());
                written.insert(page, bytes);
                pages.wrote(page);
            }
            let pointer = pages.pointer(FORMAT, 0);
            let mut loaded: BTreeMap<Key, Row> = BTreeMap::new();
            for (page, at) in &pointer.pages {
                let page = decode_page(&written[&PageId::parse(page).expect("a page")]).expect("a page");
                assert_eq!(page.turn, *at);
                newer += usize::from(page.turn > pointer.turn);
                loaded.extend(page.rows.into_iter().map(|row| (row.key(), row)));
            }
            for change in log.iter().filter(|turn| turn.number > pointer.turn).flat_map(|turn| &turn.changes)
            {
                match change {
                    Change::Put(row) => loaded.insert(row.key(), row.clone()),
                    Change::Delete(key) => loaded.remove(key),
                };
            }
            let standing = |(key, standing): (&Key, &Standing)| (key.clone(), standing.row.clone());
            assert_eq!(loaded, pages.rows.iter().map(standing).collect());
        }
        assert!(newer > 0, "some page says more than the pointer's turn");
    }

    #[test]
    fn a_row_that_comes_and_goes_between_two_snapshots_leaves_nothing() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        write(&mut pages, vec![spec("t1", 10)]);
        for change in [spec("t2", 10), gone("t2"), gone("t3"), gone("t1")] {
            pages.turn(&turn(&pages, vec![change]));
        }
        assert_eq!(pages.rows.len(), 0);
        assert_eq!(write(&mut pages, vec![]), [""; 0], "a page without rows is not written");
        assert_eq!(pages.drop_empty().len(), 1, "but dropped");
    }

    #[test]
    fn a_row_that_was_gone_and_is_back_is_no_longer_on_its_old_page() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        write(&mut pages, vec![spec("t1", 10), spec("t2", 10)]);
        pages.turn(&turn(&pages, vec![spec("t2", 20)]));
        pages.arrange();
        let (page, keys) = pages.stale().pop_first().expect("t2 has changed");
        pages.turn(&turn(&pages, vec![gone("t1")]));
        pages.turn(&turn(&pages, vec![spec("t1", 30)]));
        let rows = decode_page(&pages.encode(page, &keys)).expect("a page").rows;
        assert_eq!(
            rows.len(),
            1,
            "it may be put on another page, and this one need not be written again then"
        );
    }

    #[test]
    fn a_page_without_rows_is_dropped_if_it_was_ever_written() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        write(&mut pages, vec![spec("t1", 10)]);
        assert_eq!(write(&mut pages, vec![gone("t1")]), [""; 0]);
        assert_eq!(pages.pointer(FORMAT, 9).pages.len(), 0);
        assert_eq!(pages.drop_empty(), [PageId::parse("specs.1-0").expect("a page")]);
        assert_eq!(pages.drop_empty(), []);
    }

    #[test]
    fn a_new_leadership_uses_no_page_of_another() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        write(&mut pages, vec![spec("t1", 10), spec("t2", 10)]);
        pages.begin_anew();
        assert_eq!(write(&mut pages, vec![]), ["specs.2-0"]);
        assert!(!pages.has(PageId::parse("specs.1-0").expect("a page")));
    }

    #[test]
    fn a_row_larger_than_a_page_has_one_of_its_own() {
        let mut pages = Pages::of(Head::empty(), vec![]);
        pages.turn(&turn(&pages, vec![spec("t1", PAGE_BYTES + 9), spec("t2", 10)]));
        pages.arrange();
        assert_eq!(pages.stale().len(), 2);
    }
}
