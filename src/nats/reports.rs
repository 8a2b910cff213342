//! Reports of runners, never held back, and the marks that follow them.
//!
//! Law: a mark comes back once every report that stood in the stream when it was asked for has been acknowledged,
//! and that is after the commit of the turn that took it: the stream is a work queue, so what was acknowledged is
//! no longer in it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_trait::async_trait;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::chunk::{Belt, Taken};
use super::letters;
use super::pull::{Pulse, Source, Taker, untroubled};
use crate::broker::chain;
use crate::core::input::Input;
use crate::wire::message::{Said, read_reports};

/// The most messages of one pull.
const PULL: usize = 5_000;
/// How often the stream is asked whether a mark is reached, at first and at most.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(200);

/// Starts the pulls.
pub(super) fn start(
    duties: &mut JoinSet<()>,
    context: &Arc<Context>,
    pulse: &Arc<Pulse>,
    stop: &CancellationToken,
) {
    let names = &context.names;
    let (stream, filters, wait) = (names.report_stream(), names.report_filters(), context.take_over);
    let source = Source::new(&context.connection, stream, "reports", filters, wait, pulse);
    duties.spawn(pulls(context.clone(), source, stop.clone()));
}

async fn pulls(context: Arc<Context>, source: Source, stop: CancellationToken) {
    let mut taker = ReportTaker { belt: Belt::new(&context), pulse: source.pulse(), context };
    source.pull(&mut taker, &stop).await;
    taker.belt.empty().await;
}

struct ReportTaker {
    context: Arc<Context>,
    pulse: Arc<Pulse>,
    belt: Belt,
}

#[async_trait]
impl Taker for ReportTaker {
    async fn credit(&mut self) -> usize {
        untroubled(&self.context, &self.pulse).await;
        PULL
    }

    async fn take(&mut self, messages: Vec<Message>) {
        let mut chunk = Vec::with_capacity(messages.len());
        for message in messages {
            match read(&self.context, &message) {
                Ok(inputs) => chunk.push(Taken { message, inputs }),
                Err(why) => letters::bury(&self.context, &message, "malformed", &[why]).await,
            }
        }
        self.belt.put(chunk, |_| ()).await;
    }
}

fn read(context: &Context, message: &Message) -> Result<Vec<Input>, String> {
    let subject = message.subject.as_str();
    let said = context.names.reporting(subject);
    let said = said.ok_or_else(|| format!("subject {subject:?} has a part that is no name"))?;
    let outside = Said { runner: Some(&said.runner), report: Some(said.report), kind: Some(said.kind) };
    let reports = read_reports(&message.payload, outside).map_err(|why| why.to_string())?;
    Ok(reports.into_iter().map(Input::Report).collect())
}

/// Answers marks for as long as it is polled.
pub(super) async fn answer_marks(context: &Context, marks: &mut UnboundedReceiver<u64>) {
    // Marks only grow: reaching a later one reaches all before it.
    let mut asked = Vec::new();
    while marks.recv_many(&mut asked, 1_000).await > 0 {
        let mark = asked.drain(..).max().expect("there is one");
        let Some(last) = until_some(|| last_report(context)).await else { return };
        let mut pause = LOOK;
        while !until_some(|| is_read(context, last)).await.unwrap_or(false) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
        context.handle.tell(vec![Input::ReportsRead { mark }]);
    }
}

/// The last sequence of the stream of reports.
async fn last_report(context: &Context) -> Result<u64, String> {
    Ok(state(context).await?.last_sequence)
}

async fn is_read(context: &Context, last: u64) -> Result<bool, String> {
    let state = state(context).await?;
    Ok(state.messages == 0 || state.first_sequence > last)
}

async fn state(context: &Context) -> Result<async_nats::jetstream::stream::State, String> {
    let stream = context.names.report_stream();
    let js = &context.connection.jetstream;
    let stream = js.get_stream(stream).await.map_err(|why| chain(&why))?;
    Ok(stream.cached_info().state.clone())
}

/// Asks until there is an answer.
async fn until_some<T, F: Future<Output = Result<T, String>>>(ask: impl Fn() -> F) -> Option<T> {
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(why) => {
                tracing::warn!(why, "stream of reports did not answer");
                tokio::time::sleep(LOOK_MAX).await;
            }
        }
    }
}
