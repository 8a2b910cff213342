//! `bench`: tasks a second through all of it, from submission over HTTP to the recorded end, with a table on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Figure, Tuning, show};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::local::{Local, RunnerSpec};
use crate::cli::paper::{Paper, counted};
use crate::cli::submit::{Pack, Sent};
use crate::runner::backend::NoopBackend;

/// Packs that are on their way at once, as several producers would have them.
const AT_ONCE: usize = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long the runners may go on without ending a single task.
const STUCK: Duration = Duration::from_secs(60);

/// Starts a dispatcher and runners that run nothing.
pub(super) async fn local(base: Option<&Path>, tuning: Tuning) -> Result<(Local, Client), Failure> {
    let window = tuning.tasks.clamp(1, 10_000_000).to_string();
    let mut local = Local::start(base, &[("verdict.settle", "0s"), ("table.window", &window)]).await?;
    for number in 0..tuning.runners {
        let id = format!("runner-{number}");
        let (cpu, memory) = (10_000_000, 1 << 40);
        let spec = RunnerSpec { id: &id, arch: "amd64", cpu, memory, slots: tuning.slots, cost: 1.0 };
        local.add(spec, Arc::new(NoopBackend))?;
    }
    let client = Client::new(&local.url())?;
    local.ready(&client).await?;
    Ok((local, client))
}

/// Measures and tells.
pub(super) async fn run(paper: Paper, base: Option<&Path>, tuning: Tuning) -> Result<(), Failure> {
    let (local, client) = local(base, tuning).await?;
    let before = ended(&client).await?;
    let packs: Vec<Pack> = packs(tuning);
    let bar = paper.progress(tuning.tasks as u64, "ended");
    let began = Instant::now();
    let submit = async {
        let sending = stream::iter(packs).map(|pack| async {
            let mut sent = Sent::default();
            sent.send(&client, pack).await.map(|()| sent.refused.len())
        });
        let refused: usize =
            sending.buffer_unordered(AT_ONCE).try_fold(0, async |sum, more| Ok(sum + more)).await?;
        Ok::<_, Failure>((refused, began.elapsed()))
    };
    let watch = async {
        let (mut last, mut moved) = (0, Instant::now());
        while last < tuning.tasks as u64 {
            sleep(LOOK_AGAIN).await;
            let now = ended(&client).await? - before;
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STUCK {
                return Err(Failure::Broken(format!("only {last} of {} tasks ended", tuning.tasks)));
            }
            bar.set_position(last);
        }
        Ok(began.elapsed())
    };
    let ((refused, submitted), all) = tokio::try_join!(submit, watch)?;
    bar.finish_and_clear();
    local.stop().await?;
    if refused > 0 {
        return Err(Failure::Broken(format!("{refused} tasks were refused")));
    }
    let rate = |span: Duration| (tuning.tasks as f64 / span.as_secs_f64()).round();
    let tasks = counted(tuning.tasks as u64);
    let (packs, runners) = (tuning.pack, tuning.runners);
    let note = format!(
        "{tasks} tasks in packs of {packs}, {runners} runner(s), submitted until all ended; fsync on"
    );
    let figures = [
        Figure::new("through all of it", rate(all), "tasks/s", json!(rate(all))).noting(note),
        Figure::new("submission alone", rate(submitted), "tasks/s", json!(rate(submitted)))
            .noting("acknowledged, which means on disk, while others already run".to_owned()),
    ];
    show(paper, "throughput", &figures);
    Ok(())
}

fn packs(tuning: Tuning) -> Vec<Pack> {
    let task = |number: usize| json!({"id": format!("task-{number}"), "resources": {"cpu": "1m", "memory": 1}, "spec": {"command": ["true"]}});
    let numbers: Vec<usize> = (0..tuning.tasks).collect();
    let pack = |numbers: &[usize]| {
        let mut pack = Pack::default();
        numbers.iter().for_each(|number| pack.push(&task(*number)));
        pack
    };
    numbers.chunks(tuning.pack).map(pack).collect()
}

/// How many tasks have succeeded, as the metrics count them: ended rows are forgotten in time.
async fn ended(client: &Client) -> Result<u64, Failure> {
    let scrape = client.text("/metrics").await?;
    let of = |line: &str| {
        let rest = line.strip_prefix("longshore_tasks_ended_total{")?;
        let value = rest.contains("outcome=\"succeeded\"").then(|| rest.rsplit(' ').next())??;
        value.parse::<u64>().ok()
    };
    Ok(scrape.lines().filter_map(of).sum())
}

/// One task, to measure how long it takes to start.
pub(super) fn single(number: usize) -> (String, Value) {
    let id = format!("probe-{number}");
    let task = json!({"id": id, "resources": {"cpu": "1m", "memory": 1}, "spec": {"command": ["true"]}});
    (id, task)
}
