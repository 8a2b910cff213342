//! The laws of the history that comes with a table.

use longshore::model::Fact;
use longshore::ports::table::TURNS_KEPT;
use longshore::ports::{Commit, History, HistoryQuery, Table, TurnEvents};

use crate::fixture::{Fixture, Leader, id};

pub(crate) fn about(name: &str) -> Fact {
    Fact::CancelRemembered { id: id(name) }
}

pub(crate) fn last(limit: usize) -> HistoryQuery {
    HistoryQuery { id: None, since: None, limit }
}

pub(crate) fn numbers(events: &[TurnEvents]) -> Vec<u64> {
    events.iter().map(|events| events.turn).collect()
}

/// Turns 1 to `count`: every one is about `each`, every third about `third`, every fifth has no facts.
pub(crate) async fn story<T: Table>(table: &T, count: u64) {
    let mut leader = Leader::number(1);
    for number in 1..=count {
        let facts = match (number % 5, number % 3) {
            (0, _) => vec![],
            (_, 0) => vec![about("each"), Fact::BuildsSafe, about("third")],
            _ => vec![about("each")],
        };
        assert_eq!(table.commit(&leader.turn(number, vec![], facts)).await, Commit::Done);
    }
}

pub(crate) async fn the_facts_of_a_turn_are_there_as_soon_as_it_is<F: Fixture<Table: History>>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    assert_eq!(table.events(last(10)).await.unwrap(), []);
    let turn = Leader::number(1).turn(1, vec![], vec![about("t"), Fact::BuildsSafe]);
    assert_eq!(table.commit(&turn).await, Commit::Done);
    let expected = TurnEvents { turn: 1, at: turn.at, events: turn.facts.clone() };
    assert_eq!(table.events(last(10)).await.unwrap(), [expected]);
}

pub(crate) async fn the_last_turns_are_shown_unless_a_turn_is_named<F: Fixture<Table: History>>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    story(&*table, 12).await;
    let asked =
        async |since, limit| numbers(&table.events(HistoryQuery { id: None, since, limit }).await.unwrap());
    assert_eq!(asked(None, 4).await, [8, 9, 11, 12]);
    assert_eq!(asked(Some(0), 4).await, [1, 2, 3, 4]);
    assert_eq!(asked(Some(4), 3).await, [6, 7, 8]);
    assert_eq!(asked(Some(12), 3).await, [0; 0]);
    assert_eq!(asked(None, 0).await, [0; 0]);
}

pub(crate) async fn a_question_about_a_task_is_answered_from_all_turns_it_occurs_in<
    F: Fixture<Table: History>,
>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    story(&*table, 400).await;
    let third: Vec<u64> = (1..=400).filter(|n| n % 3 == 0 && n % 5 != 0).collect();
    let asked = async |name: &str, since, limit| {
        table.events(HistoryQuery { id: Some(id(name)), since, limit }).await.unwrap()
    };
    let all = asked("third", Some(0), 1_000).await;
    assert_eq!(numbers(&all), third);
    assert!(all.iter().all(|turn| turn.events == [about("third")]));
    assert_eq!(numbers(&asked("third", None, 1_000).await), third);
    assert_eq!(numbers(&asked("third", None, 70).await), third[third.len() - 70..]);
    let after: Vec<u64> = third.iter().copied().filter(|turn| *turn > 99).take(50).collect();
    assert_eq!(numbers(&asked("third", Some(99), 50).await), after);
    assert_eq!(asked("nobody", None, 10).await, []);
}

pub(crate) async fn facts_outlive_the_compaction_of_their_turns<F: Fixture<Table: History>>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    story(&*table, TURNS_KEPT + 20).await;
    table.compact().await.unwrap();
    let first = table.events(HistoryQuery { id: Some(id("each")), since: Some(0), limit: 2 }).await.unwrap();
    assert_eq!(numbers(&first), [1, 2]);
}
