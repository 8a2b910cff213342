//! What is loaded equals the sum of all turns, whatever they were.

use longshore::model::Change;
use longshore::ports::{Commit, Table};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::fixture::{Fixture, Leader, delete, next_turns, put, sum};

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (0..12_u8, 0..1_000_u64, prop::bool::weighted(0.6)).prop_map(|(name, version, puts)| {
        let name = format!("t{name}");
        if puts { put(&name, version) } else { delete(&name) }
    });
    prop::collection::vec(change, 0..8)
}

pub(crate) async fn what_is_loaded_equals_the_sum_of_all_turns<F: Fixture>() {
    // The runner of cases is synchronous: it goes to a thread with a runtime of its own.
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut runner =
            TestRunner::new(Config { cases: F::CASES, failure_persistence: None, ..Config::default() });
        let all = runner.run(&prop::collection::vec(changes(), 0..20), |turns| {
            runtime.block_on(loads_the_sum::<F>(turns))
        });
        all.unwrap_or_else(|why| panic!("{why}"));
    })
    .join()
    .unwrap();
}

async fn loads_the_sum<F: Fixture>(all: Vec<Vec<Change>>) -> Result<(), TestCaseError> {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let mut leader = Leader::number(1);
    let mut committed = Vec::new();
    for (number, changes) in (1..).zip(all) {
        let turn = leader.turn(number, changes, vec![]);
        prop_assert_eq!(table.commit(&turn).await, Commit::Done);
        committed.push(turn);
    }
    let load = table.load().await.unwrap();
    prop_assert_eq!(load.rows, sum(&committed));
    prop_assert_eq!(load.head.number, committed.len() as u64);
    let mut stream = table.follow(0).await.unwrap();
    prop_assert_eq!(next_turns(&mut stream, committed.len()).await, committed);
    Ok(())
}
