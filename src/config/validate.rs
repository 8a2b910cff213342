//! Validation: is what was read consistent, and within its limits?
//!
//! Law: pure. The first limit that is broken is named with the key, its value and the limit; what passes can
//! be run as it is, and nothing later checks it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use crate::core::settings::{Guards, Locality, Order, Settings as Decisions, Strategy};
use crate::model::resources::{amount_text, parse_cpu, parse_memory};
use crate::model::time::format_span;
use crate::model::{DeclaredClass, Id, Kind, Offer, QueueId, Resources};
use crate::telemetry::logs::{Format, Level, Logging};
use crate::wire::command::MOST_RUNNERS;

use super::file::{Amount, ClassSection, File, LeaseSection, NatsSection, QueueSection, Span, TableSection};
use super::{Nats, Server, Settings};
use crate::broker;

/// A limit that is broken: the keys it is about, the most likely one first, and what to say.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) keys: Vec<String>,
    pub(super) message: String,
}

type Checked<T> = Result<T, Broken>;

const MOST_CPU: u64 = 1_000_000 * 1000;
const MOST_BYTES: u64 = 1 << 60;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const SHORTEST: Duration = Duration::from_millis(10);

/// Makes settings of what was read.
pub(super) fn validate(file: &File) -> Checked<Settings> {
    let (nats, mut decisions) = (nats(&file.nats)?, decisions(file)?);
    if let Some(nats) = &nats {
        decisions.window = nats.window;
        decisions.window_share = nats.window.div_ceil(2);
    }
    Ok(Settings { server: server(file)?, nats, log: log(file)?, decisions })
}

fn server(file: &File) -> Checked<Server> {
    let listen = &file.server.listen;
    let listen = listen.parse().map_err(|_| {
        broken(["server.listen"], format!("({listen:?}) must be an address and a port, like 127.0.0.1:8080"))
    })?;
    if file.server.data.is_empty() {
        return Err(broken(["server.data"], "(\"\") must name a directory, like \"longshore-data\""));
    }
    Ok(Server {
        listen,
        data: file.server.data.clone().into(),
        output_bytes: bytes("server.output_bytes", &file.server.output_bytes, 1 << 20, 1 << 50)? as u64,
        output_age: between("server.output_age", file.server.output_age, HOUR, 3650 * DAY)?,
    })
}

/// Nothing where no server is named: the table is kept in a file.
fn nats(nats: &NatsSection) -> Checked<Option<Nats>> {
    const SLOWEST: Duration = Duration::from_secs(300);
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    if nats.pools.is_empty() {
        return Err(broken(["nats.pools"], "is empty; name at least one, like [\"default\"]"));
    }
    let mut pools = Vec::new();
    for pool in &nats.pools {
        let pool = name("nats.pools", pool)?;
        if pools.contains(&pool) {
            return Err(broken(["nats.pools"], format!("names {pool} twice")));
        }
        pools.push(pool);
    }
    if nats.user.is_empty() != nats.password.is_empty() {
        return Err(broken(
            ["nats.user", "nats.password"],
            "and nats.password belong together: set both or none",
        ));
    }
    if nats.replicas % 2 == 0 {
        return Err(broken(["nats.replicas"], format!("({}) must be 1, 3 or 5", nats.replicas)));
    }
    let room = |key, given: &Amount| bytes(key, given, 1 << 20, 1 << 50).map(|bytes| bytes as u64);
    let settings = Nats {
        server: broker::Server {
            url: nats.url.clone(),
            credentials: text(&nats.credentials).map(Into::into),
            user: text(&nats.user),
            password: text(&nats.password),
            name: "longshore".to_owned(),
            inbox: text(&nats.inbox),
        },
        pools,
        take_over: between("nats.take_over", nats.take_over, Duration::from_millis(500), SLOWEST)?,
        window: whole("nats.window", nats.window, 1, 10_000_000)?,
        ahead: Some(whole("nats.ahead", nats.ahead, 0, 10_000_000)?).filter(|ahead| *ahead > 0),
        replicas: whole("nats.replicas", nats.replicas, 1, 5)?,
        table_bytes: room("nats.table_bytes", &nats.table_bytes)?,
        submit_bytes: room("nats.submit_bytes", &nats.submit_bytes)?,
        report_bytes: room("nats.report_bytes", &nats.report_bytes)?,
        history_bytes: room("nats.history_bytes", &nats.history_bytes)?,
        history_age: between("nats.history_age", nats.history_age, HOUR, 3650 * DAY)?,
    };
    Ok((!nats.url.is_empty()).then_some(settings))
}

