//! A file that is gone, foreign or damaged is an error that names it: never an empty table, never a change.

use std::fs;
use std::path::{Path, PathBuf};

use longshore::adapters::RedbTable;
use longshore::ports::{Table, TableError};
use tempfile::{TempDir, tempdir};

use crate::fixture::Leader;

async fn closed_table() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    Leader::number(1).commits(&table, 50).await;
    drop(table);
    let file = dir.path().join("longshore.redb");
    (dir, file)
}

/// Opening, looking and checking all say that the file is damaged, and leave it as it is.
fn is_damaged(dir: &Path, file: &Path) -> String {
    let before = fs::read(file).ok();
    let answers = [
        RedbTable::open(dir).map(|_| ()),
        RedbTable::inspect(dir).map(|_| ()),
        RedbTable::check(dir).map(|_| ()),
    ];
    let [said, ..] = answers.map(|answer| match answer {
        Err(TableError::Damaged { ref what, .. }) if what == &file.display().to_string() => {
            answer.expect_err("damaged").to_string()
        }
        other => panic!("not damaged: {other:?}"),
    });
    assert_eq!(fs::read(file).ok(), before);
    assert!(said.contains("restore it from a backup"), "{said}");
    said
}

#[tokio::test]
async fn a_file_that_is_gone_is_not_replaced_by_an_empty_table() {
    let (dir, file) = closed_table().await;
    fs::remove_file(&file).unwrap();
    let said = is_damaged(dir.path(), &file);
    assert!(said.contains("is gone") && said.contains("to start empty on purpose, remove"), "{said}");
    assert!(!file.exists());

    fs::remove_file(dir.path().join("longshore.id")).unwrap();
    assert_eq!(RedbTable::open(dir.path()).unwrap().load().await.unwrap().head.number, 0);
}

#[tokio::test]
async fn an_empty_file_is_damaged_also_where_no_table_is_known() {
    let (dir, file) = closed_table().await;
    fs::write(&file, b"").unwrap();
    assert!(is_damaged(dir.path(), &file).contains("0 bytes"));
    fs::remove_file(dir.path().join("longshore.id")).unwrap();
    is_damaged(dir.path(), &file);
}

#[tokio::test]
async fn a_file_of_something_else_is_damaged() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("longshore.redb");
    for length in [1, 100, 4096, 100_000] {
        fs::write(&file, vec![0x5a; length]).unwrap();
        is_damaged(dir.path(), &file);
        fs::write(&file, vec![0; length]).unwrap();
        is_damaged(dir.path(), &file);
    }
}

#[tokio::test]
async fn a_redb_file_of_another_program_is_damaged() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("longshore.redb");
    drop(redb::Database::create(&file).unwrap());
    is_damaged(dir.path(), &file);
}

#[tokio::test]
async fn the_file_of_another_table_is_refused_with_both_ids() {
    let ((dir, file), (_other, foreign)) = (closed_table().await, closed_table().await);
    let ours = fs::read_to_string(dir.path().join("longshore.id")).unwrap();
    fs::copy(foreign, &file).unwrap();
    let said = is_damaged(dir.path(), &file);
    assert!(said.contains(ours.trim()) && said.contains("put the right file back"), "{said}");
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_damaged() {
    let (dir, file) = closed_table().await;
    let whole = fs::read(&file).unwrap();
    let cuts = [10, 320, 4096, 8192, whole.len() / 3, whole.len() / 2, whole.len() - 4096, whole.len() - 1];
    for length in cuts {
        fs::write(&file, &whole[..length]).unwrap();
        is_damaged(dir.path(), &file);
    }
    fs::write(&file, whole).unwrap();
    RedbTable::open(dir.path()).unwrap();
}

/// A damaged page may hold what opening does not read. Then loading or checking says so; none of them yields
/// rows that were never put.
#[tokio::test]
async fn a_damaged_page_is_found_by_a_check_and_never_loads_as_something_else() {
    let (dir, file) = closed_table().await;
    let whole = fs::read(&file).unwrap();
    let table = RedbTable::inspect(dir.path()).unwrap();
    let intact = table.load().await.unwrap();
    drop(table);
    let mut found = 0;
    for page in 1..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xff);
        fs::write(&file, &bytes).unwrap();
        let checked = RedbTable::check(dir.path());
        let loaded = match RedbTable::inspect(dir.path()) {
            Ok(table) => table.load().await,
            Err(why) => Err(why),
        };
        match loaded {
            Ok(load) => assert_eq!(load, intact, "page {page}"),
            Err(why) => {
                assert!(matches!(why, TableError::Damaged { .. }), "page {page}: {why}");
                assert!(checked.is_err(), "page {page}");
            }
        }
        found += u32::from(checked.is_err());
        assert_eq!(fs::read(&file).unwrap(), bytes);
    }
    assert!(found > 3, "only {found} pages are in use");
}

/// Opening and loading need not notice every changed byte; a check that finds nothing must be right.
#[tokio::test]
async fn a_check_never_calls_a_changed_table_whole() {
    let (dir, file) = closed_table().await;
    let whole = fs::read(&file).unwrap();
    let table = RedbTable::inspect(dir.path()).unwrap();
    let intact = table.load().await.unwrap();
    drop(table);
    let (mut place, mut found) = (12_345_usize, 0);
    for _ in 0..400 {
        place = (place * 69_069 + 1) % (1 << 31);
        let mut bytes = whole.clone();
        bytes[place % whole.len()] ^= 1 << (place % 7);
        fs::write(&file, &bytes).unwrap();
        match RedbTable::check(dir.path()) {
            Ok(head) => {
                assert_eq!(head, intact.head, "byte {}", place % whole.len());
                let load = RedbTable::inspect(dir.path()).unwrap().load().await;
                assert_eq!(load.expect("whole"), intact, "byte {}", place % whole.len());
            }
            Err(TableError::Damaged { .. }) => found += 1,
            Err(other) => panic!("byte {}: {other}", place % whole.len()),
        }
    }
    assert!(found > 3, "only {found} of the changes were found");
}

#[tokio::test]
async fn an_id_that_names_no_table_is_damaged() {
    let (dir, _) = closed_table().await;
    let id = dir.path().join("longshore.id");
    fs::write(&id, "seven").unwrap();
    let said = RedbTable::open(dir.path()).expect_err("no id").to_string();
    assert!(said.starts_with(&id.display().to_string()) && said.contains("is damaged"), "{said}");
}

#[tokio::test]
async fn a_lost_id_is_written_again_from_the_file() {
    let (dir, _) = closed_table().await;
    let id = dir.path().join("longshore.id");
    let before = fs::read(&id).unwrap();
    fs::remove_file(&id).unwrap();
    drop(RedbTable::open(dir.path()).unwrap());
    assert_eq!(fs::read(&id).unwrap(), before);
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_begun_again() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("longshore.redb.new"), b"half of it").unwrap();
    assert_eq!(RedbTable::open(dir.path()).unwrap().load().await.unwrap().head.number, 0);
    assert!(!dir.path().join("longshore.redb.new").exists());
}

#[tokio::test]
async fn a_directory_that_cannot_be_one_is_unreadable_with_its_path() {
    let dir = tempdir().unwrap();
    let place = dir.path().join("a-file");
    fs::write(&place, b"").unwrap();
    let said = RedbTable::open(&place).expect_err("not a directory").to_string();
    assert!(said.contains("a-file") && said.contains("check the path and its permissions"), "{said}");
}
