//! Dashboard, alerts and the stack around them: every name in them exists, and the files say the same things.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore::telemetry::catalogue::{self, Metric, MetricKind};
use serde_json::Value;

/// Labels that Prometheus itself adds.
const ADDED: [&str; 2] = ["instance", "job"];
/// Series of Prometheus itself.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
/// Words of the query language that are neither functions nor names.
const WORDS: [&str; 8] = ["and", "or", "unless", "bool", "offset", "group_left", "group_right", "inf"];
/// What is followed by a list of labels.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|why| panic!("{file}: {why}"))
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&text(file)).unwrap_or_else(|why| panic!("{file}: {why}"))
}

fn dashboard() -> Value {
    serde_json::from_str(&text("dashboards/grafana/longshore.json")).expect("JSON")
}

/// One piece of a query.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Name(String),
    /// Text between quotes.
    Quoted,
    Sign(char),
}

fn pieces(query: &str) -> Vec<Piece> {
    let (mut found, mut rest) = (Vec::new(), query.chars().peekable());
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    while let Some(c) = rest.next() {
        if c == '"' {
            for inner in rest.by_ref() {
                if inner == '"' {
                    break;
                }
            }
            found.push(Piece::Quoted);
        } else if in_name(c) || c == '$' {
            let mut name = c.to_string();
            while let Some(more) = rest.next_if(|c| in_name(*c)) {
                name.push(more);
            }
            // Numbers, spans and the dashboard's own variables name nothing.
            if c.is_ascii_alphabetic() || c == '_' {
                found.push(Piece::Name(name));
            }
        } else if !c.is_whitespace() {
            found.push(Piece::Sign(c));
        }
    }
    found
}

/// The metric a series belongs to, and whether the series is one of its own or the `_bucket` and the like of it.
fn metric_of(series: &str) -> Option<&'static Metric> {
    let exact = catalogue::ALL.into_iter().find(|metric| metric.name == series);
    exact.filter(|metric| metric.kind != MetricKind::Histogram).or_else(|| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end))?;
        catalogue::ALL.into_iter().find(|one| one.name == family && one.kind == MetricKind::Histogram)
    })
}

fn labels_of(series: &str) -> BTreeSet<&'static str> {
    let own = metric_of(series).map_or(&[][..], |metric| metric.labels).iter().copied();
    let of_buckets = series.ends_with("_bucket").then_some("le");
    let of_alerts: &[&str] = if series == "ALERTS" { &["alertname", "alertstate"] } else { &[] };
    own.chain(ADDED).chain(of_buckets).chain(of_alerts.iter().copied()).collect()
}

/// What a query names that does not exist, and what it counts that is no counter.
fn wrong(query: &str) -> Vec<String> {
    let pieces = pieces(query);
    let (mut wrong, mut series, mut grouped) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut place = 0;
    let mut counted = false;
    while let Some(piece) = pieces.get(place) {
        let next = pieces.get(place + 1);
        place += 1;
        let Piece::Name(name) = piece else { continue };
        if BEFORE_LABELS.contains(&name.as_str()) && next == Some(&Piece::Sign('(')) {
            while let Some(piece) = pieces.get(place).filter(|piece| **piece != Piece::Sign(')')) {
                if let Piece::Name(label) = piece {
                    grouped.push(label.clone());
                }
                place += 1;
            }
        } else if next == Some(&Piece::Sign('(')) {
            counted = matches!(name.as_str(), "rate" | "increase" | "irate");
        } else if WORDS.contains(&name.as_str()) || BEFORE_LABELS.contains(&name.as_str()) {
        } else if metric_of(name).is_none() && !OF_PROMETHEUS.contains(&name.as_str()) {
            // An aggregation may stand before its labels: `sum by (x) (…)`.
            if !matches!(next, Some(Piece::Name(by)) if matches!(by.as_str(), "by" | "without")) {
                wrong.push(format!("no metric is called {name}"));
            }
        } else {
            let kind = metric_of(name).map(|metric| metric.kind);
            if (kind == Some(MetricKind::Gauge)) == counted && kind.is_some() {
                wrong.push(format!("{name} is counted as it is not"));
            }
            counted = false;
            if next == Some(&Piece::Sign('{')) {
                while let Some(piece) = pieces.get(place).filter(|piece| **piece != Piece::Sign('}')) {
                    if let Piece::Name(label) = piece
                        && !labels_of(name).contains(label.as_str())
                    {
                        wrong.push(format!("{name} has no label {label}"));
                    }
                    place += 1;
                }
            }
            series.insert(name.clone());
        }
    }
    let known: BTreeSet<&str> = series.iter().flat_map(|name| labels_of(name)).collect();
    wrong.extend(
        grouped
            .iter()
            .filter(|label| !known.contains(label.as_str()))
            .map(|label| format!("nothing has the label {label}")),
    );
    wrong
}

