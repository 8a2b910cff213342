//! The main test: whole worlds under faults, each from one seed, judged by checkers that trust nobody's rows.
//!
//! `LONGSHORE_SEED` runs one seed, `LONGSHORE_SEEDS` so many. A failing seed tells its last events.

use std::ops::Range;

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

/// The seeds to run: as many as the environment says, or `usual`.
fn seeds(usual: u64) -> Range<u64> {
    let (first, count) = match number("LONGSHORE_SEED") {
        Some(seed) => (seed, 1),
        None => (number("LONGSHORE_FROM").unwrap_or(0), number("LONGSHORE_SEEDS").unwrap_or(usual)),
    };
    first..first + count
}

fn all_pass(seeds: Range<u64>, world: fn(u64) -> Options) {
    let count = seeds.end - seeds.start;
    let mut sum = Statistics::default();
    let mut broken: Vec<(u64, String)> = Vec::new();
    for seed in seeds {
        let verdict = run(seed, world(seed));
        sum += verdict.statistics;
        let law = verdict.violations.first();
        broken.extend(law.map(|law| (seed, format!("{} at {} ms: {}", law.law, law.at, law.what))));
    }
    if let Some((seed, _)) = broken.first() {
        let all: Vec<String> = broken.iter().map(|(seed, law)| format!("seed {seed}: {law}")).collect();
        let told = tell(*seed, world(*seed));
        panic!("{told}\n\n{} seeds broke a law:\n{}", broken.len(), all.join("\n"));
    }
    println!("{count} seeds: {sum:#?}");
}

#[test]
fn every_seed_ends_well() {
    all_pass(seeds(600), any_world);
}

/// From no runner at all, with a provisioner that is slow, says no and dies.
#[test]
fn runners_are_asked_for_once_and_everything_ends() {
    all_pass(seeds(100), on_demand);
}

#[test]
fn two_hundred_tasks_on_runners_in_trouble_all_end() {
    for seed in 0..3 {
        passes(seed, Options::runners_of_all_sorts_of_trouble());
    }
}

/// The same with leases that are over within five seconds: whatever can be done about any task is.
#[test]
fn two_hundred_tasks_on_runners_in_trouble_are_never_five_seconds_without_progress() {
    all_pass(seeds(100), in_trouble);
}

/// The same again where tasks wait for runners that hold something of theirs.
#[test]
fn two_hundred_tasks_that_wait_for_artifacts_are_never_five_seconds_without_progress() {
    all_pass(seeds(8), in_trouble_with_locality);
}

#[test]
fn worlds_full_of_groups_end_well() {
    all_pass(seeds(150), full_of_groups);
}

#[test]
fn worlds_whose_work_is_pulled_end_well() {
    all_pass(seeds(60), pulled);
}

#[test]
fn pulled_work_of_whoever_is_not_heard_of_must_be_taken_from_it() {
    let law = knocked_out("the end of leases on tasks", pulled, |options| {
        options.settings.guards.task_leases_end = false;
        options.drained_within = 200_000;
    });
    assert_eq!(law, "liveness");
}

#[test]
fn four_slots_and_four_builds_that_wait_for_their_jobs_all_end() {
    for seed in 0..10 {
        passes(seed, Options::builds_that_fill_the_slots());
    }
}

/// The first of the worlds in which a checker notices that something was switched off, and which. The same world
/// passes with it on.
fn knocked_out(what: &str, world: fn(u64) -> Options, knock_out: impl Fn(&mut Options)) -> &'static str {
    const SEEDS: u64 = 400;
    let found = (0..SEEDS).find_map(|seed| {
        let mut options = world(seed);
        knock_out(&mut options);
        let verdict = run(seed, options);
        verdict.violations.into_iter().next().map(|law| (seed, law))
    });
    let (seed, law) =
        found.unwrap_or_else(|| panic!("no checker noticed in {SEEDS} worlds that {what} was off"));
    println!("{what}: seed {seed}, {} at {} ms: {}", law.law, law.at, law.what);
    passes(seed, world(seed));
    law.law
}

