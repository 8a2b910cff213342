//! What producers send: read as the protocol says, or refused with the field, the value and the limit.

use std::sync::Arc;
use std::time::Duration;

use longshore::core::settings::Settings;
use longshore::model::{Grouping, IfUnplaceable, Kind, NewTask, Resources, Terms, Time, Traceparent};
use longshore::wire::submission::{BodyError, Outside, Refused, read_body_from, read_submissions};
use serde_json::{Value, json};

fn read_all(body: impl AsRef<[u8]>) -> Result<Vec<Result<Arc<NewTask>, Refused>>, BodyError> {
    read_submissions(body.as_ref(), Kind::Job, &Settings::default())
}

fn one(task: Value) -> Result<Arc<NewTask>, Refused> {
    let mut read = read_all(task.to_string()).expect("a body");
    assert_eq!(read.len(), 1);
    read.remove(0)
}

fn task(task: Value) -> Arc<NewTask> {
    one(task).expect("a task")
}

/// What is said of a task with one field set to `value`.
fn complaint(field: &str, value: Value) -> String {
    one(json!({"id": "t1", field: value})).expect_err("malformed").to_string()
}

fn build_complaint(field: &str, value: Value) -> String {
    one(json!({"id": "b1", "kind": "build", field: value})).expect_err("malformed").to_string()
}

#[test]
fn a_task_that_says_only_its_id_gets_the_defaults() {
    let read = task(json!({"id": "t1"}));
    assert_eq!(read.shape.kind, Kind::Job);
    assert_eq!((read.shape.queue.as_str(), read.tenant.as_str()), ("default", "default"));
    assert_eq!(read.shape.resources, Resources::new(1000, 2 << 30));
    assert_eq!((read.priority, &read.build, read.jobs.len()), (0, &None, 0));
    assert_eq!((read.limits.max_attempts, read.limits.retries), (3, 0));
    assert_eq!(read.limits.if_unplaceable, IfUnplaceable::Fail);
    assert_eq!(
        &*read.body,
        r#"{"id":"t1","kind":"job","queue":"default","resources":{"cpu":1,"memory":2147483648},"tenant":"default"}"#
    );
}

#[test]
fn the_protocols_example_is_read_in_full() {
    let read = task(json!({
        "v": 1, "id": "build-42-test-7", "kind": "job", "queue": "fast", "tenant": "acme", "priority": 5,
        "build": "build-42", "group": null,
        "resources": {"cpu": 0.5, "memory": "512MiB", "gpu": 1}, "arch": "amd64", "os": "linux",
        "labels": {"zone": "eu"}, "tolerations": ["spot"], "inputs": ["sha256-aa"], "output": "sha256-bb",
        "spec": {"image": "alpine:3", "command": ["sh", "-c", "echo hi"]},
        "max_attempts": 2, "retries": 4, "timeout": "1h", "not_before": "2026-01-01T00:00:00Z",
        "expires_in": "24h", "if_unplaceable": "fail_after=10m", "note": "kept"
    }));
    assert_eq!(
        read.shape.to_string(),
        "job on queue fast: cpu 0.5, memory 512MiB, gpu 1, arch amd64, os linux, zone=eu"
    );
    assert!(read.shape.tolerations.contains("spot"));
    assert_eq!(read.build.as_ref().map(|build| build.as_str()), Some("build-42"));
    assert_eq!((read.priority, read.limits.max_attempts, read.limits.retries), (5, 2, 4));
    assert_eq!(read.limits.timeout, Some(Duration::from_secs(3600)));
    assert_eq!(read.limits.expires_in, Some(Duration::from_secs(86_400)));
    assert_eq!(read.limits.not_before, Time::parse_rfc3339("2026-01-01T00:00:00Z").ok());
    assert_eq!(read.limits.if_unplaceable, IfUnplaceable::FailAfter(Duration::from_secs(600)));
    let body: Value = serde_json::from_str(&read.body).expect("JSON");
    assert_eq!(body["spec"]["image"], "alpine:3");
    let own = read.artifacts.as_ref().expect("it names some");
    assert_eq!(
        (own.inputs[0].as_str(), own.output.as_ref().map(|name| name.as_str())),
        ("sha256-aa", Some("sha256-bb"))
    );
    assert_eq!((&body["note"], &body["inputs"][0]), (&json!("kept"), &json!("sha256-aa")));
}

