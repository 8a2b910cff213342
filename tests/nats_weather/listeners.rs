//! Events go to whoever listens, whole and in order; where nobody does they are not sent.

use std::collections::BTreeSet;
use std::net::TcpListener;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::pool::{Scene, connect, until};
use super::producer::{JOBS, publish};
use crate::binary::PATIENCE;
use crate::broker::Broker;

/// Tasks of one pack.
const PACK: usize = 500;

fn pack(prefix: &str) -> Value {
    let task = |number| json!({"id": format!("{prefix}{number}"), "spec": {"command": ["true"]}});
    json!({"tasks": (0..PACK).map(task).collect::<Vec<Value>>()})
}

/// How many messages the server has been sent, by its own count.
async fn messages(monitor: u16) -> u64 {
    let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/varz")).await.expect("it answers");
    answer.json::<Value>().await.expect("in JSON")["in_msgs"].as_u64().expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_nobody_listens_to_are_not_sent_and_a_listener_misses_none() {
    let monitor = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("it has one").port()
    };
    let broker = Broker::start_with(&format!("http: \"127.0.0.1:{monitor}\"\n"));
    let scene = Scene::new().with("LONGSHORE_VERDICT__SETTLE", "1h");
    let replicas = scene.replicas(&broker.url(), 1).await;
    let connection = connect(&broker.url()).await;
    let pending = async |count: usize| {
        until("the tasks are admitted", async || {
            let status = replicas[0].get("/v1/status").await?;
            (status["counts"]["pending"].as_u64()? >= count as u64).then_some(())
        })
        .await;
    };

    let before = messages(monitor).await;
    for number in 0..4 {
        publish(&connection.jetstream, JOBS, &pack(&format!("unheard-{number}-"))).await;
    }
    pending(4 * PACK).await;
    let sent = messages(monitor).await - before;
    assert!(sent < 2 * PACK as u64, "{sent} messages for {} events that nobody heard", 4 * PACK);

    let mut events = connection.client.subscribe("longshore.event.job.pending.*").await.expect("it may");
    connection.client.flush().await.expect("it is heard");
    for number in 0..4 {
        publish(&connection.jetstream, JOBS, &pack(&format!("heard-{number}-"))).await;
    }
    let mut heard = Vec::new();
    while heard.len() < 4 * PACK {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        let event = event.unwrap_or_else(|_| panic!("only {} events came", heard.len())).expect("it is open");
        let event: Value = serde_json::from_slice(&event.payload).expect("in JSON");
        let id = event["id"].as_str().expect("a text").to_owned();
        // What was admitted last of the unheard may be told while the first listens already.
        if id.starts_with("heard") {
            heard.push(id);
        }
    }
    let expected = (0..4).flat_map(|pack| (0..PACK).map(move |number| format!("heard-{pack}-{number}")));
    let (expected, told): (BTreeSet<String>, BTreeSet<String>) =
        (expected.collect(), heard.iter().cloned().collect());
    assert_eq!(told, expected, "each is told once");
    let of_a_pack = |id: &&String| id.starts_with("heard-2-");
    let in_order: Vec<String> = (0..PACK).map(|number| format!("heard-2-{number}")).collect();
    assert_eq!(heard.iter().filter(of_a_pack).cloned().collect::<Vec<_>>(), in_order);
}