fn log(file: &File) -> Checked<Logging> {
    let format = [("text", Format::Text), ("json", Format::Json)];
    let level = Level::ALL.map(|level| (level.as_str(), level));
    Ok(Logging {
        format: one_of("log.format", &file.log.format, &format)?,
        level: one_of("log.level", &file.log.level, &level)?,
    })
}

fn decisions(file: &File) -> Checked<Decisions> {
    let (lease, table, retry) = (leases(&file.lease)?, &file.table, &file.retry);
    let backoff = between("retry.backoff", retry.backoff, SHORTEST, HOUR)?;
    let backoff_max = between("retry.backoff_max", retry.backoff_max, SHORTEST, DAY)?;
    if backoff_max < backoff {
        return Err(broken(
            ["retry.backoff_max", "retry.backoff"],
            format!(
                "({}) must be at least retry.backoff ({})",
                format_span(backoff_max),
                format_span(backoff)
            ),
        ));
    }
    Ok(Decisions {
        default_resources: Resources::new(
            amount("defaults.cpu", "cpu", &file.defaults.cpu)?,
            amount("defaults.memory", "memory", &file.defaults.memory)?,
        ),
        default_max_attempts: small("defaults.max_attempts", file.defaults.max_attempts, 1, 100)?,
        order: order(&file.placement.order)?,
        strategy: one_of(
            "placement.strategy",
            &file.placement.strategy,
            &[("pack", Strategy::Pack), ("spread", Strategy::Spread)],
        )?,
        window: whole("table.window", table.window, 1, 10_000_000)?,
        window_share: usize::MAX,
        window_bytes: bytes("table.window_bytes", &table.window_bytes, 1 << 20, 1 << 40)?,
        settle: between("verdict.settle", file.verdict.settle, Duration::ZERO, HOUR)?,
        classes_complete: classes_complete(file)?,
        classes: classes(&file.class)?,
        class_memory: between("verdict.class_memory", file.verdict.class_memory, Duration::ZERO, 7 * DAY)?,
        intent_answer: between("intents.answer", file.intents.answer, SECOND, DAY)?,
        intent_start: between("intents.start", file.intents.start, SECOND, DAY)?,
        intent_backoff: between("intents.backoff", file.intents.backoff, SECOND, DAY)?,
        keep_ended: between("table.keep_ended", table.keep_ended, SECOND, 30 * DAY)?,
        keep_ended_tasks: whole("table.keep_ended_tasks", table.keep_ended_tasks, 1, 10_000_000)?,
        keep_ended_body: keep_ended_body(table)?,
        runner_artifacts: whole("table.runner_artifacts", table.runner_artifacts, 1, 1_000_000)?,
        locality: locality(&file.queues)?,
        delivered_to_any: delivered_to_any(&file.queues)?,
        retry_backoff: backoff,
        retry_backoff_max: backoff_max,
        refusal_backoff: between("retry.refusal_backoff", retry.refusal_backoff, SHORTEST, HOUR)?,
        reserve_after: between("placement.reserve_after", file.placement.reserve_after, Duration::ZERO, DAY)?,
        unsafe_grace: between("builds.unsafe_grace", file.builds.unsafe_grace, Duration::ZERO, DAY)?,
        sweep: between("sweep.every", file.sweep.every, SECOND, HOUR)?,
        guards: Guards::default(),
        ..lease
    })
}

