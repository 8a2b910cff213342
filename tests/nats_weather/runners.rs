//! Runners that are cut off, words between them and the dispatcher that get lost, and last words.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::judge::{Mark, Starts, agree_and_are_drained, all_end, history_tells_all, judge, marks};
use super::pool::{Replica, Scene, connect, runners_ready, until};
use super::producer::{JOBS, ids, publish};
use super::puppet::Puppet;
use super::sieve::{Fate, Sieve, Way};
use crate::broker::Broker;
use crate::wire::Wire;

/// How the way between a runner and its broker is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Both,
    ToServer,
    ToRunner,
}

/// Long work on a runner behind a wire; the wire is cut, and another runner is there to take the work.
async fn cut_off(cut: Cut) {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let wire = Wire::to(&broker.url()).await;
    let far = scene.runner("r1", wire.url());
    runners_ready(&replicas[0], 1).await;
    let connection = connect(&broker.url()).await;
    let tasks = vec![scene.task("t0", 40), scene.task("t1", 40), scene.task("t2", 2)];
    publish(&connection.jetstream, JOBS, &json!({"tasks": tasks})).await;
    let near = scene.runner("r2", &broker.url());
    let by = |mark: &&Mark, word: &str, runner: u32| mark.word == word && mark.runner == runner;
    until("two tasks run there, and one is done", async || {
        let told = marks(scene.dir());
        let said = |word| told.iter().filter(|mark| by(mark, word, far.id())).count();
        (said("start") == 3 && said("end") == 1).then_some(())
    })
    .await;
    runners_ready(&replicas[0], 2).await;
    // The end of the short one is said; what is cut off later is another story.
    replicas[1].has("t2", "ended").await;
    wire.to_server(cut == Cut::ToRunner);
    wire.to_client(cut == Cut::ToServer);
    let acknowledged = ids(&tasks);
    until("the work was done elsewhere", async || {
        let told = marks(scene.dir());
        (told.iter().filter(|mark| by(mark, "end", near.id())).count() == 2).then_some(())
    })
    .await;
    let told = marks(scene.dir());
    let last_there =
        told.iter().filter(|mark| mark.runner == far.id()).map(|mark| mark.at).fold(0.0, f64::max);
    let first_here =
        told.iter().filter(|mark| mark.runner == near.id()).map(|mark| mark.at).fold(f64::MAX, f64::min);
    assert!(last_there < first_here, "it stopped at {last_there}, and the other began at {first_here}");
    wire.to_server(true);
    wire.to_client(true);
    all_end(&replicas[0], &acknowledged).await;
    runners_ready(&replicas[0], 2).await;
    let shown: Vec<&Replica> = replicas.iter().collect();
    agree_and_are_drained(&shown, &connection).await;
    judge(&marks(scene.dir()), &acknowledged, Starts::Again, &BTreeSet::from([far.id()]));
    history_tells_all(&connection, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_is_cut_off_stops_before_its_work_is_given_away() {
    cut_off(Cut::Both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_is_not_heard_stops_before_its_work_is_given_away() {
    cut_off(Cut::ToServer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_hears_nothing_stops_before_its_work_is_given_away() {
    cut_off(Cut::ToRunner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_that_is_lost_is_sent_again() {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let sieve = Sieve::to(&broker.url()).await;
    let runner = scene.runner("r1", sieve.url());
    runners_ready(&replicas[0], 1).await;
    let mut left = 2;
    sieve.rule(move |passing| {
        let hit = passing.way == Way::ToClient && passing.subject == "longshore.assign.r1" && left > 0;
        left -= usize::from(hit);
        if hit { Fate::Lost } else { Fate::Passes }
    });
    let connection = connect(&broker.url()).await;
    let tasks = scene.tasks("t", 3);
    publish(&connection.jetstream, JOBS, &json!({"tasks": tasks})).await;
    sieve.has_lost(2).await;
    all_end(&replicas[0], &ids(&tasks)).await;
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    judge(&marks(scene.dir()), &ids(&tasks), Starts::Once, &BTreeSet::new());
    drop(runner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_that_never_arrives_is_asked_back_and_given_to_another() {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let sieve = Sieve::to(&broker.url()).await;
    let deaf = scene.runner("r1", sieve.url());
    runners_ready(&replicas[0], 1).await;
    // Only assignments are lost: what asks them back goes through.
    sieve.rule(|passing| {
        let assigns = passing.way == Way::ToClient && passing.subject == "longshore.assign.r1";
        if assigns && passing.says("\"deadline\"") { Fate::Lost } else { Fate::Passes }
    });
    let connection = connect(&broker.url()).await;
    let tasks = scene.tasks("t", 3);
    publish(&connection.jetstream, JOBS, &json!({"tasks": tasks})).await;
    sieve.has_lost(1).await;
    let near = scene.runner("r2", &broker.url());
    all_end(&replicas[0], &ids(&tasks)).await;
    let told = marks(scene.dir());
    assert!(told.iter().all(|mark| mark.runner == near.id()), "{told:?}");
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    judge(&told, &ids(&tasks), Starts::Once, &BTreeSet::new());
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_is_not_taken_from_a_runner_that_has_not_answered() {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let mut silent = Puppet::join(&broker.url(), "r1").await;
    let connection = connect(&broker.url()).await;
    publish(&connection.jetstream, JOBS, &json!({"id": "t0", "spec": {"command": ["true"]}})).await;
    let first = silent.assigned("t0").await;
    let mut other = Puppet::join(&broker.url(), "r2").await;
    let stop = silent.asked_to_stop("t0").await;
    assert_eq!(stop["token"], first["token"]);
    // It says nothing of it and is alive: it may have the task for all we know.
    for _ in 0..4 {
        silent.beat(&[]).await;
        other.beat(&[]).await;
        let task = replicas[0].get("/v1/tasks/t0").await.expect("it is known");
        assert_eq!((&task["state"], &task["runner"]), (&json!("assigned"), &json!("r1")), "{task}");
        assert_eq!(silent.asked_to_stop("t0").await["token"], first["token"], "it is asked again");
    }
    silent.ended(&first, "refused").await;
    let second = other.assigned("t0").await;
    assert_ne!(second["token"], first["token"]);
    other.started(&second).await;
    other.ended(&second, "succeeded").await;
    silent.ended(&first, "failed").await;
    let task = replicas[1].has("t0", "ended").await;
    assert_eq!((&task["outcome"], &task["runner"]), (&json!("succeeded"), &json!("r2")), "{task}");
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    history_tells_all(&connection, &BTreeSet::from(["t0".to_owned()])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_are_lost_are_sent_again() {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let replicas = scene.replicas(&broker.url(), 2).await;
    let sieve = Sieve::to(&broker.url()).await;
    let runner = scene.runner("r1", sieve.url());
    runners_ready(&replicas[0], 1).await;
    let (mut starts, mut ends) = (1, 1);
    sieve.rule(move |passing| {
        let left = match passing.subject {
            _ if passing.way == Way::ToClient => return Fate::Passes,
            "longshore.job.start.r1" => &mut starts,
            "longshore.job.end.r1" => &mut ends,
            _ => return Fate::Passes,
        };
        let hit = *left > 0;
        *left -= usize::from(hit);
        if hit { Fate::Lost } else { Fate::Passes }
    });
    let connection = connect(&broker.url()).await;
    let tasks = vec![scene.task("t0", 10), scene.task("t1", 25)];
    publish(&connection.jetstream, JOBS, &json!({"tasks": tasks})).await;
    sieve.has_lost(2).await;
    all_end(&replicas[0], &ids(&tasks)).await;
    agree_and_are_drained(&[&replicas[0], &replicas[1]], &connection).await;
    judge(&marks(scene.dir()), &ids(&tasks), Starts::Once, &BTreeSet::new());
    history_tells_all(&connection, &ids(&tasks)).await;
    drop(runner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_the_stream_has_counts_though_runner_and_leader_die() {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let mut replicas = scene.replicas(&broker.url(), 2).await;
    let mut runner = Puppet::join(&broker.url(), "r1").await;
    let connection = connect(&broker.url()).await;
    let body = json!({"tasks": [{"id": "t0", "spec": {"command": ["true"]}}]});
    publish(&connection.jetstream, JOBS, &body).await;
    let assignment = runner.assigned("t0").await;
    runner.started(&assignment).await;
    replicas[1].has("t0", "running").await;
    // The leader hears nothing any more, then the end is in the stream, then both are gone.
    let leader = replicas.remove(0);
    leader.process.pause();
    runner.ended(&assignment, "succeeded").await;
    leader.process.kill();
    drop(runner);
    let mut other = Puppet::join(&broker.url(), "r2").await;
    let task = replicas[0].has("t0", "ended").await;
    assert_eq!((&task["outcome"], &task["attempt"]), (&json!("succeeded"), &json!(1)), "{task}");
    assert_eq!(task["token"], assignment["token"]);
    assert!(other.hears_nothing(Duration::from_secs(1)).await, "nobody gets it again");
    agree_and_are_drained(&[&replicas[0]], &connection).await;
    history_tells_all(&connection, &BTreeSet::from(["t0".to_owned()])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_the_stream_has_counts_though_the_lease_is_long_over() {
    let broker = Broker::start();
    let scene = Scene::with_short_leases();
    let replica = scene.replicas(&broker.url(), 1).await.remove(0);
    let mut runner = Puppet::join(&broker.url(), "r1").await;
    let connection = connect(&broker.url()).await;
    let body = json!({"tasks": [{"id": "t0", "spec": {"command": ["true"]}}]});
    publish(&connection.jetstream, JOBS, &body).await;
    let assignment = runner.assigned("t0").await;
    runner.started(&assignment).await;
    replica.has("t0", "running").await;
    // The only leader sleeps for longer than lease and margin; the end came when nobody read.
    replica.process.pause();
    runner.ended(&assignment, "succeeded").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    replica.process.resume();
    let task = replica.has("t0", "ended").await;
    assert_eq!((&task["outcome"], &task["attempt"]), (&json!("succeeded"), &json!(1)), "{task}");
}
