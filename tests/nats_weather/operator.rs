//! A pool that an operator has paused.

use async_nats::jetstream::consumer::Info;
use longshore::broker::Connection;
use serde_json::{Value, json};

use super::pool::{Replica, Scene, connect, names, runners_ready, until};
use super::producer::{JOBS, publish};
use crate::broker::Broker;

/// A consumer as the server has it.
async fn consumer(connection: &Connection, name: &str) -> Option<Info> {
    let stream = connection.jetstream.get_stream_no_info(names().submit_stream()).await.ok()?;
    stream.consumer_info(name).await.ok()
}

/// Waits until a consumer is as `fact` says.
async fn consumer_is(connection: &Connection, name: &str, what: &str, fact: impl Fn(&Info) -> bool) -> Info {
    until(&format!("consumer {name} {what}"), async || consumer(connection, name).await.filter(&fact)).await
}

/// Asks a replica, whichever it is, for what an operator wants.
async fn operate(replica: &Replica, path: &str) -> Value {
    let asked = reqwest::Client::new().post(format!("{}{path}", replica.url)).send().await;
    asked.expect("it answers").json().await.expect("in JSON")
}

/// Waits until a replica says that an operator keeps new work from being pulled, and jobs of builds are pulled on.
async fn says_operator(replica: &Replica) -> Value {
    let by_the_operator = |status: &Value| {
        let reasons = status["credit"].as_array().expect("a list").iter().map(|one| &one["reason"]);
        reasons.eq([&json!("operator"), &json!("operator"), &Value::Null])
    };
    replica.stands("nothing is pulled, by the operator", by_the_operator).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_pool_pulls_nothing_through_a_take_over_until_it_is_resumed() {
    let broker = Broker::start();
    let scene = Scene::new();
    let mut replicas = scene.replicas(&broker.url(), 2).await;
    let runner = scene.runner("r1", &broker.url());
    runners_ready(&replicas[1], 1).await;
    let connection = connect(&broker.url()).await;
    let gate = scene.dir().join("gate");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.05; done", gate.display());
    let build = json!({
        "id": "b1", "resources": {"cpu": 1, "memory": "16MiB"}, "spec": {"command": ["sh", "-c", script]},
        "jobs": [{"resources": {"cpu": 1, "memory": "16MiB"}}],
    });
    publish(&connection.jetstream, "longshore.build.pending.default", &build).await;
    replicas[1].has("b1", "running").await;

    let paused = operate(&replicas[1], "/v1/pause").await;
    assert_eq!(paused["paused"], true, "{paused}");
    for replica in &replicas {
        let status = says_operator(replica).await;
        assert_eq!(status["paused_since"], paused["since"], "{status}");
    }
    consumer_is(&connection, "builds", "is paused", |info| info.paused).await;
    let first = consumer_is(&connection, "jobs", "is paused", |info| info.paused).await;
    publish(&connection.jetstream, JOBS, &scene.task("new", 1)).await;
    // What runs, runs on: the build gets its job, and ends.
    publish(&connection.jetstream, &format!("{JOBS}.b1"), &scene.task("job", 1)).await;
    replicas[1].has("job", "ended").await;
    std::fs::write(&gate, "").expect("the directory can be written");
    replicas[1].has("b1", "ended").await;
    let renewed = |before: &Info| {
        let before = before.config.pause_until;
        move |info: &Info| info.paused && info.config.pause_until > before
    };
    let second = consumer_is(&connection, "jobs", "is paused for longer", renewed(&first)).await;
    assert_eq!((second.num_pending, second.num_ack_pending), (1, 0), "it waits in the stream");

    replicas.remove(0).process.kill();
    replicas[0].leads().await;
    let status = says_operator(&replicas[0]).await;
    assert_eq!(status["paused_since"], paused["since"], "{status}");
    let last = consumer(&connection, "jobs").await.expect("it is there");
    let third = consumer_is(&connection, "jobs", "is paused for longer by another", renewed(&last)).await;
    assert_eq!((third.num_pending, third.num_ack_pending), (1, 0), "it waits in the stream");
    let (known, task) = replicas[0].asked("/v1/tasks/new").await.expect("it answers");
    assert_eq!((known, &task["undecided"]), (404, &json!(true)), "{task}");

    let resumed = operate(&replicas[0], "/v1/resume").await;
    assert_eq!(resumed["paused"], false, "{resumed}");
    for name in ["builds", "jobs"] {
        let open = consumer_is(&connection, name, "is open", |info| !info.paused).await;
        assert!(open.config.pause_until.is_none_or(|until| Some(until) < third.config.pause_until));
    }
    assert_eq!(replicas[0].has("new", "ended").await["outcome"], "succeeded");
    replicas[0].stands("all is pulled", |status| status["credit"][1]["reason"] == Value::Null).await;
    drop(runner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatchers_that_die_leave_no_consumer_paused() {
    let broker = Broker::start();
    let scene = Scene::new();
    let replica = scene.replica(&broker.url());
    replica.leads().await;
    let connection = connect(&broker.url()).await;
    consumer_is(&connection, "jobs", "is pulled from", |_| true).await;
    operate(&replica, "/v1/pause").await;
    consumer_is(&connection, "jobs", "is paused", |info| info.paused).await;
    replica.process.kill();
    consumer_is(&connection, "jobs", "is open", |info| !info.paused).await;
    // The rows still say that the pool is paused.
    let replica = scene.replica(&broker.url());
    replica.leads().await;
    says_operator(&replica).await;
    consumer_is(&connection, "jobs", "is paused", |info| info.paused).await;
}
