//! How things end: work that is stopped, runners that are asked to end, or killed, or come back.

use std::time::Duration;

use super::work::is;
use crate::conform::dispatcher::Word;
use crate::conform::marks::{Work, time_of_day};
use crate::conform::scene::{SOON, Scene, Task};
use crate::conform::{Broken, Told, ensure};
use crate::model::{AttemptOutcome, Token};

/// How late after its grace an end may be reported.
const SLACK: Duration = Duration::from_secs(5);

pub async fn stop(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.runs("stopped", Work::endless()).await?;
    stops(scene, &task).await?;
    let heard_term = task.marks.seen().term;
    ensure(heard_term, "the work to be asked with TERM before it is killed", "no TERM")?;
    Ok("TERM to the work, reported cancelled".to_owned())
}

pub async fn stubborn(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.runs("stubborn", Work::endless().stubborn()).await?;
    let took = stops(scene, &task).await?;
    Ok(format!("ended {took:.1?} after the stop, with its child, reported cancelled"))
}

/// Stops a task, and says how long that took.
async fn stops(scene: &mut Scene, task: &Task) -> Result<Duration, Broken> {
    let asked = time_of_day();
    scene.dispatcher.stop(&task.held);
    let within = scene.settings.grace + SLACK + scene.settings.lease;
    let end = scene.end(task, within).await?;
    ensure(end.outcome == AttemptOutcome::Cancelled, "the end to be cancelled", end.outcome.as_str())?;
    let reported = end_reported(scene, task.held.token);
    scene.is_dead_by(&task.marks, reported, "when its end was reported").await?;
    Ok(reported - asked)
}

/// When the end under `token` was first reported.
fn end_reported(scene: &Scene, token: Token) -> Duration {
    scene.dispatcher.heard(|heard| {
        let end = heard.iter().find(|heard| heard.end_of(token).is_some());
        end.map_or(Duration::ZERO, |heard| heard.at)
    })
}

pub async fn unknown_stop(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.task("never", Work::of_beats(1));
    scene.dispatcher.stop(&task.held);
    let end = scene.end(&task, SOON).await?;
    ensure(
        end.outcome == AttemptOutcome::Handback,
        "a stop for what is not there answered by handback",
        end.outcome.as_str(),
    )?;
    scene.dispatcher.send_once(task.message.clone());
    let next = scene.assign("next", Work::of_beats(1));
    scene.end(&next, SOON).await?;
    scene.is_not_started(&task, 0, "it was handed back under this token").await?;
    Ok("answered by handback, and not started when its assignment came late".to_owned())
}

pub async fn leave(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.runs("returned", Work::endless().in_a_child()).await?;
    scene.program().terminate();
    scene.exit(scene.settings.grace + SOON).await?;
    let gone = time_of_day();
    let (token, id) = (task.held.token, task.held.id.clone());
    let (end, handed_back, left) = scene.dispatcher.heard(|heard| {
        let end = heard.iter().filter(|heard| heard.taken).find_map(|heard| heard.end_of(token)).cloned();
        let leave = heard.iter().rev().find_map(|heard| match &heard.word {
            Word::Left(leave) if heard.taken => Some(leave),
            _ => None,
        });
        (end, leave.is_some_and(|leave| leave.handback.contains(&id)), leave.is_some())
    });
    ensure(left, "it to leave before it exits", "no leave")?;
    let seen = end.as_ref().map_or("neither", |end| end.outcome.as_str());
    let honest = handed_back || end.as_ref().is_some_and(|end| end.outcome != AttemptOutcome::Succeeded);
    ensure(honest, "its work to be reported as ended, or handed back as it left", seen)?;
    scene.is_dead_by(&task.marks, gone, "when the runner had exited").await?;
    let left = scene.processes();
    ensure(left == 0, "nothing of it to be left", format!("{left} processes"))?;
    Ok(format!("{}, left, exited", end.map_or("handed back", |end| end.outcome.as_str())))
}

pub async fn killed(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.runs("orphan", Work::endless().in_a_child()).await?;
    scene.kill().await;
    let over = scene.lease_over();
    let early = scene.is_dead_by(&task.marks, over, "before its lease was over").await?;
    Ok(format!("dead {early:.1?} before the lease was over"))
}

pub async fn restart(scene: &mut Scene) -> Told {
    let first = scene.begin().await?;
    let task = scene.runs("again", Work::endless().in_a_child()).await?;
    scene.kill().await;
    scene.start()?;
    let second = scene.registration(2).await?;
    let seen = format!("{}, then {}", first.incarnation, second.incarnation);
    ensure(second.incarnation > first.incarnation, "a later incarnation, compared as text", seen)?;
    if second.running.contains(&task.held) {
        // It took its work over: then that goes on, once.
        task.marks.let_go();
        let end = scene.end(&task, SOON).await?;
        is(&task, &end, AttemptOutcome::Succeeded, 0)?;
        return started_once(&task, "took its work over, which went on to its end");
    }
    let registered = scene.dispatcher.heard(|heard| {
        heard
            .iter()
            .filter(|heard| heard.registration().is_some_and(|said| *said == second))
            .map(|heard| heard.at)
            .next()
    });
    let registered = registered.expect("it was heard just now");
    scene.is_dead_by(&task.marks, registered, "when the runner that does not list it registered").await?;
    let token = scene.dispatcher.new_token();
    let next = scene.task_under("again", 2, token, Work::of_beats(1));
    scene.dispatcher.assign(next.message.clone());
    let end = scene.end(&next, SOON).await?;
    is(&next, &end, AttemptOutcome::Succeeded, 0)?;
    started_once(&task, "")?;
    started_once(&next, "new incarnation, what ran before was dead, its next attempt ran")
}

fn started_once(task: &Task, seen: &str) -> Told {
    let starts = task.marks.seen().starts.len();
    ensure(
        starts == 1,
        format!("attempt {} to start once", task.message.attempt),
        format!("{starts} starts"),
    )?;
    Ok(seen.to_owned())
}