#[test]
fn the_same_content_has_the_same_hash_whatever_the_order_of_its_fields() {
    let read = |text: &str| read_all(text).expect("a body").remove(0).expect("a task");
    let first = read(r#"{"id": "t1", "spec": {"b": 1, "a": 2}}"#);
    let again = read(r#"{"spec":{"a":2,"b":1},"queue":"default","id":"t1","kind":"job","build":null}"#);
    let other = read(r#"{"id": "t1", "spec": {"b": 1, "a": 3}}"#);
    assert_eq!((first.content, &first.body), (again.content, &again.body));
    assert_ne!(first.content, other.content);
}

#[test]
fn a_tasks_own_trace_goes_before_that_of_its_message_and_what_is_none_is_left_out() {
    const OUTSIDE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OWN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let read = |own: Value, outside: Option<&str>| {
        let traceparent = outside.and_then(Traceparent::parse);
        let outside = Outside { traceparent, ..Outside::of_kind(Kind::Job) };
        let body = json!({"id": "t1", "traceparent": own}).to_string();
        let body = read_body_from(body.as_bytes(), &outside, &Settings::default()).expect("a body");
        body.tasks.into_iter().next().expect("one").expect("a task")
    };
    let plain = task(json!({"id": "t1"}));
    for (own, outside, kept) in [
        (json!(OWN), Some(OUTSIDE), Some(OWN)),
        (json!(OWN), None, Some(OWN)),
        (Value::Null, Some(OUTSIDE), Some(OUTSIDE)),
        (json!("00-xyz"), Some(OUTSIDE), Some(OUTSIDE)),
        (json!("00-xyz"), None, None),
        (json!({"trace": 7}), Some("00-xyz"), None),
    ] {
        let read = read(own, outside);
        assert_eq!(read.traceparent.as_ref().map(|trace| trace.to_string()).as_deref(), kept);
        let body: Value = serde_json::from_str(&read.body).expect("JSON");
        assert_eq!(body.get("traceparent").and_then(Value::as_str), kept, "its runner gets it");
        assert_eq!(read.content, plain.content, "it is the same task, for whatever reason it is submitted");
    }
}

#[test]
fn cpu_and_memory_have_defaults_of_their_own_and_may_be_zero() {
    let asked = |resources| task(json!({"id": "t1", "resources": resources})).shape.resources.clone();
    assert_eq!(asked(json!({"cpu": 2})), Resources::new(2000, 2 << 30));
    assert_eq!(asked(json!({"memory": 1024})), Resources::new(1000, 1024));
    assert_eq!(asked(json!({"cpu": 0, "memory": "2GB"})), Resources::new(0, 2_000_000_000));
    assert_eq!(asked(json!({"cpu": "250m", "memory": null})), Resources::new(250, 2 << 30));
}

#[test]
fn negative_and_absurd_resources_are_refused_with_the_limit() {
    let resources = |asked| complaint("resources", asked);
    assert_eq!(
        resources(json!({"cpu": -1})),
        "field \"resources.cpu\" (-1): expected cores with up to three decimals, like 2 or 0.5, or \
         thousandths, like \"500m\""
    );
    assert_eq!(
        resources(json!({"cpu": 1_000_001})),
        "field \"resources.cpu\" (1000001): at most 1000000 is allowed"
    );
    assert!(resources(json!({"cpu": 0.0005})).contains("up to three decimals"));
    assert!(
        resources(json!({"memory": "2EiB"})).starts_with("field \"resources.memory\" (\"2EiB\"): expected")
    );
    assert!(resources(json!({"memory": u64::MAX})).contains("at most 1048576TiB is allowed"));
    assert!(
        resources(json!({"gpu": -1})).starts_with("field \"resources.gpu\" (-1): expected a whole count")
    );
    assert!(resources(json!({"gpu": 1.5})).contains("(1.5)"));
    assert!(resources(json!("all")).contains("expected an object"));
}

#[test]
fn an_id_is_required_and_must_be_a_legal_name() {
    let refused = one(json!({"kind": "job"})).expect_err("no id");
    assert_eq!((refused.to_string().as_str(), refused.id), ("field \"id\" is missing", None));
    let refused = one(json!({"id": "a.b"})).expect_err("an illegal id");
    assert_eq!(
        refused.to_string(),
        "field \"id\" (\"a.b\"): has '.' at position 1; allowed are A-Z a-z 0-9 _ = -"
    );
    assert_eq!(refused.id.as_deref(), Some("a.b"));
    let refused = one(json!({"id": "x".repeat(5000)})).expect_err("too long");
    assert!(refused.to_string().ends_with("has 5000 characters; at most 128 are allowed"), "{refused}");
    assert_eq!(refused.id.map(|id| id.len()), Some(128));
    assert_eq!(one(json!({"id": 7})).expect_err("no text").to_string(), "field \"id\" (7): expected a text");
    assert!(complaint("queue", json!("a/b")).contains("'/' at position 1"));
    assert!(complaint("tenant", json!("")).contains("is empty"));
}

#[test]
fn every_number_and_span_out_of_its_limits_is_refused_with_both() {
    let whole = |field, value| complaint(field, value);
    assert_eq!(
        whole("priority", json!(1001)),
        "field \"priority\" (1001): expected a whole number from -1000 to 1000"
    );
    assert!(whole("priority", json!("high")).contains("(\"high\")"));
    assert!(whole("max_attempts", json!(0)).contains("from 1 to 100"));
    assert!(whole("max_attempts", json!(101)).contains("from 1 to 100"));
    assert!(whole("retries", json!(-1)).contains("from 0 to 100"));
    assert_eq!(
        whole("timeout", json!("31d")),
        "field \"timeout\" (\"31d\"): expected more than 0 and at most 30d"
    );
    assert!(whole("timeout", json!("0s")).contains("more than 0"));
    assert!(whole("timeout", json!(60)).contains("expected a span like"));
    assert!(whole("expires_in", json!("soon")).contains("expected a span like"));
    assert!(whole("not_before", json!("tomorrow")).contains("2026-01-01T00:00:00Z"));
    assert!(
        whole("if_unplaceable", json!("wait")).contains("expected \"fail\", \"hold\" or \"fail_after=10m\"")
    );
    assert!(whole("if_unplaceable", json!("fail_after=x")).contains("expected a span"));
}

#[test]
fn wrong_types_are_named_and_never_bent() {
    assert!(complaint("kind", json!("Job")).contains("expected \"job\" or \"build\""));
    assert!(complaint("labels", json!(["a"])).contains("expected an object"));
    assert_eq!(complaint("labels", json!({"zone": 1})), "field \"labels.zone\" (1): expected a text");
    assert!(complaint("labels", json!({"zone": "e".repeat(257)})).contains("has 257 bytes; at most 256"));
    assert!(complaint("tolerations", json!("spot")).contains("expected a list"));
    let many: Vec<String> = (0..65).map(|n| format!("t{n}")).collect();
    assert_eq!(
        complaint("tolerations", json!(many)),
        "field \"tolerations\" has 65 entries; at most 64 are allowed"
    );
    assert!(complaint("inputs", json!(vec!["x"; 1001])).contains("has 1001 entries; at most 1000"));
    assert!(complaint("inputs", json!(["x", 2])).contains("field \"inputs[1]\" (2): expected a text"));
    assert!(complaint("arch", json!(64)).contains("expected a text"));
    assert!(complaint("spec", json!("sh")).contains("field \"spec\" (\"sh\"): expected an object"));
}

#[test]
fn a_future_version_is_refused_and_not_ignored() {
    assert!(complaint("v", json!(2)).starts_with("field \"v\" (2): this version reads 1"));
}

#[test]
fn a_group_is_part_of_the_shape_and_its_settings_are_read() {
    let group = json!({"id": "g1", "max_runners": 2, "ordered": true, "index": 3, "stop_on_failure": true});
    let read = task(json!({"id": "t1", "group": group}));
    assert_eq!(read.shape.group.as_ref().map(|group| group.as_str()), Some("g1"));
    assert_eq!(read.grouping.index, Some(3));
    let Terms { max_runners, ordered, stop_on_failure } = read.grouping.terms;
    assert_eq!((max_runners, ordered, stop_on_failure), (Some(2), true, true));
    let read = task(json!({"id": "t1", "group": {"id": "g1", "index": 3}}));
    assert_eq!(read.grouping, Grouping::default(), "an index counts in an ordered group only");
    assert_eq!(
        complaint("group", json!({"id": "g1", "max_runners": 0})),
        "field \"group.max_runners\" (0): expected a whole number from 1 to 100000, or nothing for no limit"
    );
    let said = complaint("group", json!({"id": "g1", "ordered": true}));
    assert!(said.starts_with("field \"group.index\" is missing; the tasks of an ordered group"), "{said}");
}

#[test]
fn a_build_without_declared_jobs_has_jobs_of_its_own_group_and_declared_ones_name_theirs() {
    let group = json!({"id": "g1"});
    let read = task(json!({"id": "b1", "kind": "build", "group": group}));
    assert_eq!(read.jobs[0].group.as_ref().map(|group| group.as_str()), Some("g1"));
    let jobs = json!([{"resources": {"cpu": 1}}, {"group": {"id": "g2"}}]);
    let read = task(json!({"id": "b1", "kind": "build", "group": group, "jobs": jobs}));
    let named: Vec<Option<&str>> =
        read.jobs.iter().map(|job| job.group.as_ref().map(|group| group.as_str())).collect();
    assert_eq!(named, [None, Some("g2")]);
}

#[test]
fn a_spec_and_a_task_too_long_are_refused_with_both_sizes() {
    let spec = |bytes: usize| json!({"id": "t1", "spec": {"a": "x".repeat(bytes - r#"{"a":""}"#.len())}});
    assert!(one(spec(64 << 10)).is_ok());
    assert_eq!(
        one(spec((64 << 10) + 1)).expect_err("too long").to_string(),
        "field \"spec\" has 65537 bytes as JSON; at most 65536 are allowed"
    );
    let whole = complaint("note", json!("x".repeat(256 << 10)));
    assert!(whole.contains("bytes as JSON; at most 262144 are allowed"), "{whole}");
}

#[test]
fn a_build_that_declares_no_jobs_may_submit_jobs_like_itself_with_default_resources() {
    let read = task(json!({"id": "b1", "kind": "build", "queue": "fast", "arch": "arm64",
        "labels": {"zone": "eu"}, "tolerations": ["spot"], "resources": {"cpu": 8}}));
    assert_eq!(read.shape.resources.cpu, 8000);
    let [job] = &*read.jobs else { panic!("one shape: {:?}", read.jobs) };
    assert_eq!(job.kind, Kind::Job);
    assert_eq!(job.resources, Resources::new(1000, 2 << 30));
    assert_eq!((job.queue.as_str(), &*job.arch), ("fast", "arm64"));
    assert_eq!((&job.labels, &job.tolerations), (&read.shape.labels, &read.shape.tolerations));
}

#[test]
fn declared_jobs_take_what_they_leave_out_from_their_build() {
    let read = task(json!({"id": "b1", "kind": "build", "arch": "amd64", "labels": {"zone": "eu"},
        "jobs": [{"resources": {"cpu": 4}, "arch": "arm64"}, {"queue": "big", "labels": {}}]}));
    assert_eq!(read.jobs[0].resources, Resources::new(4000, 2 << 30));
    assert_eq!((&*read.jobs[0].arch, read.jobs[0].labels.len()), ("arm64", 1));
    assert_eq!((read.jobs[1].queue.as_str(), &*read.jobs[1].arch), ("big", "amd64"));
    assert_eq!(read.jobs[1].labels.len(), 0);
}

#[test]
fn what_a_build_may_not_say_is_refused() {
    assert_eq!(
        build_complaint("build", json!("b0")),
        "field \"build\" (\"b0\"): nested_build: a build cannot belong to a build"
    );
    assert!(build_complaint("jobs", json!(vec![json!({}); 17])).contains("has 17 entries; at most 16"));
    assert!(
        build_complaint("jobs", json!([{"resources": {"cpu": -1}}]))
            .contains("field \"jobs[0].resources.cpu\"")
    );
    assert!(complaint("jobs", json!([{}])).contains("only a build declares jobs"));
    assert!(complaint("build", json!("t1")).contains("cannot belong to itself"));
}

#[test]
fn each_task_of_a_list_is_read_on_its_own() {
    let body = json!({"tasks": [{"id": "t1"}, {"id": "t2", "priority": 5000}, 7, {"id": "t4"}]});
    let read = read_all(body.to_string()).expect("a body");
    let ids: Vec<Option<&str>> = read.iter().map(|task| task.as_ref().ok().map(|t| t.id.as_str())).collect();
    assert_eq!(ids, [Some("t1"), None, None, Some("t4")]);
    assert_eq!(read[1].as_ref().expect_err("malformed").id.as_deref(), Some("t2"));
}

#[test]
fn each_line_is_read_on_its_own_and_named_by_its_number() {
    let read = read_all("{\"id\":\"t1\"}\r\n\n{\"id\":\n{\"id\":\"t3\",\"retries\":-1}\n").expect("a body");
    assert_eq!(read.len(), 3);
    assert_eq!(read[0].as_ref().expect("a task").id.as_str(), "t1");
    let said = |at: usize| read[at].as_ref().expect_err("malformed").to_string();
    assert!(said(1).starts_with("line 3: the payload is not JSON: EOF"), "{}", said(1));
    assert_eq!(said(2), "line 4: field \"retries\" (-1): expected a whole number from 0 to 100");
}

#[test]
fn one_task_may_take_many_lines() {
    let body =
        serde_json::to_string_pretty(&json!({"id": "t1", "spec": {"image": "alpine:3"}})).expect("JSON");
    assert_eq!(read_all(body).expect("a body").len(), 1);
}

#[test]
fn a_body_that_cannot_be_taken_apart_is_refused_as_a_whole() {
    let said = |body: &[u8]| read_all(body).expect_err("no body").to_string();
    assert!(said(b"{\"id\": \"t1\"").starts_with("the payload is not JSON: EOF while parsing an object"));
    assert!(said(b"").starts_with("the payload is not JSON"));
    assert!(said(b"{\"id\": \"\xff\"}").starts_with("the payload is not JSON"));
    assert!(said(b"[1]").contains("is not a task"), "{}", said(b"[1]"));
    assert!(said(b"{\"tasks\": {}}").contains("field \"tasks\" ({}): expected a list of tasks"));
    assert!(said(b"{\"v\": 9, \"tasks\": []}").contains("field \"v\" (9)"));
    assert!(said("[".repeat(100_000).as_bytes()).contains("recursion limit"));

    let tasks: Vec<Value> = (0..10_000).map(|n| json!({"id": format!("t{n}")})).collect();
    let lines: String = tasks.iter().map(|task| format!("{task}\n")).collect();
    let limit = "the body has 10000 tasks; at most 1000 are allowed, send it in several parts";
    assert_eq!(said(json!({ "tasks": tasks }).to_string().as_bytes()), limit);
    assert_eq!(said(lines.as_bytes()), limit);
    assert_eq!(
        said(&vec![b' '; 10 << 20]),
        "the body has 10485760 bytes; at most 8388608 are allowed, send fewer tasks at a time"
    );
}

#[test]
fn the_default_kind_and_resources_come_from_the_caller() {
    let settings = Settings { default_resources: Resources::new(500, 1 << 20), ..Settings::default() };
    let read = read_submissions(b"{\"id\": \"b1\"}", Kind::Build, &settings).expect("a body").remove(0);
    let read = read.expect("a task");
    assert_eq!(read.shape.kind, Kind::Build);
    assert_eq!(read.shape.resources, Resources::new(500, 1 << 20));
    assert!(read.body.contains("\"kind\":\"build\""));
}
