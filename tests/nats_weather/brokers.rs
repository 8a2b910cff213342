//! Brokers that are killed, one alone and the nodes of a cluster in turn.

use std::collections::BTreeSet;
use std::time::Duration;

use super::judge::{Starts, agree_and_are_drained, all_end, history_tells_all, judge, marks};
use super::pool::{Replica, Scene, connect, names, runners_ready, until};
use super::producer::{over_http, over_nats, told};
use crate::broker::{Broker, Cluster};

const BETWEEN: Duration = Duration::from_millis(60);

async fn ends(scene: &Scene, count: usize) {
    until(&format!("{count} tasks have marked their end"), async || {
        let ended = marks(scene.dir()).iter().filter(|mark| mark.word == "end").count();
        (ended >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_killed_and_started_again_under_load() {
    let mut broker = Broker::start_syncing();
    let scene = Scene::new();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let runners = [scene.runner("r1", &broker.url()), scene.runner("r2", &broker.url())];
    runners_ready(&replicas[0], 2).await;
    let urls = replicas.iter().map(|replica| replica.url.clone()).collect();
    let nats = over_nats(&broker.url(), scene.tasks("n", 100), BETWEEN);
    let http = over_http(urls, scene.tasks("h", 60), BETWEEN);
    for round in 1..=3 {
        ends(&scene, 15 * round).await;
        tokio::task::block_in_place(|| {
            broker.kill();
            broker.up();
        });
    }
    let mut acknowledged = told(nats).await;
    acknowledged.extend(told(http).await);
    all_end(&replicas[0], &acknowledged).await;
    let connection = connect(&broker.url()).await;
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    judge(&marks(scene.dir()), &acknowledged, Starts::Once, &BTreeSet::new());
    history_tells_all(&connection, &acknowledged).await;
    drop(runners);
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_of_a_cluster_is_killed_in_turn() {
    let mut cluster = tokio::task::block_in_place(Cluster::start);
    let scene = Scene::new().with("LONGSHORE_NATS__REPLICAS", "3");
    // A cluster elects for a moment before it answers.
    let meta = connect(&cluster.urls()).await;
    until("the cluster has a leader", async || meta.jetstream.query_account().await.ok()).await;
    let replicas = scene.replicas(&cluster.urls(), 2).await;
    let runners = [scene.runner("r1", &cluster.urls()), scene.runner("r2", &cluster.urls())];
    runners_ready(&replicas[0], 2).await;
    let urls = replicas.iter().map(|replica| replica.url.clone()).collect();
    let nats = over_nats(&cluster.urls(), scene.tasks("n", 120), BETWEEN);
    let http = over_http(urls, scene.tasks("h", 80), BETWEEN);
    let mut killed = BTreeSet::new();
    for round in 1..=3 {
        ends(&scene, 15 * round).await;
        // First whoever leads the bucket; then those that were not killed yet.
        let leads = until("the bucket has a leader", async || {
            let stream = meta.jetstream.get_stream(names().bucket_stream()).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        })
        .await;
        let place = |server: &crate::broker::Broker| server.url().ends_with(leads.trim_start_matches('n'));
        let leads = cluster.servers.iter().position(place).expect("it is one of them");
        let victim = if killed.contains(&leads) {
            (0..3).find(|node| !killed.contains(node)).expect("one is left")
        } else {
            leads
        };
        killed.insert(victim);
        tokio::task::block_in_place(|| cluster.servers[victim].kill());
        let so_far = marks(scene.dir()).iter().filter(|mark| mark.word == "end").count();
        ends(&scene, (so_far + 5).min(200)).await;
        tokio::task::block_in_place(|| cluster.servers[victim].up());
        // Two of three must stand: the one that comes back has to have caught up before another goes.
        until("every copy is current", async || {
            for stream in [
                names().bucket_stream(),
                names().submit_stream(),
                names().report_stream(),
                names().history_stream(),
            ] {
                let stream = meta.jetstream.get_stream(stream).await.ok()?;
                let copies = stream.cached_info().cluster.as_ref()?;
                let current = copies.replicas.iter().filter(|copy| copy.current && !copy.offline).count();
                if current < 2 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
    let mut acknowledged = told(nats).await;
    acknowledged.extend(told(http).await);
    all_end(&replicas[0], &acknowledged).await;
    let shown: Vec<&Replica> = replicas.iter().collect();
    agree_and_are_drained(&shown, &meta).await;
    judge(&marks(scene.dir()), &acknowledged, scene.starts(), &BTreeSet::new());
    history_tells_all(&meta, &acknowledged).await;
    drop(runners);
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_stops_though_its_broker_is_away() {
    let mut broker = Broker::start_syncing();
    let scene = Scene::new();
    let replica = scene.replicas(&broker.url(), 1).await.remove(0);
    let runner = scene.runner("r1", &broker.url());
    runners_ready(&replica, 1).await;
    let producing = over_nats(&broker.url(), scene.tasks("n", 60), Duration::from_millis(20));
    ends(&scene, 10).await;
    tokio::task::block_in_place(|| broker.kill());
    replica.stands("it says so", |status| status["trouble"].is_string()).await;
    let log = replica.log_path();
    let ended = tokio::task::block_in_place(|| replica.process.terminate());
    let said = std::fs::read_to_string(log).expect("it was written");
    assert_eq!(ended.code(), Some(1), "{said}");
    is_one_clear_line(&said, &["took nothing at the end", "nothing acknowledged is lost"]);
    tokio::task::block_in_place(|| broker.up());
    let next = scene.replica(&broker.url());
    let acknowledged = told(producing).await;
    all_end(&next, &acknowledged).await;
    let connection = connect(&broker.url()).await;
    agree_and_are_drained(&[&next], &connection).await;
    judge(&marks(scene.dir()), &acknowledged, Starts::Once, &BTreeSet::new());
    history_tells_all(&connection, &acknowledged).await;
    drop(runner);
}

/// What a server says that is asked for nothing but its name.
async fn fake(version: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let info = serde_json::json!({
        "server_id": "N", "server_name": "old", "version": version, "go": "go1.19", "host": "127.0.0.1", "port": port,
        "headers": true, "max_payload": 1_048_576, "proto": 1, "jetstream": true, "client_id": 1,
    });
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("a connection");
            let info = info.to_string();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                let mut ok = client.write_all(format!("INFO {info}\r\n").as_bytes()).await.is_ok();
                while ok {
                    ok = match client.read(&mut buffer).await {
                        Ok(length @ 1..) => {
                            let asked = buffer[..length].windows(4).any(|part| part == b"PING");
                            !asked || client.write_all(b"PONG\r\n").await.is_ok()
                        }
                        _ => false,
                    };
                }
            });
        }
    });
    format!("nats://127.0.0.1:{port}")
}

/// Starts a dispatcher that cannot start; its exit code and what it says on standard error.
pub async fn refused(scene: &Scene, nats: &str) -> (Option<i32>, String) {
    let (mut process, log) = scene.start(nats);
    let ended = until("it ends", async || process.ended()).await;
    (ended.code(), std::fs::read_to_string(log).expect("it was written"))
}

fn is_one_clear_line(said: &str, wanted: &[&str]) {
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one line says it: {said}");
    assert!(wanted.iter().all(|wanted| errors[0].contains(wanted)), "{wanted:?} in {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_be_used_is_said_in_one_line() {
    let scene = Scene::new();
    for version in ["2.9.10", "2.12.13", "2.14.3"] {
        let (code, said) = refused(&scene, &fake(version).await).await;
        assert_eq!(code, Some(1), "{said}");
        is_one_clear_line(&said, &[version, "is too old", "2.12.14 or 2.14.4 is needed"]);
    }
    let without = tokio::task::block_in_place(|| Broker::start_with("jetstream: disabled\n"));
    let (code, said) = refused(&scene, &without.url()).await;
    assert_eq!(code, Some(1), "{said}");
    is_one_clear_line(&said, &["has no JetStream", "turn it on"]);
    let nobody = "nats://127.0.0.1:9";
    let (code, said) = refused(&scene, nobody).await;
    assert_eq!(code, Some(3), "{said}");
    is_one_clear_line(&said, &[nobody, "start a nats-server there"]);
}
