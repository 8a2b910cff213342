//! Pulling over HTTP: subscriptions, leases, and requests that wait.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, ByHand, Server, send};

impl Server {
    async fn subscribe(&self, said: Value) -> String {
        let answer = self.post("/v1/subscriptions", said).await.is(200);
        answer.body["id"].as_str().expect("an id").to_owned()
    }

    async fn pull(&self, subscription: &str, query: &str) -> Answer {
        send(self.request(Method::PATCH, &format!("/v1/subscriptions/{subscription}{query}"))).await
    }

    async fn say(&self, lease: &str, word: &str, body: Value) -> Answer {
        self.post(&format!("/v1/leases/{lease}/{word}"), body).await
    }

    fn turn(&self) -> u64 {
        self.running.handle.view().read(longshore::core::State::turn)
    }

    /// A request that waits changes no row: that it was taken shows in the turns that went by.
    async fn until_turn(&self, turn: u64) {
        self.until("the turn", |state| state.turn() >= turn).await;
    }
}

fn lease(answer: &Answer) -> String {
    answer.body["lease"]["id"].as_str().expect("a lease").to_owned()
}

fn on(topic: &str, id: &str) -> Value {
    json!({"id": id, "queue": topic, "arch": "riscv64", "labels": {"zone": "eu"}, "resources": {"cpu": 900},
        "spec": {"image": "alpine:3", "command": ["true"]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_pulls_starts_and_acknowledges_one_task() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "jobs_myapp_prod", "lease": "60s"})).await;
    let nothing = server.pull(&sub, "").await.is(204);
    assert_eq!(nothing.header("retry-after"), "1");
    server.submit(on("jobs_myapp_prod", "t1")).await;
    let given = server.pull(&sub, "").await.is(200);
    assert_eq!(given.body["jobSpec"], json!({"image": "alpine:3", "command": ["true"]}));
    assert_eq!(given.body["task"]["id"], "t1");
    assert!(given.body["lease"]["deadline"].as_str().expect("a time").ends_with('Z'));
    server.pull(&sub, "").await.is(204);

    let lease = lease(&given);
    let started = server.say(&lease, "start", json!({})).await.is(200).body;
    assert_eq!(
        (&started["id"], &started["runs"], &started["stop"]),
        (&json!(lease), &json!("1m"), &Value::Null)
    );
    server.say(&lease, "start", json!({})).await.problem(409, "already_started", &["t1", &lease]);
    assert_eq!(server.get("/v1/tasks/t1").await.is(200).body["state"], "running");
    server.say(&lease, "extend", json!({})).await.is(200);
    server.say(&lease, "ack", json!({"outcome": "failed", "exit_code": 3})).await.is(200);
    let task = server.get("/v1/tasks/t1").await.is(200).body;
    assert_eq!((&task["outcome"], &task["exit_code"]), (&json!("failed"), &json!(3)));
    server.say(&lease, "ack", json!({})).await.problem(410, "lease_over", &["t1", "ended failed"]);
    server.is_sound();
}

/// Scenario 30.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_waits_is_answered_as_soon_as_there_is_a_task() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "q"})).await;
    let turns = server.turn();
    let path = format!("/v1/subscriptions/{sub}?wait=300s");
    let waiting = tokio::spawn(send(server.request(Method::PATCH, &path)));
    server.until_turn(turns + 1).await;
    server.submit(on("q", "t1")).await;
    assert_eq!(
        waiting.await.expect("it ends").is(200).body["task"]["id"],
        "t1",
        "at once, not after its wait"
    );
    let nothing = server.pull(&sub, "?wait=50ms").await.is(204);
    assert_eq!(nothing.header("retry-after"), "1");
    server.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_connection_withdraws_its_pull() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "q"})).await;
    let turns = server.turn();
    let path = format!("/v1/subscriptions/{sub}?wait=300s");
    let gone = tokio::spawn(send(server.request(Method::PATCH, &path)));
    server.until_turn(turns + 1).await;
    gone.abort();
    server.until_turn(turns + 2).await;
    server.submit(on("q", "t1")).await;
    assert_eq!(server.get("/v1/tasks/t1").await.is(200).body["state"], "pending", "it takes nothing");
    assert_eq!(server.pull(&sub, "").await.is(200).body["task"]["id"], "t1");
}

