//! Do the replicas show what the table's log says?
//!
//! Law: a replica is only ever compared at the very turn it names: its digest with that of the fold of the log
//! up to there. So all that are equal to the log are equal to each other, however fast turns are written.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::client::Client;
use super::super::failure::Failure;
use super::super::paper::{Ink, Paper};
use super::source::Source;
use crate::core::State;
use crate::wire::digest::Digests;

/// How long a replica may take to reach the turn the table was read at.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How many turns are read at once.
const STEP: usize = 256;

/// What a replica says of its rows.
#[derive(Debug, Deserialize)]
struct Shown {
    role: String,
    table: uuid::Uuid,
    epoch: u32,
    turn: u64,
    #[serde(flatten)]
    rows: Digests,
}

/// What came of one replica.
#[derive(Debug)]
pub(in crate::cli) struct Compared {
    pub(in crate::cli) url: String,
    pub(in crate::cli) answered: bool,
    shown: Option<Shown>,
    /// What is not as the log says; nothing if all is.
    pub(in crate::cli) differs: Vec<String>,
}

/// Compares each replica with the log. `state` is the table as it was read, and stands after the last turn that
/// was compared when this is done.
pub(super) async fn compare(
    source: &Source,
    state: &mut State,
    urls: &[String],
) -> Result<Vec<Compared>, Failure> {
    let mut compared = Vec::new();
    for url in urls {
        let client = Client::new(url)?;
        let mut one = Compared { url: url.clone(), answered: true, shown: None, differs: Vec::new() };
        match ask(&client, state).await {
            Ok(shown) if shown.table != state.table => {
                one.differs.push(format!("it shows table {}, this is {}", shown.table, state.table));
            }
            Ok(shown) if shown.turn < state.turn() => {
                let (turn, head) = (shown.turn, state.turn());
                one.differs.push(format!(
                    "it stands at turn {turn} and did not reach turn {head} within {ARRIVE_WITHIN:?}"
                ));
            }
            Ok(shown) => one.shown = Some(shown),
            Err(why) => {
                one.answered = false;
                one.differs.push(why.to_string().replace('\n', " "));
            }
        }
        compared.push(one);
    }
    // In the order of their turns, so that the log is folded once.
    compared.sort_by_key(|one| one.shown.as_ref().map(|shown| shown.turn));
    for one in &mut compared {
        let Some(shown) = &one.shown else { continue };
        go_on(source, state, shown.turn).await?;
        if shown.epoch != state.epoch() {
            one.differs.push(format!("it shows epoch {}, the log {}", shown.epoch, state.epoch()));
        }
        one.differs.extend(shown.rows.differences("it", &Digests::of(state.rows_in_any_order()), "the log"));
    }
    Ok(compared)
}

/// What a replica shows, once it has reached what was read.
async fn ask(client: &Client, state: &State) -> Result<Shown, Failure> {
    let began = Instant::now();
    loop {
        let answer = client.get("/v1/digest", &[]).await?;
        let shown: Shown = serde_json::from_value(answer)
            .map_err(|why| Failure::Broken(format!("it does not say its digest: {why}")))?;
        if shown.turn >= state.turn() || shown.table != state.table || began.elapsed() > ARRIVE_WITHIN {
            return Ok(shown);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Applies the turns of the log up to number `until`.
async fn go_on(source: &Source, state: &mut State, until: u64) -> Result<(), Failure> {
    while state.turn() < until {
        let (at, missing) = (state.turn(), usize::try_from(until - state.turn()).unwrap_or(STEP));
        let turns = source.turns(at, missing.min(STEP)).await?;
        match turns.as_deref() {
            Some([]) => {
                let why = format!("a replica shows turn {until}, and the table's log ends with turn {at}");
                return Err(Failure::Broken(why));
            }
            Some(turns) => turns.iter().for_each(|turn| state.apply(turn)),
            None => {
                let why = format!(
                    "the log no longer reaches back to turn {at}: turns are dropped faster than they can be read; try again"
                );
                return Err(Failure::Broken(why));
            }
        }
    }
    Ok(())
}

impl Compared {
    pub(super) fn json(&self) -> Value {
        let shown = self.shown.as_ref();
        json!({
            "url": self.url, "equal": self.differs.is_empty(), "differs": self.differs,
            "role": shown.map(|shown| &shown.role), "turn": shown.map(|shown| shown.turn),
            "digest": shown.map(|shown| shown.rows.all.digest),
        })
    }

    pub(super) fn show(&self, paper: Paper) {
        let who = match &self.shown {
            Some(shown) => format!("{} ({})", self.url, shown.role),
            None => self.url.clone(),
        };
        if let (Some(shown), true) = (&self.shown, self.differs.is_empty()) {
            let (equal, digest) = (paper.ink(Ink::Good, "equal:"), shown.rows.all.digest);
            paper.line(format!(
                "{equal} {who} shows what the log says after turn {}, digest {digest}",
                shown.turn
            ));
        }
        for what in &self.differs {
            paper.line(format!("{} {who}: {what}", paper.ink(Ink::Bad, "differs:")));
        }
    }
}