/// Labels a text with `{{…}}` shows.
fn shown(text: &str) -> Vec<String> {
    let inner = text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}"));
    let label = |inner: &str| {
        let inner = inner.trim();
        // In an alert: {{ $labels.instance }}; in a legend: {{instance}}.
        (!inner.starts_with('$'))
            .then_some(inner)
            .or_else(|| inner.strip_prefix("$labels."))
            .map(str::to_owned)
    };
    inner.filter_map(|(inner, _)| label(inner)).collect()
}

fn shown_wrongly(query: &str, text: &str) -> Vec<String> {
    let series: Vec<String> = pieces(query)
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Name(name) if metric_of(&name).is_some() || OF_PROMETHEUS.contains(&name.as_str()) => {
                Some(name)
            }
            _ => None,
        })
        .collect();
    let known: BTreeSet<&str> = series.iter().flat_map(|name| labels_of(name)).collect();
    shown(text).into_iter().filter(|label| !known.contains(label.as_str())).collect()
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Every query of the dashboard, with where it stands and the legend.
fn queries(dashboard: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for panel in array(dashboard, "panels") {
        for target in array(panel, "targets") {
            let (query, legend) = (word(target, "expr"), word(target, "legendFormat"));
            found.push((word(panel, "title").to_owned(), query.to_owned(), legend.to_owned()));
        }
    }
    for note in array(&dashboard["annotations"], "list") {
        let (title, query) = (word(note, "name"), word(note, "expr"));
        found.push((title.to_owned(), query.to_owned(), word(note, "titleFormat").to_owned()));
    }
    found
}

fn alerts() -> Vec<Value> {
    let file = yaml("dashboards/alerts.yml");
    array(&file, "groups").iter().flat_map(|group| array(group, "rules").to_vec()).collect()
}

