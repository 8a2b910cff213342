//! Facts told as metrics and as log lines: the whole scrape is recorded, and the catalogue is complete.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::model::{
    Fact, Found, Id, IntentChange, Kind, Lifecycle, LifecycleState, Outcome, Resources, RunnerState, Time,
    Token,
};
use longshore::runtime::credit::Reason;
use longshore::telemetry::catalogue::{self, MetricKind};
use longshore::telemetry::logs::{self, Format, Level, Logging};
use longshore::telemetry::metrics::{Gauges, LiveTasks, MOST_QUEUES, Metrics, PAUSES};

fn id(text: &str) -> Id {
    Id::parse(text).expect("a legal name")
}

fn token() -> Token {
    Token { epoch: 1, turn: 3118, index: 2 }
}

fn lifecycle(task: &str, state: LifecycleState) -> Lifecycle {
    Lifecycle {
        id: id(task),
        kind: Kind::Job,
        queue: id("default"),
        tenant: id("acme"),
        state,
        outcome: None,
        reason: None,
        runner: None,
        attempt: 0,
        token: None,
        at: Time(0),
        waited_ms: None,
        ran_ms: None,
        exit_code: None,
    }
}

/// One of everything that can happen, and the whole life of a task.
fn everything() -> Vec<Fact> {
    let (runner, token) = (id("r-7"), token());
    let on_runner = |state| Lifecycle {
        runner: Some(runner.clone()),
        attempt: 2,
        token: Some(token),
        ..lifecycle("build-42", state)
    };
    vec![
        Fact::TookOver { turn: 3117 },
        Fact::RunnerRegistered { runner: runner.clone(), incarnation: "i1".into(), again: false },
        Fact::RunnerRegistered { runner: runner.clone(), incarnation: "i1".into(), again: true },
        Fact::Task(lifecycle("build-42", LifecycleState::Pending)),
        Fact::Task(Lifecycle {
            attempt: 1,
            reason: Some("runner lost".into()),
            ..lifecycle("build-42", LifecycleState::Pending)
        }),
        Fact::Task(Lifecycle { waited_ms: Some(840), ..on_runner(LifecycleState::Assigned) }),
        Fact::Task(on_runner(LifecycleState::Running)),
        Fact::Task(Lifecycle {
            outcome: Some(Outcome::Failed),
            ran_ms: Some(61_500),
            exit_code: Some(3),
            ..on_runner(LifecycleState::Ended)
        }),
        Fact::Locality {
            id: id("build-42"),
            runner: runner.clone(),
            output: Some(Found::Timeout),
            inputs: None,
        },
        Fact::SubmissionRefused {
            id: id("t9"),
            answer: "conflict".into(),
            reason: "other content under this id".into(),
        },
        Fact::SubmissionRefused { id: id("t9"), answer: "surprise".into(), reason: "a\nb token=1".into() },
        Fact::StopAsked { id: id("t1"), runner: runner.clone(), token, reason: "cancelled".into() },
        Fact::StaleReport { id: id("t1"), runner: runner.clone(), token, report: "end".into() },
        Fact::RunnerHeld { runner: runner.clone(), reason: "3 start failures in a row".into() },
        Fact::RunnerResumed { runner: runner.clone() },
        Fact::RunnerDraining { runner: runner.clone() },
        Fact::RunnerLost { runner: runner.clone(), reason: "its lease lapsed".into(), tasks: 4 },
        Fact::RunnerLeft { runner: runner.clone() },
        Fact::RunnerDismissed { runner: runner.clone(), group: id("g1") },
        Fact::GroupStopped { group: id("g1"), task: id("t1"), reason: "t1 ended failed".into() },
        Fact::RunnerForgotten { runner },
        Fact::ClassForgotten { class: id("large") },
        Fact::Intent {
            intent: id("intent-1-7-0"),
            class: id("large"),
            change: IntentChange::Asked,
            runners: 2,
            reason: Some("no runner has room".into()),
        },
        Fact::QueuePaused { queue: id("default") },
        Fact::QueueUnpaused { queue: id("default") },
        Fact::PoolPaused,
        Fact::PoolUnpaused,
        Fact::CancelRemembered { id: id("t8") },
        Fact::BuildsUnsafe { build: id("b1") },
        Fact::BuildsSafe,
        Fact::Reserved { task: id("t1"), runner: id("r1"), fits_by: Some(Time(9)) },
        Fact::ReservationOver { task: id("t1"), runner: id("r1") },
        Fact::SweepFound { tasks: 2 },
        Fact::Frozen { reason: "the table lost turns".into() },
        Fact::Unfrozen,
    ]
}

