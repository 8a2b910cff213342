//! Submissions and cancels: three windows with credit of their own, and cancels, which are never held back.

use std::sync::{Arc, Mutex};

use async_nats::jetstream::{AckKind, Message};
use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::chunk::{Belt, NO_ROOM, Taken, acknowledge};
use super::letters;
use super::pull::{LOOK, Pulse, Source, Taker, untroubled};
use crate::core::input::{Command, Input};
use crate::core::state::Window;
use crate::model::Traceparent;
use crate::runtime::credit::{Credit, Level, Reason};
use crate::wire::command::read_cancel;
use crate::wire::subject::Submitting;
use crate::wire::submission::{Outside, read_body_from};

/// The most messages of one pull.
const PULL: usize = 2_000;
/// Places in the inbox one message takes: more than it has tasks.
const PLACES: u64 = 1 << 10;

/// Starts the pulls.
pub(super) fn start(
    duties: &mut JoinSet<()>,
    context: &Arc<Context>,
    pulse: &Arc<Pulse>,
    stop: &CancellationToken,
) {
    let names = &context.names;
    let source = |name, filter| {
        let wait = context.take_over;
        Source::new(&context.connection, names.submit_stream(), name, vec![filter], wait, pulse)
    };
    for (window, source) in [
        (Window::Builds, source("builds", names.pending_filter("build"))),
        (Window::Jobs, source("jobs", names.pending_filter("job"))),
        (Window::JobsOfBuilds, source("jobs_of_builds", names.jobs_of_builds_filter())),
    ] {
        duties.spawn(window_pulls(context.clone(), window, source, stop.clone()));
    }
    duties.spawn(cancel_pulls(context.clone(), source("cancels", names.cancel()), stop.clone()));
}

async fn window_pulls(context: Arc<Context>, window: Window, source: Source, stop: CancellationToken) {
    let belt = Belt::new(&context);
    let mut taker = WindowTaker { context, window, belt, credit: Arc::default(), pack: 1.0 };
    source.pull(&mut taker, &stop).await;
    taker.belt.empty().await;
    note(&taker.context, window, None);
}

struct WindowTaker {
    context: Arc<Context>,
    window: Window,
    belt: Belt,
    credit: Arc<Mutex<Credit>>,
    /// Tasks a message holds, as an average: credit is in tasks, pulls are in messages.
    pack: f64,
}

impl WindowTaker {
    /// Hands back what a pull brought beyond the window: how much a message holds is only known once it is read.
    /// Jobs of builds go on: those of running builds pass in any case.
    async fn within_the_window(&self, chunk: Vec<Taken>) -> Vec<Taken> {
        if self.window == Window::JobsOfBuilds {
            return chunk;
        }
        let level =
            self.context.handle.view().read(|state| Level::of(state, self.window, self.context.ahead));
        let room = level.window.saturating_sub(level.pending + self.belt.on_the_way());
        let mut room = if level.held { 0 } else { room };
        let mut kept = Vec::with_capacity(chunk.len());
        for taken in chunk {
            // A message that no empty window would take is let through: the core says what is wrong with it.
            if taken.inputs.len() <= room || taken.inputs.len() > level.window {
                room = room.saturating_sub(taken.inputs.len());
                kept.push(taken);
            } else {
                acknowledge(&taken.message, AckKind::Nak(Some(NO_ROOM))).await;
            }
        }
        kept
    }
}

