//! What a simulated world is made of: its size, its settings, and what goes wrong in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::producers::named;
use super::random::Random;
use crate::core::Settings;
use crate::core::settings::{Locality, Order, Strategy};
use crate::model::{DeclaredClass, Kind, Offer, QueueId};
use crate::ports::Budget;
use crate::runner::session::Safeguards;

/// A world before it begins.
#[derive(Debug, Clone)]
pub struct Options {
    pub replicas: usize,
    pub runners: usize,
    /// The slots of each runner, if they are not to be drawn.
    pub slots: Option<u32>,
    pub jobs: usize,
    pub builds: usize,
    /// How many groups some of the jobs, and some of the runners, belong to.
    pub groups: usize,
    /// How many programs pull some of the jobs.
    pub pullers: usize,
    /// The most jobs a build submits.
    pub jobs_of_build: u64,
    /// Producers submit within this span, in milliseconds.
    pub submit_within: u64,
    /// All builds are submitted before anything else.
    pub builds_first: bool,
    /// The longest ordinary work, in milliseconds.
    pub longest_work: u64,
    /// How long things go wrong, in milliseconds.
    pub faulty_for: u64,
    /// By when, after things have ceased to go wrong, everything must have ended, in milliseconds.
    pub drained_within: u64,
    /// Within what a step that is due with a job is to be taken, in milliseconds, if the pace is judged.
    pub step_within: Option<u64>,
    /// How long a leader leaves the inbox alone between two pulls, in milliseconds.
    pub pull_every: u64,
    /// Reports and submissions are acknowledged when they are stored in the inbox, not when they are committed.
    pub told_when_stored: bool,
    /// What a runner has not confirmed is said to it again.
    pub says_again: bool,
    pub settings: Settings,
    /// After how long a runner asks again that heard no answer to its registration.
    pub answer_within: Duration,
    pub safeguards: Safeguards,
    pub budget: Budget,
    pub faults: Faults,
    /// How many of the last events a failing run tells.
    pub transcript: usize,
}

/// What goes wrong, and how often: of 1,000 chances, or as a mean span in milliseconds (0: never).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub message_lost: u64,
    pub message_doubled: u64,
    pub message_late: u64,
    /// How late a late message is at most, in milliseconds.
    pub latest: u64,
    pub commit: u64,
    /// Mean span between spells in which the table refuses everything.
    pub refusing_every: u64,
    /// The process ends between two steps around a turn.
    pub crash_at_step: u64,
    /// The process stands still between two steps around a turn.
    pub pause_at_step: u64,
    /// Mean span between ends of some dispatcher process.
    pub replica_down_every: u64,
    pub runner_crash_every: u64,
    pub runner_cut_every: u64,
    pub runner_freeze_every: u64,
    pub runner_leave_every: u64,
    pub operator_every: u64,
    pub start_failed: u64,
    pub refused: u64,
    pub work_failed: u64,
    /// A runner starts with half of what it has.
    pub shrinks: u64,
    /// How far clocks are off, of 1,000.
    pub drift: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self {
            message_lost: 0,
            message_doubled: 0,
            message_late: 0,
            latest: 0,
            commit: 0,
            refusing_every: 0,
            crash_at_step: 0,
            pause_at_step: 0,
            replica_down_every: 0,
            runner_crash_every: 0,
            runner_cut_every: 0,
            runner_freeze_every: 0,
            runner_leave_every: 0,
            operator_every: 0,
            start_failed: 0,
            refused: 0,
            work_failed: 0,
            shrinks: 0,
            drift: 0,
        }
    }

    fn drawn(random: &mut Random) -> Self {
        Self {
            message_lost: *random.pick(&[0, 20, 100, 250]),
            message_doubled: *random.pick(&[0, 50, 200]),
            message_late: *random.pick(&[0, 20, 150]),
            latest: *random.pick(&[2_000, 20_000, 40_000]),
            commit: *random.pick(&[0, 20, 150]),
            refusing_every: *random.pick(&[0, 40_000]),
            crash_at_step: *random.pick(&[0, 1, 4, 20]),
            pause_at_step: *random.pick(&[0, 1, 4]),
            replica_down_every: *random.pick(&[0, 30_000, 90_000]),
            runner_crash_every: *random.pick(&[0, 15_000, 60_000]),
            runner_cut_every: *random.pick(&[0, 10_000, 30_000]),
            runner_freeze_every: *random.pick(&[0, 30_000, 60_000]),
            runner_leave_every: *random.pick(&[0, 30_000, 60_000]),
            operator_every: *random.pick(&[0, 10_000, 30_000]),
            start_failed: *random.pick(&[0, 100, 100]),
            refused: *random.pick(&[0, 0, 30]),
            work_failed: *random.pick(&[0, 80]),
            shrinks: *random.pick(&[0, 0, 200]),
            drift: *random.pick(&[0, 50, 100]),
        }
    }
}