#[test]
fn every_name_on_the_dashboard_exists() {
    let queries = queries(&dashboard());
    assert!(queries.len() > 30, "{}", queries.len());
    let mut faults = Vec::new();
    for (title, query, legend) in &queries {
        faults.extend(wrong(query).into_iter().map(|why| format!("{title}: {why}")));
        faults
            .extend(shown_wrongly(query, legend).into_iter().map(|label| format!("{title}: shows {label}")));
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_name_in_an_alert_exists() {
    let mut faults = Vec::new();
    for alert in alerts() {
        let (name, query) = (word(&alert, "alert"), word(&alert, "expr"));
        faults.extend(wrong(query).into_iter().map(|why| format!("{name}: {why}")));
        for said in ["summary", "description"] {
            let said = word(&alert["annotations"], said);
            assert!(said.ends_with('.'), "{name} says {said:?}");
            faults
                .extend(shown_wrongly(query, said).into_iter().map(|label| format!("{name}: shows {label}")));
        }
        assert!(["critical", "warning"].contains(&word(&alert["labels"], "severity")), "{name}");
    }
    assert_eq!(faults, Vec::<String>::new());
    for story in array(&yaml("dashboards/alerts_test.yml"), "tests") {
        for series in array(story, "input_series") {
            assert_eq!(wrong(word(series, "series")).iter().find(|why| !why.contains("counted")), None);
        }
    }
}

#[test]
fn the_check_of_names_sees_what_is_wrong() {
    for query in [
        "sum by (kind) (rate(longshore_tasks_ended_total{queue=~\"a|b\"}[$__rate_interval]))",
        "histogram_quantile(0.5, sum by (le, kind) (rate(longshore_task_wait_seconds_bucket[5m])))",
        "max by (job) (longshore_frozen and on (job, instance) longshore_leader == 1) == 1",
        "(sum(longshore_leader) or vector(0)) < 1",
        "up{job=\"longshore\"} == 0",
    ] {
        assert_eq!(wrong(query), Vec::<String>::new(), "{query}");
    }
    for (query, why) in [
        ("rate(longshore_task_ended_total[5m])", "no metric is called longshore_task_ended_total"),
        ("longshore_task_wait_seconds", "no metric is called longshore_task_wait_seconds"),
        ("longshore_leader_bucket", "no metric is called longshore_leader_bucket"),
        ("longshore_leader{queue=\"a\"}", "longshore_leader has no label queue"),
        ("sum by (outcme) (rate(longshore_tasks_ended_total[5m]))", "nothing has the label outcme"),
        ("rate(longshore_tasks[5m])", "longshore_tasks is counted as it is not"),
        ("sum(longshore_takeovers_total)", "longshore_takeovers_total is counted as it is not"),
        ("sum(leader)", "no metric is called leader"),
    ] {
        assert_eq!(wrong(query), [why.to_owned()], "{query}");
    }
    assert_eq!(shown_wrongly("longshore_leader", "{{instance}} {{queue}}"), ["queue"]);
    assert_eq!(shown_wrongly("longshore_leader", "{{ $labels.queue }}, {{ $value | humanize }}"), ["queue"]);
}

#[test]
fn the_first_panel_answers_whether_we_are_slow_or_full() {
    let dashboard = dashboard();
    let first = &array(&dashboard, "panels")[0];
    let queries: String = array(first, "targets").iter().map(|target| word(target, "expr")).collect();
    for name in
        ["longshore_oldest_pending_seconds", "longshore_held_cpu_cores", "longshore_capacity_cpu_cores"]
    {
        assert!(queries.contains(name), "{name} is not on {:?}", word(first, "title"));
    }
}

#[test]
fn panels_have_a_place_and_an_id_of_their_own_and_ask_the_source_that_is_there() {
    let dashboard = dashboard();
    let source = &yaml("dashboards/grafana/provisioning/datasources/prometheus.yml")["datasources"][0];
    let mut ids = BTreeSet::new();
    let mut rows: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for panel in array(&dashboard, "panels") {
        let title = word(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}");
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for (x, y) in (place("x")..place("x") + place("w"))
            .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
        {
            assert_eq!(rows.insert((x, y), title), None, "{title} lies on another");
        }
        for target in array(panel, "targets") {
            assert_eq!(target["datasource"]["uid"], source["uid"], "{title}");
        }
    }
    assert_eq!(source["type"], "prometheus");
}

#[test]
fn the_rules_and_queries_are_read_by_prometheus_itself_where_it_is_installed() {
    let promtool =
        |args: &[&str]| Command::new("promtool").args(args).current_dir(path("dashboards")).output();
    if promtool(&["--version"]).is_err() {
        eprintln!(
            "NOT CHECKED BY PROMTOOL: it is not installed here; names and labels are checked without it"
        );
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let rules: Vec<Value> = queries(&dashboard())
        .iter()
        .map(|(_, query, _)| {
            serde_json::json!({"record": "of:the:dashboard", "expr": query.replace("$__rate_interval", "1m")})
        })
        .collect();
    let group = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let written = directory.path().join("dashboard.yml");
    std::fs::write(&written, group.to_string()).expect("a file");
    for args in [
        &["check", "config", "prometheus.yml"][..],
        &["test", "rules", "alerts_test.yml"],
        &["check", "rules", "--lint=none", written.to_str().expect("text")],
    ] {
        let output = promtool(args).expect("it was there");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {args:?}: {said}");
    }
    eprintln!(
        "checked by promtool: configuration, alerts with their stories, and every query of the dashboard"
    );
}

#[test]
fn the_stack_names_only_what_is_there() {
    let stack = yaml("docker-compose.yml");
    let services = stack["services"].as_object().expect("services");
    for (name, service) in services {
        for volume in array(service, "volumes").iter().filter_map(Value::as_str) {
            let from = volume.split(':').next().expect("a first part");
            match from.strip_prefix("./") {
                Some(file) => assert!(path(file).exists(), "{name} mounts {from}"),
                None => assert!(stack["volumes"].get(from).is_some(), "{name} mounts {from}"),
            }
        }
        for port in array(service, "ports").iter().filter_map(Value::as_str) {
            assert!(port.starts_with("127.0.0.1:"), "{name} is open to others on {port}");
        }
        for awaited in service["depends_on"].as_object().into_iter().flatten() {
            assert!(services.contains_key(awaited.0), "{name} waits for {}", awaited.0);
        }
    }
    let scraped = &yaml("dashboards/prometheus.yml")["scrape_configs"][0]["static_configs"][0];
    let scraped: BTreeSet<&str> = array(scraped, "targets").iter().filter_map(Value::as_str).collect();
    let replicas = services.keys().filter(|name| name.starts_with("dispatcher-"));
    let replicas: BTreeSet<String> = replicas.map(|name| format!("{name}:8080")).collect();
    assert_eq!(scraped, replicas.iter().map(String::as_str).collect());
}

#[test]
fn the_stack_gives_the_nats_server_every_variable_it_needs_and_each_user_its_password() {
    let stack = yaml("docker-compose.yml");
    let environment = |service: &str| stack["services"][service]["environment"].clone();
    let conf = text("config/nats.conf");
    let lines = conf.lines().filter(|line| !line.trim_start().starts_with('#'));
    let needed: BTreeSet<&str> = lines
        .flat_map(|line| line.split('$').skip(1))
        .map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().expect("a first part")
        })
        .filter(|name| name.starts_with("LONGSHORE_"))
        .collect();
    let given = environment("nats");
    let given: BTreeSet<&str> = given.as_object().expect("variables").keys().map(String::as_str).collect();
    assert_eq!(given, needed);
    for (service, user, variable) in [
        ("dispatcher-1", "DISPATCHER", "LONGSHORE_NATS__PASSWORD"),
        ("dispatcher-2", "DISPATCHER", "LONGSHORE_NATS__PASSWORD"),
        ("runner-1", "RUNNER_1", "LONGSHORE_NATS_PASSWORD"),
        ("runner-2", "RUNNER_2", "LONGSHORE_NATS_PASSWORD"),
    ] {
        let password = &environment("nats")[format!("LONGSHORE_NATS_{user}_PASSWORD")];
        assert_eq!(environment(service)[variable], *password, "{service}");
        assert!(password.as_str().is_some_and(|text| text.contains("development-only")), "{password}");
    }
}
