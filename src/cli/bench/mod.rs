//! `bench`: what this machine and this build of Longshore can do.
//!
//! Law: real parts, durable table, public API. What is measured besides (`planner`) says so.

mod backlog;
mod floor;
mod latency;
mod memory;
mod nats;
pub mod planner;
mod throughput;
pub mod worlds;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Form;
use super::failure::Failure;
use super::paper::{Ink, Paper};
use crate::telemetry::logs::{self, Format, Level, Logging};

/// Measure throughput, latency or the planner
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    /// Tasks that are submitted
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    tasks: usize,
    /// Tasks of one request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pack: u64,
    /// Runners, which run nothing
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runners: u32,
    /// Tasks at once on each
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: u32,
    /// Where the table is kept meanwhile; the disk decides what is measured [default: where temporary files are]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// Print JSON for machines instead of text for people
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// From one task's submission to its start, while nothing else happens
    Latency {
        /// How many tasks, one after the other
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// Throughput and latency over a NATS server, beside the server's own rate
    Nats(nats::NatsBench),
    /// The memory of a dispatcher over NATS while tasks wait in the stream, and while they are worked off
    Backlog(backlog::BacklogBench),
    /// What deciding costs, without a table, a network or runners
    Planner,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    tasks: usize,
    pack: usize,
    runners: u32,
    slots: u32,
}

impl Bench {
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::install(Logging { format: Format::Text, level: Level::Error });
        let paper = Paper::new(Form { json: self.json });
        let base = self.data.as_deref();
        match self.what {
            Some(What::Planner) => planner::run(paper),
            Some(What::Nats(bench)) => bench.run(paper, base).await,
            Some(What::Backlog(bench)) => bench.run(paper, base).await,
            Some(What::Latency { rounds }) => latency::run(paper, base, rounds.max(1) as usize).await,
            None => {
                let pack = usize::try_from(self.pack).expect("at most 1,000");
                let tuning = Tuning { tasks: self.tasks, pack, runners: self.runners, slots: self.slots };
                throughput::run(paper, base, tuning).await
            }
        }
    }
}

/// One thing that was measured.
struct Figure {
    name: String,
    shown: String,
    unit: &'static str,
    value: Value,
    note: String,
}

impl Figure {
    fn new(name: &str, shown: f64, unit: &'static str, value: Value) -> Self {
        let shown = if shown >= 100.0 { format!("{shown:.0}") } else { format!("{shown:.2}") };
        Self { name: name.to_owned(), shown, unit, value, note: String::new() }
    }

    fn noting(self, note: String) -> Self {
        Self { note, ..self }
    }
}

fn show(paper: Paper, bench: &str, figures: &[Figure]) {
    if paper.is_json() {
        let figure =
            |figure: &Figure| (figure.name.clone(), json!({"value": figure.value, "unit": figure.unit}));
        let figures: Map<String, Value> = figures.iter().map(figure).collect();
        paper.json(&json!({"bench": bench, "figures": figures}));
        return;
    }
    let row = |figure: &Figure| {
        vec![
            (figure.name.clone(), Ink::Plain),
            (figure.shown.clone(), Ink::Strong),
            (figure.unit.to_owned(), Ink::Plain),
            (figure.note.clone(), Ink::Faint),
        ]
    };
    paper.table(&["MEASURED", "", "", "HOW"], figures.iter().map(row).collect());
}
