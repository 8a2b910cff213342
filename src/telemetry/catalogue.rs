//! The catalogue: every metric, in one list.
//!
//! Law: what is not here is not emitted, and what is here is. Names are `longshore_` and a base unit, `_total`
//! on counters; the help text defines the thing. Each label takes values from a short known list, or from a
//! set that is cut off (`queue`).

/// One metric and what it means.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    /// What one of it is: `tasks`, `seconds`, `bytes`, …
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// How a metric is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives.
    Counter,
    /// Set when it is asked for.
    Gauge,
    /// Spread over buckets, with sum and count.
    Histogram,
}

/// All metrics, in the order of this file.
pub const ALL: [&Metric; 51] = [
    &TASKS_ADMITTED,
    &TASKS_RETURNED,
    &TASKS_ASSIGNED,
    &TASKS_STARTED,
    &TASKS_ENDED,
    &TASK_WAIT,
    &TASK_RUN,
    &SUBMISSIONS_REFUSED,
    &CANCELS_REMEMBERED,
    &STOPS_ASKED,
    &STALE_REPORTS,
    &LOCALITY,
    &RUNNER_CHANGES,
    &TASKS_LOST,
    &PULL_LEASES_OVER,
    &CLASSES_FORGOTTEN,
    &QUEUE_CHANGES,
    &GROUPS_STOPPED,
    &INTENT_CHANGES,
    &BUILDS_UNSAFE_TIMES,
    &RESERVED,
    &SWEEP_FOUND,
    &TAKEOVERS,
    &FREEZES,
    &TURNS,
    &TURN_CHANGES,
    &TURN_DECIDE,
    &TURN_COMMIT,
    &DEAD_LETTERS,
    &NATS_CONNECTS,
    &NATS_REFUSALS,
    &CONSUMER_PAUSED,
    &TASKS,
    &OLDEST_PENDING,
    &HELD_CPU,
    &CAPACITY_CPU,
    &HELD_MEMORY,
    &CAPACITY_MEMORY,
    &HELD_SLOTS,
    &CAPACITY_SLOTS,
    &RUNNERS,
    &KEPT_RUNNERS,
    &INTENTS,
    &TURN,
    &LAG,
    &LEADER,
    &FROZEN,
    &PAUSED,
    &TABLE_TROUBLE,
    &BUILDS_UNSAFE,
    &INFO,
];

pub const TASKS_ADMITTED: Metric = counter(
    "longshore_tasks_admitted_total",
    "tasks",
    &["kind", "queue"],
    "Submissions that became a pending task.",
);
pub const TASKS_RETURNED: Metric = counter(
    "longshore_tasks_returned_total",
    "tasks",
    &["kind", "queue"],
    "Times a task became pending again after it had been assigned: lost, refused, handed back, asked back, or retried.",
);
pub const TASKS_ASSIGNED: Metric = counter(
    "longshore_tasks_assigned_total",
    "tasks",
    &["kind", "queue"],
    "Assignments of a task to a runner. A task that is assigned twice counts twice.",
);
pub const TASKS_STARTED: Metric =
    counter("longshore_tasks_started_total", "tasks", &["kind", "queue"], "Starts that a runner reported.");
