//! The judge: was everything that was acknowledged done exactly once, and under one owner at a time?
//!
//! Law: the order of the marks is the order of the lines in their file, which the work appends one by one; no
//! clock is trusted. A second attempt after an end is excused only where the process that ran the first was
//! killed or cut off before it could tell of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt;
use longshore::broker::Connection;
use serde_json::Value;

use super::pool::{Replica, names, until};

/// What the work wrote: which attempt, on which runner's process, did what, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub word: String,
    pub id: String,
    pub token: String,
    pub runner: u32,
    /// Seconds since the machine started.
    pub at: f64,
}

/// All marks so far, in order.
pub fn marks(dir: &Path) -> Vec<Mark> {
    let text = std::fs::read_to_string(dir.join("marks")).unwrap_or_default();
    // The last line may not be whole.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let read = |line: &str| {
        let mut parts = line.split(' ').map(str::to_owned);
        let mut next = || parts.next().expect("a mark has five words");
        let (word, id, token) = (next(), next(), next());
        let runner = next().parse().expect("a process id");
        Mark { word, id, token, runner, at: next().parse().expect("seconds") }
    };
    whole.lines().map(read).collect()
}

/// How often a task may have been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    /// No lease ended: once, whatever befell dispatchers and servers.
    Once,
    /// Again where an attempt was lost.
    Again,
}

/// Judges what was done by what was acknowledged. `gone` are the processes of runners that were killed or cut off.
pub fn judge(told: &[Mark], acknowledged: &BTreeSet<String>, starts: Starts, gone: &BTreeSet<u32>) {
    let clashes: Vec<&Mark> = told.iter().filter(|mark| mark.word == "clash").collect();
    assert!(clashes.is_empty(), "two owners at once: {clashes:?}");
    let mut stories: BTreeMap<&str, Vec<&Mark>> = BTreeMap::new();
    told.iter().for_each(|mark| stories.entry(&mark.id).or_default().push(mark));
    for id in acknowledged {
        let story = stories.get(id.as_str()).unwrap_or_else(|| panic!("{id} never ran"));
        let said = |word: &str| story.iter().filter(|mark| mark.word == word).count();
        assert!(said("end") > 0, "{id} never ended: {story:?}");
        let mut attempts: Vec<&str> = story.iter().map(|mark| mark.token.as_str()).collect();
        attempts.dedup();
        let distinct: BTreeSet<&str> = attempts.iter().copied().collect();
        assert_eq!(attempts.len(), distinct.len(), "attempts of {id} overlap: {story:?}");
        assert_eq!(said("start"), distinct.len(), "each attempt of {id} starts once: {story:?}");
        if starts == Starts::Once {
            assert_eq!(distinct.len(), 1, "{id} ran more than once: {story:?}");
        }
        let last = story.iter().rposition(|mark| mark.word == "start").expect("it started");
        for early in story[..last].iter().filter(|mark| mark.word == "end") {
            assert!(gone.contains(&early.runner), "{id} ran again after it had succeeded: {story:?}");
        }
    }
    assert!(stories.keys().all(|id| acknowledged.contains(*id)), "something ran that nobody asked for");
}

/// Waits until every one of them is ended, as any replica shows it, and has succeeded.
pub async fn all_end(replica: &Replica, acknowledged: &BTreeSet<String>) {
    until(&format!("all {} tasks end", acknowledged.len()), async || {
        let ended = ended(replica).await?;
        acknowledged.is_subset(&ended).then_some(())
    })
    .await;
}

/// The ids of tasks that have succeeded.
pub async fn ended(replica: &Replica) -> Option<BTreeSet<String>> {
    let shown = replica.get("/v1/tasks?state=ended&limit=1000").await?;
    let succeeded = |task: &&Value| task["outcome"] == "succeeded";
    let ids = shown["tasks"].as_array()?.iter().filter(succeeded).filter_map(|task| task["id"].as_str());
    Some(ids.map(str::to_owned).collect())
}

/// Waits until all replicas show the same tasks and runners, with nothing live, and the streams hold nothing more.
pub async fn agree_and_are_drained(replicas: &[&Replica], connection: &Connection) {
    until("all replicas show the same, and nothing is left to do", async || {
        let first = shown(replicas[0]).await?;
        for other in &replicas[1..] {
            if shown(other).await? != first {
                return None;
            }
        }
        for stream in [names().submit_stream(), names().report_stream()] {
            empty(connection, stream).await?;
        }
        Some(())
    })
    .await;
}

