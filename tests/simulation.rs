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
    let mut broken: Vec<(u64, String)> = Vec::new();
    for seed in first..first + count {
        let verdict = run(seed, Options::drawn(seed));
        sum += verdict.statistics;
        let law = verdict.violations.first();
        broken.extend(law.map(|law| (seed, format!("{} at {} ms: {}", law.law, law.at, law.what))));
    }
    if let Some((seed, _)) = broken.first() {
        let all: Vec<String> = broken.iter().map(|(seed, law)| format!("seed {seed}: {law}")).collect();
        panic!(
            "{}\n\n{} seeds broke a law:\n{}",
            tell(*seed, Options::drawn(*seed)),
            broken.len(),
            all.join("\n")
        );
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