impl Options {
    /// The world of `seed`.
    pub fn drawn(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0077_6f72_6c64);
        let random = &mut random;
        let settings = Settings {
            order: *random.pick(&[Order::Priority, Order::Priority, Order::Fifo]),
            strategy: *random.pick(&[Strategy::Pack, Strategy::Spread]),
            assignment_deadline: Duration::from_secs(*random.pick(&[6, 12, 30])),
            unsafe_grace: Duration::from_secs(*random.pick(&[20, 60])),
            retry_backoff_max: Duration::from_secs(10),
            settle: Duration::from_secs(*random.pick(&[10, 30])),
            window: *random.pick(&[12, 100_000, 100_000]),
            keep_ended_body: *random.pick(&[0, 2048]),
            locality: locality(seed),
            runner_artifacts: 4,
            reserve_after: Duration::from_secs(*Random::new(seed ^ 0x6b65_7074).pick(&[0, 5, 60])),
            ..Settings::default()
        };
        Self {
            replicas: *random.pick(&[1, 1, 2, 3]),
            runners: *random.pick(&[1, 2, 3, 5]),
            slots: None,
            jobs: usize::try_from(random.between(5, 45)).expect("a small number"),
            builds: *random.pick(&[0, 2, 4, 8]),
            jobs_of_build: *random.pick(&[1, 3]),
            submit_within: random.between(2_000, 70_000),
            builds_first: random.chance(300),
            longest_work: *random.pick(&[2_000, 8_000, 30_000]),
            faulty_for: random.between(40_000, 120_000),
            drained_within: 1_200_000,
            step_within: None,
            pull_every: *random.pick(&[0, 0, 300, 1_200]),
            told_when_stored: random.chance(500),
            says_again: true,
            settings,
            answer_within: Duration::from_secs(5),
            safeguards: Safeguards::default(),
            budget: Budget { rows: *random.pick(&[12, 40, 4_000]), bytes: usize::MAX },
            faults: Faults::drawn(random),
            groups: *random.pick(&[0, 0, 2, 3]),
            pullers: 0,
            transcript: 0,
        }
    }

    /// 200 tasks on runners that fail to start one in ten, die, hang or vanish, and one hiccup of the table.
    pub fn runners_of_all_sorts_of_trouble() -> Self {
        Self {
            replicas: 1,
            runners: 6,
            jobs: 200,
            builds: 0,
            groups: 0,
            submit_within: 10_000,
            longest_work: 4_000,
            faulty_for: 60_000,
            faults: Faults {
                start_failed: 100,
                runner_crash_every: 20_000,
                runner_cut_every: 20_000,
                runner_freeze_every: 30_000,
                refusing_every: 30_000,
                ..Faults::none()
            },
            ..Self::drawn(32)
        }
        .plain()
    }

    /// The same where no single wait is longer than five seconds, so that every five seconds something is to move:
    /// a lease with its margin, the longest work, and an answer to a registration that was lost.
    pub fn runners_in_trouble_with_short_leases() -> Self {
        let world = Self::runners_of_all_sorts_of_trouble();
        let settings = Settings {
            lease: Duration::from_secs(3),
            heartbeat: Duration::from_millis(500),
            lease_margin: Duration::from_millis(500),
            ..world.settings
        };
        Self { settings, answer_within: Duration::from_secs(1), step_within: Some(5_000), ..world }
    }

    /// Four slots, and four builds submitted first that each wait for one job.
    pub fn builds_that_fill_the_slots() -> Self {
        Self {
            replicas: 1,
            runners: 1,
            slots: Some(4),
            jobs: 0,
            builds: 4,
            groups: 0,
            jobs_of_build: 1,
            submit_within: 100,
            builds_first: true,
            longest_work: 2_000,
            faulty_for: 1_000,
            drained_within: 120_000,
            faults: Faults::none(),
            ..Self::drawn(33)
        }
        .plain()
    }

    /// Reports stay in the inbox for a while, and runners come and go meanwhile.
    pub fn reports_that_come_late(seed: u64) -> Self {
        let world = Self::drawn(seed);
        let faults = Faults { runner_crash_every: 5_000, runner_leave_every: 10_000, ..world.faults };
        Self { runners: 3, jobs: 40, pull_every: 1_200, longest_work: 4_000, faults, ..world }
    }

    /// Runners whose clocks are slow lose sight of the dispatcher while they work.
    pub fn clocks_that_are_slow(seed: u64) -> Self {
        let faults = Faults { runner_cut_every: 4_000, drift: 100, ..Faults::none() };
        Self { runners: 6, jobs: 40, longest_work: 30_000, faults, ..Self::drawn(seed) }
    }

    /// The same with short waits for runners that hold something of a task.
    pub fn runners_in_trouble_with_locality() -> Self {
        let world = Self::runners_in_trouble_with_short_leases();
        let (cache_wait, deps_wait) = (Duration::from_secs(3), Duration::from_secs(4));
        let queues = ["default", "fast"].map(|name| (named(name), Locality { cache_wait, deps_wait }));
        let settings = Settings { locality: queues.into(), ..world.settings };
        Self { settings, ..world }
    }

    /// Most work belongs to a group, and much of it fails.
    pub fn full_of_groups(seed: u64) -> Self {
        let world = Self::drawn(seed);
        let faults = Faults { work_failed: 80, ..world.faults };
        Self { groups: 3, runners: 5, jobs: 40, longest_work: 8_000, faults, ..world }
    }

    /// Programs pull most of the jobs, come, vanish and end their subscriptions.
    pub fn pulled(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x7075_6c6c);
        let pullers = *random.pick(&[2, 3, 6]);
        let world = Self::drawn(seed);
        Self { pullers, jobs: 40, longest_work: 9_000, ..world }
    }

    /// No runner is there but those a provisioner starts, of two classes of which one is cheaper.
    pub fn runners_on_demand(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6465_6d61_6e64);
        let slots = *random.pick(&[1, 1, 2]);
        let offer = Arc::new(Offer {
            kinds: [Kind::Job, Kind::Build].into(),
            queues: BTreeSet::new(),
            arch: "amd64".into(),
            os: "linux".into(),
            labels: BTreeMap::from([("zone".into(), "eu".into())]),
            taints: BTreeSet::new(),
            group: None,
            resources: None,
            slots,
            open: false,
        });
        let mut class = |name, cost| DeclaredClass {
            id: named(name),
            offer: offer.clone(),
            cost,
            max: *random.pick(&[2, 2, 4]),
        };
        let classes = vec![class("dear", 3.0), class("small", 1.0)];
        let builds = *random.pick(&[0, 0, 3]);
        let world = Self::drawn(seed);
        let settings = Settings {
            classes,
            intent_answer: Duration::from_secs(10),
            intent_start: Duration::from_secs(40),
            intent_backoff: Duration::from_secs(15),
            ..world.settings
        };
        let faults = Faults { shrinks: 0, ..world.faults };
        Self { runners: 0, builds, jobs: 25, longest_work: 8_000, settings, faults, ..world }
    }

    /// With the default settings.
    fn plain(self) -> Self {
        Self { settings: Settings::default(), budget: crate::adapters::memory::BUDGET, ..self }
    }
}

/// The waits of the queues of a world; drawn apart, so that they change nothing else about it.
fn locality(seed: u64) -> BTreeMap<QueueId, Locality> {
    let random = &mut Random::new(seed ^ 0x6172_7469_6661_6374);
    let mut queues = BTreeMap::new();
    for queue in ["default", "fast"] {
        let mut wait = || Duration::from_millis(*random.pick(&[0, 700, 3_000, 20_000]));
        let waits = Locality { cache_wait: wait(), deps_wait: wait() };
        if random.chance(600) {
            queues.insert(named(queue), waits);
        }
    }
    queues
}
