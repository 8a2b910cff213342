//! Metrics: facts of committed turns are counted, and a scrape adds the gauges of that moment.
//!
//! Law: one instance per replica; nothing is global, so replicas in one process never share a count. Only the
//! catalogue's metrics are emitted, and the number of series is bounded whatever producers send: at most
//! [`MOST_QUEUES`] queues are told apart, the rest is `other`.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use super::catalogue::{self, Metric, MetricKind};
use crate::model::{
    Fact, Found, IntentState, Kind, Lifecycle, LifecycleState, Outcome, QueueId, Resources, RunnerState,
};

/// How many queues the `queue` label tells apart.
pub const MOST_QUEUES: usize = 100;
/// Why nothing is pulled into a window: every value of that label.
pub const PAUSES: [&str; 4] = ["capacity", "window", "table", "operator"];

/// Why messages are kept as dead letters, besides `other`.
const DEAD: [&str; 1] = ["malformed"];

/// After so many samples the histograms are folded, so that they stay small though nobody scrapes.
const SAMPLES_BETWEEN_FOLDS: usize = 10_000;
const OTHER: &str = "other";
const METADATA: Metadata<'static> = Metadata::new("longshore", Level::INFO, None);
const TASK_BUCKETS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];
const TURN_BUCKETS: [f64; 11] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// The metrics of one replica.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    queues: Mutex<BTreeSet<QueueId>>,
    samples: AtomicUsize,
}

/// What a scrape shows of the committed state at that moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gauges {
    pub builds: LiveTasks,
    pub jobs: LiveTasks,
    /// What assigned and running tasks hold of the runners that are not lost.
    pub held: Resources,
    pub held_slots: u64,
    /// What the runners that are not lost have.
    pub capacity: Resources,
    pub capacity_slots: u64,
    /// Runners by state, in the order of [`RunnerState::ALL`].
    pub runners: [u64; RunnerState::ALL.len()],
    /// Runners kept for a task.
    pub kept: u64,
    /// The last turn this replica has.
    pub turn: u64,
    /// Turns the table is known to have beyond that one.
    pub lag: u64,
    pub leader: bool,
    pub frozen: bool,
    /// Whether an operator has paused the pool.
    pub paused: bool,
    /// Whether the table takes nothing from this replica, or cannot be followed.
    pub table_trouble: bool,
    pub builds_unsafe: bool,
    /// Intents by state, in the order of [`IntentState::ALL`].
    pub intents: [u64; IntentState::ALL.len()],
    /// Each window with the reason, one of [`PAUSES`], why nothing is pulled into it.
    pub windows: Vec<(&'static str, Option<&'static str>)>,
}

/// Tasks of one kind that have not ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LiveTasks {
    pub pending: u64,
    pub assigned: u64,
    pub running: u64,
    /// How long ago the oldest pending one was submitted.
    pub oldest_pending: Option<Duration>,
}

