//! The settings the decisions depend on, as plain data. `config` reads and validates them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{DeclaredClass, QueueId, Resources};

/// What an operator may set about the decisions. Spans are in log time.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What a task gets that asks for nothing.
    pub default_resources: Resources,
    pub default_max_attempts: u32,
    pub order: Order,
    pub strategy: Strategy,
    /// The most pending tasks the table takes, for each of builds, jobs, and jobs of builds.
    pub window: usize,
    /// How many of a window's tasks one queue, and with it one shape, may be. All, where producers are told that
    /// the window is full; half, where it is filled from a stream in which others stand behind.
    pub window_share: usize,
    /// The most bytes of bodies of live tasks the table takes.
    pub window_bytes: usize,
    pub lease: Duration,
    pub heartbeat: Duration,
    /// How long after a runner's lease its work is given away.
    pub lease_margin: Duration,
    /// How long a runner may take to confirm an assignment.
    pub assignment_deadline: Duration,
    /// How long after a leader's start nothing is judged `never_fits`.
    pub settle: Duration,
    /// Whether the declared classes are all there will ever be.
    pub classes_complete: bool,
    /// Kinds of runner that may come though none is here.
    pub classes: Vec<DeclaredClass>,
    /// How long a runner that left or was lost counts as one that may come back.
    pub class_memory: Duration,
    /// How long an intent waits for somebody to acknowledge it.
    pub intent_answer: Duration,
    /// How long runners that were acknowledged count as coming.
    pub intent_start: Duration,
    /// How long a class that was declined, or did not come, stands behind the others.
    pub intent_backoff: Duration,
    pub keep_ended: Duration,
    pub keep_ended_tasks: usize,
    /// How long a body of an ended task may be to be kept with it, in bytes.
    pub keep_ended_body: usize,
    /// Back-off before a task's own failure is repeated; doubles each time.
    pub retry_backoff: Duration,
    pub retry_backoff_max: Duration,
    /// First back-off of a task and a runner that refused it; doubles each time.
    pub refusal_backoff: Duration,
    pub unsafe_grace: Duration,
    /// How long a task waits for room before a runner is kept for it.
    pub reserve_after: Duration,
    pub sweep: Duration,
    /// Queues whose tasks wait for runners that hold what they read or make.
    pub locality: BTreeMap<QueueId, Locality>,
    /// Queues that are pushed to runners although they have a subscription.
    pub delivered_to_any: BTreeSet<QueueId>,
    /// The most artifacts known of one runner; beyond it the oldest are forgotten.
    pub runner_artifacts: usize,
    #[doc(hidden)]
    pub guards: Guards,
}

/// How long the tasks of a queue wait for runners that hold what they read or make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locality {
    /// For runners that hold the task's output, where any does.
    pub cache_wait: Duration,
    /// After that, for runners that hold at least one of its inputs.
    pub deps_wait: Duration,
}

/// The order of the backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Higher priority first, then jobs of running builds, then age.
    Priority,
    /// Jobs of running builds first, then age.
    Fifo,
}

/// Among runners of equal cost that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The fullest first: keeps whole runners free for large tasks.
    Pack,
    /// The emptiest first.
    Spread,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_resources: Resources::new(1000, 2 << 30),
            default_max_attempts: 3,
            order: Order::Priority,
            strategy: Strategy::Pack,
            window: 100_000,
            window_share: usize::MAX,
            window_bytes: 1 << 30,
            lease: Duration::from_secs(15),
            heartbeat: Duration::from_secs(5),
            lease_margin: Duration::from_secs(5),
            assignment_deadline: Duration::from_secs(30),
            settle: Duration::from_secs(30),
            classes_complete: false,
            classes: Vec::new(),
            class_memory: Duration::from_secs(600),
            intent_answer: Duration::from_secs(60),
            intent_start: Duration::from_secs(600),
            intent_backoff: Duration::from_secs(300),
            keep_ended: Duration::from_secs(3600),
            keep_ended_tasks: 100_000,
            keep_ended_body: 2048,
            retry_backoff: Duration::from_secs(1),
            retry_backoff_max: Duration::from_secs(60),
            refusal_backoff: Duration::from_secs(1),
            unsafe_grace: Duration::from_secs(300),
            reserve_after: Duration::from_secs(60),
            sweep: Duration::from_secs(30),
            locality: BTreeMap::new(),
            delivered_to_any: BTreeSet::new(),
            runner_artifacts: 10_000,
            guards: Guards::default(),
        }
    }
}

/// The safety rules, each of which a knock-out test switches off to see a checker fail.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guards {
    /// A report counts only under the live token.
    pub token_match: bool,
    /// A build starts only where its jobs and those of all running builds keep room.
    pub safe_builds: bool,
    /// Work is given away only a margin after the runner's lease.
    pub lease_margin: bool,
    /// Reports on their way are read before anything is taken from a runner.
    pub read_reports_first: bool,
    /// An asked-back assignment stays until the runner answers.
    pub ask_back: bool,
    /// A runner is given no more than it has.
    pub capacity: bool,
    /// A repeated submission is recognised after its task has ended.
    pub tombstones: bool,
    /// A new leader arms every lease in full.
    pub rearm_leases: bool,
    /// A runner is kept for a task that waited too long.
    pub reservations: bool,
    /// Of the ready runners at most a quarter is kept.
    pub kept_share: bool,
    /// On a kept runner nothing starts that would be in the way of its task.
    pub kept_holds: bool,
    /// A runner that is not heard of for its lease and the margin is lost.
    pub leases_end: bool,
    /// A pulled task of which nothing is heard for its lease is taken from its puller.
    pub task_leases_end: bool,
    /// A task waits for runners that hold something of its own.
    pub locality: bool,
    /// A group holds no more runners than it may.
    pub group_bound: bool,
    /// In an ordered group a task waits for those before it.
    pub group_order: bool,
    /// A task that did not succeed stops a group with `stop_on_failure`.
    pub group_stops: bool,
    /// What is pulled is pushed to nobody.
    pub pulled_alone: bool,
    /// Runners that were acknowledged and have not registered yet are capacity to come.
    pub starting_counts: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            token_match: true,
            safe_builds: true,
            lease_margin: true,
            read_reports_first: true,
            ask_back: true,
            capacity: true,
            tombstones: true,
            rearm_leases: true,
            reservations: true,
            kept_share: true,
            kept_holds: true,
            leases_end: true,
            task_leases_end: true,
            locality: true,
            group_bound: true,
            group_order: true,
            group_stops: true,
            pulled_alone: true,
            starting_counts: true,
        }
    }
}
