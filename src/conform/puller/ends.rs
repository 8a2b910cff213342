//! How things end: leases that are over, work that is to be stopped, pullers that are asked to end, or killed.

use super::{end, put, runs, works_on};
use crate::conform::counter::{Asked, Said};
use crate::conform::dispatcher::Weather;
use crate::conform::marks::{Work, time_of_day};
use crate::conform::scene::{SOON, Scene, Task};
use crate::conform::{Broken, Told, ensure};
use crate::model::{AttemptOutcome, Id, LeaseWord};

async fn begin(scene: &mut Scene) -> Result<Task, Broken> {
    scene.open().await?;
    scene.start()?;
    runs(scene, "first", Work::endless().in_a_child()).await
}

/// Nobody said that it succeeded.
fn was_not_claimed(scene: &Scene, task: &Task) -> Result<(), Broken> {
    let claimed = scene.counter.heard(|said| {
        let mut ends = said.iter().filter_map(|said| said.ack_of(&task.held.id));
        ends.any(|(outcome, _)| outcome == AttemptOutcome::Succeeded)
    });
    ensure(!claimed, "work that was cut off not to have succeeded", "an end that says succeeded")
}

pub async fn lease(scene: &mut Scene) -> Told {
    let task = begin(scene).await?;
    scene.counter.turns(Weather::Silent);
    let (silent, over) = (time_of_day(), scene.counter.over_at(&task.held.id));
    let early = scene.is_dead_by(&task.marks, over, "before its lease was over").await?;
    ensure(
        task.marks.seen().last > silent,
        "the work to go on under its lease",
        "no mark after the last answer",
    )?;
    scene.counter.takes_away(&task.held.id);
    scene.counter.turns(Weather::Fair);
    works_on(scene).await?;
    was_not_claimed(scene, &task)?;
    Ok(format!("dead {early:.1?} before the lease was over, pulled on"))
}

pub async fn taken_away(scene: &mut Scene) -> Told {
    let task = begin(scene).await?;
    let over = scene.counter.over_at(&task.held.id);
    scene.counter.takes_away(&task.held.id);
    let early =
        scene.is_dead_by(&task.marks, over, "when its lease, which was answered 410, was over").await?;
    works_on(scene).await?;
    was_not_claimed(scene, &task)?;
    Ok(format!("answered 410: dead {early:.1?} before the lease would have been over, pulled on"))
}

pub async fn stop(scene: &mut Scene) -> Told {
    let task = begin(scene).await?;
    scene.counter.stops(&task.held.id);
    let (counter, id) = (scene.counter.clone(), task.held.id.clone());
    let within = scene.counter.lease() + scene.settings.grace + SOON;
    let said = scene
        .until("the end of its work to be said", within, |_| {
            counter.heard(|said| said.iter().find(|said| is_last(said, &id)).cloned())
        })
        .await?;
    scene.is_dead_by(&task.marks, said.at, "when its end was said").await?;
    was_not_claimed(scene, &task)?;
    works_on(scene).await?;
    Ok("its work was stopped, its end said, pulled on".to_owned())
}

/// Whether it is the last word about the lease of `task`, and was taken.
fn is_last(said: &Said, task: &Id) -> bool {
    said.status == 200 && matches!(said.of(task), Some(LeaseWord::Ack { .. } | LeaseWord::Nack { .. }))
}

pub async fn leave(scene: &mut Scene) -> Told {
    let task = begin(scene).await?;
    scene.program().terminate();
    scene.exit(scene.settings.grace + SOON).await?;
    let gone = time_of_day();
    scene.is_dead_by(&task.marks, gone, "when the puller had exited").await?;
    let left = scene.processes();
    ensure(left == 0, "nothing of it to be left", format!("{left} processes"))?;
    let given_back = scene.counter.heard(|said| said.iter().any(|said| is_last(said, &task.held.id)));
    ensure(given_back, "its task to be given back, or its end said", scene.counter.told())?;
    was_not_claimed(scene, &task)?;
    Ok("ended its work, gave the task back, exited".to_owned())
}

pub async fn killed(scene: &mut Scene) -> Told {
    let task = begin(scene).await?;
    scene.kill().await;
    let over = scene.counter.over_at(&task.held.id);
    let early = scene.is_dead_by(&task.marks, over, "before its lease was over").await?;
    Ok(format!("dead {early:.1?} before the lease was over"))
}

pub async fn restart(scene: &mut Scene) -> Told {
    scene.open().await?;
    scene.counter.answers(Some(("start", 503)));
    let task = put(scene, "first", Work::of_beats(2));
    scene.start()?;
    let (counter, id) = (scene.counter.clone(), task.held.id.clone());
    let tried = || counter.heard(|said| said.iter().any(|said| said.of(&id) == Some(&LeaseWord::Start)));
    scene.until("it to say that it starts", SOON, |_| tried().then_some(())).await?;
    scene.kill().await;
    let before = scene.counter.heard(|said| said.len());
    scene.counter.answers(None);
    scene.start()?;
    let (outcome, _) = end(scene, &task).await?;
    ensure(outcome == AttemptOutcome::Succeeded, "the task to succeed", outcome.as_str())?;
    let names = scene.counter.heard(|said| {
        let named = |said: &[Said]| {
            let name = |said: &Said| match &said.asked {
                Asked::Pulled(name) => Some(name.clone()),
                _ => None,
            };
            said.iter().rev().find_map(name).flatten()
        };
        (named(&said[..before]), named(&said[before..]))
    });
    let seen = format!("{:?}, then {:?}", names.0, names.1);
    ensure(names.0.is_some() && names.0 == names.1, "it to pull under the same name", seen)?;
    let starts = task.marks.seen().starts.len();
    ensure(starts == 1, "its work to run once", format!("{starts} starts"))?;
    Ok("killed before its start was taken; got the task again under its name, ran it once".to_owned())
}
