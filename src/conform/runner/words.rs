//! Words of other versions: fields that came later, payloads and protocols that are not understood.

use super::work::is;
use crate::conform::dispatcher::{Heard, Weather};
use crate::conform::marks::Work;
use crate::conform::scene::{SOON, Scene};
use crate::conform::{Told, ensure};
use crate::model::AttemptOutcome;
use crate::wire::refusal::{MALFORMED, Refusal};

/// The most registrations of a runner that is refused for good.
const MOST_TRIES: usize = 20;

pub async fn unknown_fields(scene: &mut Scene) -> Told {
    scene.dispatcher.adorns();
    scene.begin().await?;
    let task = scene.assign("adorned", Work::of_beats(1));
    let end = scene.end(&task, SOON).await?;
    is(&task, &end, AttemptOutcome::Succeeded, 0)?;
    let task = scene.runs("stopped", Work::endless()).await?;
    scene.dispatcher.stop(&task.held);
    let end = scene.end(&task, SOON + scene.settings.grace).await?;
    ensure(end.outcome == AttemptOutcome::Cancelled, "a stop to be understood", end.outcome.as_str())?;
    Ok("took work and a stop with fields of a later version".to_owned())
}

pub async fn version(scene: &mut Scene) -> Told {
    scene.begin().await?;
    scene.dispatcher.speaks(Some(2));
    let task = scene.assign("later", Work::of_beats(1));
    let token = task.held.token;
    scene.until("it to ask for work", SOON, |dispatcher| dispatcher.has_sent(token).then_some(())).await?;
    scene.is_not_started(&task, 0, "it came in a payload with \"v\": 2").await?;
    scene.dispatcher.speaks(None);
    let end = scene.end(&task, SOON).await?;
    is(&task, &end, AttemptOutcome::Succeeded, 0)?;
    Ok("not started from a payload with \"v\": 2, started from one without".to_owned())
}

pub async fn refused(scene: &mut Scene) -> Told {
    let why = "field \"protocol\" (1): this version speaks protocol 2 only";
    scene.weather(Weather::Refusing(Refusal::new(MALFORMED, why)));
    scene.open().await?;
    scene.start()?;
    let status = scene.exit(SOON).await?;
    let tries = scene.dispatcher.heard(|heard| heard.iter().filter_map(Heard::registration).count());
    ensure((1..=MOST_TRIES).contains(&tries), "a registration or a few", format!("{tries} registrations"))?;
    ensure(!status.success(), "it to fail", status)?;
    let said = scene.program().last_line();
    ensure(
        said.contains("protocol 2"),
        "it to write why it was refused",
        format!("{said:?} as its last words"),
    )?;
    Ok(format!("ended with {status}, saying why"))
}