/// Waits until every report is read. A turn shows what it decided before it says that it has read what came.
pub async fn reports_are_read(connection: &Connection) {
    until("every report is read", async || empty(connection, names().report_stream()).await).await;
}

async fn empty(connection: &Connection, stream: String) -> Option<()> {
    let stream = connection.jetstream.get_stream(stream).await.ok()?;
    (stream.cached_info().state.messages == 0).then_some(())
}

/// What a replica shows, without what moves with the clock.
async fn shown(replica: &Replica) -> Option<(Value, Value)> {
    let status = replica.status().await?;
    let live =
        ["pending", "assigned", "running"].iter().map(|state| status["counts"][state].as_u64().unwrap_or(1));
    if live.sum::<u64>() > 0 {
        return None;
    }
    Some((replica.get("/v1/tasks?limit=1000").await?, replica.get("/v1/runners").await?))
}

/// The stream of history tells of every task that it was admitted and ended, each once, whoever led.
pub async fn history_tells_all(connection: &Connection, acknowledged: &BTreeSet<String>) {
    let stream = names().history_stream();
    until("the history tells of every end", async || {
        let stream = connection.jetstream.get_stream(&stream).await.ok()?;
        let wanted = stream.cached_info().state.messages;
        let config = OrderedConfig { filter_subject: names().history(), ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.ok()?;
        let pending = consumer.cached_info().num_pending.min(wanted);
        let mut messages = consumer.messages().await.ok()?;
        let (mut turns, mut told) = (BTreeSet::new(), BTreeMap::<(String, String), usize>::new());
        for _ in 0..pending {
            let message = messages.next().await?.ok()?;
            let turn: Value = serde_json::from_slice(&message.payload).expect("it is JSON");
            if !turns.insert(turn["turn"].as_u64().expect("a number")) {
                continue; // at least once, as promised
            }
            for event in
                turn["events"].as_array().expect("a list").iter().filter(|event| event["fact"] == "task")
            {
                let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                *told.entry((word("id"), word("state"))).or_default() += 1;
            }
        }
        let count =
            |id: &String, state: &str| told.get(&(id.clone(), state.to_owned())).copied().unwrap_or(0);
        let untold: Vec<&String> =
            acknowledged.iter().filter(|id| count(id, "pending") == 0 || count(id, "ended") == 0).collect();
        let twice: Vec<&String> = acknowledged.iter().filter(|id| count(id, "ended") > 1).collect();
        assert!(twice.is_empty(), "ended more than once, as history tells: {twice:?}");
        untold.is_empty().then_some(())
    })
    .await;
}

/// What the judge says of one task's marks, by runner processes of which 7 was killed.
fn judged(lines: &[(&str, &str, u32)], starts: Starts) -> std::thread::Result<()> {
    let mark = |(word, token, runner): &(&str, &str, u32)| Mark {
        word: (*word).to_owned(),
        id: "t1".to_owned(),
        token: (*token).to_owned(),
        runner: *runner,
        at: 0.0,
    };
    let told: Vec<Mark> = lines.iter().map(mark).collect();
    let (acknowledged, gone) = (BTreeSet::from(["t1".to_owned()]), BTreeSet::from([7]));
    std::panic::catch_unwind(|| judge(&told, &acknowledged, starts, &gone))
}

#[test]
fn the_judge_is_not_blind() {
    let once = [("start", "1", 5), ("alive", "1", 5), ("end", "1", 5)];
    let again = [("start", "1", 7), ("end", "1", 7), ("start", "2", 5), ("end", "2", 5)];
    assert!(judged(&once, Starts::Once).is_ok() && judged(&again, Starts::Again).is_ok());
    assert!(judged(&again, Starts::Once).is_err());
    let bad: [&[(&str, &str, u32)]; 6] = [
        &[],
        &[("start", "1", 5)],
        &[("start", "1", 7), ("clash", "2", 5), ("start", "2", 5), ("end", "2", 5)],
        &[("start", "1", 7), ("start", "2", 5), ("alive", "1", 7), ("end", "2", 5)],
        &[("start", "1", 5), ("end", "1", 5), ("start", "2", 6), ("end", "2", 6)],
        &[("start", "1", 5), ("start", "1", 5), ("end", "1", 5)],
    ];
    for lines in bad {
        assert!(judged(lines, Starts::Again).is_err(), "{lines:?}");
    }
}