fn gauges() -> Gauges {
    let jobs =
        LiveTasks { pending: 7, assigned: 1, running: 2, oldest_pending: Some(Duration::from_millis(2500)) };
    Gauges {
        jobs,
        builds: LiveTasks { running: 1, ..LiveTasks::default() },
        held: Resources::new(3500, 4 << 30),
        held_slots: 4,
        capacity: Resources::new(8000, 16 << 30),
        capacity_slots: 100,
        runners: [1, 0, 2, 0],
        intents: [1, 2, 0, 1],
        turn: 3118,
        leader: true,
        windows: vec![("builds", None), ("jobs", Some("capacity")), ("jobs_of_builds", None)],
        ..Gauges::default()
    }
}

/// A scrape with its families and series in order: the exporter promises none. Buckets stay in theirs.
fn ordered(scrape: &str) -> String {
    let mut families: Vec<Vec<&str>> =
        scrape.split("\n\n").map(|family| family.lines().collect::<Vec<_>>()).collect();
    for family in &mut families {
        family.sort_by_key(|line| match line.split_once("le=") {
            _ if line.starts_with("# HELP") => (0, String::new()),
            _ if line.starts_with('#') => (1, String::new()),
            Some((labels, _)) => (2, labels.to_owned()),
            None => (2, line.rsplit_once(' ').expect("a value").0.to_owned()),
        });
    }
    families.retain(|family| !family.is_empty());
    families.sort_by_key(|family| family[0].to_owned());
    families.iter().map(|family| family.join("\n") + "\n\n").collect::<String>().trim_end().to_owned()
}