/// The spans that ownership rests on, in otherwise default settings.
fn leases(lease: &LeaseSection) -> Checked<Decisions> {
    let ttl = between("lease.ttl", lease.ttl, SHORTEST, HOUR)?;
    let heartbeat = between("lease.heartbeat", lease.heartbeat, SHORTEST, HOUR)?;
    let margin = between("lease.margin", lease.margin, SHORTEST, HOUR)?;
    let deadline = between("lease.assignment_deadline", lease.assignment_deadline, SHORTEST, HOUR)?;
    if ttl < 3 * heartbeat {
        let (ttl, heartbeat) = (format_span(ttl), format_span(heartbeat));
        let message = format!("({ttl}) must be at least 3 × lease.heartbeat ({heartbeat})");
        return Err(broken(["lease.ttl", "lease.heartbeat"], message));
    }
    if deadline < heartbeat {
        let (deadline, heartbeat) = (format_span(deadline), format_span(heartbeat));
        let message =
            format!("({deadline}) must be at least lease.heartbeat ({heartbeat}), which confirms it");
        return Err(broken(["lease.assignment_deadline", "lease.heartbeat"], message));
    }
    Ok(Decisions {
        lease: ttl,
        heartbeat,
        lease_margin: margin,
        assignment_deadline: deadline,
        ..Decisions::default()
    })
}

fn order(word: &str) -> Checked<Order> {
    if matches!(word, "tenant" | "fair" | "fair_share") {
        let message = format!(
            "({word:?}) is not supported by this version yet: fair shares of tenants come later; \
             use \"priority\" or \"fifo\""
        );
        return Err(broken(["placement.order"], message));
    }
    one_of("placement.order", word, &[("priority", Order::Priority), ("fifo", Order::Fifo)])
}

/// The queues that are pushed to runners although they have a subscription.
fn delivered_to_any(sections: &BTreeMap<String, QueueSection>) -> Checked<BTreeSet<QueueId>> {
    let mut queues = BTreeSet::new();
    for (queue, section) in sections {
        let key = format!("queues.{queue}.delivery");
        if one_of(&key, &section.delivery, &[("pull", false), ("any", true)])? {
            queues.extend(Id::parse(queue).ok());
        }
    }
    Ok(queues)
}

/// The queues whose tasks wait for runners that hold what they read or make.
fn locality(sections: &BTreeMap<String, QueueSection>) -> Checked<BTreeMap<QueueId, Locality>> {
    let mut queues = BTreeMap::new();
    for (queue, section) in sections {
        let key = |name: &str| format!("queues.{queue}.{name}");
        let id = Id::parse(queue).map_err(|why| Broken {
            keys: vec!["queues".to_owned()],
            message: format!("queues.{queue} {why}"),
        })?;
        let waits = Locality {
            cache_wait: between(&key("cache_wait"), section.cache_wait, Duration::ZERO, HOUR)?,
            deps_wait: between(&key("deps_wait"), section.deps_wait, Duration::ZERO, HOUR)?,
        };
        if !waits.cache_wait.is_zero() || !waits.deps_wait.is_zero() {
            queues.insert(id, waits);
        }
    }
    Ok(queues)
}

fn keep_ended_body(table: &TableSection) -> Checked<usize> {
    bytes("table.keep_ended_body", &table.keep_ended_body, 0, 256 << 10)
}

fn classes_complete(file: &File) -> Checked<bool> {
    if file.verdict.classes_complete && file.class.is_empty() {
        let message = "(true) needs at least one [[class]]: without one every task would be rejected until \
                       the first runner comes; declare the classes or set it to false";
        return Err(broken(["verdict.classes_complete"], message));
    }
    Ok(file.verdict.classes_complete)
}

fn classes(sections: &[ClassSection]) -> Checked<Vec<DeclaredClass>> {
    const MOST: usize = 1000;
    if sections.len() > MOST {
        let message = format!("has {} entries; at most {MOST} are allowed", sections.len());
        return Err(broken(["class"], message));
    }
    let mut classes: Vec<DeclaredClass> = Vec::with_capacity(sections.len());
    for section in sections {
        let class = class(section).map_err(|why| Broken {
            keys: vec!["class".to_owned()],
            message: format!("class {:?}: {}", section.id, why.message),
        })?;
        if classes.iter().any(|earlier| earlier.id == class.id) {
            let message = format!("{:?} is declared twice; ids must differ", section.id);
            return Err(broken(["class"], message));
        }
        classes.push(class);
    }
    Ok(classes)
}