fn any_world(seed: u64) -> Options {
    Options::drawn(seed)
}

fn late_reports(seed: u64) -> Options {
    Options::reports_that_come_late(seed)
}

fn slow_clocks(seed: u64) -> Options {
    Options::clocks_that_are_slow(seed)
}

fn on_demand(seed: u64) -> Options {
    Options::runners_on_demand(seed)
}

fn in_trouble(_: u64) -> Options {
    Options::runners_in_trouble_with_short_leases()
}

fn in_trouble_with_locality(_: u64) -> Options {
    Options::runners_in_trouble_with_locality()
}

fn full_of_builds(_: u64) -> Options {
    Options::builds_that_fill_the_slots()
}

fn full_of_groups(seed: u64) -> Options {
    Options::full_of_groups(seed)
}

fn pulled(seed: u64) -> Options {
    Options::pulled(seed)
}

macro_rules! knock_outs {
    ($($name:ident: $($field:ident).+ in $world:ident;)+) => {
        $(#[test]
        fn $name() {
            knocked_out(stringify!($($field).+), $world, |options| options.$($field).+ = false);
        })+
    };
}

knock_outs! {
    stale_reports_must_not_count: settings.guards.token_match in any_world;
    builds_must_leave_room_for_their_jobs: settings.guards.safe_builds in full_of_builds;
    work_must_not_be_given_away_with_the_lease_alone: settings.guards.lease_margin in slow_clocks;
    reports_must_be_read_before_anything_is_taken: settings.guards.read_reports_first in late_reports;
    unconfirmed_work_must_be_asked_back: settings.guards.ask_back in any_world;
    runners_must_not_be_given_more_than_they_have: settings.guards.capacity in any_world;
    ended_tasks_must_be_remembered: settings.guards.tombstones in any_world;
    leases_must_be_armed_in_full_at_a_take_over: settings.guards.rearm_leases in any_world;
    groups_must_keep_their_bound: settings.guards.group_bound in full_of_groups;
    groups_must_keep_their_order: settings.guards.group_order in full_of_groups;
    groups_must_stop_after_a_failure: settings.guards.group_stops in full_of_groups;
    a_runner_must_be_kept_for_whoever_waits_too_long: settings.guards.reservations in any_world;
    few_runners_must_be_kept: settings.guards.kept_share in any_world;
    what_is_kept_must_be_kept: settings.guards.kept_holds in any_world;
    runners_that_are_starting_must_not_be_asked_for_again: settings.guards.starting_counts in on_demand;
    what_is_pulled_must_be_pushed_to_nobody: settings.guards.pulled_alone in pulled;
    the_leases_of_pulled_tasks_must_be_armed_in_full_at_a_take_over: settings.guards.rearm_leases in pulled;
    words_of_pullers_must_count_under_the_live_token_alone: settings.guards.token_match in pulled;
    work_must_end_with_its_lease: safeguards.lease_ends_work in any_world;
    tokens_that_are_over_must_be_refused: safeguards.spent_tokens in any_world;
}

#[test]
fn work_of_a_runner_that_is_not_heard_of_must_be_taken_from_it() {
    let law = knocked_out("the end of leases", in_trouble, |options| {
        options.settings.guards.leases_end = false;
    });
    assert_eq!(law, "pace");
}

#[test]
fn a_task_must_wait_for_runners_that_hold_something_of_it() {
    let law = knocked_out("the wait for artifacts", any_world, |options| {
        options.settings.guards.locality = false;
    });
    assert_eq!(law, "locality");
}

#[test]
fn what_is_not_confirmed_must_be_said_again() {
    let law = knocked_out("saying things again", in_trouble, |options| options.says_again = false);
    assert_eq!(law, "pace");
}