impl Metrics {
    /// A fresh set: every metric without labels stands at 0.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in catalogue::ALL.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
            let of_turns = metric.name.starts_with("longshore_turn_");
            let buckets: &[f64] = if of_turns { &TURN_BUCKETS } else { &TASK_BUCKETS };
            builder = builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
                .expect("there are buckets");
        }
        let metrics = Self {
            recorder: builder.build_recorder(),
            queues: Mutex::new(BTreeSet::new()),
            samples: AtomicUsize::new(0),
        };
        for metric in catalogue::ALL {
            metrics.describe(metric);
        }
        // A series that begins at its first event shows no increase for it.
        for reason in DEAD.iter().chain([&OTHER]) {
            metrics.add(&catalogue::DEAD_LETTERS, &[reason], 0);
        }
        for found in Found::ALL {
            metrics.add(&catalogue::LOCALITY, &["output", found.as_str()], 0);
            metrics.add(&catalogue::LOCALITY, &["inputs", found.as_str()], 0);
        }
        metrics
    }

    /// Counts the facts of a committed turn. Called once for each turn.
    pub fn record(&self, facts: &[Fact]) {
        let mut tally = Tally::default();
        for fact in facts {
            match fact {
                Fact::Task(event) => tally.add(event),
                other => self.count(other),
            }
        }
        for (entered, times) in &tally.entered {
            self.count_tasks(entered, *times);
        }
        for (metric, kind, spans) in &tally.spans {
            self.observe(metric, &[kind.as_str()], spans);
        }
    }

    /// Counts a turn this replica committed: rows it changed, time to decide it and time until it was durable.
    pub fn turn_committed(&self, changes: usize, decide: Duration, commit: Duration) {
        self.add(&catalogue::TURNS, &[], 1);
        self.add(&catalogue::TURN_CHANGES, &[], changes as u64);
        self.observe(&catalogue::TURN_DECIDE, &[], &[decide]);
        self.observe(&catalogue::TURN_COMMIT, &[], &[commit]);
    }

    /// Counts a message that was kept as a dead letter.
    pub fn dead_letter(&self, reason: &str) {
        self.add(&catalogue::DEAD_LETTERS, &[known(reason, &DEAD)], 1);
    }

    /// Counts how often the connection to NATS was made, and what the server refused, since this was last said.
    pub fn nats(&self, connects: u64, refusals: u64) {
        self.add(&catalogue::NATS_CONNECTS, &[], connects);
        self.add(&catalogue::NATS_REFUSALS, &[], refusals);
    }

    /// The scrape, in the Prometheus text format.
    pub fn scrape(&self, gauges: &Gauges) -> String {
        self.set_all(gauges);
        self.recorder.handle().render()
    }

    fn count(&self, fact: &Fact) {
        match fact {
            // Tallied.
            Fact::Task(_) => {}
            Fact::SubmissionRefused { answer, .. } => {
                let answer = known(answer, &["rejected", "conflict", "full"]);
                self.add(&catalogue::SUBMISSIONS_REFUSED, &[answer], 1);
            }
            Fact::StopAsked { .. } => self.add(&catalogue::STOPS_ASKED, &[], 1),
            Fact::StaleReport { report, .. } => {
                self.add(&catalogue::STALE_REPORTS, &[known(report, &["start", "end"])], 1);
            }
            Fact::Locality { output, inputs, .. } => {
                for (wanted, found) in [("output", output), ("inputs", inputs)] {
                    if let Some(found) = found {
                        self.add(&catalogue::LOCALITY, &[wanted, found.as_str()], 1);
                    }
                }
            }
            Fact::RunnerRegistered { again: false, .. } => self.runner_change("registered"),
            Fact::RunnerRegistered { again: true, .. } => self.runner_change("registered_again"),
            Fact::RunnerLeft { .. } => self.runner_change("left"),
            Fact::RunnerLost { tasks, .. } => {
                self.runner_change("lost");
                self.add(&catalogue::TASKS_LOST, &[], *tasks);
            }
            Fact::RunnerHeld { .. } => self.runner_change("held"),
            Fact::RunnerDraining { .. } => self.runner_change("draining"),
            Fact::RunnerResumed { .. } => self.runner_change("resumed"),
            Fact::RunnerForgotten { .. } => self.runner_change("forgotten"),
            Fact::RunnerDismissed { .. } => self.runner_change("dismissed"),
            Fact::Subscribed { .. } => self.runner_change("subscribed"),
            Fact::Unsubscribed { forgotten: false, .. } => self.runner_change("unsubscribed"),
            Fact::Unsubscribed { forgotten: true, .. } => self.runner_change("forgotten"),
            Fact::RunnerBound { .. } => self.runner_change("bound"),
            Fact::RunnerUnbound { .. } => self.runner_change("unbound"),
            Fact::LeaseOver { .. } => self.add(&catalogue::PULL_LEASES_OVER, &[], 1),
            Fact::GroupStopped { .. } => self.add(&catalogue::GROUPS_STOPPED, &[], 1),
            Fact::ClassForgotten { .. } => self.add(&catalogue::CLASSES_FORGOTTEN, &[], 1),
            Fact::Intent { change, .. } => self.add(&catalogue::INTENT_CHANGES, &[change.as_str()], 1),
            Fact::QueuePaused { .. } => self.add(&catalogue::QUEUE_CHANGES, &["paused"], 1),
            Fact::QueueUnpaused { .. } => self.add(&catalogue::QUEUE_CHANGES, &["unpaused"], 1),
            Fact::CancelRemembered { .. } => self.add(&catalogue::CANCELS_REMEMBERED, &[], 1),
            Fact::BuildsUnsafe { .. } => self.add(&catalogue::BUILDS_UNSAFE_TIMES, &[], 1),
            Fact::Reserved { .. } => self.add(&catalogue::RESERVED, &[], 1),
            Fact::ReservationOver { .. } => {}
            Fact::SweepFound { tasks } => self.add(&catalogue::SWEEP_FOUND, &[], *tasks),
            Fact::TookOver { .. } => self.add(&catalogue::TAKEOVERS, &[], 1),
            Fact::Frozen { .. } => self.add(&catalogue::FREEZES, &[], 1),
            // Each is seen in a gauge.
            Fact::BuildsSafe | Fact::Unfrozen | Fact::PoolPaused | Fact::PoolUnpaused => {}
        }
    }

    fn count_tasks(&self, Entered { kind, state, again, queue, outcome }: &Entered<'_>, times: u64) {
        let (kind, queue) = (kind.as_str(), self.queue_label(queue));
        match state {
            LifecycleState::Pending if !again => self.add(&catalogue::TASKS_ADMITTED, &[kind, &queue], times),
            LifecycleState::Pending => self.add(&catalogue::TASKS_RETURNED, &[kind, &queue], times),
            LifecycleState::Assigned => self.add(&catalogue::TASKS_ASSIGNED, &[kind, &queue], times),
            LifecycleState::Running => self.add(&catalogue::TASKS_STARTED, &[kind, &queue], times),
            LifecycleState::Ended => {
                let outcome = outcome.map_or(OTHER, Outcome::as_str);
                self.add(&catalogue::TASKS_ENDED, &[kind, &queue, outcome], times);
            }
        }
    }

    fn runner_change(&self, change: &str) {
        self.add(&catalogue::RUNNER_CHANGES, &[change], 1);
    }

    /// The queue's own name for the first queues seen, `other` for the rest.
    fn queue_label(&self, queue: &QueueId) -> String {
        let mut queues = self.queues.lock().expect("counting does not panic");
        if queues.contains(queue) {
            return queue.to_string();
        }
        if queues.len() == MOST_QUEUES {
            return OTHER.to_owned();
        }
        queues.insert(queue.clone());
        queue.to_string()
    }

    fn set_all(&self, now: &Gauges) {
        for (kind, tasks) in [(Kind::Job, &now.jobs), (Kind::Build, &now.builds)] {
            let kind = kind.as_str();
            self.set(&catalogue::TASKS, &[kind, "pending"], tasks.pending as f64);
            self.set(&catalogue::TASKS, &[kind, "assigned"], tasks.assigned as f64);
            self.set(&catalogue::TASKS, &[kind, "running"], tasks.running as f64);
            let age = tasks.oldest_pending.unwrap_or_default();
            self.set(&catalogue::OLDEST_PENDING, &[kind], age.as_secs_f64());
        }
        for (state, number) in RunnerState::ALL.iter().zip(now.runners) {
            self.set(&catalogue::RUNNERS, &[state.as_str()], number as f64);
        }
        self.set(&catalogue::KEPT_RUNNERS, &[], now.kept as f64);
        for (state, number) in IntentState::ALL.iter().zip(now.intents) {
            self.set(&catalogue::INTENTS, &[state.as_str()], number as f64);
        }
        self.set(&catalogue::HELD_CPU, &[], now.held.cpu as f64 / 1000.0);
        self.set(&catalogue::CAPACITY_CPU, &[], now.capacity.cpu as f64 / 1000.0);
        self.set(&catalogue::HELD_MEMORY, &[], now.held.memory as f64);
        self.set(&catalogue::CAPACITY_MEMORY, &[], now.capacity.memory as f64);
        self.set(&catalogue::HELD_SLOTS, &[], now.held_slots as f64);
        self.set(&catalogue::CAPACITY_SLOTS, &[], now.capacity_slots as f64);
        self.set(&catalogue::TURN, &[], now.turn as f64);
        self.set(&catalogue::LAG, &[], now.lag as f64);
        self.set(&catalogue::LEADER, &[], f64::from(u8::from(now.leader)));
        self.set(&catalogue::FROZEN, &[], f64::from(u8::from(now.frozen)));
        self.set(&catalogue::PAUSED, &[], f64::from(u8::from(now.paused)));
        self.set(&catalogue::TABLE_TROUBLE, &[], f64::from(u8::from(now.table_trouble)));
        for (window, paused) in &now.windows {
            for reason in PAUSES {
                let is_it = f64::from(u8::from(*paused == Some(reason)));
                self.set(&catalogue::CONSUMER_PAUSED, &[window, reason], is_it);
            }
        }
        self.set(&catalogue::BUILDS_UNSAFE, &[], f64::from(u8::from(now.builds_unsafe)));
        self.set(&catalogue::INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    }

    fn describe(&self, metric: &Metric) {
        let (name, help) = (metric.name.into(), metric.help.into());
        let bare = metric.labels.is_empty();
        match metric.kind {
            MetricKind::Counter => {
                self.recorder.describe_counter(name, None, help);
                if bare {
                    self.add(metric, &[], 0);
                }
            }
            MetricKind::Gauge => self.recorder.describe_gauge(name, None, help),
            MetricKind::Histogram => {
                self.recorder.describe_histogram(name, None, help);
                if bare {
                    drop(self.recorder.register_histogram(&key(metric, &[]), &METADATA));
                }
            }
        }
    }

    fn add(&self, metric: &Metric, labels: &[&str], more: u64) {
        self.recorder.register_counter(&key(metric, labels), &METADATA).increment(more);
    }

    fn set(&self, metric: &Metric, labels: &[&str], value: f64) {
        self.recorder.register_gauge(&key(metric, labels), &METADATA).set(value);
    }

    fn observe(&self, metric: &Metric, labels: &[&str], spans: &[Duration]) {
        let histogram = self.recorder.register_histogram(&key(metric, labels), &METADATA);
        for span in spans {
            histogram.record(span.as_secs_f64());
        }
        let before = self.samples.fetch_add(spans.len(), Ordering::Relaxed);
        if before / SAMPLES_BETWEEN_FOLDS < (before + spans.len()) / SAMPLES_BETWEEN_FOLDS {
            self.recorder.handle().run_upkeep();
        }
    }
}