pub const TASKS_ENDED: Metric = counter(
    "longshore_tasks_ended_total",
    "tasks",
    &["kind", "queue", "outcome"],
    "Tasks that ended, by outcome: succeeded, failed, cancelled, exhausted, rejected or expired.",
);
pub const TASK_WAIT: Metric = histogram(
    "longshore_task_wait_seconds",
    "seconds",
    &["kind"],
    "Time from a task's submission to an assignment, for each assignment.",
);
pub const TASK_RUN: Metric = histogram(
    "longshore_task_run_seconds",
    "seconds",
    &["kind"],
    "Time from the start of a task's last attempt to its end, for each task that ended after a start.",
);
pub const SUBMISSIONS_REFUSED: Metric = counter(
    "longshore_submissions_refused_total",
    "submissions",
    &["answer"],
    "Submissions that did not become a pending task, by answer: rejected, conflict, full or other.",
);
pub const CANCELS_REMEMBERED: Metric = counter(
    "longshore_cancels_remembered_total",
    "cancels",
    &[],
    "Cancels of a task that had not been seen yet.",
);
pub const STOPS_ASKED: Metric = counter(
    "longshore_stops_asked_total",
    "stops",
    &[],
    "Attempts a runner was asked to stop, counted once however often it was asked.",
);
pub const STALE_REPORTS: Metric = counter(
    "longshore_stale_reports_total",
    "reports",
    &["report"],
    "Reports that matched no live attempt and changed nothing: start, end or other.",
);
pub const LOCALITY: Metric = counter(
    "longshore_locality_total",
    "assignments",
    &["wanted", "result"],
    "Assignments of tasks that name an output or inputs, on queues with locality: hit (the runner holds the output, \
     or one of the inputs), miss (no ready runner that could ever run it did) or timeout (one did, and had no room \
     before the wait was over).",
);
pub const RUNNER_CHANGES: Metric = counter(
    "longshore_runner_changes_total",
    "changes",
    &["change"],
    "Changes of runners: registered, registered_again, left, lost, held, draining, dismissed, resumed, forgotten, bound or \
     unbound; and \
     of subscriptions: subscribed, unsubscribed or forgotten.",
);
pub const PULL_LEASES_OVER: Metric = counter(
    "longshore_pull_leases_over_total",
    "leases",
    &[],
    "Leases of pulled tasks that ended without a word of their pullers; their tasks are placed again, or exhausted.",
);
pub const TASKS_LOST: Metric =
    counter("longshore_tasks_lost_total", "tasks", &[], "Tasks that were on a runner when it was lost.");
pub const CLASSES_FORGOTTEN: Metric = counter(
    "longshore_classes_forgotten_total",
    "classes",
    &[],
    "Kinds of runner that stayed away longer than verdict.class_memory.",
);
pub const QUEUE_CHANGES: Metric =
    counter("longshore_queue_changes_total", "changes", &["change"], "Times a queue was paused or unpaused.");
pub const GROUPS_STOPPED: Metric = counter(
    "longshore_groups_stopped_total",
    "groups",
    &[],
    "Times a task that did not succeed stopped its group, or the rest of it.",
);
pub const INTENT_CHANGES: Metric = counter(
    "longshore_intent_changes_total",
    "changes",
    &["change"],
    "Changes of intents: asked, acknowledged, declined, expired, arrived (a runner registered with it) or withdrawn.",
);
pub const BUILDS_UNSAFE_TIMES: Metric = counter(
    "longshore_builds_unsafe_periods_total",
    "periods",
    &[],
    "Times the fleet became too small for the jobs of the running builds.",
);
pub const RESERVED: Metric = counter(
    "longshore_reservations_total",
    "reservations",
    &[],
    "Times a runner was kept for a task that had waited longer than placement.reserve_after.",
);
pub const SWEEP_FOUND: Metric = counter(
    "longshore_sweep_found_tasks_total",
    "tasks",
    &[],
    "Tasks that only the sweep found placeable. Stays 0: anything else is a missing wake-up.",
);
pub const TAKEOVERS: Metric =
    counter("longshore_takeovers_total", "takeovers", &[], "Times this replica became the leader.");
pub const FREEZES: Metric =
    counter("longshore_freezes_total", "freezes", &[], "Times the pool was frozen: a person must act.");
pub const TURNS: Metric = counter("longshore_turns_total", "turns", &[], "Turns this replica committed.");
pub const TURN_CHANGES: Metric =
    counter("longshore_turn_changes_total", "rows", &[], "Rows put or deleted by the committed turns.");
pub const TURN_DECIDE: Metric =
    histogram("longshore_turn_decide_seconds", "seconds", &[], "Time to decide one turn.");
