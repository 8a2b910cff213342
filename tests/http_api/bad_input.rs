//! What cannot be taken is refused with its field, its value and the limit, and changes nothing.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, ByHand, Server, send};

/// A server with one task and one runner, and what its rows were.
struct Before {
    server: Server,
    rows: Vec<longshore::model::Row>,
}

impl Before {
    async fn new() -> Self {
        let server = Server::start().await;
        ByHand::register(&server, "r1").await;
        server.submit(json!({"id": "t1", "if_unplaceable": "hold", "resources": {"cpu": 64}})).await;
        let rows = server.rows();
        Self { server, rows }
    }

    async fn refuses_post(&self, path: &str, body: impl Into<crate::support::Said>, expected: Problem<'_>) {
        let answer = self.server.post(path, body).await;
        self.refused(answer, expected);
    }

    async fn refuses_get(&self, path: &str, expected: Problem<'_>) {
        let answer = self.server.get(path).await;
        self.refused(answer, expected);
    }

    fn refused(&self, answer: Answer, (status, code, named): Problem<'_>) {
        answer.problem(status, code, named);
        assert_eq!(self.server.rows(), self.rows, "a refusal changed something");
    }
}

/// Status, code, and what the detail names.
type Problem<'a> = (u16, &'a str, &'a [&'a str]);

