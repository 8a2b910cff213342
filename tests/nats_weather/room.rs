//! A bucket that is full.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::judge::{Starts, agree_and_are_drained, all_end, history_tells_all, judge, marks};
use super::pool::{Scene, connect, names, runners_ready, until};
use super::producer::{over_nats, told};
use crate::broker::Broker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_bucket_stops_the_pulling_and_loses_nothing() {
    let broker = Broker::start();
    let scene = Scene::new().with("LONGSHORE_NATS__TABLE_BYTES", "1MiB");
    let replicas = scene.replicas(&broker.url(), 2).await;
    let runner = scene.runner("r1", &broker.url());
    runners_ready(&replicas[0], 1).await;
    // Bodies of 20 KiB: less than a hundred of them fill the bucket.
    let mut tasks = scene.tasks("t", 90);
    for task in &mut tasks {
        task["spec"]["env"] = json!({"FILLING": "x".repeat(20 << 10)});
    }
    let producing = over_nats(&broker.url(), tasks, Duration::from_millis(20));
    let leading = super::pool::leader(&replicas).await;
    let troubled = |status: &Value| {
        let by_the_table = |credit: &Value| credit["paused"] == true && credit["reason"] == "table";
        let credit = status["credit"].as_array().expect("a list");
        status["trouble"].as_str().is_some_and(|why| why.contains("full")) && credit.iter().all(by_the_table)
    };
    let status = replicas[leading].stands("it says that the table is full", troubled).await;
    let trouble = status["trouble"].as_str().expect("a text");
    assert!(
        trouble.contains("max_bytes") && trouble.contains("KV_longshore"),
        "it says what to do: {trouble}"
    );
    let (code, why) = replicas[leading].asked("/readyz").await.expect("it answers");
    assert_eq!((code, &why["code"]), (503, &json!("table_trouble")), "{why}");
    // What producers were told is kept meanwhile, in the stream.
    let acknowledged = told(producing).await;
    let connection = connect(&broker.url()).await;
    let waiting = async || {
        let stream = connection.jetstream.get_stream(names().submit_stream()).await.ok()?;
        Some(stream.cached_info().state.messages)
    };
    assert!(until("the stream answers", waiting).await > 0, "they wait in the stream");
    assert_eq!(super::pool::leader(&replicas).await, leading, "nobody else could do better");
    let stream = connection.jetstream.get_stream(names().bucket_stream()).await.expect("it is there");
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = 64 << 20;
    connection.jetstream.update_stream(config).await.expect("it is given more room");
    all_end(&replicas[0], &acknowledged).await;
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    judge(&marks(scene.dir()), &acknowledged, Starts::Once, &BTreeSet::new());
    history_tells_all(&connection, &acknowledged).await;
    replicas[leading].stands("nothing is wrong any more", |status| status["trouble"] == Value::Null).await;
    drop(runner);
}
