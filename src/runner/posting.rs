//! Reports on their way: first made durable, then sent in packs, in order, until they are taken.
//!
//! Law: what must not be lost is in the outbox before it is sent, and nothing overtakes anything: a start waits for the
//! disk only behind what does. Both duties run beside the session's loop, so that neither a slow disk nor a slow
//! dispatcher can keep work from ending in time.
//!
//! What may be lost, that a report was taken above all, is written together with what may not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;

use super::link::{Link, LinkError};
use super::outbox::{Keep, Outbox, OutboxError};
use super::pause::Pause;
use super::session::Input;
use crate::model::{Report, RunnerId};

/// The most reports in one request.
const PACK: usize = 1_500;
/// The most things kept in one transaction.
const BATCH: usize = 10_000;
/// How often a pack is offered to a dispatcher that says it does not know this runner.
const TRIES_UNKNOWN: u32 = 5;

/// Makes durable what it is given, then passes the reports on. Ends when nobody gives any more.
pub(super) async fn keep(
    outbox: Arc<Outbox>,
    mut given: UnboundedReceiver<Keep>,
    post: UnboundedSender<(u64, Report)>,
) -> Result<(), OutboxError> {
    let mut batch = Vec::new();
    // What is not worth a write of its own.
    let mut aside: Vec<Keep> = Vec::new();
    let pass_on = |keep| {
        if let Keep::Report { number, report } = keep {
            // The poster ends only after this does.
            let _ = post.send((number, report));
        }
    };
    while given.recv_many(&mut batch, BATCH).await > 0 {
        let kept = std::mem::take(&mut batch);
        // All starts or none: a few that go ahead alone would keep the rest waiting for their answer.
        let waits_from = kept.iter().position(Keep::matters).unwrap_or(kept.len());
        let waits_from = if kept[waits_from..].iter().any(Keep::is_start) { 0 } else { waits_from };
        kept[..waits_from].iter().cloned().for_each(pass_on);
        let waits_from = aside.len() + waits_from;
        aside.extend(kept);
        if !aside.iter().any(Keep::matters) && aside.len() < BATCH {
            aside.retain(|keep| !keep.is_start());
            continue;
        }
        let written = write(&outbox, std::mem::take(&mut aside)).await?;
        written.into_iter().skip(waits_from).for_each(pass_on);
    }
    write(&outbox, aside).await.map(drop)
}

async fn write(outbox: &Arc<Outbox>, kept: Vec<Keep>) -> Result<Vec<Keep>, OutboxError> {
    let outbox = outbox.clone();
    let written = tokio::task::spawn_blocking(move || outbox.write(&kept).map(|()| kept));
    written.await.expect("writing the outbox does not panic")
}

/// Sends reports in packs, one request at a time. Ends when nobody gives any more and all are taken.
pub(super) async fn post(
    link: Arc<dyn Link>,
    runner: RunnerId,
    mut given: UnboundedReceiver<(u64, Report)>,
    inputs: UnboundedSender<Input>,
) {
    let mut pack = Vec::with_capacity(PACK);
    while given.recv_many(&mut pack, PACK).await > 0 {
        let through = pack.iter().map(|(number, _)| *number).max().unwrap_or(0);
        let reports: Vec<Report> = pack.drain(..).map(|(_, report)| report).collect();
        post_pack(&*link, &runner, &reports, &inputs).await;
        if inputs.send(Input::ReportsTaken { through }).is_err() {
            return;
        }
    }
}

async fn post_pack(link: &dyn Link, runner: &RunnerId, reports: &[Report], inputs: &UnboundedSender<Input>) {
    let mut pause = Pause::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut unknown = 0;
    loop {
        match link.report(runner, reports).await {
            Ok(()) => return,
            Err(LinkError::Retry { message, after }) => {
                tracing::warn!(reports = reports.len(), why = %message, "reports were not taken; they are sent again");
                sleep(pause.next(after)).await;
            }
            Err(LinkError::Unknown { message }) if unknown < TRIES_UNKNOWN => {
                unknown += 1;
                tracing::warn!(reports = reports.len(), why = %message, "reports came to a dispatcher that does not know this runner");
                let _ = inputs.send(Input::Unknown);
                sleep(pause.next(None)).await;
            }
            Err(why) => return post_one_by_one(link, runner, reports, inputs, &why).await,
        }
    }
}