#[async_trait]
impl Taker for WindowTaker {
    async fn credit(&mut self) -> usize {
        loop {
            match look(&self.context, self.window, &self.credit, self.belt.on_the_way()) {
                Ok(tasks) => {
                    note(&self.context, self.window, None);
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        clippy::cast_precision_loss,
                        reason = "an estimate of at most a window"
                    )]
                    let messages = (tasks as f64 / self.pack) as usize;
                    return messages.clamp(1, PULL);
                }
                Err(reason) => note(&self.context, self.window, Some(reason)),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn take(&mut self, messages: Vec<Message>) {
        let count = messages.len();
        let chunk = read_chunk(&self.context, messages).await;
        let tasks: usize = chunk.iter().map(|taken| taken.inputs.len()).sum();
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let average = tasks as f64 / count as f64;
        self.pack = (self.pack * 0.8 + average * 0.2).max(1.0);
        let chunk = self.within_the_window(chunk).await;
        let credit = self.credit.clone();
        let brought = move |tasks| credit.lock().expect("nobody panics with it").brought(tasks);
        self.belt.put(chunk, brought).await;
    }
}

fn look(
    context: &Context,
    window: Window,
    credit: &Mutex<Credit>,
    on_the_way: usize,
) -> Result<usize, Reason> {
    if context.handle.status().trouble.is_some() {
        return Err(Reason::Table);
    }
    let level = context.handle.view().read(|state| Level::of(state, window, context.ahead));
    let mut credit = credit.lock().expect("nobody panics with it");
    credit.give(level, on_the_way, context.clock.monotonic(), window != Window::JobsOfBuilds)
}

fn note(context: &Context, window: Window, paused: Option<Reason>) {
    if !context.board.note(window, paused) {
        return;
    }
    let consumer = window.as_str();
    match paused {
        Some(reason) => tracing::info!(consumer, reason = reason.as_str(), "consumer paused"),
        None => tracing::info!(consumer, "consumer resumed"),
    }
}

/// Reads each message; one that cannot be read is buried, and of a pack only what cannot be read.
async fn read_chunk(context: &Context, messages: Vec<Message>) -> Vec<Taken> {
    let mut chunk = Vec::with_capacity(messages.len());
    for message in messages {
        match read(context, &message) {
            Err(why) => letters::bury(context, &message, "malformed", &[why]).await,
            Ok((inputs, refused)) if inputs.is_empty() => {
                letters::bury(context, &message, "malformed", &refused).await;
            }
            Ok((inputs, refused)) => {
                if refused.is_empty() || letters::keep(context, &message, "malformed", &refused).await {
                    chunk.push(Taken { message, inputs });
                }
            }
        }
    }
    chunk
}

/// The inputs in a message, and why others in it cannot be read.
fn read(context: &Context, message: &Message) -> Result<(Vec<Input>, Vec<String>), String> {
    let subject = message.subject.as_str();
    let sequence =
        message.info().map_err(|why| format!("it has no place in the stream: {why}"))?.stream_sequence;
    let outside = match context.names.submitting(subject) {
        Some(Submitting::Tasks { kind, queue, build }) => {
            let said = message.headers.as_ref().and_then(|headers| headers.get(Traceparent::NAME));
            let traceparent = said.and_then(|said| Traceparent::parse(said.as_str()));
            Outside { kind, queue: Some(queue), build, traceparent }
        }
        _ => return Err(format!("subject {subject:?} has a part that is no name")),
    };
    let body =
        read_body_from(&message.payload, &outside, &context.settings).map_err(|why| why.to_string())?;
    let (mut inputs, mut refused) = (Vec::with_capacity(body.tasks.len()), Vec::new());
    for (place, task) in (0..).zip(body.tasks) {
        match task {
            Ok(task) => inputs.push(Input::Submit { task, sequence: sequence * PLACES + place }),
            Err(why) => refused.push(match &why.id {
                Some(id) => format!("task {id:?}: {why}"),
                None => format!("task {}: {why}", place + 1),
            }),
        }
    }
    Ok((inputs, refused))
}

async fn cancel_pulls(context: Arc<Context>, source: Source, stop: CancellationToken) {
    let mut taker = CancelTaker { belt: Belt::new(&context), pulse: source.pulse(), context };
    source.pull(&mut taker, &stop).await;
    taker.belt.empty().await;
}

struct CancelTaker {
    context: Arc<Context>,
    pulse: Arc<Pulse>,
    belt: Belt,
}

#[async_trait]
impl Taker for CancelTaker {
    async fn credit(&mut self) -> usize {
        untroubled(&self.context, &self.pulse).await;
        PULL
    }

    async fn take(&mut self, messages: Vec<Message>) {
        let mut chunk = Vec::with_capacity(messages.len());
        for message in messages {
            let place = message.info().map(|info| info.stream_sequence).unwrap_or_default();
            match read_cancel(&message.payload) {
                Ok((id, reason)) => {
                    let cancel = Command::Cancel { id, reason, sequence: place * PLACES };
                    chunk.push(Taken { message, inputs: vec![Input::Command(cancel)] });
                }
                Err(why) => letters::bury(&self.context, &message, "malformed", &[why.to_string()]).await,
            }
        }
        self.belt.put(chunk, |_| ()).await;
    }
}
