//! What a table in a file owes besides the laws: it is there again after closing, one process has it, its
//! history is bounded, and it can be looked at without a server.

use std::path::Path;

use longshore::adapters::RedbTable;
use longshore::adapters::redb::Bounds;
use longshore::ports::{Commit, History, HistoryQuery, Table, TableError};
use tempfile::tempdir;

use crate::fixture::{Leader, id, put};
use crate::history::{about, last, numbers, story};
use crate::killed::{in_other_process, process};

#[tokio::test]
async fn what_was_committed_is_there_after_opening_again() {
    let dir = tempdir().unwrap();
    let place = dir.path().join("made/on/the/way");
    let table = RedbTable::open(&place).unwrap();
    let mut leader = Leader::number(1);
    let turns = leader.commits(&table, 20).await;
    let before = table.load().await.unwrap();
    drop(table);

    let table = RedbTable::open(&place).unwrap();
    assert_eq!(table.load().await.unwrap(), before);
    assert_eq!(table.table(), before.table);
    assert_eq!(table.commit(&turns[3]).await, Commit::Done);
    leader.commits(&table, 5).await;
}

#[tokio::test]
async fn a_stream_does_not_keep_the_file_open() {
    use futures_util::StreamExt;
    let dir = tempdir().unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    let mut stream = table.follow(0).await.unwrap();
    drop(table);
    assert_eq!(stream.next().await, None);
    RedbTable::open(dir.path()).unwrap();
}

fn is_in_use<T>(opened: Result<T, TableError>) -> bool {
    matches!(opened, Err(TableError::InUse { what }) if what.ends_with("longshore.redb"))
}

#[tokio::test]
async fn a_second_opening_finds_the_table_in_use() {
    let dir = tempdir().unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    assert!(is_in_use(RedbTable::open(dir.path())));
    assert!(is_in_use(RedbTable::inspect(dir.path())));
    assert!(is_in_use(RedbTable::check(dir.path())));
    drop(table);
    RedbTable::open(dir.path()).unwrap();
}

#[test]
fn a_second_process_finds_the_table_in_use() {
    if let Some(dir) = in_other_process() {
        return println!("{}", RedbTable::open(&dir).expect_err("in use"));
    }
    let dir = tempdir().unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    let second = process("one_file::a_second_process_finds_the_table_in_use", dir.path()).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stdout).contains("in use by another process"), "{second:?}");
    drop(table);
}

#[tokio::test]
async fn a_table_that_is_looked_at_is_not_written_to() {
    let dir = tempdir().unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    let turns = Leader::number(1).commits(&table, 20).await;
    let before = table.load().await.unwrap();
    drop(table);
    let bytes = std::fs::read(dir.path().join("longshore.redb")).unwrap();

    assert_eq!(RedbTable::check(dir.path()).unwrap(), before.head);
    let table = RedbTable::inspect(dir.path()).unwrap();
    let another = RedbTable::inspect(dir.path()).unwrap();
    assert_eq!(table.load().await.unwrap(), before);
    assert_eq!(another.turns(17, 2).await.unwrap().unwrap(), [(*turns[17]).clone(), (*turns[18]).clone()]);
    let next = Leader::number(2).turn(21, vec![], vec![]);
    assert!(matches!(table.commit(&next).await, Commit::Refused { .. }));
    drop((table, another));
    assert_eq!(std::fs::read(dir.path().join("longshore.redb")).unwrap(), bytes);
}

