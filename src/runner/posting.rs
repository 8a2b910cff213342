//! Reports on their way: first made durable, then sent in packs, in order, until they are taken.
//!
//! Law: nothing is sent that is not in the outbox, and nothing overtakes anything. Both duties run beside the
//! session's loop, so that neither a slow disk nor a slow dispatcher can keep work from ending in time.

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
const PACK: usize = 500;
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
    while given.recv_many(&mut batch, BATCH).await > 0 {
        let (outbox, kept) = (outbox.clone(), std::mem::take(&mut batch));
        let written = tokio::task::spawn_blocking(move || outbox.write(&kept).map(|()| kept));
        for keep in written.await.expect("writing the outbox does not panic")? {
            if let Keep::Report { number, report } = keep {
                // The poster ends only after this does.
                let _ = post.send((number, report));
            }
        }
    }
    Ok(())
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
