//! The main test: whole worlds under faults, each from one seed, judged by checkers that trust nobody's rows.
//!
//! `LONGSHORE_SEED` runs one seed, `LONGSHORE_SEEDS` so many. A failing seed tells its last events.

use longshore::simulation::{Options, Statistics, Verdict, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|why| panic!("{name}={text}: {why}")))
}

/// What a broken run has to say: the laws that were broken, and its last events.
fn tell(seed: u64, options: Options) -> String {
    let transcript = usize::try_from(number("LONGSHORE_EVENTS").unwrap_or(80)).expect("a small number");
    let told = run(seed, Options { transcript, ..options });
    let laws: Vec<String> = told
        .violations
        .iter()
        .take(5)
        .map(|one| format!("{} at {} ms: {}", one.law, one.at, one.what))
        .collect();
    format!("seed {seed}:\n{}\n{}", told.transcript.join("\n"), laws.join("\n"))
}

fn passes(seed: u64, options: Options) -> Statistics {
    let verdict: Verdict = run(seed, options.clone());
    assert!(verdict.violations.is_empty(), "{}", tell(seed, options));
    verdict.statistics
}

#[test]
fn every_seed_ends_well() {
    let (first, count) = match number("LONGSHORE_SEED") {
        Some(seed) => (seed, 1),
        None => (number("LONGSHORE_FROM").unwrap_or(0), number("LONGSHORE_SEEDS").unwrap_or(50)),
    };
    let mut sum = Statistics::default();
    for seed in first..first + count {
        sum += passes(seed, Options::drawn(seed));
    }
    println!("{count} seeds: {sum:#?}");
}

#[test]
fn two_hundred_tasks_on_runners_in_trouble_all_end() {
    for seed in 0..3 {
        passes(seed, Options::runners_of_all_sorts_of_trouble());
    }
}

#[test]
fn four_slots_and_four_builds_that_wait_for_their_jobs_all_end() {
    for seed in 0..10 {
        passes(seed, Options::builds_that_fill_the_slots());
    }
}