/// Names of families with their kind.
fn families(scrape: &str) -> BTreeSet<(String, String)> {
    scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

fn full_scrape() -> String {
    let metrics = Metrics::new();
    metrics.record(&everything());
    metrics.turn_committed(5, Duration::from_micros(300), Duration::from_millis(4));
    metrics.dead_letter("malformed");
    metrics.nats(1, 0);
    metrics.scrape(&gauges())
}

#[test]
fn the_whole_scrape_is_as_recorded() {
    let scrape = ordered(&full_scrape());
    insta::assert_snapshot!(scrape.replace(env!("CARGO_PKG_VERSION"), "x.y.z"));
}

#[test]
fn every_metric_emitted_is_in_the_catalogue_and_every_one_there_is_emitted() {
    let kind = |kind| match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    let catalogued: BTreeSet<(String, String)> =
        catalogue::ALL.iter().map(|metric| (metric.name.to_owned(), kind(metric.kind).to_owned())).collect();
    assert_eq!(catalogued.len(), catalogue::ALL.len(), "a name stands there twice");
    assert_eq!(families(&full_scrape()), catalogued);
}

#[test]
fn names_and_help_keep_to_the_rules() {
    for metric in catalogue::ALL {
        assert!(metric.name.starts_with("longshore_"), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == MetricKind::Counter, "{}", metric.name);
        assert!(metric.help.ends_with('.') || metric.help.ends_with('?'), "{}", metric.help);
        if matches!(metric.unit, "seconds" | "bytes" | "cores") {
            assert!(metric.name.ends_with(metric.unit), "{} is in {}", metric.name, metric.unit);
        }
        for label in metric.labels {
            let bounded = [
                "kind", "queue", "outcome", "state", "answer", "report", "change", "version", "reason",
                "consumer", "wanted", "result",
            ];
            assert!(bounded.contains(label), "{} of {}", label, metric.name);
        }
    }
}

#[test]
fn before_anything_happened_what_has_no_label_stands_at_zero() {
    let scrape = Metrics::new().scrape(&Gauges::default());
    for metric in catalogue::ALL {
        let zero = match metric.kind {
            MetricKind::Histogram => format!("\n{}_count 0\n", metric.name),
            _ => format!("\n{} 0\n", metric.name),
        };
        assert!(!metric.labels.is_empty() || scrape.contains(&zero), "{}", metric.name);
    }
    for state in RunnerState::ALL {
        assert!(scrape.contains(&format!("longshore_runners{{state=\"{state}\"}} 0")), "{state}");
    }
}

#[test]
fn neither_names_nor_texts_become_labels_and_queues_are_cut_off() {
    let metrics = Metrics::new();
    metrics.record(&everything());
    let many: Vec<Fact> = (0..MOST_QUEUES + 50)
        .map(|n| {
            let queue = id(&format!("q{n}"));
            Fact::Task(Lifecycle { queue, ..lifecycle("t1", LifecycleState::Pending) })
        })
        .collect();
    metrics.record(&many);
    let scrape = metrics.scrape(&Gauges::default());
    for unbounded in ["build-42", "r-7", "surprise", "acme", "lapsed"] {
        let series = scrape.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(series.filter(|line| line.contains(unbounded)).count(), 0, "{unbounded}");
    }
    let of_queues = |queue: &str| {
        let series = "longshore_tasks_admitted_total{kind=\"job\",queue=\"";
        scrape.lines().filter(|line| line.starts_with(&format!("{series}{queue}"))).count()
    };
    assert_eq!(of_queues(""), MOST_QUEUES + 1);
    assert!(scrape.contains("longshore_tasks_admitted_total{kind=\"job\",queue=\"other\"} 51"));
}

#[test]
fn every_reason_of_a_pause_has_its_series() {
    assert_eq!(Reason::ALL.map(Reason::as_str), PAUSES);
    let scrape = full_scrape();
    let series = |consumer: &str, reason: &str| {
        format!("\nlongshore_consumer_paused{{consumer=\"{consumer}\",reason=\"{reason}\"}}")
    };
    for reason in PAUSES {
        let paused = u8::from(reason == "capacity");
        assert!(scrape.contains(&format!("{} {paused}\n", series("jobs", reason))), "{reason}");
        assert!(scrape.contains(&format!("{} 0\n", series("builds", reason))), "{reason}");
    }
}

#[test]
fn a_dead_letter_is_an_increase_from_the_first_one_on() {
    let metrics = Metrics::new();
    let letters = |reason: &str| format!("\nlongshore_dead_letters_total{{reason=\"{reason}\"}}");
    let scrape = metrics.scrape(&Gauges::default());
    for reason in ["malformed", "other"] {
        assert!(scrape.contains(&format!("{} 0\n", letters(reason))), "{reason}");
    }
    metrics.dead_letter("malformed");
    metrics.dead_letter("free text");
    let scrape = metrics.scrape(&Gauges::default());
    for reason in ["malformed", "other"] {
        assert!(scrape.contains(&format!("{} 1\n", letters(reason))), "{reason}");
    }
}

#[test]
fn two_replicas_in_one_process_share_no_count() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.record(&[Fact::TookOver { turn: 1 }]);
    assert!(one.scrape(&Gauges::default()).contains("\nlongshore_takeovers_total 1\n"));
    assert!(other.scrape(&Gauges::default()).contains("\nlongshore_takeovers_total 0\n"));
}

#[test]
fn samples_survive_being_folded_between_scrapes() {
    let metrics = Metrics::new();
    for _ in 0..12_000 {
        metrics.turn_committed(1, Duration::from_millis(1), Duration::from_millis(2));
    }
    assert!(metrics.scrape(&Gauges::default()).contains("\nlongshore_turn_commit_seconds_count 12000\n"));
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: Format, level: Level, facts: &[Fact]) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = logs::subscriber(Logging { format, level }, move || writer.clone(), false);
    tracing::subscriber::with_default(subscriber, || logs::log(facts));
    let bytes = lines.0.lock().expect("not poisoned").clone();
    String::from_utf8(bytes).expect("text")
}

#[test]
fn each_fact_is_one_line_with_its_values_as_fields() {
    let text = logged(Format::Text, Level::Info, &everything());
    let lines: Vec<&str> =
        text.lines().map(|line| line.split_once(' ').expect("a time").1.trim_start()).collect();
    assert_eq!(lines.len(), everything().len());
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn json_lines_carry_the_fields_beside_the_message() {
    let text = logged(Format::Json, Level::Info, &everything()[5..6]);
    let line: serde_json::Value = serde_json::from_str(&text).expect("one JSON line");
    assert_eq!(
        (&line["message"], &line["task"], &line["attempt"], &line["waited_ms"], &line["token"]),
        (&"task assigned".into(), &"build-42".into(), &2.into(), &840.into(), &"1.3118.2".into())
    );
}

#[test]
fn less_important_lines_are_left_out_below_the_level() {
    let text = logged(Format::Text, Level::Error, &everything());
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("ERROR pool frozen"), "{text}");
}