/// A state that tasks entered, as far as labels tell them apart.
#[derive(Debug, PartialEq)]
struct Entered<'a> {
    kind: Kind,
    state: LifecycleState,
    /// Not for the first time, where it is `Pending`.
    again: bool,
    queue: &'a QueueId,
    outcome: Option<Outcome>,
}

/// What the tasks of one turn did: a turn has many of them and few sorts.
#[derive(Debug, Default)]
struct Tally<'a> {
    entered: Vec<(Entered<'a>, u64)>,
    spans: Vec<(&'static Metric, Kind, Vec<Duration>)>,
}

impl<'a> Tally<'a> {
    fn add(&mut self, event: &'a Lifecycle) {
        let Lifecycle { kind, state, outcome, .. } = *event;
        let entered = Entered { kind, state, again: event.attempt > 0, queue: &event.queue, outcome };
        match self.entered.iter_mut().find(|(known, _)| *known == entered) {
            Some((_, times)) => *times += 1,
            None => self.entered.push((entered, 1)),
        }
        match state {
            LifecycleState::Assigned => self.span(&catalogue::TASK_WAIT, kind, event.waited_ms),
            LifecycleState::Ended => self.span(&catalogue::TASK_RUN, kind, event.ran_ms),
            LifecycleState::Pending | LifecycleState::Running => {}
        }
    }

    fn span(&mut self, metric: &'static Metric, kind: Kind, millis: Option<u64>) {
        let Some(span) = millis.map(Duration::from_millis) else { return };
        match self.spans.iter_mut().find(|(known, of, _)| (*known, *of) == (metric, kind)) {
            Some((.., spans)) => spans.push(span),
            None => self.spans.push((metric, kind, vec![span])),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// `word` if it is one of `words`, else `other`: keeps free text out of labels.
fn known<'a>(word: &str, words: &[&'a str]) -> &'a str {
    words.iter().find(|known| **known == word).copied().unwrap_or(OTHER)
}

/// A series of `metric`, its labels' values in the catalogue's order.
fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "labels of {}", metric.name);
    let labels: Vec<Label> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}
