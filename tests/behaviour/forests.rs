//! Forests to plant: random fleets, and random trees of builds with jobs of their own beside jobs that stand alone.

use longshore::model::*;
use proptest::prelude::*;

use super::world::*;

/// A runner as it is when nothing is wrong with it.
#[derive(Debug, Clone)]
pub struct Machine {
    cpu: u64,
    arch: &'static str,
    slots: Option<u32>,
    zone: bool,
    spot: bool,
    takes: u8,
    cost: u8,
}

impl Machine {
    /// As it registers; shrunk, with half of what it has.
    pub fn runner(&self, name: &str, shrunk: bool) -> RunnerBuilder {
        let part = if shrunk { 2 } else { 1 };
        let made = runner(name).arch(self.arch).cpu((self.cpu / part).max(1)).cost(self.cost.into());
        let made = match self.slots {
            Some(slots) => made.opaque((slots / u32::try_from(part).expect("one or two")).max(1)),
            None => made,
        };
        let made = if self.zone { made.label("zone", "eu") } else { made };
        let made = if self.spot { made.taint("spot") } else { made };
        match self.takes {
            0 => made.kinds(&[Kind::Job]),
            1 => made.queues(&["fast"]),
            2 => made.dedicated("g0"),
            3 => made.dedicated("g1"),
            _ => made,
        }
    }
}

/// What somebody wants of the runner.
#[derive(Debug, Clone)]
pub struct Wish {
    cpu: u64,
    arch: &'static str,
    fast: bool,
    zone: bool,
    spot: bool,
    group: Option<u8>,
    wants: u8,
    timeout: Option<u64>,
    priority: i32,
}

/// Of the groups that tasks share: one is bound to one runner, one to two, one stops when a task of it fails.
pub fn terms(group: u8) -> Terms {
    let most = [Some(1), Some(2), None][usize::from(group)];
    Terms { max_runners: most, ordered: false, stop_on_failure: group == 2 }
}

impl Wish {
    fn of(&self, task: TaskBuilder) -> TaskBuilder {
        let task = task.cpu(self.cpu).arch(self.arch).priority(self.priority);
        let task = if self.fast { task.queue("fast") } else { task };
        let task = if self.zone { task.label("zone", "eu") } else { task };
        let task = if self.spot { task.tolerates("spot") } else { task };
        let task = match self.group {
            Some(group) => task.group(&format!("g{group}"), terms(group)),
            None => task,
        };
        let named = ["a0", "a1", "a2", "a3"];
        let task = match self.wants {
            made @ 0..4 => task.makes(named[usize::from(made)]),
            read @ 4..8 => task.reads(&[named[usize::from(read - 4)]]),
            _ => task,
        };
        match self.timeout {
            Some(seconds) => task.timeout(secs(seconds)),
            None => task,
        }
    }
}

/// A build, the shapes it declares, and the jobs it submits: each of one of the shapes.
#[derive(Debug, Clone)]
pub struct Tree {
    build: Wish,
    shapes: Vec<Wish>,
    jobs: Vec<usize>,
    /// Its jobs are submitted together with it, and not from inside it.
    early: bool,
    /// Its jobs come one after another.
    ordered: bool,
}

impl Tree {
    fn job(&self, build: &str, place: usize, wish: &Wish) -> TaskBuilder {
        let job = wish.of(task(&format!("{build}-{place}")));
        if !self.ordered {
            return job;
        }
        let alone = Terms { max_runners: Some(1), ordered: true, stop_on_failure: false };
        job.step(&format!("of-{build}"), alone, u32::try_from(place).expect("a few jobs"))
    }

    /// The build, and its jobs.
    pub fn tasks(&self, build_id: &str) -> (TaskBuilder, Vec<TaskBuilder>) {
        let shapes = self.shapes.iter().map(|wish| self.job(build_id, 0, wish).shape());
        let made = self.build.of(build(build_id)).jobs(shapes);
        let jobs = self.jobs.iter().enumerate().map(|(place, shape)| {
            let wish = &self.shapes[shape % self.shapes.len()];
            self.job(build_id, place, wish).of(build_id)
        });
        (made, jobs.collect())
    }