fn class(section: &ClassSection) -> Checked<DeclaredClass> {
    let words = [("job", Kind::Job), ("build", Kind::Build)];
    let kinds = section.kinds.iter().map(|kind| one_of("kinds", kind, &words));
    let kinds = kinds.collect::<Checked<BTreeSet<_>>>()?;
    if kinds.is_empty() {
        return Err(broken(["kinds"], "is empty; name \"job\", \"build\" or both"));
    }
    let queues = section.queues.iter().filter(|queue| *queue != "*").map(|queue| name("queues", queue));
    let queues = queues.collect::<Checked<_>>()?;
    let offer = Offer {
        kinds,
        queues: if section.queues.iter().any(|queue| queue == "*") { Default::default() } else { queues },
        arch: section.arch.as_str().into(),
        os: section.os.as_str().into(),
        labels: section.labels.iter().map(|(k, v)| (Arc::from(&**k), Arc::from(&**v))).collect(),
        taints: section.taints.iter().map(|taint| Arc::from(&**taint)).collect(),
        group: None,
        resources: class_resources(section)?,
        slots: small("slots", section.slots, 1, 10_000)?,
        open: false,
    };
    if !(section.cost.is_finite() && section.cost >= 0.0) {
        return Err(broken(["cost"], format!("({}) must be a number that is not negative", section.cost)));
    }
    let max = small("max", section.max, 0, MOST_RUNNERS)?;
    Ok(DeclaredClass { id: name("id", &section.id)?, offer: Arc::new(offer), cost: section.cost, max })
}

/// What a class has; one without resources is opaque, bounded by its slots alone.
fn class_resources(section: &ClassSection) -> Checked<Option<Resources>> {
    let mut resources = Resources::default();
    for (resource, given) in &section.resources {
        let has = amount(&format!("resources.{resource}"), resource, given)?;
        match resource.as_str() {
            "cpu" => resources.cpu = has,
            "memory" => resources.memory = has,
            other => {
                resources.other.insert(other.into(), has);
            }
        }
    }
    Ok((!section.resources.is_empty()).then_some(resources))
}

fn broken<const N: usize>(keys: [&str; N], what: impl Display) -> Broken {
    Broken { message: format!("{} {what}", keys[0]), keys: keys.map(str::to_owned).to_vec() }
}

fn name(key: &str, text: &str) -> Checked<Id> {
    Id::parse(text).map_err(|why| broken([key], format!("({text:?}) {why}")))
}

fn one_of<T: Copy>(key: &str, word: &str, words: &[(&str, T)]) -> Checked<T> {
    words.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<String> = words.iter().map(|(known, _)| format!("{known:?}")).collect();
        broken([key], format!("({word:?}) must be one of {}", known.join(", ")))
    })
}

fn between(key: &str, span: Span, least: Duration, most: Duration) -> Checked<Duration> {
    if (least..=most).contains(&span.0) {
        return Ok(span.0);
    }
    let (least, most) = (format_span(least), format_span(most));
    Err(broken([key], format!("({}) must be between {least} and {most}", format_span(span.0))))
}

fn whole(key: &str, number: i64, least: usize, most: usize) -> Checked<usize> {
    usize::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| broken([key], format!("({number}) must be between {least} and {most}")))
}

fn small(key: &str, number: i64, least: u32, most: u32) -> Checked<u32> {
    u32::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| broken([key], format!("({number}) must be between {least} and {most}")))
}

fn bytes(key: &str, given: &Amount, least: u64, most: u64) -> Checked<usize> {
    let number = amount(key, "memory", given)?;
    usize::try_from(number).ok().filter(|_| (least..=most).contains(&number)).ok_or_else(|| {
        let (least, most) = (amount_text("memory", least), amount_text("memory", most));
        broken([key], format!("({given}) must be between {least} and {most}"))
    })
}

/// Reads an amount of `resource` as the protocol writes amounts.
fn amount(key: &str, resource: &str, given: &Amount) -> Checked<u64> {
    let text = given.to_string();
    let (read, most) = match resource {
        "cpu" => (parse_cpu(&text), MOST_CPU),
        "memory" => (parse_memory(&text), MOST_BYTES),
        _ => (text.parse().map_err(|_| "expected a whole number".to_owned()), u64::MAX >> 1),
    };
    let read = read.map_err(|why| broken([key], format!("({text}): {why}")))?;
    if read > most {
        let most = amount_text(resource, most);
        return Err(broken([key], format!("({text}) must be at most {most}")));
    }
    Ok(read)
}
