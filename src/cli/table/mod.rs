//! `table`: reads a table, and finds out whether it is sound: a file while no server runs, or the bucket that
//! dispatchers share over NATS, beside them.
//!
//! Law: nothing is ever written to it. What `check` finds broken is said rule by rule, and what a replica shows
//! otherwise than the log says is said kind by kind.

mod replicas;
mod source;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::Failure;
use super::paper::{Ink, Paper, counted, text};
use crate::adapters::RedbTable;
use crate::adapters::jetstream::JetStreamTable;
use crate::core::{Settings, State, invariant};
use crate::model::{Fact, Head, Key, Row, TurnRecord};
use crate::ports::{Load, TableError};
use replicas::Compared;
pub(super) use source::said;
use source::{Place, Source};

/// How many turns are read at once.
const STEP: usize = 256;

/// Read a table: a server's file while it is stopped, or over NATS at any time
#[derive(Debug, Args)]
pub(super) struct Table {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every row as it stands
    Rows(Rows),
    /// The turns in the log, oldest first
    Turns(Turns),
    /// Whether the table, its log and its rows are sound, and each replica shows the same; 1 if not
    Check(Check),
}

#[derive(Debug, Args)]
struct Rows {
    /// Only rows of this kind
    #[arg(long, value_parser = Key::KINDS)]
    kind: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Turns {
    /// The first turns after this number; without it, the last ones
    #[arg(long)]
    after: Option<u64>,
    /// At most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Check {
    /// A replica to compare with the table's log, over HTTP; may be repeated
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    #[command(flatten)]
    place: Place,
}

impl Table {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Rows(rows) => rows.run().await,
            What::Turns(turns) => turns.run().await,
            What::Check(check) => check.run().await,
        }
    }
}

impl Rows {
    async fn run(self) -> Result<(), Failure> {
        let paper = Paper::new(self.place.form);
        let load = self.place.open().await?.load().await?;
        let wanted = |row: &&Row| self.kind.as_deref().is_none_or(|kind| row.key().kind() == kind);
        let rows: Vec<&Row> = load.rows.iter().filter(wanted).collect();
        if paper.is_json() {
            rows.into_iter().for_each(|row| paper.json(&json!({"key": row.key().to_string(), "row": row})));
            return Ok(());
        }
        head(paper, load.table, &load.head);
        let shown =
            rows.into_iter().map(|row| vec![(row.key().to_string(), Ink::Strong), (about(row), Ink::Plain)]);
        paper.table(&["ROW", "WHAT IT SAYS"], shown.collect());
        Ok(())
    }
}

impl Turns {
    async fn run(self) -> Result<(), Failure> {
        let paper = Paper::new(self.place.form);
        let table = self.place.open().await?;
        let mut left = self.limit;
        let mut after = match self.after {
            Some(after) => after,
            None => {
                let tail = table.tail().min(left as u64);
                table.load().await?.head.number.saturating_sub(tail)
            }
        };
        let mut rows = Vec::new();
        while left > 0 {
            let turns = table.turns(after, STEP.min(left)).await?;
            let Some(turns) = turns else {
                let why =
                    "the log no longer reaches back to the turn after it; leave it out for the last ones";
                return Err(Failure::Usage(format!("--after ({after}): {why}")));
            };
            let Some(last) = turns.last() else { break };
            (after, left) = (last.number, left - turns.len());
            for turn in &turns {
                if paper.is_json() {
                    paper.json(&serde_json::to_value(turn).expect("a turn is plain data"));
                } else {
                    rows.push(turn_row(turn));
                }
            }
        }
        if !paper.is_json() {
            paper.table(&["TURN", "AT", "CHANGES", "WHAT IT DID"], rows);
        }
        Ok(())
    }
}

impl Check {
    async fn run(self) -> Result<(), Failure> {
        let paper = Paper::new(self.place.form);
        let spinner = paper.spinner("reading the whole table");
        let found = examine(&self.place).await;
        spinner.finish_and_clear();
        let (source, load, mut state, broken) = found?;
        let replicas = replicas::compare(&source, &mut state, &self.urls).await?;
        if paper.is_json() {
            paper.json(&json!({
                "table": load.table, "turn": load.head.number, "rows": load.rows.len(), "broken": broken,
                "replicas": replicas.iter().map(Compared::json).collect::<Vec<_>>(),
            }));
        } else if broken.is_empty() {
            let (rows, turn) = (counted(load.rows.len() as u64), load.head.number);
            paper.line(format!(
                "{} {rows} rows after turn {turn}; no rule is broken",
                paper.ink(Ink::Good, "sound:")
            ));
        } else {
            broken.iter().for_each(|rule| paper.line(format!("{} {rule}", paper.ink(Ink::Bad, "broken:"))));
        }
        if !paper.is_json() {
            replicas.iter().for_each(|replica| replica.show(paper));
        }
        let equal = replicas.iter().all(|replica| replica.differs.is_empty());
        if broken.is_empty() && equal { Ok(()) } else { Err(Failure::Work(1)) }
    }
}

