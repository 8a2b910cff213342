//! Work is started once, under its token, within the slots, and its end is told as it was.

use crate::conform::dispatcher::Heard;
use crate::conform::marks::Work;
use crate::conform::scene::{SOON, Scene, Task};
use crate::conform::{Broken, Told, ensure};
use crate::model::{AttemptOutcome, End, Reported};

/// The most tasks given out at once.
const MOST: usize = 8;

pub async fn work(scene: &mut Scene) -> Told {
    let registration = scene.begin().await?;
    let good = scene.assign("good", Work::of_beats(2));
    let end = scene.end(&good, SOON).await?;
    is(&good, &end, AttemptOutcome::Succeeded, 0)?;
    was_told(scene, &good, &registration.incarnation)?;
    let bad = scene.assign("bad", Work::of_beats(1).exits(3));
    let end = scene.end(&bad, SOON).await?;
    is(&bad, &end, AttemptOutcome::Failed, 3)?;
    was_told(scene, &bad, &registration.incarnation)?;
    Ok("exit code 0 as succeeded, 3 as failed; start before end".to_owned())
}

/// The end is of this outcome, with the exit code if it has one.
pub fn is(task: &Task, end: &End, outcome: AttemptOutcome, code: i32) -> Result<(), Broken> {
    let expected = format!("{} to end {} with exit code {code}", task.held.id, outcome.as_str());
    let seen = match end.exit_code {
        Some(code) => format!("{} with exit code {code}", end.outcome.as_str()),
        None => format!("{} without one", end.outcome.as_str()),
    };
    ensure(end.outcome == outcome && end.exit_code == Some(code), expected, seen)
}

/// It started once, was told its token, and both words were said in order by the right incarnation.
fn was_told(scene: &Scene, task: &Task, incarnation: &str) -> Result<(), Broken> {
    let (id, token) = (&task.held.id, task.held.token);
    let starts = task.marks.seen().starts;
    let expected = format!("{id} to start once, with LONGSHORE_TOKEN={token}");
    ensure(starts == [token.to_string()], expected, format!("starts with {starts:?}"))?;
    scene.dispatcher.heard(|heard| {
        let reports: Vec<_> = heard.iter().filter_map(Heard::report).filter(|said| said.id == *id).collect();
        let foreign = reports.iter().find(|said| said.token != token || *said.incarnation != *incarnation);
        if let Some(said) = foreign {
            let expected = format!("reports of {id} under token {token} by incarnation {incarnation}");
            return Err(Broken::new(
                expected,
                format!("token {}, incarnation {}", said.token, said.incarnation),
            ));
        }
        let start_first = reports.first().is_some_and(|said| said.what == Reported::Start);
        ensure(start_first, format!("the start of {id} to be reported before its end"), "its end first")
    })
}

pub async fn doubled(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.task("doubled", Work::endless());
    scene.dispatcher.send_once(task.message.clone());
    scene.dispatcher.assign(task.message.clone());
    scene.until("doubled to start", SOON, |_| task.marks.started().then_some(())).await?;
    scene.dispatcher.send_once(task.message.clone());
    scene.is_not_started(&task, 1, "it came again").await?;
    task.marks.let_go();
    let end = scene.end(&task, SOON).await?;
    is(&task, &end, AttemptOutcome::Succeeded, 0)?;
    Ok("sent three times, started once".to_owned())
}

pub async fn over(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let task = scene.assign("over", Work::of_beats(1));
    scene.end(&task, SOON).await?;
    // At once, and when it knows that its report was taken: a later one came after it.
    for other in ["next", "last"] {
        scene.dispatcher.send_once(task.message.clone());
        // It takes what is there in the order it was sent.
        let other = scene.assign(other, Work::of_beats(1));
        scene.end(&other, SOON).await?;
    }
    scene.is_not_started(&task, 1, "it has ended under this token").await?;
    Ok("sent twice more after its end, not started again".to_owned())
}

pub async fn stale(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let token = scene.dispatcher.old_token();
    let task = scene.task_under("stale", 1, token, Work::of_beats(1));
    scene.dispatcher.send_once(task.message.clone());
    let next = scene.assign("next", Work::of_beats(1));
    scene.end(&next, SOON).await?;
    let why = "its token is older than the registration, whose answer does not list it";
    scene.is_not_started(&task, 0, why).await?;
    Ok(format!("token {token} not started, newer work done"))
}

pub async fn again(scene: &mut Scene) -> Told {
    scene.begin().await?;
    let first = scene.assign("again", Work::of_beats(1).exits(1));
    let end = scene.end(&first, SOON).await?;
    is(&first, &end, AttemptOutcome::Failed, 1)?;
    let token = scene.dispatcher.new_token();
    let second = scene.task_under("again", 2, token, Work::of_beats(1));
    scene.dispatcher.assign(second.message.clone());
    let end = scene.end(&second, SOON).await?;
    is(&second, &end, AttemptOutcome::Succeeded, 0)?;
    for attempt in [&first, &second] {
        let starts = attempt.marks.seen().starts.len();
        ensure(
            starts == 1,
            format!("attempt {} to start once", attempt.message.attempt),
            format!("{starts} starts"),
        )?;
    }
    Ok("the first attempt failed, the second succeeded, each under its token".to_owned())
}

pub async fn slots(scene: &mut Scene) -> Told {
    let slots = scene.begin().await?.offer.slots as usize;
    let at_once = slots.min(MOST);
    let tasks: Vec<Task> =
        (1..=at_once).map(|n| scene.assign(&format!("slot-{n}"), Work::endless())).collect();
    let all = |tasks: &[Task]| tasks.iter().all(|task| task.marks.started());
    scene
        .until(format!("{at_once} tasks at once on {slots} slots"), SOON, |_| all(&tasks).then_some(()))
        .await?;
    let mut seen = format!("{at_once} of {slots} slots at once");
    if at_once == slots {
        let more = scene.assign("one-more", Work::of_beats(1));
        scene.is_not_started(&more, 0, &format!("all {slots} slots are taken")).await?;
        tasks.iter().for_each(|task| task.marks.let_go());
        // Refused at once, or taken when there is room: both are right.
        let end = scene.end(&more, SOON).await?;
        let (ran, said) = (more.marks.started(), end.outcome);
        let honest = ran == (said == AttemptOutcome::Succeeded);
        ensure(
            honest,
            "one more to run when there is room, or to be refused",
            format!("{} unseen", said.as_str()),
        )?;
        seen = format!("{seen}, one more {}", if ran { "waited for room" } else { "was refused" });
    }
    for task in &tasks {
        task.marks.let_go();
        let end = scene.end(task, SOON).await?;
        is(task, &end, AttemptOutcome::Succeeded, 0)?;
    }
    Ok(seen)
}
