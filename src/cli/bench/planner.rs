//! `bench planner`: what deciding costs, without a table, a network or runners.

use serde_json::json;
use tokio::time::Instant;

use super::worlds::{self, World};
use super::{Figure, memory, show};
use crate::cli::failure::Failure;
use crate::cli::paper::{Paper, counted};
use crate::core::State;

/// The world in which everything is placed.
pub const PLACING: World = World { runners: 1_000, cores: 256, tasks: 100_000, from_cores: 1 };
/// The same with ten times the runners, which are as large together.
pub const MANY: World = World { runners: 10_000, cores: 26, tasks: 100_000, from_cores: 1 };
/// The world in which nothing more can be placed, once a first turn has filled its runners.
pub const STUCK: World = World { runners: 1_000, cores: 8, tasks: 1_002_000, from_cores: 5 };
/// How often a turn is taken; the median is told.
const ROUNDS: usize = 5;

/// Measures and tells.
pub(super) fn run(paper: Paper) -> Result<(), Failure> {
    // Memory first, while nothing else was ever held.
    let memory = memory::measure();
    let spinner = paper.spinner("placing 100,000 tasks on 1,000 runners");
    let (placed, micros) = median(|| worlds::state(PLACING));
    spinner.set_message("planning 1,000,000 tasks of which none can be placed");
    let stuck = stuck_turn();
    spinner.set_message("placing 100,000 tasks by the artifacts of 1,000 runners");
    let (local, local_micros) = median(|| worlds::local_state(PLACING, true));
    let (_, plain_micros) = median(|| worlds::local_state(PLACING, false));
    spinner.set_message("placing 100,000 tasks by the artifacts of 10,000 runners");
    let (many, many_micros) = placement(&mut worlds::local_state(MANY, true));
    let (_, many_plain_micros) = placement(&mut worlds::local_state(MANY, false));
    spinner.finish_and_clear();
    let mut figures = vec![
        Figure::new("one placement", micros, "µs", json!(micros))
            .noting(format!("{placed} of 100,000 tasks of 50 shapes placed on 1,000 runners in one turn")),
        Figure::new("a turn that can place nothing", stuck, "ms", json!(stuck))
            .noting("1,000,000 pending tasks, 1,000 runners, everything woken".to_owned()),
    ];
    let placements = [
        ("one placement with locality", local, local_micros, plain_micros),
        ("one placement with locality, 10,000 runners", many, many_micros, many_plain_micros),
    ];
    for (name, placed, micros, plain) in placements {
        figures.push(Figure::new(name, micros, "µs", json!(micros)).noting(format!(
            "{placed} of 100,000 waiting tasks of 200 shapes placed on holders, 1,000 artifacts a runner; {plain:.1} µs \
             where no queue has locality"
        )));
    }
    for (tasks, states, bytes) in memory.into_iter().flatten() {
        let name = format!("a pending task besides its body, {} pending, {states}", counted(tasks as u64));
        figures.push(Figure::new(&name, bytes, "bytes", json!(bytes)).noting("resident memory".to_owned()));
    }
    show(paper, "planner", &figures);
    Ok(())
}

/// The median of several worlds.
fn median(world: impl Fn() -> State) -> (usize, f64) {
    let mut rounds: Vec<(usize, f64)> = (0..ROUNDS).map(|_| placement(&mut world())).collect();
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    rounds[ROUNDS / 2]
}

/// How many tasks one turn placed, and the microseconds for each.
fn placement(state: &mut State) -> (usize, f64) {
    let began = Instant::now();
    let turn = worlds::turn(state);
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