fn malformed<'a>(named: &'a [&'a str]) -> Problem<'a> {
    (400, "malformed", named)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_cannot_be_read_is_refused_with_its_field_and_value() {
    let before = Before::new().await;
    let cases: [(Value, &[&str]); 22] = [
        (json!({}), &["id", "is missing"]),
        (json!({"id": 7}), &["id", "7", "text"]),
        (json!({"id": "a.b"}), &["id", "a.b", "'.'", "position 1"]),
        (json!({"id": ""}), &["id", "1 to 128"]),
        (json!({"id": "x".repeat(129)}), &["id", "129", "128"]),
        (json!({"id": "a", "v": 2}), &["\"v\"", "2", "1"]),
        (json!({"id": "a", "kind": "cron"}), &["kind", "cron", "job", "build"]),
        (json!({"id": "a", "queue": "a b"}), &["queue", "a b", "position 1"]),
        (json!({"id": "a", "resources": {"cpu": -1}}), &["resources.cpu", "-1"]),
        (json!({"id": "a", "resources": {"cpu": 1e30}}), &["resources.cpu", "1e+30"]),
        (json!({"id": "a", "resources": {"cpu": 2_000_000}}), &["resources.cpu", "2000000", "1000000"]),
        (json!({"id": "a", "resources": {"memory": "9EiB"}}), &["resources.memory", "9EiB", "GiB"]),
        (json!({"id": "a", "resources": {"memory": -5}}), &["resources.memory", "-5"]),
        (json!({"id": "a", "resources": {"gpu": 0.5}}), &["resources.gpu", "0.5", "whole"]),
        (json!({"id": "a", "resources": [1]}), &["resources", "[1]", "object"]),
        (json!({"id": "a", "priority": "high"}), &["priority", "high", "-1000", "1000"]),
        (json!({"id": "a", "timeout": "soon"}), &["timeout", "soon", "1h30m"]),
        (json!({"id": "a", "max_attempts": 101}), &["max_attempts", "101", "100"]),
        (json!({"id": "a", "group": {"max_runners": 1}}), &["group.id", "is missing"]),
        (
            json!({"id": "a", "group": {"id": "g", "max_runners": 0}}),
            &["group.max_runners", "0", "1 to 100000"],
        ),
        (json!({"id": "a", "group": {"id": "g", "ordered": true}}), &["group.index", "is missing"]),
        (json!({"id": "a", "group": {"id": "g", "index": -1}}), &["group.index", "-1", "0 to 1000000000"]),
    ];
    for (task, named) in cases {
        before.refuses_post("/v1/tasks", &task, malformed(named)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_task_is_refused_as_a_whole() {
    let before = Before::new().await;
    for (body, named) in [
        ("", "not JSON"),
        ("{\"id\": \"a\"", "not JSON"),
        ("null", "not a task"),
        ("[1, 2]", "not a task"),
        ("\"t1\"", "not a task"),
        ("{\"tasks\": 7}", "expected a list"),
        ("{\"tasks\": [], \"v\": 3}", "this version reads 1"),
        ("\u{0}\u{1}", "not JSON"),
    ] {
        before.refuses_post("/v1/tasks", body, malformed(&[named])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_tasks_are_refused_with_the_number_and_the_limit() {
    let before = Before::new().await;
    let tasks: Vec<Value> = (0..10_000).map(|number| json!({"id": format!("n{number}")})).collect();
    let expected = (413, "too_large", &["10000", "1000", "several parts"] as &[&str]);
    before.refuses_post("/v1/tasks", json!({"tasks": tasks}), expected).await;
    let lines: Vec<String> = tasks.iter().map(Value::to_string).collect();
    before.refuses_post("/v1/tasks", lines.join("\n"), expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_ten_mebibytes_is_refused_with_its_size_and_the_limit() {
    let before = Before::new().await;
    let body = format!("{{\"id\":\"a\",\"spec\":{{\"x\":\"{}\"}}}}", "x".repeat(10 << 20));
    let size = body.len().to_string();
    before.refuses_post("/v1/tasks", body.clone(), (413, "too_large", &[&size, "8388608"])).await;

    // The same when its size is not said beforehand.
    let parts: Vec<Result<Vec<u8>, std::io::Error>> =
        body.as_bytes().chunks(1 << 16).map(|part| Ok(part.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    let answer = send(before.server.request(Method::POST, "/v1/tasks").body(stream)).await;
    before.refused(answer, (413, "too_large", &["8388608"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_beyond_its_limit_is_refused_alone_and_within_a_list() {
    let before = Before::new().await;
    let large = json!({"id": "large", "spec": {"x": "x".repeat(65 << 10)}});
    before.refuses_post("/v1/tasks", &large, malformed(&["spec", "65536"])).await;

    let answer = before.server.post("/v1/tasks", json!({"tasks": [large]})).await.is(202);
    assert_eq!(answer.body[0]["id"], "large");
    assert_eq!(answer.body[0]["answer"], "rejected");
    let reason = answer.body[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("malformed") && reason.contains("spec") && reason.contains("65536"), "{reason}");
    assert_eq!(before.server.rows(), before.rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_paths_and_parameters_are_checked() {
    let before = Before::new().await;
    let long = format!("/v1/tasks/{}", "x".repeat(200));
    let cases: [(&str, Problem<'_>); 19] = [
        ("/v1/tasks/a.b", malformed(&["id", "a.b", "position 1"])),
        ("/v1/tasks/a%20b", malformed(&["id", "a b", "position 1"])),
        ("/v1/tasks/%ff", malformed(&["id"])),
        (&long, malformed(&["id", "200", "128"])),
        ("/v1/tasks/nobody", (404, "unknown_task", &["nobody"])),
        ("/v1/tasks/nobody/why", (404, "unknown_task", &["nobody"])),
        ("/v1/runners/nobody", (404, "unknown_runner", &["nobody"])),
        ("/v1/runners/nobody/assignments", (404, "unknown_runner", &["nobody"])),
        ("/v1/runners/r1/assignments?wait=1y", malformed(&["wait", "1y", "15s"])),
        ("/v1/runners/r1/assignments?wait=6m", malformed(&["wait", "6m", "5m"])),
        ("/v1/tasks?state=done", malformed(&["state", "done", "pending, assigned, running, ended"])),
        ("/v1/tasks?kind=cron", malformed(&["kind", "cron", "job, build"])),
        ("/v1/tasks?limit=0", malformed(&["limit", "0", "1 to 1000"])),
        ("/v1/tasks?limit=1001", malformed(&["limit", "1001", "1 to 1000"])),
        ("/v1/tasks?limit=-1", malformed(&["limit", "-1", "1 to 1000"])),
        ("/v1/tasks?after=x", malformed(&["after", "x"])),
        ("/v1/tasks?queue=a.b", malformed(&["queue", "a.b", "position 1"])),
        ("/v1/tasks?stat=pending", malformed(&["stat", "state, kind, queue"])),
        ("/v1/history?since=x", malformed(&["since", "x", "whole number"])),
    ];
    for (path, expected) in cases {
        before.refuses_get(path, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_methods_and_pools_that_do_not_exist_are_said_to() {
    let before = Before::new().await;
    before.refuses_get("/v2/tasks", (404, "unknown_path", &["/v2/tasks", "/openapi.json"])).await;
    before.refuses_get("/v1/tasks?pool=other", (404, "unknown_pool", &["other", "default"])).await;
    before.server.get("/v1/tasks?pool=default").await.is(200);
    let answer = send(before.server.request(Method::PUT, "/v1/tasks")).await;
    assert_eq!(answer.header("allow"), "POST,GET,HEAD");
    before.refused(answer, (405, "wrong_method", &["PUT", "/v1/tasks"]));
    let answer = before.server.post("/v1/status", "").await;
    before.refused(answer, (405, "wrong_method", &["POST"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_runner_says_wrongly_is_refused() {
    let before = Before::new().await;
    let runner = ByHand { server: &before.server, id: "r2", incarnation: "one" };
    let changed = |field: &str, value: Value| {
        let mut registration = runner.registration();
        registration[field] = value;
        registration
    };
    let cases: [(Value, &[&str]); 9] = [
        (changed("id", json!("a.b")), &["id", "a.b"]),
        (changed("id", Value::Null), &["id", "is missing"]),
        (changed("incarnation", json!("")), &["incarnation", "empty"]),
        (changed("protocol", json!(2)), &["protocol", "2", "1"]),
        (changed("v", json!(9)), &["\"v\"", "9"]),
        (changed("slots", json!(0)), &["slots", "0", "10000"]),
        (changed("resources", json!({"cpu": -8})), &["resources.cpu", "-8"]),
        (changed("cost", json!(-1)), &["cost", "-1", "negative"]),
        (changed("group", json!("g.1")), &["group", "'.' at position 1"]),
    ];
    for (registration, named) in cases {
        before.refuses_post("/v1/runners", registration, malformed(named)).await;
    }
    let beat = "/v1/runners/r1/heartbeat";
    before.refuses_post(beat, json!({"number": 1}), malformed(&["incarnation", "missing"])).await;
    before.refuses_post(beat, json!({"incarnation": "one"}), malformed(&["number", "missing"])).await;
    let other = json!({"incarnation": "one", "number": 1, "runner": "r9"});
    before.refuses_post(beat, other, malformed(&["runner", "r9", "r1"])).await;
    let held = json!({"incarnation": "one", "number": 1, "running": [{"id": "t1", "token": "x"}]});
    before.refuses_post(beat, held, malformed(&["running[0].token", "x", "1.3118.0"])).await;
    let leave = json!({"handback": ["t1"]});
    before.refuses_post("/v1/runners/r1/leave", leave, malformed(&["incarnation"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_report_that_cannot_be_read_refuses_its_pack() {
    let before = Before::new().await;
    let runner = ByHand { server: &before.server, id: "r1", incarnation: "one" };
    let good = runner.started("t1", "1.1.0");
    let mut bad = runner.ended("t1", "1.1.0", "succeeded");
    bad["outcome"] = json!("perished");
    let pack = json!({"reports": [good, bad]});
    let named = &["reports[1].outcome", "perished", "succeeded, failed"];
    before.refuses_post(&runner.path("reports"), pack, malformed(named)).await;
    before.refuses_post(&runner.path("reports"), "[]", malformed(&["not a JSON object"])).await;
    let path = "/v1/runners/a.b/reports";
    before.refuses_post(path, "{}", malformed(&["id", "a.b"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_content_type_is_not_looked_at() {
    let server = Server::start().await;
    let request =
        server.request(Method::POST, "/v1/tasks").header("content-type", "application/x-www-form-urlencoded");
    send(request.body(r#"{"id":"t1"}"#)).await.is(202);
    server.get("/v1/tasks/t1").await.is(200);
}
