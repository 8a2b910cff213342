//! Streams and buckets that were deleted: a dispatcher says so and never begins anew in silence.

use std::time::Duration;

use serde_json::{Value, json};

use super::brokers::refused;
use super::pool::{Scene, connect, names, until_within};
use super::producer::{JOBS, publish};
use crate::broker::Broker;

/// Longer than a bucket must be missing until that is believed.
const BELIEVED: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_at_a_start_is_said_and_not_made_again() {
    let all =
        [names().bucket_stream(), names().submit_stream(), names().report_stream(), names().history_stream()];
    for gone in all {
        let broker = Broker::start();
        let scene = Scene::new();
        let replica = scene.replicas(&broker.url(), 1).await.remove(0);
        replica.stop().await;
        let connection = connect(&broker.url()).await;
        connection.jetstream.delete_stream(&gone).await.expect("it was there");
        for _ in 0..2 {
            let (code, said) = refused(&scene, &broker.url()).await;
            assert_eq!(code, Some(1), "{said}");
            for wanted in ["error: ", &gone, "is missing", "not made again", "backup"] {
                assert!(said.contains(wanted), "{wanted:?} in {said}");
            }
        }
        let still = connection.jetstream.get_stream(&gone).await;
        assert!(still.is_err(), "it was not made again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_goes_while_it_is_used_stops_everything() {
    let broker = Broker::start();
    let scene = Scene::new();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let connection = connect(&broker.url()).await;
    publish(&connection.jetstream, JOBS, &json!({"id": "t0", "spec": {"command": ["true"]}})).await;
    replicas[1].has("t0", "pending").await;
    connection.jetstream.delete_stream(names().bucket_stream()).await.expect("it was there");
    publish(&connection.jetstream, JOBS, &json!({"id": "t1", "spec": {"command": ["true"]}})).await;
    for replica in &replicas {
        let says = |status: &Value| {
            let why = status["trouble"].as_str().unwrap_or_default();
            why.contains("restore the bucket from a backup")
        };
        until_within(BELIEVED, "it says what to do", async || replica.status().await.filter(says)).await;
        let (code, why) = replica.asked("/readyz").await.expect("it answers");
        assert_eq!((code, &why["code"]), (503, &json!("table_trouble")), "{why}");
        let task = replica.get("/v1/tasks/t0").await.expect("reads go on");
        assert_eq!(task["state"], "pending");
    }
    let bucket = connection.jetstream.get_stream(names().bucket_stream()).await;
    assert!(bucket.is_err(), "it was not made again");
    let stream = connection.jetstream.get_stream(names().submit_stream()).await.expect("it is there");
    assert_eq!(stream.cached_info().state.messages, 1, "what was not decided waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_goes_while_it_is_used_is_said_and_not_made_again() {
    for gone in [names().submit_stream(), names().report_stream()] {
        let broker = Broker::start();
        let scene = Scene::new();
        let replicas = scene.replicas(&broker.url(), 2).await;
        let connection = connect(&broker.url()).await;
        connection.jetstream.delete_stream(&gone).await.expect("it was there");
        for replica in &replicas {
            let says = |status: &Value| {
                let why = status["trouble"].as_str().unwrap_or_default();
                why.contains(&gone) && why.contains("backup")
            };
            until_within(BELIEVED, "it says what to do", async || replica.status().await.filter(says)).await;
            let (code, why) = replica.asked("/readyz").await.expect("it answers");
            assert_eq!(code, 503, "{why}");
        }
        assert!(connection.jetstream.get_stream(&gone).await.is_err(), "it was not made again");
    }
}
