//! Leaders that are killed, paused or asked to stop while work comes in and is done.

use std::collections::BTreeSet;
use std::time::Duration;

use super::judge::{Starts, agree_and_are_drained, all_end, history_tells_all, judge, marks};
use super::pool::{Replica, Scene, TAKE_OVER, connect, leader, runners_ready, until, until_within};
use super::producer::{over_http, over_nats, told};
use super::sieve::{Fate, Sieve, Way};
use crate::binary::Process;
use crate::broker::Broker;

const BETWEEN: Duration = Duration::from_millis(60);

/// Three replicas, two runners and two producers at work.
struct Load {
    broker: Broker,
    scene: Scene,
    replicas: Vec<Replica>,
    runners: Vec<Process>,
}

impl Load {
    async fn start() -> Self {
        let broker = Broker::start();
        let scene = Scene::new();
        let replicas = scene.replicas(&broker.url(), 3).await;
        let runners = vec![scene.runner("r1", &broker.url()), scene.runner("r2", &broker.url())];
        runners_ready(&replicas[0], 2).await;
        Self { broker, scene, replicas, runners }
    }

    fn urls(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.url.clone()).collect()
    }

    /// Waits until so many tasks have ended by their own marks.
    async fn has_done(&self, count: usize) {
        until(&format!("{count} tasks have marked their end"), async || {
            let ended = marks(self.scene.dir()).iter().filter(|mark| mark.word == "end").count();
            (ended >= count).then_some(())
        })
        .await;
    }

    /// Everything ends once, and those replicas that are left agree on it.
    async fn judge(self, acknowledged: BTreeSet<String>) {
        all_end(&self.replicas[0], &acknowledged).await;
        let connection = connect(&self.broker.url()).await;
        let replicas: Vec<&Replica> = self.replicas.iter().collect();
        agree_and_are_drained(&replicas, &connection).await;
        judge(&marks(self.scene.dir()), &acknowledged, Starts::Once, &BTreeSet::new());
        history_tells_all(&connection, &acknowledged).await;
        for runner in self.runners {
            let ended = tokio::task::block_in_place(|| runner.terminate());
            assert_eq!(ended.code(), Some(0), "a runner stops in order");
        }
        for replica in self.replicas {
            replica.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_killed_under_load() {
    let mut load = Load::start().await;
    let nats = over_nats(&load.broker.url(), load.scene.tasks("n", 100), BETWEEN);
    let http = over_http(load.urls(), load.scene.tasks("h", 60), BETWEEN);
    for round in 1..=2 {
        load.has_done(30 * round).await;
        let killed = leader(&load.replicas).await;
        load.replicas.remove(killed).process.kill();
        let limit = TAKE_OVER * 2 + Duration::from_secs(2);
        until_within(limit, "another leads", async || {
            for replica in &load.replicas {
                if replica.status().await?["role"] == "leader" {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    let mut acknowledged = told(nats).await;
    acknowledged.extend(told(http).await);
    load.judge(acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_is_refused_and_follows() {
    let load = Load::start().await;
    let producing = over_nats(&load.broker.url(), load.scene.tasks("n", 160), BETWEEN);
    load.has_done(10).await;
    load.replicas[0].process.pause();
    let other = leader(&load.replicas[1..]).await + 1;
    let before = load.replicas[other].status().await.expect("it answers")["turn"].as_u64();
    load.has_done(40).await;
    load.replicas[0].process.resume();
    load.replicas[0].follows().await;
    load.replicas[0]
        .stands("it has followed what it slept through", |status| status["turn"].as_u64() > before)
        .await;
    let log = load.replicas[0].log();
    assert!(log.contains("stopped=Deposed"), "its next turn was refused: {log}");
    let acknowledged = told(producing).await;
    load.judge(acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_in_the_middle_of_a_turn_follows_when_it_is_back() {
    let broker = Broker::start();
    let scene = Scene::new();
    let sieve = Sieve::to(&broker.url()).await;
    let mut replicas = vec![scene.replica(sieve.url())];
    replicas[0].leads().await;
    replicas.push(scene.replica(&broker.url()));
    let runners = vec![scene.runner("r1", &broker.url()), scene.runner("r2", &broker.url())];
    runners_ready(&replicas[0], 2).await;
    let load = Load { broker, scene, replicas, runners };
    let producing = over_nats(&load.broker.url(), load.scene.tasks("n", 120), BETWEEN);
    let mut acknowledged = BTreeSet::new();
    // Once the turn does not get there; once it does, and the answer to it does not.
    for (round, way) in [Way::ToServer, Way::ToClient].into_iter().enumerate() {
        load.has_done(20 * (round + 1)).await;
        let mut answer = None::<String>;
        sieve.rule(move |passing| {
            let is_turn = passing.way == Way::ToServer && passing.subject.starts_with("$KV.longshore.turn.");
            let held = match way {
                Way::ToServer => is_turn && passing.says("\"task\""),
                Way::ToClient => passing.way == way && answer.as_deref() == Some(passing.subject),
            };
            if is_turn && passing.says("\"task\"") {
                answer = passing.reply.map(str::to_owned);
            }
            if held { Fate::Held } else { Fate::Passes }
        });
        sieve.is_held().await;
        load.replicas[1].leads().await;
        load.has_done(20 * (round + 1) + 20).await;
        sieve.mend();
        load.replicas[0].follows().await;
        if round == 0 {
            // The first is to lead again, for the second round.
            load.replicas[1].process.pause();
            load.replicas[0].leads().await;
            load.replicas[1].process.resume();
            load.replicas[1].follows().await;
        }
    }
    acknowledged.extend(told(producing).await);
    load.judge(acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_is_followed_at_once() {
    let mut load = Load::start().await;
    let nats = over_nats(&load.broker.url(), load.scene.tasks("n", 100), BETWEEN);
    let http = over_http(load.urls(), load.scene.tasks("h", 60), BETWEEN);
    load.has_done(20).await;
    load.replicas[1].follows().await;
    load.replicas[2].follows().await;
    load.replicas.remove(0).stop().await;
    let next = until_within(TAKE_OVER / 2, "another leads, without the wait of a take-over", async || {
        for (place, replica) in load.replicas.iter().enumerate() {
            if replica.status().await?["role"] == "leader" {
                return Some(place);
            }
        }
        None
    })
    .await;
    let log = load.replicas[next].log();
    assert!(log.contains("taking over"), "{log}");
    let mut acknowledged = told(nats).await;
    acknowledged.extend(told(http).await);
    load.judge(acknowledged).await;
}
