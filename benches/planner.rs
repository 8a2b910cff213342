//! What the planner costs: placing 100,000 tasks on 1,000 runners, and a turn that can place nothing.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use longshore::cli::bench::{planner, worlds};

fn placing(criterion: &mut Criterion) {
    let world = worlds::state(planner::PLACING);
    let mut group = criterion.benchmark_group("planner");
    group.sample_size(10);
    group.bench_function("place 100,000 tasks of 50 shapes on 1,000 runners", |bencher| {
        bencher.iter_batched_ref(|| world.clone(), worlds::turn, BatchSize::LargeInput);
    });
    group.finish();
}

fn stuck(criterion: &mut Criterion) {
    let mut world = worlds::state(planner::STUCK);
    worlds::turn(&mut world);
    let mut group = criterion.benchmark_group("planner");
    group.sample_size(10);
    group.bench_function("a turn that can place none of 1,000,000 tasks", |bencher| {
        bencher.iter(|| worlds::turn(&mut world));
    });
    group.finish();
}

criterion_group!(benches, placing, stuck);
criterion_main!(benches);
