//! `bench latency`: how long one task takes from submission to its start while nothing else happens.
//!
//! Law: measured at a producer's side, over the public API: from before the request is sent until the event of
//! the start is read.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{Figure, Tuning, show, throughput};
use crate::cli::events::Events;
use crate::cli::failure::Failure;
use crate::cli::paper::{Paper, text};
use crate::cli::submit::{Pack, Sent};

const START_WITHIN: Duration = Duration::from_secs(10);

/// Measures and tells.
pub(super) async fn run(paper: Paper, base: Option<&Path>, rounds: usize) -> Result<(), Failure> {
    let tuning = Tuning { tasks: rounds, pack: 1, runners: 1, slots: 100 };
    let (local, client) = throughput::local(base, tuning).await?;
    let mut events = Events::open(&client, &[("state", "running".to_owned())]).await?;
    let (mut acknowledged, mut started) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    let bar = paper.progress(rounds as u64, "started");
    for number in 0..rounds {
        let (id, task) = throughput::single(number);
        let mut pack = Pack::default();
        pack.push(&task);
        let began = Instant::now();
        Sent::default().send(&client, pack).await?;
        acknowledged.push(began.elapsed());
        let start = async {
            while let Some(event) = events.next().await {
                if text(&event, "id") == id {
                    return Some(began.elapsed());
                }
            }
            None
        };
        let late = || Failure::Broken(format!("{id} was not seen to start within {START_WITHIN:?}"));
        started.push(timeout(START_WITHIN, start).await.ok().flatten().ok_or_else(late)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    drop(events);
    local.stop().await?;
    let figure = |name: &str, all: &mut Vec<Duration>, hundredth: usize| {
        all.sort_unstable();
        let at = all[(all.len() * hundredth / 100).min(all.len() - 1)].as_secs_f64() * 1e3;
        let at = (at * 100.0).round() / 100.0;
        Figure::new(name, at, "ms", json!(at))
    };
    let note = format!("{rounds} tasks one after the other, idle server, fsync on");
    let figures = [
        figure("submit to start, p50", &mut started, 50).noting(note),
        figure("submit to start, p99", &mut started, 99),
        figure("submit to acknowledged, p50", &mut acknowledged, 50),
        figure("submit to acknowledged, p99", &mut acknowledged, 99),
    ];
    show(paper, "latency", &figures);
    Ok(())
}
