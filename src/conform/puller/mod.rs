//! The cases for pullers, by what they are about: work, and how things end.

pub mod ends;
pub mod work;

use super::Broken;
use super::marks::Work;
use super::scene::{SOON, Scene, Task};
use crate::model::{AttemptOutcome, LeaseWord};

/// Puts work on the counter.
fn put(scene: &Scene, name: &str, work: Work) -> Task {
    let task = scene.task(name, work);
    scene.counter.put(task.message.clone());
    task
}

/// Puts work on the counter and waits until it was begun and runs.
async fn runs(scene: &mut Scene, name: &str, work: Work) -> Result<Task, Broken> {
    let task = put(scene, name, work);
    let (counter, id) = (scene.counter.clone(), task.held.id.clone());
    let begun = move || {
        counter.heard(|said| {
            said.iter().any(|said| said.status == 200 && said.of(&id) == Some(&LeaseWord::Start))
        })
    };
    scene
        .until(format!("{name} to start"), SOON, |_| (begun() && task.marks.started()).then_some(()))
        .await?;
    Ok(task)
}

/// Waits for the end of `task` to be taken: its outcome and its exit code.
async fn end(scene: &mut Scene, task: &Task) -> Result<(AttemptOutcome, Option<i32>), Broken> {
    let (counter, id) = (scene.counter.clone(), task.held.id.clone());
    let ack = || {
        counter.heard(|said| said.iter().filter(|said| said.status == 200).find_map(|said| said.ack_of(&id)))
    };
    let within = SOON + scene.counter.lease();
    scene.until(format!("the end of {id}"), within, |_| ack()).await
}

/// Puts work on the counter that must be done like any other.
async fn works_on(scene: &mut Scene) -> Result<(), Broken> {
    let next = put(scene, "next", Work::of_beats(1));
    let (outcome, _) = end(scene, &next).await?;
    super::ensure(outcome == AttemptOutcome::Succeeded, "the next task to succeed", outcome.as_str())
}