pub const TURN_COMMIT: Metric = histogram(
    "longshore_turn_commit_seconds",
    "seconds",
    &[],
    "Time from handing one turn to the table until it was durable.",
);
pub const DEAD_LETTERS: Metric = counter(
    "longshore_dead_letters_total",
    "messages",
    &["reason"],
    "Messages that can never be taken, kept with the reason: malformed or other.",
);
pub const NATS_CONNECTS: Metric = counter(
    "longshore_nats_connects_total",
    "connections",
    &[],
    "Times the connection to NATS was made: 1 in a quiet life, 0 without NATS. Each further one was lost before.",
);
pub const NATS_REFUSALS: Metric = counter(
    "longshore_nats_refusals_total",
    "refusals",
    &[],
    "Times the NATS server refused something to this replica, for want of permission above all. Stays 0.",
);
pub const CONSUMER_PAUSED: Metric = gauge(
    "longshore_consumer_paused",
    "consumers",
    &["consumer", "reason"],
    "Whether nothing is pulled into a window now, by reason: capacity, window, table or operator.",
);
pub const TASKS: Metric =
    gauge("longshore_tasks", "tasks", &["kind", "state"], "Tasks now pending, assigned or running.");
pub const OLDEST_PENDING: Metric = gauge(
    "longshore_oldest_pending_seconds",
    "seconds",
    &["kind"],
    "Time since the submission of the oldest task that is pending; 0 when none is. Are we slow?",
);
pub const HELD_CPU: Metric =
    gauge("longshore_held_cpu_cores", "cores", &[], "Cores held by assigned and running tasks. Are we full?");
pub const CAPACITY_CPU: Metric =
    gauge("longshore_capacity_cpu_cores", "cores", &[], "Cores of the runners that are not lost.");
pub const HELD_MEMORY: Metric =
    gauge("longshore_held_memory_bytes", "bytes", &[], "Memory held by assigned and running tasks.");
pub const CAPACITY_MEMORY: Metric =
    gauge("longshore_capacity_memory_bytes", "bytes", &[], "Memory of the runners that are not lost.");
pub const HELD_SLOTS: Metric =
    gauge("longshore_held_slots", "slots", &[], "Slots held by assigned and running tasks.");
pub const CAPACITY_SLOTS: Metric =
    gauge("longshore_capacity_slots", "slots", &[], "Slots of the runners that are not lost.");
pub const RUNNERS: Metric = gauge(
    "longshore_runners",
    "runners",
    &["state"],
    "Runners now in each state: ready, held, draining or lost.",
);
pub const KEPT_RUNNERS: Metric = gauge(
    "longshore_kept_runners",
    "runners",
    &[],
    "Runners now kept for a task that waited too long; at most a quarter of the ready ones.",
);
pub const INTENTS: Metric = gauge(
    "longshore_intents",
    "intents",
    &["state"],
    "Intents now in each state: asked, acknowledged, declined or expired.",
);
pub const TURN: Metric = gauge("longshore_turn", "turns", &[], "Number of the last turn this replica has.");
pub const LAG: Metric = gauge(
    "longshore_lag_turns",
    "turns",
    &[],
    "Turns that are known to stand in the table and that this replica has not applied. Stays near 0; always 0 on the leader.",
);
pub const LEADER: Metric = gauge("longshore_leader", "replicas", &[], "1 while this replica takes turns.");
pub const FROZEN: Metric =
    gauge("longshore_frozen", "pools", &[], "1 while the pool is frozen and nothing is decided.");
pub const PAUSED: Metric = gauge(
    "longshore_paused",
    "pools",
    &[],
    "1 while an operator has paused the whole pool: only jobs of running builds are placed.",
);
pub const TABLE_TROUBLE: Metric = gauge(
    "longshore_table_trouble",
    "replicas",
    &[],
    "1 while the table takes nothing from this replica or cannot be followed by it; its log says why.",
);
pub const BUILDS_UNSAFE: Metric = gauge(
    "longshore_builds_unsafe",
    "pools",
    &[],
    "1 while some running build has no room for a job of its own, so that no build starts.",
);
pub const INFO: Metric =
    gauge("longshore_info", "replicas", &["version"], "1, with the version of this replica.");

const fn counter(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricKind::Counter, unit, labels, help }
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricKind::Gauge, unit, labels, help }
}

const fn histogram(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricKind::Histogram, unit, labels, help }
}
