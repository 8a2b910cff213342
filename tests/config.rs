//! The configuration: the shipped file is the defaults, and whatever cannot be honoured is refused by name.

use std::path::Path;
use std::time::Duration;

use longshore::config::{ClassSection, ConfigError, File, Flag, Settings, load};
use longshore::core::settings::{Locality, Order, Settings as Decisions, Strategy};
use longshore::model::{Id, Kind, Resources};
use longshore::telemetry::logs::{Format, Level};

const SHIPPED: &str = include_str!("../config/longshore.toml");

fn read(text: &str) -> Result<Settings, ConfigError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("longshore.toml");
    std::fs::write(&path, text).expect("a file");
    load(Some(&path), [], &[]).map_err(|why| {
        assert_eq!(why.place, path.display().to_string());
        ConfigError { place: "longshore.toml".to_owned(), ..why }
    })
}

/// The whole error text for a file.
fn refused(text: &str) -> String {
    read(text).expect_err("refused").to_string()
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn keys(value: &serde_json::Value, path: &str, into: &mut Vec<String>) {
    for (name, value) in value.as_object().expect("a table") {
        let key = format!("{path}{name}");
        match value.as_object().filter(|table| !table.is_empty()) {
            Some(_) => keys(value, &format!("{key}."), into),
            None => into.push(key),
        }
    }
}

fn keys_of_file(text: &str) -> Vec<String> {
    use figment::providers::{Format as _, Toml};
    let value: serde_json::Value = Toml::from_str(text).expect("TOML");
    let mut found = Vec::new();
    keys(&value, "", &mut found);
    found.sort();
    found
}

fn keys_of<T: serde::Serialize>(value: &T) -> Vec<String> {
    let mut found = Vec::new();
    keys(&serde_json::to_value(value).expect("plain values"), "", &mut found);
    found.sort();
    found
}

#[test]
fn the_shipped_file_says_the_defaults() {
    let shipped = load(Some(Path::new("config/longshore.toml")), [], &[]).expect("valid");
    assert_eq!(shipped, load(None, [], &[]).expect("valid"));
    assert_eq!(shipped.decisions, Decisions::default());
}

#[test]
fn the_shipped_file_has_every_key_and_no_other() {
    assert_eq!(keys_of_file(SHIPPED), keys_of(&File::default()));
}

#[test]
fn the_class_in_the_comments_has_every_key_and_is_valid() {
    let example: String = SHIPPED
        .lines()
        .skip_while(|line| *line != "# [[class]]")
        .map_while(|line| line.strip_prefix("# "))
        .map(|line| format!("{line}\n"))
        .collect();
    let read = read(&example).expect("valid");
    let class = &read.decisions.classes[0];
    assert_eq!((class.id.as_str(), class.offer.slots), ("large", 100));
    assert_eq!(class.offer.resources.as_ref().map(|has| has.amount("gpu")), Some(2));
    assert!(class.offer.queues.is_empty(), "any queue");
    assert!(class.offer.kinds.contains(&Kind::Job) && class.offer.kinds.contains(&Kind::Build));
    for key in keys_of(&ClassSection::default()) {
        assert!(example.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key} is missing");
    }
}

#[test]
fn a_queue_has_locality_when_one_of_its_waits_is_longer_than_nothing() {
    let example: String = SHIPPED
        .lines()
        .skip_while(|line| *line != "# [queues.default]")
        .map_while(|line| line.strip_prefix("# "))
        .map(|line| format!("{line}\n"))
        .collect();
    let waits = |text: &str| read(text).expect("valid").decisions.locality;
    let default = Id::parse("default").expect("a name");
    let five = Duration::from_secs(5);
    assert_eq!(waits(&example)[&default], Locality { cache_wait: five, deps_wait: five });
    let any = read("[queues.default]\ndelivery = \"any\"").expect("valid").decisions.delivered_to_any;
    assert_eq!(any, [default.clone()].into());
    let one = waits("[queues.default]\ndeps_wait = \"5s\"\n[queues.off]\ncache_wait = \"0s\"");
    assert_eq!(one, [(default, Locality { cache_wait: Duration::ZERO, deps_wait: five })].into());
}

#[test]
fn a_file_needs_only_what_differs() {
    let read = read(
        "[defaults]\ncpu = 0.5\nmemory = 1048576\n[placement]\norder = \"fifo\"\nstrategy = \"spread\"\n\
         [log]\nformat = \"json\"\nlevel = \"debug\"\n[server]\nlisten = \"0.0.0.0:9000\"",
    )
    .expect("valid");
    let expected = Decisions {
        default_resources: Resources::new(500, 1 << 20),
        order: Order::Fifo,
        strategy: Strategy::Spread,
        ..Decisions::default()
    };
    assert_eq!(read.decisions, expected);
    assert_eq!((read.log.format, read.log.level), (Format::Json, Level::Debug));
    assert_eq!(read.server.listen.port(), 9000);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("l.toml");
    std::fs::write(&path, "[server]\ndata = \"file\"\n[lease]\nttl = \"20s\"\n[table]\nwindow = 7")
        .expect("a file");
    let variables = variables(&[
        ("LONGSHORE_SERVER__DATA", "123"),
        ("LONGSHORE_LEASE__TTL", "25s"),
        ("LONGSHORE_DEFAULTS__CPU", "2"),
        ("LONGSHORE_VERDICT__CLASS_MEMORY", "1h"),
    ]);
    let flags = [Flag { name: "--data", key: "server.data", value: "flag".to_owned() }];
    let read_without = load(Some(&path), variables.clone(), &[]).expect("valid");
    assert_eq!(read_without.server.data, Path::new("123"));
    let read = load(Some(&path), variables, &flags).expect("valid");
    assert_eq!(read.server.data, Path::new("flag"));
    assert_eq!(read.decisions.lease.as_secs(), 25);
    assert_eq!(read.decisions.window, 7);
    assert_eq!(read.decisions.default_resources.cpu, 2000);
    assert_eq!(read.decisions.class_memory.as_secs(), 3600);
}

#[test]
fn what_a_runner_tells_a_task_is_not_a_setting() {
    let told = variables(&[("LONGSHORE_TASK", "t1"), ("LONGSHORE_URL", "http://127.0.0.1:1"), ("PATH", "/")]);
    assert_eq!(load(None, told, &[]), load(None, [], &[]));
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_key() {
    let unknown = |key: &str, nearest: &str| {
        format!("load longshore.toml: unknown key \"{key}\"; did you mean \"{nearest}\"?")
    };
    assert_eq!(refused("[lease]\ntll = \"5s\""), unknown("lease.tll", "lease.ttl"));
    assert_eq!(refused("heartbeat = \"5s\""), unknown("heartbeat", "lease.heartbeat"));
    assert_eq!(refused("[leases]\nttl = \"5s\""), unknown("leases", "lease"));
    assert_eq!(refused("[[class]]\nid = \"a\"\nslot = 3"), unknown("class.slot", "class.slots"));
    let meant = unknown("queues.ci.cash_wait", "queues.ci.cache_wait");
    assert_eq!(refused("[queues.ci]\ncash_wait = \"1s\""), meant);
    let why = load(None, variables(&[("LONGSHORE_SERVER__LISTN", "x")]), &[]).expect_err("refused");
    assert_eq!(
        why.to_string(),
        "load LONGSHORE_SERVER__LISTN: unknown key \"server.listn\"; did you mean \"server.listen\"?"
    );
}

#[test]
fn a_value_of_a_wrong_type_is_refused_with_what_was_expected() {
    for (file, what) in [
        ("[lease]\nttl = 15", "lease.ttl (15): expected a span with its unit, like \"15s\" or \"10m\""),
        (
            "[lease]\nttl = \"soon\"",
            "lease.ttl (\"soon\"): expected a span like \"250ms\", \"15s\", \"5m\", \"1h30m\" or \"2d\"",
        ),
        ("[table]\nwindow = \"many\"", "table.window (\"many\"): expected a whole number"),
        (
            "[defaults]\ncpu = true",
            "defaults.cpu (true): expected a number, or text with a unit, like \"500m\" or \"2GiB\"",
        ),
        ("lease = 5", "lease (5): expected a table of keys"),
    ] {
        assert_eq!(refused(file), format!("load longshore.toml: {what}"));
    }
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let why = refused("[lease]\nttl = \n");
    assert!(why.starts_with("load longshore.toml: TOML parse error at line 2, column 7"), "{why}");
    let why = load(Some(Path::new("config/none.toml")), [], &[]).expect_err("refused").to_string();
    assert_eq!(
        why,
        "load config/none.toml: No such file or directory (os error 2); name an existing file with --config, or none"
    );
}

#[test]
fn each_broken_limit_is_named_with_its_value_and_the_limit() {
    for (file, what) in [
        (
            "[lease]\nttl = \"5s\"\nheartbeat = \"2s\"",
            "lease.ttl (5s) must be at least 3 × lease.heartbeat (2s)",
        ),
        ("[lease]\nheartbeat = \"10s\"", "lease.ttl (15s) must be at least 3 × lease.heartbeat (10s)"),
        ("[lease]\nttl = \"2h\"", "lease.ttl (2h) must be between 10ms and 1h"),
        ("[lease]\nmargin = \"0s\"", "lease.margin (0ms) must be between 10ms and 1h"),
        ("[lease]\nheartbeat = \"1ms\"", "lease.heartbeat (1ms) must be between 10ms and 1h"),
        (
            "[lease]\nassignment_deadline = \"1s\"",
            "lease.assignment_deadline (1s) must be at least lease.heartbeat (5s), which confirms it",
        ),
        (
            "[lease]\nassignment_deadline = \"2h\"",
            "lease.assignment_deadline (2h) must be between 10ms and 1h",
        ),
        (
            "[server]\nlisten = \"here\"",
            "server.listen (\"here\") must be an address and a port, like 127.0.0.1:8080",
        ),
        ("[server]\ndata = \"\"", "server.data (\"\") must name a directory, like \"longshore-data\""),
        ("[log]\nformat = \"xml\"", "log.format (\"xml\") must be one of \"text\", \"json\""),
        (
            "[log]\nlevel = \"loud\"",
            "log.level (\"loud\") must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ),
        (
            "[defaults]\ncpu = -1",
            "defaults.cpu (-1): expected cores with up to three decimals, like 2 or 0.5, or thousandths, like \"500m\"",
        ),
        ("[defaults]\ncpu = 1000001", "defaults.cpu (1000001) must be at most 1000000"),
        ("[defaults]\nmemory = \"1048577TiB\"", "defaults.memory (1048577TiB) must be at most 1048576TiB"),
        ("[defaults]\nmax_attempts = 0", "defaults.max_attempts (0) must be between 1 and 100"),
        (
            "[placement]\norder = \"tenant\"",
            "placement.order (\"tenant\") is not supported by this version yet: fair shares of tenants come later; \
             use \"priority\" or \"fifo\"",
        ),
        ("[placement]\norder = \"lifo\"", "placement.order (\"lifo\") must be one of \"priority\", \"fifo\""),
        (
            "[placement]\nstrategy = \"best\"",
            "placement.strategy (\"best\") must be one of \"pack\", \"spread\"",
        ),
        ("[verdict]\nsettle = \"2h\"", "verdict.settle (2h) must be between 0ms and 1h"),
        ("[verdict]\nclass_memory = \"8d\"", "verdict.class_memory (8d) must be between 0ms and 7d"),
        (
            "[verdict]\nclasses_complete = true",
            "verdict.classes_complete (true) needs at least one [[class]]: without one every task would be rejected \
             until the first runner comes; declare the classes or set it to false",
        ),
        ("[intents]\nanswer = \"0s\"", "intents.answer (0ms) must be between 1s and 1d"),
        ("[intents]\nstart = \"2d\"", "intents.start (2d) must be between 1s and 1d"),
        ("[intents]\nbackoff = \"100ms\"", "intents.backoff (100ms) must be between 1s and 1d"),
        ("[table]\nwindow = 0", "table.window (0) must be between 1 and 10000000"),
        ("[table]\nwindow_bytes = \"1KiB\"", "table.window_bytes (1KiB) must be between 1MiB and 1TiB"),
        ("[table]\nkeep_ended = \"31d\"", "table.keep_ended (31d) must be between 1s and 30d"),
        ("[table]\nkeep_ended_tasks = -5", "table.keep_ended_tasks (-5) must be between 1 and 10000000"),
        ("[table]\nkeep_ended_body = \"1MiB\"", "table.keep_ended_body (1MiB) must be between 0B and 256KiB"),
        ("[table]\nrunner_artifacts = 0", "table.runner_artifacts (0) must be between 1 and 1000000"),
        ("[queues.ci]\ncache_wait = \"2h\"", "queues.ci.cache_wait (2h) must be between 0ms and 1h"),
        (
            "[queues.ci]\ndelivery = \"push\"",
            "queues.ci.delivery (\"push\") must be one of \"pull\", \"any\"",
        ),
        ("[queues.ci]\ndeps_wait = \"61m\"", "queues.ci.deps_wait (1h1m) must be between 0ms and 1h"),
        (
            "[queues.\"a.b\"]\ndeps_wait = \"1s\"",
            "queues.a.b has '.' at position 1; allowed are A-Z a-z 0-9 _ = -",
        ),
        ("[retry]\nbackoff = \"0s\"", "retry.backoff (0ms) must be between 10ms and 1h"),
        ("[retry]\nbackoff_max = \"500ms\"", "retry.backoff_max (500ms) must be at least retry.backoff (1s)"),
        ("[retry]\nrefusal_backoff = \"2h\"", "retry.refusal_backoff (2h) must be between 10ms and 1h"),
        ("[builds]\nunsafe_grace = \"25h\"", "builds.unsafe_grace (1d1h) must be between 0ms and 1d"),
        ("[sweep]\nevery = \"10ms\"", "sweep.every (10ms) must be between 1s and 1h"),
    ] {
        assert_eq!(refused(file), format!("load longshore.toml: {what}"), "{file}");
    }
}

#[test]
fn each_broken_limit_of_a_class_is_named_with_the_class() {
    for (class, what) in [
        ("id = \"a.b\"", "class \"a.b\": id (\"a.b\") has '.' at position 1; allowed are A-Z a-z 0-9 _ = -"),
        ("slots = 4", "class \"\": id (\"\") is empty; a name has 1 to 128 characters of A-Z a-z 0-9 _ = -"),
        ("id = \"a\"\nslots = 0", "class \"a\": slots (0) must be between 1 and 10000"),
        ("id = \"a\"\nkinds = []", "class \"a\": kinds is empty; name \"job\", \"build\" or both"),
        ("id = \"a\"\nkinds = [\"x\"]", "class \"a\": kinds (\"x\") must be one of \"job\", \"build\""),
        (
            "id = \"a\"\nqueues = [\"q q\"]",
            "class \"a\": queues (\"q q\") has ' ' at position 1; allowed are A-Z a-z 0-9 _ = -",
        ),
        ("id = \"a\"\nresources = { gpu = -1 }", "class \"a\": resources.gpu (-1): expected a whole number"),
        ("id = \"a\"\ncost = -1", "class \"a\": cost (-1) must be a number that is not negative"),
        ("id = \"a\"\nmax = -1", "class \"a\": max (-1) must be between 0 and 100000"),
        ("id = \"a\"\n[[class]]\nid = \"a\"", "class \"a\" is declared twice; ids must differ"),
    ] {
        assert_eq!(
            refused(&format!("[[class]]\n{class}")),
            format!("load longshore.toml: {what}"),
            "{class}"
        );
    }
}

#[test]
fn a_broken_limit_names_the_place_that_set_it() {
    let why = load(None, variables(&[("LONGSHORE_LEASE__HEARTBEAT", "9s")]), &[]).expect_err("refused");
    assert_eq!(
        why.to_string(),
        "load LONGSHORE_LEASE__HEARTBEAT: lease.ttl (15s) must be at least 3 × lease.heartbeat (9s)"
    );
    let flags = [Flag { name: "--listen", key: "server.listen", value: "8080".to_owned() }];
    let why = load(None, [], &flags).expect_err("refused");
    assert_eq!(
        why.to_string(),
        "load --listen: server.listen (\"8080\") must be an address and a port, like 127.0.0.1:8080"
    );
}