#[test]
fn looking_where_no_table_is_makes_none() {
    let dir = tempdir().unwrap();
    let said = RedbTable::inspect(dir.path()).expect_err("nothing there").to_string();
    assert!(said.contains("there is no table here"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_put_back_from_an_earlier_day_shows_a_smaller_head() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("longshore.redb");
    let mut leader = Leader::number(1);
    let table = RedbTable::open(dir.path()).unwrap();
    leader.commits(&table, 3).await;
    let earlier = table.load().await.unwrap();
    drop(table);
    let backup = std::fs::read(&file).unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    leader.commits(&table, 3).await;
    drop(table);

    std::fs::write(&file, backup).unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    assert_eq!(table.load().await.unwrap(), earlier);
}

#[tokio::test]
async fn history_forgets_the_oldest_turns_and_only_those() {
    let dir = tempdir().unwrap();
    let bounds = Bounds { history_turns: 150, ..Bounds::default() };
    let table = RedbTable::open_with(dir.path(), bounds).unwrap();
    story(&table, 500).await;
    let all = table.events(HistoryQuery { id: None, since: Some(0), limit: 1_000 }).await.unwrap();
    let kept: Vec<u64> = (351..=500).filter(|turn| turn % 5 != 0).collect();
    assert_eq!(numbers(&all), kept);
    let each = HistoryQuery { id: Some(id("each")), since: Some(0), limit: 1_000 };
    assert_eq!(numbers(&table.events(each).await.unwrap()), kept);
}

#[tokio::test]
async fn a_smaller_history_is_reached_in_steps_without_a_gap() {
    let dir = tempdir().unwrap();
    let table = RedbTable::open(dir.path()).unwrap();
    story(&table, 300).await;
    drop(table);
    let bounds = Bounds { history_turns: 10, ..Bounds::default() };
    let table = RedbTable::open_with(dir.path(), bounds).unwrap();
    let mut leader = Leader::number(2);
    for number in 301..=400 {
        assert_eq!(table.commit(&leader.turn(number, vec![], vec![about("t")])).await, Commit::Done);
    }
    assert_eq!(numbers(&table.events(last(1_000)).await.unwrap()), (391..=400).collect::<Vec<_>>());
}

/// The disk takes no more: the process may not let a file grow beyond a limit.
#[tokio::test]
async fn a_full_disk_refuses_and_the_same_turn_is_stored_once_there_is_room() {
    if let Some(dir) = in_other_process() {
        return fill_the_disk(&dir).await;
    }
    let dir = tempdir().unwrap();
    let done =
        process("one_file::a_full_disk_refuses_and_the_same_turn_is_stored_once_there_is_room", dir.path())
            .output()
            .unwrap();
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(String::from_utf8_lossy(&done.stdout).contains("was stored in the end"), "{done:?}");
    RedbTable::check(dir.path()).unwrap();
}

async fn fill_the_disk(dir: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use tokio::signal::unix::{SignalKind, signal};
    const TOO_LONG_A_FILE: i32 = 25;

    let _not_killed = signal(SignalKind::from_raw(TOO_LONG_A_FILE)).unwrap();
    let table = RedbTable::open(dir).unwrap();
    let mut leader = Leader::number(1);
    leader.commits(&table, 3).await;
    let room = getrlimit(Resource::Fsize);
    let length = std::fs::metadata(dir.join("longshore.redb")).unwrap().len();
    setrlimit(Resource::Fsize, Rlimit { current: Some(length), maximum: room.maximum }).unwrap();

    let changes =
        |number| (0..1_000).map(|n| put(&format!("long-name-of-a-task-{n}-{number}"), number)).collect();
    let (refused, why) = loop {
        let head = table.load().await.unwrap().head;
        let turn = leader.turn_after(&head, changes(head.number));
        match table.commit(&turn).await {
            Commit::Done => {}
            Commit::Refused { why } => break (turn, why),
            other => panic!("{other:?}"),
        }
    };
    println!("refused: {why}");
    assert_eq!(table.load().await.unwrap().head.number, refused.number - 1);
    assert!(matches!(table.commit(&refused).await, Commit::Refused { .. }));

    setrlimit(Resource::Fsize, room).unwrap();
    assert_eq!(table.commit(&refused).await, Commit::Done);
    assert_eq!(table.load().await.unwrap().head, refused.head());
    println!("turn {} was stored in the end", refused.number);
}
