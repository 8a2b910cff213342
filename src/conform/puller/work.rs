//! What is pulled is started when it may be, kept as long as it takes, and its end told as it was.

use std::time::Duration;

use tokio::time::sleep;

use super::{end, put, runs, works_on};
use crate::conform::counter::Asked;
use crate::conform::dispatcher::Weather;
use crate::conform::marks::Work;
use crate::conform::scene::{SOON, Scene};
use crate::conform::{Told, ensure};
use crate::model::{AttemptOutcome, LeaseWord};

/// How long nobody listens at the start.
const BAD_START: Duration = Duration::from_millis(1_500);
/// What `Retry-After` says, in seconds.
const EMPTY_FOR: u64 = 2;
/// A puller that sleeps as long as it was told may wake a little early by its own clock.
const EARLY: Duration = Duration::from_millis(50);

async fn begin(scene: &mut Scene) -> Result<(), crate::conform::Broken> {
    scene.open().await?;
    scene.start()
}

pub async fn work(scene: &mut Scene) -> Told {
    begin(scene).await?;
    let good = put(scene, "good", Work::of_beats(2));
    let (outcome, _) = end(scene, &good).await?;
    ensure(outcome == AttemptOutcome::Succeeded, "exit code 0 to be succeeded", outcome.as_str())?;
    let bad = put(scene, "bad", Work::of_beats(1).exits(3));
    let (outcome, code) = end(scene, &bad).await?;
    let seen = format!("{} with exit code {code:?}", outcome.as_str());
    ensure(outcome == AttemptOutcome::Failed && code == Some(3), "exit code 3 to be failed with it", seen)?;
    for task in [&good, &bad] {
        let seen = task.marks.seen();
        let marks = format!("{} starts and {} ends", seen.starts.len(), seen.ends);
        ensure((seen.starts.len(), seen.ends) == (1, 1), "work to run once, to its end", marks)?;
        let begun = scene.counter.heard(|said| {
            let of_it = |word: &LeaseWord| matches!(word, LeaseWord::Start);
            said.iter().any(|said| said.of(&task.held.id).is_some_and(of_it))
        });
        ensure(begun, "its start to be said", "no start")?;
    }
    Ok("exit code 0 as succeeded, 3 as failed; started, run once, its end said".to_owned())
}

pub async fn empty(scene: &mut Scene) -> Told {
    scene.counter.is_empty_for(Some(EMPTY_FOR));
    begin(scene).await?;
    let counter = scene.counter.clone();
    let pulls = || {
        counter.heard(|said| {
            let empty =
                said.iter().filter(|said| matches!(said.asked, Asked::Pulled(_)) && said.status == 204);
            empty.map(|said| said.at).collect::<Vec<_>>()
        })
    };
    let pulls = scene.until("three pulls", SOON, |_| Some(pulls()).filter(|pulls| pulls.len() >= 3)).await?;
    let shortest = pulls.windows(2).map(|two| two[1] - two[0]).min().expect("three pulls have two pauses");
    let asked = Duration::from_secs(EMPTY_FOR);
    ensure(
        shortest + EARLY >= asked,
        format!("{asked:?} between pulls, as Retry-After says"),
        format!("{shortest:?}"),
    )?;
    scene.counter.is_empty_for(None);
    works_on(scene).await?;
    Ok(format!("{shortest:.1?} between pulls where Retry-After said {EMPTY_FOR}"))
}

pub async fn refused_start(scene: &mut Scene) -> Told {
    scene.counter.answers(Some(("start", 409)));
    begin(scene).await?;
    let task = put(scene, "not-mine", Work::of_beats(1));
    let (counter, id) = (scene.counter.clone(), task.held.id.clone());
    let refused = || {
        counter.heard(|said| {
            said.iter().any(|said| said.status == 409 && said.of(&id) == Some(&LeaseWord::Start))
        })
    };
    scene.until("it to say that it starts", SOON, |_| refused().then_some(())).await?;
    scene.counter.takes_away(&task.held.id);
    scene.is_not_started(&task, 0, "its start was answered 409").await?;
    scene.counter.answers(None);
    works_on(scene).await?;
    Ok("start answered 409: not begun; pulled on".to_owned())
}

pub async fn long(scene: &mut Scene) -> Told {
    begin(scene).await?;
    let task = runs(scene, "long", Work::endless()).await?;
    let lease = scene.counter.lease();
    // Time passing is what this is about: more than two leases.
    sleep(lease * 9 / 4).await;
    task.marks.let_go();
    let (outcome, _) = end(scene, &task).await?;
    ensure(outcome == AttemptOutcome::Succeeded, "long work to succeed", outcome.as_str())?;
    let starts = task.marks.seen().starts.len();
    ensure(starts == 1, "it to start once", format!("{starts} starts"))?;
    let extended = scene
        .counter
        .heard(|said| said.iter().filter(|said| said.of(&task.held.id) == Some(&LeaseWord::Extend)).count());
    Ok(format!("kept through more than two leases of {lease:?} by {extended} extensions"))
}

pub async fn late_end(scene: &mut Scene) -> Told {
    begin(scene).await?;
    scene.counter.answers(Some(("ack", 410)));
    let task = put(scene, "late", Work::of_beats(1));
    let (counter, id) = (scene.counter.clone(), task.held.id.clone());
    let acks = || counter.heard(|said| said.iter().filter(|said| said.ack_of(&id).is_some()).count());
    scene.until("it to say its end", SOON, |_| (acks() > 0).then_some(())).await?;
    scene.counter.takes_away(&task.held.id);
    scene.counter.answers(None);
    works_on(scene).await?;
    let (said, starts) = (acks(), task.marks.seen().starts.len());
    ensure(said == 1, "an end that is answered 410 to be said once", format!("said {said} times"))?;
    ensure(starts == 1, "its work to run once", format!("{starts} starts"))?;
    Ok("its end was answered 410: let go; pulled on".to_owned())
}

pub async fn forgotten(scene: &mut Scene) -> Told {
    begin(scene).await?;
    works_on(scene).await?;
    scene.counter.forgets();
    let task = put(scene, "later", Work::of_beats(1));
    let (outcome, _) = end(scene, &task).await?;
    ensure(outcome == AttemptOutcome::Succeeded, "work to go on", outcome.as_str())?;
    Ok("answered 404, it subscribed again and pulled on".to_owned())
}

pub async fn slow_start(scene: &mut Scene) -> Told {
    // Time passing is what this is about: nobody listens, then somebody who takes nothing.
    scene.start()?;
    sleep(BAD_START).await;
    scene.counter.turns(Weather::Away);
    scene.open().await?;
    let counter = scene.counter.clone();
    let tries = || counter.heard(|said| said.iter().filter(|said| said.status == 0).count());
    scene.until("to try again after it was put off", SOON, |_| (tries() >= 2).then_some(())).await?;
    scene.counter.turns(Weather::Fair);
    works_on(scene).await?;
    Ok(format!("nobody there for {BAD_START:?}, then put off: tried again, and worked"))
}
