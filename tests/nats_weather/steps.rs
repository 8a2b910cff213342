//! Scenario 34: the leader is killed between every two steps of a turn. Nothing is lost, nothing is done twice,
//! and the next assignment comes within the take-over time.
//!
//! Each step leaves something on the wire. The wire stands still before it, and the leader is killed there.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::judge::{Starts, agree_and_are_drained, all_end, history_tells_all, judge, marks};
use super::pool::{Replica, Scene, TAKE_OVER, connect, runners_ready, until, until_within};
use super::producer::{JOBS, publish};
use super::sieve::{Fate, Passing, Sieve, Way};
use crate::broker::Broker;

/// Where in a turn the leader dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The inputs are taken, nothing is decided.
    Taken,
    /// The turn is decided and was not sent.
    Decided,
    /// The turn is stored, and the leader was not told.
    Stored,
    /// It was told, and has sent no assignment.
    Told,
    /// Assignments are sent, facts are not.
    Sent,
    /// Facts are told, inputs are not acknowledged.
    Reported,
    /// Inputs are acknowledged.
    Acknowledged,
}

const STEPS: [Step; 7] =
    [Step::Taken, Step::Decided, Step::Stored, Step::Told, Step::Sent, Step::Reported, Step::Acknowledged];

/// Holds the wire at a step of the turn that takes in the news of task `id`.
fn hold_at(step: Step, id: String) -> impl FnMut(&Passing<'_>) -> Fate + Send {
    let (mut answer, mut stored, mut acknowledged) = (None::<String>, false, false);
    move |passing| {
        let to = |prefix: &str| passing.way == Way::ToServer && passing.subject.starts_with(prefix);
        let is_turn = to("$KV.longshore.turn.") && passing.says(&format!("\"{id}\""));
        let is_answer = passing.way == Way::ToClient && answer.as_deref() == Some(passing.subject);
        let is_input =
            passing.way == Way::ToClient && passing.subject.contains(".pending.") && passing.says(&id);
        let hit = match step {
            Step::Taken => is_input,
            Step::Decided => is_turn,
            Step::Stored => is_answer,
            Step::Told => stored && to("longshore.assign."),
            Step::Sent => stored && (to("longshore.event.") || to("longshore.history")),
            Step::Reported => stored && to("$JS.ACK.LONGSHORE_SUBMIT."),
            Step::Acknowledged => acknowledged,
        };
        if hit {
            return Fate::Held;
        }
        if is_turn && answer.is_none() {
            answer = passing.reply.map(str::to_owned);
        }
        stored |= is_answer;
        acknowledged |= stored && to("$JS.ACK.LONGSHORE_SUBMIT.");
        Fate::Passes
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_between_every_two_steps_of_a_turn() {
    let broker = Broker::start();
    let scene = Scene::new();
    let connection = connect(&broker.url()).await;
    let mut victim = behind_a_sieve(&scene, &broker).await;
    victim.0.leads().await;
    let mut other = scene.replica(&broker.url());
    let runner = scene.runner("r1", &broker.url());
    runners_ready(&victim.0, 1).await;
    let mut acknowledged = BTreeSet::new();
    for step in STEPS {
        let id = format!("task-{step:?}");
        other.follows().await;
        victim.1.rule(hold_at(step, id.clone()));
        publish(&connection.jetstream, JOBS, &json!({"tasks": [scene.task(&id, 1)]})).await;
        acknowledged.insert(id.clone());
        victim.1.is_held().await;
        victim.0.process.kill();
        // The take-over, and as long again for what was pulled to come back, at most.
        let limit = TAKE_OVER * 2 + Duration::from_secs(1);
        until_within(limit, &format!("{id} starts"), async || {
            marks(scene.dir()).iter().any(|mark| mark.id == id && mark.word == "start").then_some(())
        })
        .await;
        other.leads().await;
        // The next victim leads once the other one stops, and what was done so far is its to remember.
        victim = behind_a_sieve(&scene, &broker).await;
        victim.0.follows().await;
        until("it has followed", async || victim.0.get(&format!("/v1/tasks/{id}")).await).await;
        other.stop().await;
        victim.0.leads().await;
        other = scene.replica(&broker.url());
    }
    all_end(&other, &acknowledged).await;
    agree_and_are_drained(&[&victim.0, &other], &connection).await;
    judge(&marks(scene.dir()), &acknowledged, Starts::Once, &BTreeSet::new());
    history_tells_all(&connection, &acknowledged).await;
    drop(runner);
}

async fn behind_a_sieve(scene: &Scene, broker: &Broker) -> (Replica, Sieve) {
    let sieve = Sieve::to(&broker.url()).await;
    (scene.replica(sieve.url()), sieve)
}
