//! The lease and the dispatcher's weather: silence, being asked to register, results that are not taken yet, a late
//! dispatcher.

use std::time::Duration;

use tokio::time::sleep;

use super::work::is;
use crate::conform::dispatcher::{Heard, Weather, Word};
use crate::conform::marks::{Work, time_of_day};
use crate::conform::scene::{SOON, Scene};
use crate::conform::{Told, ensure};
use crate::model::AttemptOutcome;

/// How long nobody listens at the start.
const BAD_START: Duration = Duration::from_millis(1_500);

pub async fn lease(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let lost = scene.runs("lost", Work::endless().in_a_child()).await?;
    scene.weather(Weather::Silent);
    let (silent, over) = (time_of_day(), scene.lease_over());
    let early = scene.is_dead_by(&lost.marks, over, "before its lease was over").await?;
    ensure(
        lost.marks.seen().last > silent,
        "the work to go on under its lease",
        "no mark after the last answer",
    )?;

    let before = scene.dispatcher.heard(|heard| heard.len());
    scene.dispatcher.gives_up(lost.held.token);
    scene.weather(Weather::Fair);
    scene
        .until("to register again when there are answers again", SOON, |dispatcher| {
            dispatcher
                .heard(|heard| heard[before..].iter().any(|said| said.taken && said.registration().is_some()))
                .then_some(())
        })
        .await?;
    let next = scene.assign("next", Work::of_beats(1));
    let end = scene.end(&next, SOON).await?;
    is(&next, &end, AttemptOutcome::Succeeded, 0)?;
    let token = lost.held.token;
    let claimed = scene.dispatcher.heard(|heard| {
        heard.iter().filter_map(|said| said.end_of(token)).any(|end| end.outcome == AttemptOutcome::Succeeded)
    });
    ensure(!claimed, "work that was cut off not to have succeeded", "its end reported as succeeded")?;
    Ok(format!("dead {early:.1?} before the lease was over, registered again, worked on"))
}

pub async fn register(scene: &mut Scene) -> Told {
    let first = scene.begin().await?;
    let task = scene.runs("going-on", Work::endless()).await?;
    scene.dispatcher.asks_to_register();
    let second = scene.registration(2).await?;
    let seen = format!("incarnation {}, then {}", first.incarnation, second.incarnation);
    ensure(first.incarnation == second.incarnation, "the same incarnation to register again", seen)?;
    let seen = format!("{:?} as running", second.running);
    ensure(second.running.contains(&task.held), "it to list what it runs", seen)?;
    let beats = task.marks.seen().beats;
    scene.until("its work to go on", SOON, |_| (task.marks.seen().beats > beats + 3).then_some(())).await?;
    task.marks.let_go();
    let end = scene.end(&task, SOON).await?;
    is(&task, &end, AttemptOutcome::Succeeded, 0)?;
    let starts = task.marks.seen().starts.len();
    ensure(starts == 1, "its work to have started once", format!("{starts} starts"))?;
    Ok("same incarnation, listed what runs, which went on to its end".to_owned())
}

pub async fn late_result(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.runs("late", Work::endless()).await?;
    scene.hears_reports(false).await?;
    task.marks.let_go();
    scene.until("its work to end", SOON, |_| (task.marks.seen().ends == 1).then_some(())).await?;
    let ended = task.marks.seen().last;
    let after = |heard: &Heard| matches!(heard.word, Word::Beat(_)) && heard.at > ended;
    scene
        .until("three heartbeats after the work's end", SOON, |dispatcher| {
            dispatcher.heard(|heard| heard.iter().filter(|heard| after(heard)).count() >= 3).then_some(())
        })
        .await?;
    let missing = scene.dispatcher.heard(|heard| {
        heard
            .iter()
            .filter(|heard| after(heard))
            .filter_map(Heard::listed)
            .any(|listed| !listed.contains(&task.held))
    });
    ensure(!missing, "it to be listed as running until its end is taken", "a heartbeat without it")?;
    scene.hears_reports(true).await?;
    let end = scene.end(&task, SOON).await?;
    is(&task, &end, AttemptOutcome::Succeeded, 0)?;
    scene
        .until("a heartbeat that lists it no more", SOON, |dispatcher| {
            dispatcher
                .heard(|heard| {
                    heard.last().and_then(Heard::listed).is_some_and(|all| !all.contains(&task.held))
                })
                .then_some(())
        })
        .await?;
    Ok("listed until its end was taken, and not after".to_owned())
}

pub async fn slow_start(scene: &mut Scene) -> Told {
    // Time passing is what this is about: nobody listens, then somebody who takes nothing.
    scene.start()?;
    sleep(BAD_START).await;
    scene.weather(Weather::Away);
    scene.open().await?;
    let tries = |heard: &[Heard]| heard.iter().filter_map(Heard::registration).count();
    scene
        .until("to try again after it was put off", SOON, |dispatcher| {
            (dispatcher.heard(tries) >= 2).then_some(())
        })
        .await?;
    scene.weather(Weather::Fair);
    scene.registration(1).await?;
    let task = scene.assign("first", Work::of_beats(1));
    let end = scene.end(&task, SOON).await?;
    is(&task, &end, AttemptOutcome::Succeeded, 0)?;
    Ok(format!("nobody there for {BAD_START:?}, then put off: tried again, and worked"))
}