/// Scenario 31.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ends_is_gone_and_the_task_is_somebody_elses() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "q", "lease": "150ms"})).await;
    server.submit(on("q", "t1")).await;
    let first = lease(&server.pull(&sub, "?puller=anna").await.is(200));
    server.say(&first, "start", json!({})).await.is(200);
    let second = server.pull(&sub, "?wait=60s&puller=bert").await.is(200);
    assert_eq!((&second.body["task"]["id"], &second.body["attempt"]), (&json!("t1"), &json!(2)));
    for word in ["extend", "start", "ack", "nack"] {
        server.say(&first, word, json!({})).await.problem(410, "lease_over", &["t1", "stop its work"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_comes_again_after_its_delay() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "q"})).await;
    server.submit(on("q", "t1")).await;
    let first = lease(&server.pull(&sub, "").await.is(200));
    server.say(&first, "nack", json!({"delay": "200ms", "reason": "disk is full"})).await.is(200);
    server.pull(&sub, "").await.is(204);
    let task = server.get("/v1/tasks/t1/why").await.is(200);
    assert!(task.text.contains("disk is full"), "{}", task.text);
    server.pull(&sub, "?wait=60s").await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_is_stopped_by_way_of_its_lease() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "q"})).await;
    server.submit(on("q", "t1")).await;
    let first = lease(&server.pull(&sub, "").await.is(200));
    server.say(&first, "start", json!({})).await.is(200);
    server.delete("/v1/tasks/t1").await.is(202);
    assert!(server.say(&first, "extend", json!({})).await.is(200).body["stop"].is_string());
    server.say(&first, "ack", json!({"outcome": "cancelled"})).await.is(200);
    assert_eq!(server.get("/v1/tasks/t1").await.is(200).body["outcome"], "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_subscription_is_unknown_and_its_queue_is_pushed_again() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    let sub = server.subscribe(json!({"topic": "q", "id": "mine"})).await;
    assert_eq!(sub, "mine");
    server.submit(json!({"id": "t1", "queue": "q"})).await;
    let shown = server.get("/v1/runners/mine").await.is(200).body;
    assert_eq!(
        (&shown["queues"], &shown["idle"]),
        (&json!(["q"]), &json!("it gets a task when one is asked for"))
    );
    server.delete("/v1/subscriptions/mine").await.is(204);
    server.delete("/v1/subscriptions/mine").await.problem(404, "unknown_subscription", &["mine"]);
    server.pull("mine", "?wait=10s").await.problem(404, "unknown_subscription", &["mine"]);
    assert_eq!(runner.poll("10s").await["assignments"][0]["id"], "t1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_refused_with_field_value_and_limit() {
    let server = Server::start().await;
    let refused = [
        (json!({}), &["topic", "is missing"][..]),
        (json!({"topic": "a b"}), &["topic", "' '", "position 1"]),
        (json!({"topic": "q", "lease": "2d"}), &["lease", "2d", "1d"]),
        (json!({"topic": "q", "queues": ["other"]}), &["queues", "leave this out"]),
    ];
    for (body, named) in refused {
        server.post("/v1/subscriptions", body).await.problem(400, "malformed", named);
    }
    ByHand::register(&server, "r1").await;
    let taken = json!({"topic": "q", "id": "r1"});
    server.post("/v1/subscriptions", taken).await.problem(409, "conflict", &["r1", "another id"]);
    let sub = server.subscribe(json!({"topic": "q"})).await;
    server.pull(&sub, "?wait=6m").await.problem(400, "malformed", &["wait", "6m", "5m"]);
    server.pull(&sub, "?puller=a.b").await.problem(400, "malformed", &["puller"]);
    server.say("t1", "ack", json!({})).await.problem(400, "malformed", &["t1", "1-3118-0-build-42"]);
    server.say("1-2-3-t1", "ack", json!({})).await.problem(410, "lease_over", &["t1", "not known"]);
    let odd = json!({"outcome": "handback"});
    server.say("1-2-3-t1", "ack", odd).await.problem(400, "malformed", &["outcome", "handback", "nack"]);
    let late = json!({"delay": "8d"});
    server.say("1-2-3-t1", "nack", late).await.problem(400, "malformed", &["delay", "8d", "7d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_answers_those_that_wait() {
    let server = Server::start().await;
    let sub = server.subscribe(json!({"topic": "q"})).await;
    let path = format!("/v1/subscriptions/{sub}?wait=300s");
    let turns = server.turn();
    let waiting = tokio::spawn(send(server.request(Method::PATCH, &path)));
    server.until_turn(turns + 1).await;
    server.begin_to_stop();
    waiting.await.expect("it ends").is(204);
    assert_eq!(server.stop().await, longshore::runtime::Stopped::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_wait_cost_no_turn_and_one_task_wakes_one_of_them() {
    use longshore::model::{Id, PullRequest, Pulled};
    use longshore::runtime::Door;

    let server = Server::start().await;
    let sub = Id::parse(&server.subscribe(json!({"topic": "q"})).await).expect("a name");
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let (handle, runner) = (server.running.handle.clone(), sub.clone());
        let request = uuid::Uuid::from_u128(number);
        let asked = PullRequest { runner, group: None, puller: None, request, patient: true };
        let mut pull = Box::pin(async move { handle.pull(asked, Duration::from_secs(300)).await });
        assert!(futures_util::poll!(&mut pull).is_pending());
        waiting.spawn(pull);
    }
    // What is asked after them is answered after them.
    server.pull(sub.as_str(), "").await.is(204);
    let turns = server.turn();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.turn(), turns, "nothing is decided while they wait");
    server.submit(on("q", "t1")).await;
    let first = waiting.join_next().await.expect("one").expect("it ends").expect("an answer");
    assert!(matches!(first, Pulled::Given(_)));
    assert!(waiting.try_join_next().is_none(), "the others wait on");
    let turns = server.turn();
    waiting.abort_all();
    server.until_turn(turns + 1).await;
}
