//! Waiting until tasks have ended.
//!
//! Law: that a task has ended is learnt from the server's own word about that task: an event, or an answer to
//! the question. The stream makes it quick; the questions make it certain. A server that is away for a while is
//! waited for, and so is a task that is durable and not decided yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::cli::client::Client;
use crate::cli::events::Events;
use crate::cli::failure::Failure;
use crate::cli::paper::{Paper, counted, text};
use crate::cli::ps;

/// How often tasks are asked after whatever the stream says.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Up to so many tasks each is asked after by itself; of more, the list of ended tasks is read.
const FEW: usize = 64;
const AT_ONCE: usize = 8;
const REOPEN_AFTER: Duration = Duration::from_millis(250);

/// Waits until every task of `ids` has ended; how each did, as the server tells it.
pub(crate) async fn until_ended(
    client: &Client,
    paper: Paper,
    ids: Vec<String>,
) -> Result<Vec<Value>, Failure> {
    let bar = match &ids[..] {
        [id] => paper.spinner(&format!("{id} is submitted")),
        many => paper.progress(many.len() as u64, "ended"),
    };
    follow(client, bar, ids).await
}

/// The same without a word.
pub(crate) async fn ended_of(client: &Client, ids: Vec<String>) -> Result<Vec<Value>, Failure> {
    follow(client, ProgressBar::hidden(), ids).await
}

async fn follow(client: &Client, bar: ProgressBar, ids: Vec<String>) -> Result<Vec<Value>, Failure> {
    let open = ids.into_iter().enumerate().map(|(at, id)| (id, at)).collect();
    let mut wait = Wait { client, open, unknown: BTreeSet::new(), ended: BTreeMap::new(), bar };
    while !wait.open.is_empty() {
        wait.listen().await?;
    }
    wait.bar.finish_and_clear();
    Ok(wait.ended.into_values().collect())
}

struct Wait<'a> {
    client: &'a Client,
    /// Which are waited for, with their places in the answer.
    open: BTreeMap<String, usize>,
    /// What the server did not know when it was last asked: a replica may be a moment behind.
    unknown: BTreeSet<String>,
    ended: BTreeMap<usize, Value>,
    bar: ProgressBar,
}

impl Wait<'_> {
    /// Follows one stream of events until it breaks off or nothing is waited for any more.
    async fn listen(&mut self) -> Result<(), Failure> {
        let filter = if self.open.len() > 1 { vec![("state", "ended".to_owned())] } else { Vec::new() };
        let mut events = match Events::open(self.client, &filter).await {
            Ok(events) => Some(events),
            Err(Failure::Unreachable { .. } | Failure::Problem(_)) => None,
            Err(other) => return Err(other),
        };
        // What ended before the stream was open does not come over it.
        self.ask().await?;
        let mut asking = interval(ASK_EVERY);
        asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        asking.tick().await;
        while !self.open.is_empty() {
            let Some(stream) = &mut events else {
                sleep(REOPEN_AFTER).await;
                return Ok(());
            };
            tokio::select! {
                event = stream.next() => match event {
                    Some(event) => self.hear(event),
                    None => events = None,
                },
                _ = asking.tick() => self.ask().await?,
            }
        }
        Ok(())
    }

    /// Takes in what is said of one task.
    fn hear(&mut self, said: Value) {
        let id = text(&said, "id");
        if !self.open.contains_key(id) {
            return;
        }
        if text(&said, "state") != "ended" {
            let on = Some(text(&said, "runner")).filter(|runner| !runner.is_empty());
            let on = on.map(|runner| format!(" on {runner}")).unwrap_or_default();
            self.bar.set_message(format!("{id} is {}{on}", text(&said, "state")));
            return;
        }
        let at = self.open.remove(id).expect("it was just there");
        self.ended.insert(at, said);
        if self.bar.length().is_some() {
            self.bar.inc(1);
            self.bar.set_message(format!("{} left", counted(self.open.len() as u64)));
        }
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        if self.open.len() > FEW {
            let (ended, _) = ps::list(self.client, &[("state", "ended".to_owned())], usize::MAX).await?;
            ended.into_iter().for_each(|task| self.hear(task));
            return Ok(());
        }
        let client = self.client;
        let questions: Vec<_> = self.open.keys().cloned().map(|id| one(client, id)).collect();
        let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
        let mut told = Vec::new();
        while let Some(answer) = answers.next().await {
            told.push(answer?);
        }
        for (id, task) in told {
            match task {
                Some(task) => self.hear(task),
                None if self.unknown.insert(id.clone()) => {}
                None => self.hear(forgotten(&id)),
            }
        }
        Ok(())
    }
}

/// What the server says of a task; nothing if it does not know it.
async fn one(client: &Client, id: String) -> Result<(String, Option<Value>), Failure> {
    match client.get(&format!("/v1/tasks/{id}"), &[]).await {
        Err(Failure::Problem(problem)) if problem.status == 404 && problem.undecided => {
            let task = json!({"id": id, "state": "undecided"});
            Ok((id, Some(task)))
        }
        Err(Failure::Problem(problem)) if problem.status == 404 => Ok((id, None)),
        answer => Ok((id, Some(answer?))),
    }
}

/// What can be said of a task the server has forgotten: it ended long ago, and nobody knows how.
fn forgotten(id: &str) -> Value {
    let reason = "the server no longer knows it: it ended long ago";
    json!({"id": id, "state": "ended", "outcome": "forgotten", "reason": reason})
}