    pub fn is_early(&self) -> bool {
        self.early
    }
}

/// Everything that is there, and everything that will be submitted.
#[derive(Debug, Clone)]
pub struct Forest {
    pub fleet: Vec<Machine>,
    /// What somebody starts when it is asked for.
    pub class: Option<Machine>,
    pub trees: Vec<Tree>,
    pub alone: Vec<Wish>,
    pub window: usize,
    pub reserve_after: u64,
    /// How long tasks of queue `fast` wait for what they make, and for what they read.
    pub waits: (u64, u64),
    pub fifo: bool,
    pub spread: bool,
}

impl Forest {
    /// The jobs that stand alone: some of them in order.
    pub fn jobs_alone(&self) -> impl Iterator<Item = TaskBuilder> {
        self.alone.iter().enumerate().map(|(place, wish)| {
            let job = wish.of(task(&format!("j{place}")));
            let line = Terms { max_runners: None, ordered: true, stop_on_failure: false };
            let index = u32::try_from(place).expect("a few jobs");
            if wish.wants == 9 { job.step("line", line, index) } else { job }
        })
    }
}

fn arch() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("amd64"), 1 => Just("arm64")]
}

fn machine() -> impl Strategy<Value = Machine> {
    let slots = proptest::option::weighted(0.25, 1..5u32);
    (1..9u64, arch(), slots, any::<bool>(), prop::bool::weighted(0.2), 0..12u8, 1..3u8).prop_map(
        |(cpu, arch, slots, zone, spot, takes, cost)| Machine { cpu, arch, slots, zone, spot, takes, cost },
    )
}

fn wish(most: u64) -> impl Strategy<Value = Wish> {
    let arch = prop_oneof![6 => Just(""), 2 => Just("amd64"), 1 => Just("arm64")];
    let place = (prop::bool::weighted(0.3), prop::bool::weighted(0.1), prop::bool::weighted(0.4));
    let group = proptest::option::weighted(0.3, 0..3u8);
    let timeout = proptest::option::weighted(0.3, 1..90u64);
    (1..=most, arch, place, group, 0..16u8, timeout, -1..2i32).prop_map(
        |(cpu, arch, (fast, zone, spot), group, wants, timeout, priority)| Wish {
            cpu,
            arch,
            fast,
            zone,
            spot,
            group,
            wants,
            timeout,
            priority,
        },
    )
}

fn tree() -> impl Strategy<Value = Tree> {
    let shapes = proptest::collection::vec(wish(3), 1..3);
    let jobs = proptest::collection::vec(0..2usize, 0..5);
    (wish(3), shapes, jobs, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
        .prop_map(|(build, shapes, jobs, early, ordered)| Tree { build, shapes, jobs, early, ordered })
}

/// A fleet of which the first runner takes anything that fits there.
fn fleet() -> impl Strategy<Value = Vec<Machine>> {
    let first = (3..9u64, any::<bool>()).prop_map(|(cpu, zone)| Machine {
        cpu,
        arch: "amd64",
        slots: None,
        zone,
        spot: false,
        takes: u8::MAX,
        cost: 1,
    });
    (first, proptest::collection::vec(machine(), 0..5))
        .prop_map(|(first, others)| std::iter::once(first).chain(others).collect())
}

/// Any forest.
pub fn forest() -> impl Strategy<Value = Forest> {
    (
        (fleet(), proptest::option::weighted(0.4, machine())),
        proptest::collection::vec(tree(), 1..5),
        proptest::collection::vec(wish(5), 0..6),
        2..12usize,
        0..40u64,
        (0..30u64, 0..30u64),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|((fleet, class), trees, alone, window, reserve_after, waits, fifo, spread)| Forest {
            fleet,
            class,
            trees,
            alone,
            window,
            reserve_after,
            waits,
            fifo,
            spread,
        })
}
