//! What a store that goes wrong may do, and what is known of it afterwards.

use futures_util::StreamExt;
use longshore::adapters::{Fault, FaultyTable, MemoryTable};
use longshore::model::Head;
use longshore::ports::{Budget, Commit, Follow, Table};
use uuid::Uuid;

use crate::fixture::{Leader, next_turns, put, sum};

fn faulty() -> FaultyTable {
    FaultyTable::over(MemoryTable::new())
}

fn is_unknown(answer: &Commit) -> bool {
    matches!(answer, Commit::Unknown { .. })
}

#[tokio::test]
async fn an_unknown_turn_that_was_stored_is_done_when_committed_again() {
    let table = faulty();
    let turn = Leader::number(1).turn(1, vec![put("t", 1)], vec![]);
    table.script([Fault::AnswerLost]);
    assert!(is_unknown(&table.commit(&turn).await));
    assert_eq!(table.commit(&turn).await, Commit::Done);
    assert_eq!(table.load().await.unwrap().head, turn.head());
}

#[tokio::test]
async fn an_unknown_turn_that_was_lost_is_stored_when_committed_again() {
    let table = faulty();
    let turn = Leader::number(1).turn(1, vec![put("t", 1)], vec![]);
    table.script([Fault::LostOnTheWay, Fault::LostOnTheWay]);
    assert!(is_unknown(&table.commit(&turn).await));
    assert!(is_unknown(&table.commit(&turn).await));
    assert_eq!(table.load().await.unwrap().head, Head::empty());
    assert_eq!(table.commit(&turn).await, Commit::Done);
    assert_eq!(table.load().await.unwrap().rows, sum([&turn]));
}

#[tokio::test]
async fn an_unknown_turn_whose_number_was_taken_meanwhile_is_deposed() {
    let table = faulty();
    let turn = Leader::number(1).turn(1, vec![], vec![]);
    let taken = Leader::number(2).turn(1, vec![], vec![]);
    table.script([Fault::LostOnTheWay]);
    assert!(is_unknown(&table.commit(&turn).await));
    assert_eq!(table.commit(&taken).await, Commit::Done);
    assert_eq!(table.commit(&turn).await, Commit::Deposed { by: taken.id });
}

#[tokio::test]
async fn a_refused_turn_is_not_stored_and_can_be_committed_later() {
    let table = faulty();
    let turn = Leader::number(1).turn(1, vec![put("t", 1)], vec![]);
    for fault in [Fault::Full, Fault::TooLarge] {
        table.script([fault]);
        assert!(matches!(table.commit(&turn).await, Commit::Refused { .. }));
        assert_eq!(table.load().await.unwrap().head, Head::empty());
    }
    assert_eq!(table.commit(&turn).await, Commit::Done);
}

#[tokio::test]
async fn a_full_table_still_deposes_whoever_leads_no_longer() {
    let table = faulty();
    let standing = Leader::number(1).turn(1, vec![], vec![]);
    assert_eq!(table.commit(&standing).await, Commit::Done);
    table.script([Fault::Full]);
    let late = Leader::number(2).turn(1, vec![], vec![]);
    assert_eq!(table.commit(&late).await, Commit::Deposed { by: standing.id });
}

#[tokio::test]
async fn a_lost_tail_shows_as_a_head_smaller_than_one_seen() {
    let table = faulty();
    let mut leader = Leader::number(1);
    let turns = leader.commits(&table, 4).await;
    let mut stream = table.follow(0).await.unwrap();
    next_turns(&mut stream, 4).await;

    table.script([Fault::TailLost { turns: 3 }]);
    let last = leader.turn(5, vec![put("t", 5)], vec![]);
    assert_eq!(table.commit(&last).await, Commit::Done);

    let load = table.load().await.unwrap();
    assert_eq!(load.head, turns[1].head());
    assert_eq!(load.rows, sum(&turns[..2]));
    assert_eq!(stream.next().await, Some(Follow::Behind));
    // Whoever held on to the lost turns is told so by the next commit.
    let next = leader.turn(6, vec![], vec![]);
    assert_eq!(table.commit(&next).await, Commit::Deposed { by: turns[1].id });
}

#[tokio::test]
async fn a_seed_gives_the_same_faults_again_and_all_of_them() {
    let choice = [Fault::AnswerLost, Fault::LostOnTheWay, Fault::Full, Fault::TailLost { turns: 1 }];
    let answers = |seed| {
        let memory = MemoryTable::with(Uuid::nil(), Budget { rows: 10, bytes: usize::MAX });
        let table = FaultyTable::seeded(memory, seed, 3, &choice);
        let mut leader = Leader::number(1);
        let answers: Vec<Commit> = (0..300)
            .map(|_| table.try_commit(&leader.turn_after(&table.read().head, vec![put("t", 1)])))
            .collect();
        (answers, table.read())
    };
    let (first, load) = answers(42);
    assert_eq!((first.clone(), load.clone()), answers(42));
    assert_ne!(first, answers(43).0);
    let refused = first.iter().filter(|answer| matches!(answer, Commit::Refused { .. })).count();
    let unknown = first.iter().filter(|answer| is_unknown(answer)).count();
    let done = first.iter().filter(|answer| **answer == Commit::Done).count() as u64;
    assert!(refused > 5 && unknown > 10 && done > 150 && load.head.number < done + 50);
}