/// The table with everything that stands in it, as a state too, and every rule that does not hold.
async fn examine(place: &Place) -> Result<(Source, Load, State, Vec<String>), Failure> {
    let mut broken = match place.file()? {
        Some(dir) => damages(&dir)?,
        None => Vec::new(),
    };
    let read = async {
        let source = place.open().await?;
        let load = source.load().await?;
        Ok((source, load))
    };
    let (source, load) = match read.await {
        Ok(read) => read,
        Err(why) if broken.is_empty() => return Err(why),
        Err(_) => return Err(Failure::Broken(broken.join("\n"))),
    };
    let state = state_of(&load);
    broken.extend(invariant::check(&state));
    Ok((source, load, state, broken))
}

/// Every rule that does not hold in a shared table, and how each replica compares with its log.
pub(super) async fn judge(
    load: Load,
    table: JetStreamTable,
    urls: &[String],
) -> Result<(Vec<String>, Vec<Compared>), Failure> {
    let source = Source::Shared(table);
    let mut state = state_of(&load);
    let broken = invariant::check(&state);
    Ok((broken, replicas::compare(&source, &mut state, urls).await?))
}

fn state_of(load: &Load) -> State {
    State::load(Arc::new(Settings::default()), load.table, load.head, load.rows.clone())
}

/// What is wrong with the file itself.
pub(super) fn damages(dir: &Path) -> Result<Vec<String>, Failure> {
    match RedbTable::check(dir) {
        Ok(_) => Ok(Vec::new()),
        Err(TableError::Damaged { what, why }) => Ok(vec![format!("{what}: {why}")]),
        Err(other) => Err(said(other)),
    }
}

fn head(paper: Paper, table: uuid::Uuid, head: &Head) {
    let text = format!("table {table}, after turn {} at {}", head.number, head.at);
    paper.line(paper.ink(Ink::Faint, text));
}

fn about(row: &Row) -> String {
    match row {
        Row::Task(task) => {
            let outcome = task.ending().map(|ending| format!(" {}", ending.outcome)).unwrap_or_default();
            let held = task.assignment().map(|held| format!(" on {} under {}", held.runner, held.token));
            format!(
                "{} {}{outcome}{}, attempt {}",
                task.kind(),
                task.state_word(),
                held.unwrap_or_default(),
                task.attempt
            )
        }
        Row::Spec { body, .. } => format!("{} bytes", body.len()),
        Row::Runner(runner) => {
            format!("{}, cost {}, {} slots", runner.state(), runner.cost, runner.offer.slots)
        }
        Row::Holding(holding) => format!("since {}", holding.sequence),
        Row::Queue(queue) => if queue.paused { "paused" } else { "open" }.to_owned(),
        Row::Class(class) => format!("last seen {}", class.last_seen),
        Row::Intent(intent) => {
            let (class, state) = (&intent.class, intent.state().as_str());
            format!("{state}: {} of class {class} asked, {} starting", intent.asked, intent.starting)
        }
        Row::EarlyCancel(cancel) => format!("waits for its task: {}", cancel.reason),
        Row::Group(group) => match &group.stopped {
            Some(stopped) => format!("stopped: {}, change {}", stopped.reason, group.modification_count),
            None => format!("goes on, change {}", group.modification_count),
        },
        Row::Reservation(kept) => format!("{} is kept for it since {}", kept.runner, kept.since),
        Row::Pool(pool) => match (&pool.frozen, pool.paused_since) {
            (Some(why), _) => format!("frozen: {why}"),
            (None, Some(since)) => format!("paused since {since}"),
            (None, None) => "in order".to_owned(),
        },
    }
}

fn turn_row(turn: &TurnRecord) -> Vec<(String, Ink)> {
    let plain = |text: String| (text, Ink::Plain);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    turn.facts.iter().for_each(|fact| *counts.entry(word_of(fact)).or_default() += 1);
    let mut said: Vec<String> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    said.extend(turn.released.then(|| "released".to_owned()));
    vec![
        (turn.number.to_string(), Ink::Strong),
        plain(turn.at.to_string()),
        plain(turn.changes.len().to_string()),
        plain(said.join(", ")),
    ]
}

/// The word for what happened: the state a task entered, or the fact's own name.
fn word_of(fact: &Fact) -> String {
    if let Fact::Task(lifecycle) = fact {
        return lifecycle.outcome.map_or(lifecycle.state.as_str(), |outcome| outcome.as_str()).to_owned();
    }
    let fact = serde_json::to_value(fact).expect("a fact is plain data");
    text(&fact, "fact").replace('_', " ")
}
