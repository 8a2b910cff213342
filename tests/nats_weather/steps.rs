//! Scenario 34: the leader is killed between every two steps of a turn. Nothing is lost, nothing is done twice,
//! and the next assignment comes within the take-over time.
//!
//! Each step leaves something on the wire. The wire stands still before it, and the leader is killed there.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::judge::{Starts, agree_and_are_drained, all_end, history_tells_all, judge, marks};
use super::pool::{Replica, Scene, TAKE_OVER, connect, runners_ready, until_within};
use super::producer::{JOBS, ids, publish};
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

/// What the turn is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// A task was submitted, and is assigned at once.
    Submission,
    /// A task has ended, and the one that waits for its place is assigned.
    End,
}

impl News {
    /// A word in the subject the news comes on, and one in the turn that takes them in.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            News::Submission => (".pending.", "\"assigned\""),
            News::End => (".end.", "\"succeeded\""),
        }
    }

    fn acknowledged_on(self) -> &'static str {
        match self {
            News::Submission => "$JS.ACK.LONGSHORE_SUBMIT.",
            News::End => "$JS.ACK.LONGSHORE_REPORT.",
        }
    }
}

/// Holds the wire at a step of the turn that takes in the news of task `id`.
fn hold_at(step: Step, news: News, id: String) -> impl FnMut(&Passing<'_>) -> Fate + Send {
    let (mut answer, mut stored, mut acknowledged) = (None::<String>, false, false);
    let (comes_on, turns) = news.words();
    move |passing| {
        let to = |prefix: &str| passing.way == Way::ToServer && passing.subject.starts_with(prefix);
        let is_turn = to("$KV.longshore.turn.") && passing.says(&format!("\"{id}\"")) && passing.says(turns);
        let is_answer = passing.way == Way::ToClient && answer.as_deref() == Some(passing.subject);
        let is_input =
            passing.way == Way::ToClient && passing.says(&id) && passing.subject.contains(comes_on);
        let acknowledges = stored && to(news.acknowledged_on());
        let hit = match step {
            Step::Taken => is_input,
            Step::Decided => is_turn,
            Step::Stored => is_answer,
            Step::Told => stored && to("longshore.assign."),
            Step::Sent => stored && (to("longshore.event.") || to("longshore.history")),
            Step::Reported => acknowledges,
            Step::Acknowledged => acknowledged,
        };
        if hit {
            return Fate::Held;
        }
        if is_turn && answer.is_none() {
            answer = passing.reply.map(str::to_owned);
        }
        stored |= is_answer;
        acknowledged |= acknowledges;
        Fate::Passes
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_between_every_two_steps_of_a_turn_that_takes_a_submission() {
    killed_between_steps(News::Submission).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_between_every_two_steps_of_a_turn_that_takes_an_end() {
    killed_between_steps(News::End).await;
}

async fn killed_between_steps(news: News) {
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
        let (id, next) = (format!("first-{step:?}"), format!("next-{step:?}"));
        other.follows().await;
        victim.1.rule(hold_at(step, news, id.clone()));
        let mut tasks = vec![scene.task(&id, 3), scene.task(&next, 1)];
        if news == News::Submission {
            tasks.remove(1);
        }
        // Each takes the whole runner.
        tasks.iter_mut().for_each(|task| task["resources"]["cpu"] = json!(4));
        publish(&connection.jetstream, JOBS, &json!({"tasks": tasks})).await;
        acknowledged.extend(ids(&tasks));
        victim.1.is_held().await;
        victim.0.process.kill();
        let next = if news == News::Submission { id } else { next };
        // The take-over, and as long again for what was pulled to come back, at most.
        let limit = TAKE_OVER * 2 + Duration::from_secs(1);
        until_within(limit, &format!("{next} starts"), async || {
            marks(scene.dir()).iter().any(|mark| mark.id == next && mark.word == "start").then_some(())
        })
        .await;
        other.leads().await;
        // The next victim leads once the other one stops; what was done so far is its to remember.
        victim = behind_a_sieve(&scene, &broker).await;
        victim.0.follows().await;
        all_end(&victim.0, &acknowledged).await;
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