/// Finds the report a pack was refused for, so that it takes no other with it.
async fn post_one_by_one(
    link: &dyn Link,
    runner: &RunnerId,
    reports: &[Report],
    inputs: &UnboundedSender<Input>,
    why: &LinkError,
) {
    if let [report] = reports {
        tracing::error!(task = %report.id, token = %report.token, %why, "a report was refused and is dropped");
        return;
    }
    for half in reports.chunks(reports.len().div_ceil(2)) {
        Box::pin(post_pack(link, runner, half, inputs)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::model::{AttemptOutcome, End, Id, Kind, Reported};

    fn report(what: Reported) -> Report {
        let id = |text| Id::parse(text).expect("a name");
        let token = "1.5.0".parse().expect("a token");
        Report { runner: id("r1"), incarnation: "i".into(), kind: Kind::Job, id: id("t1"), token, what }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_end_waits_for_the_disk_and_the_start_before_it_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let (outbox, _) = Outbox::open(directory.path()).expect("an outbox");
        let outbox = Arc::new(outbox);
        let (give, given) = unbounded_channel();
        let (post, mut posted) = unbounded_channel();
        let succeeded =
            End { outcome: AttemptOutcome::Succeeded, exit_code: None, message: None, artifacts: vec![] };
        let said = [Reported::Start, Reported::End(succeeded)].map(report);
        for (number, report) in (1..).zip(said) {
            give.send(Keep::Report { number, report }).expect("somebody keeps");
        }
        let disk = outbox.hold_writes();
        let keeping = tokio::spawn(keep(outbox.clone(), given, post));
        assert_eq!(posted.recv().await.map(|(number, _)| number), Some(1));
        let early = tokio::time::timeout(Duration::from_millis(50), posted.recv()).await;
        assert!(early.is_err(), "the end is not on the disk");
        disk.abort().expect("it held nothing");
        assert_eq!(posted.recv().await.map(|(number, _)| number), Some(2));
        drop(give);
        keeping.await.expect("it does not panic").expect("all is kept");
    }

    #[tokio::test]
    async fn that_a_report_was_taken_is_written_with_the_next_that_matters_or_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let (outbox, _) = Outbox::open(directory.path()).expect("an outbox");
        let outbox = Arc::new(outbox);
        let (give, given) = unbounded_channel();
        let (post, mut posted) = unbounded_channel();
        let keeping = tokio::spawn(keep(outbox.clone(), given, post));
        let failed =
            End { outcome: AttemptOutcome::Failed, exit_code: None, message: None, artifacts: vec![] };
        for number in [1, 2] {
            let report = report(Reported::End(failed.clone()));
            give.send(Keep::Report { number, report }).expect("somebody keeps");
            assert_eq!(posted.recv().await.map(|(number, _)| number), Some(number));
        }
        let disk = outbox.hold_writes();
        give.send(Keep::Forget { through: 1 }).expect("somebody keeps");
        tokio::task::yield_now().await;
        give.send(Keep::Report { number: 3, report: report(Reported::Start) }).expect("somebody keeps");
        assert_eq!(posted.recv().await.map(|(number, _)| number), Some(3), "no write was begun");
        disk.abort().expect("it held nothing");
        drop(give);
        keeping.await.expect("it does not panic").expect("all is kept");
        drop(outbox);
        let (_, left) = Outbox::open(directory.path()).expect("an outbox");
        let left: Vec<u64> = left.restored.reports.iter().map(|(number, _)| *number).collect();
        assert_eq!(left, [2]);
    }
}
