//! Cluster stories as transcripts: lines that begin with `>` happen, the lines below are what the dispatcher said.
//!
//! `LONGSHORE_RECORD=1 cargo test --test behaviour` writes what was said; read the difference before keeping it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use longshore::core::Settings;
use longshore::core::input::Command;
use longshore::model::time::parse_span;
use longshore::model::{AttemptOutcome, Fact};

use super::world::*;

#[test]
fn every_scenario_says_what_was_recorded() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the scenarios").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let recorded = fs::read_to_string(&file).expect("a scenario");
        let said = replay(&recorded);
        if std::env::var_os("LONGSHORE_RECORD").is_some() {
            fs::write(&file, said).expect("the scenario is written");
        } else {
            assert_eq!(said, recorded, "{}", file.display());
        }
    }
}

fn replay(transcript: &str) -> String {
    let mut world = World::empty(Settings::default());
    world.settle();
    let mut output = String::new();
    for line in transcript.lines() {
        if line.starts_with('#') || line.is_empty() {
            writeln!(output, "{line}").expect("a string takes it");
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        writeln!(output, "{line}").expect("a string takes it");
        let before = world.facts.len();
        let words: Vec<&str> = command.split_whitespace().collect();
        let said = happen(&mut world, &words);
        for fact in &world.facts[before..] {
            writeln!(output, "  {}", tell(fact)).expect("a string takes it");
        }
        for line in said {
            writeln!(output, "  {line}").expect("a string takes it");
        }
    }
    output
}

fn happen(world: &mut World, words: &[&str]) -> Vec<String> {
    match words {
        ["runner", name, options @ ..] => {
            drop(world.register(options.iter().fold(runner(name), with_runner)))
        }
        ["submit", name, options @ ..] => drop(world.submit(options.iter().fold(task(name), with_task))),
        ["build", name, options @ ..] => drop(world.submit(options.iter().fold(build(name), with_task))),
        ["start", name] => world.start(name),
        ["end", name, outcome] => {
            let known = AttemptOutcome::ALL.into_iter().find(|known| known.as_str() == *outcome);
            world.end(name, known.unwrap_or_else(|| panic!("{outcome} is no outcome")));
        }
        ["cancel", name] => drop(world.cancel(name)),
        ["hold", name] => world.hold(name),
        ["drain", name] => world.drain(name),
        ["resume", name] => world.resume(name),
        ["leave", name, handback @ ..] => world.leave(name, handback),
        ["pause"] => drop(world.command(Command::PausePool)),
        ["unpause"] => drop(world.command(Command::UnpausePool)),
        ["pause", queue] => drop(world.command(Command::PauseQueue { queue: id(queue) })),
        ["unpause", queue] => drop(world.command(Command::UnpauseQueue { queue: id(queue) })),
        ["silence", name] => world.silence(name),
        ["pass", span] => world.pass_alive(parse_span(span).expect("a span"), &[]),
        ["take-over"] => world.take_over(),
        ["why", name] => return world.why(name).reasons,
        ["free", name] => return vec![format!("cpu {}", world.free_cpu(name))],
        other => panic!("nobody knows {other:?}"),
    }
    Vec::new()
}

fn with_runner(runner: RunnerBuilder, option: &&str) -> RunnerBuilder {
    let (name, value) = option.split_once('=').expect("name=value");
    match name {
        "cpu" => runner.cpu(value.parse().expect("cores")),
        "arch" => runner.arch(value),
        "cost" => runner.cost(value.parse().expect("a cost")),
        "slots" => runner.opaque(value.parse().expect("a number")),
        "incarnation" => runner.incarnation(value),
        "label" => runner.label("zone", value),
        other => panic!("a runner has no {other}"),
    }
}

fn with_task(task: TaskBuilder, option: &&str) -> TaskBuilder {
    let (name, value) = option.split_once('=').expect("name=value");
    match name {
        "cpu" => task.cpu(value.parse().expect("cores")),
        "arch" => task.arch(value),
        "of" => task.of(value),
        "priority" => task.priority(value.parse().expect("a number")),
        "attempts" => task.attempts(value.parse().expect("a number")),
        "retries" => task.retries(value.parse().expect("a number")),
        "expires" => task.expires_in(parse_span(value).expect("a span")),
        "label" => task.label("zone", value),
        "job-cpu" => {
            let job = super::world::task("any").cpu(value.parse().expect("cores")).shape();
            task.change(|task| task.jobs = [Arc::new(job)].into())
        }
        other => panic!("a task has no {other}"),
    }
}

fn tell(fact: &Fact) -> String {
    let Fact::Task(event) = fact else { return format!("{fact:?}") };
    let mut line = format!("{} {}", event.id, event.state.as_str());
    if let Some(outcome) = event.outcome {
        write!(line, " {outcome}").expect("a string takes it");
    }
    if let Some(runner) = &event.runner {
        write!(line, " on {runner}, attempt {}", event.attempt).expect("a string takes it");
    }
    if let Some(reason) = &event.reason {
        write!(line, ": {reason}").expect("a string takes it");
    }
    line
}
