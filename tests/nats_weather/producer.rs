//! A producer: publishes until it is told that what it said is kept, and remembers what it was told.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::Context;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::pool::connect;
use crate::binary::PATIENCE;

/// Where jobs of the default queue go.
pub const JOBS: &str = "longshore.job.pending.default";

/// The ids of tasks.
pub fn ids(tasks: &[Value]) -> BTreeSet<String> {
    tasks.iter().filter_map(|task| task["id"].as_str()).map(str::to_owned).collect()
}

/// What a producer was told is kept, once it is done; it does not take for ever.
pub async fn told(producing: JoinHandle<BTreeSet<String>>) -> BTreeSet<String> {
    let producing = AbortOnDropHandle::new(producing);
    let done = tokio::time::timeout(PATIENCE, producing).await;
    done.expect("all is acknowledged in time").expect("the producer does not fail")
}

/// Publishes a message until the stream has it.
pub async fn publish(jetstream: &Context, subject: &str, body: &Value) {
    publish_bytes(jetstream, subject, body.to_string().into_bytes()).await;
}

/// The same of any bytes.
pub async fn publish_bytes(jetstream: &Context, subject: &str, body: Vec<u8>) {
    loop {
        let sent = async { jetstream.publish(subject.to_owned(), body.clone().into()).await?.await };
        if sent.await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes tasks in small packs, one after the other, each until it is acknowledged.
pub fn over_nats(url: &str, tasks: Vec<Value>, between: Duration) -> JoinHandle<BTreeSet<String>> {
    let url = url.to_owned();
    tokio::spawn(async move {
        let connection = connect(&url).await;
        for pack in tasks.chunks(5) {
            publish(&connection.jetstream, JOBS, &json!({"tasks": pack})).await;
            tokio::time::sleep(between).await;
        }
        ids(&tasks)
    })
}

/// The same over HTTP, at whichever replica answers.
pub fn over_http(urls: Vec<String>, tasks: Vec<Value>, between: Duration) -> JoinHandle<BTreeSet<String>> {
    tokio::spawn(async move {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(8)).build().expect("a client");
        for (number, pack) in tasks.chunks(5).enumerate() {
            let body = json!({"tasks": pack}).to_string();
            for url in urls.iter().cycle().skip(number % urls.len()) {
                let sent = client.post(format!("{url}/v1/tasks")).body(body.clone()).send().await;
                if let Ok(answer) = sent
                    && answer.status() == 202
                    && let Ok(said) = answer.json::<Value>().await
                {
                    let kept = |one: &Value| {
                        matches!(one["answer"].as_str(), Some("admitted" | "duplicate" | "accepted"))
                    };
                    assert!(said.as_array().expect("a list").iter().all(kept), "not taken: {said}");
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(between).await;
        }
        ids(&tasks)
    })
}
