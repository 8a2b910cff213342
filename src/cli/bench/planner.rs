//! `bench planner`: what deciding costs, without a table, a network or runners.

use serde_json::json;
use tokio::time::Instant;

use super::worlds::{self, World};
use super::{Figure, memory, show};
use crate::cli::failure::Failure;
use crate::cli::paper::{Paper, counted};

/// The world in which everything is placed.
pub const PLACING: World = World { runners: 1_000, cores: 256, tasks: 100_000, from_cores: 1 };
/// The world in which nothing more can be placed, once a first turn has filled its runners.
pub const STUCK: World = World { runners: 1_000, cores: 8, tasks: 1_002_000, from_cores: 5 };
/// How often a turn is taken; the median is told.
const ROUNDS: usize = 5;

/// Measures and tells.
pub(super) fn run(paper: Paper) -> Result<(), Failure> {
    // Memory first, while nothing else was ever held.
    let memory = memory::measure();
    let spinner = paper.spinner("placing 100,000 tasks on 1,000 runners");
    let (placed, micros) = placement();
    spinner.set_message("planning 1,000,000 tasks of which none can be placed");
    let stuck = stuck_turn();
    spinner.set_message("placing 100,000 tasks by the artifacts of 1,000 runners");
    let (local, local_micros) = local_placement(true);
    let (_, plain_micros) = local_placement(false);
    spinner.finish_and_clear();
    let mut figures = vec![
        Figure::new("one placement", micros, "µs", json!(micros))
            .noting(format!("{placed} of 100,000 tasks of 50 shapes placed on 1,000 runners in one turn")),
        Figure::new("a turn that can place nothing", stuck, "ms", json!(stuck))
            .noting("1,000,000 pending tasks, 1,000 runners, everything woken".to_owned()),
    ];
    figures.push(Figure::new("one placement with locality", local_micros, "µs", json!(local_micros)).noting(
        format!(
            "{local} of 100,000 waiting tasks of 200 shapes placed on holders, 1,000 artifacts a runner; \
             {plain_micros:.1} µs where no queue has locality"
        ),
    ));
    for (tasks, states, bytes) in memory.into_iter().flatten() {
        let name = format!("a pending task besides its body, {} pending, {states}", counted(tasks as u64));
        figures.push(Figure::new(&name, bytes, "bytes", json!(bytes)).noting("resident memory".to_owned()));
    }
    show(paper, "planner", &figures);
    Ok(())
}

fn placement() -> (usize, f64) {
    let mut rounds: Vec<(usize, f64)> = (0..ROUNDS)
        .map(|_| {
            let mut state = worlds::state(PLACING);
            let began = Instant::now();
            let turn = worlds::turn(&mut state);
            let took = began.elapsed();
            let placed = worlds::placed(&turn);
            (placed, took.as_secs_f64() * 1e6 / placed.max(1) as f64)
        })
        .collect();
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    rounds[ROUNDS / 2]
}

/// The same where each task waits for runners that hold what it makes or reads.
fn local_placement(waiting: bool) -> (usize, f64) {
    let mut state = worlds::local_state(PLACING, waiting);
    let began = Instant::now();
    let turn = worlds::turn(&mut state);
    let took = began.elapsed();
    let placed = worlds::placed(&turn);
    (placed, took.as_secs_f64() * 1e6 / placed.max(1) as f64)
}

fn stuck_turn() -> f64 {
    let mut state = worlds::state(STUCK);
    // The first turn fills the runners; the ones measured find nothing that fits.
    worlds::turn(&mut state);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let turn = worlds::turn(&mut state);
            assert_eq!(worlds::placed(&turn), 0, "nothing more can be placed");
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
