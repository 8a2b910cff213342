//! Submissions and cancels: three windows with credit of their own, and cancels, which are never held back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use async_trait::async_trait;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::chunk::{Belt, NO_ROOM, Taken, acknowledge};
use super::letters;
use super::pull::{LOOK, Pulse, Source, Taker, untroubled};
use crate::core::input::{Command, Input};
use crate::core::state::Window;
use crate::model::{QueueId, Traceparent};
use crate::runtime::credit::{Credit, Level, Reason};
use crate::wire::command::read_cancel;
use crate::wire::subject::Submitting;
use crate::wire::submission::{Outside, read_body_from};

/// The most messages of one pull.
const PULL: usize = 2_000;
/// How many tasks a message is taken to hold before any was seen.
const PACK: f64 = 100.0;
/// How long a pull waits at most, all in all, for room for what it has brought, besides a third of the time in which
/// what is not acknowledged comes again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits while there comes to be room for none of it: other queues may be behind.
const STUCK: Duration = Duration::from_millis(100);
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
    let (credit, patient_until) = (Arc::default(), Instant::now());
    let mut taker = WindowTaker { context, window, belt, credit, pack: PACK, patient_until };
    source.pull(&mut taker, &stop).await;
    taker.belt.empty().await;
    note(&taker.context, window, None);
}

struct WindowTaker {
    context: Arc<Context>,
    window: Window,
    belt: Belt,
    credit: Arc<Mutex<Credit>>,
    /// Tasks a message holds: credit is in tasks, pulls are in messages. It follows larger packs at once and
    /// smaller ones by and by.
    pack: f64,
    /// Until when what the last pull brings may wait for room.
    patient_until: Instant,
}

impl WindowTaker {
    /// Takes what a pull has brought, each message once there is room for it in the window and in its queue's share of
    /// it: how much a message holds is only known once it is read. What waits in vain goes back.
    async fn take_in(&mut self, mut chunk: Vec<Taken>) {
        let mut turns = self.context.handle.turns();
        let mut stuck_at = Instant::now() + STUCK;
        let mut in_vain = false;
        loop {
            let waited = chunk.len();
            chunk = self.put_what_fits(chunk).await;
            if chunk.is_empty() || in_vain {
                break;
            }
            if chunk.len() < waited {
                stuck_at = Instant::now() + STUCK;
            }
            // A turn may make room, and so do answers, a moment after it.
            let until = stuck_at.min(self.patient_until);
            let turn = timeout_at(until, turns.recv()).await;
            in_vain = Instant::now() >= until || matches!(turn, Ok(Err(RecvError::Closed)));
        }
        for taken in chunk {
            acknowledge(&taken.message, AckKind::Nak(Some(NO_ROOM))).await;
        }
    }

    /// Puts what there is room for before the loop, and gives back the rest. Nothing of a queue overtakes what waits.
    /// Jobs of builds go on: those of running builds pass in any case.
    async fn put_what_fits(&mut self, chunk: Vec<Taken>) -> Vec<Taken> {
        let (mut fitting, mut rest) = (Vec::with_capacity(chunk.len()), Vec::new());
        if self.window == Window::JobsOfBuilds {
            fitting = chunk;
        } else {
            let mut room = self.room();
            for taken in chunk {
                let fits = match taken.inputs.first() {
                    Some(Input::Submit { task, .. }) => room.take(&task.shape.queue, taken.inputs.len()),
                    _ => true,
                };
                if fits { fitting.push(taken) } else { rest.push(taken) }
            }
        }
        let credit = self.credit.clone();
        let brought = move |tasks| credit.lock().expect("nobody panics with it").brought(tasks);
        self.belt.put(fitting, brought).await;
        rest
    }

    fn room(&self) -> Room {
        let on_the_way = self.belt.on_the_way();
        self.context.handle.view().read(|state| {
            let counts = state.counts();
            let pending = counts.pending.get(&self.window).copied().unwrap_or(0);
            let queued = counts.queued.iter().filter(|((window, _), _)| *window == self.window);
            let held = state.pool().is_paused() && self.window.is_held_by_pause();
            let left = state.settings.window.saturating_sub(pending + on_the_way);
            Room {
                window: state.settings.window,
                left: if held { 0 } else { left },
                share: state.settings.window_share,
                queued: queued.map(|((_, queue), count)| (queue.clone(), count + on_the_way)).collect(),
                on_the_way,
                blocked: BTreeSet::new(),
            }
        })
    }
}

/// What may still go into a window. Which queue what is on its way belongs to is not asked: it counts for each.
struct Room {
    window: usize,
    left: usize,
    share: usize,
    queued: BTreeMap<QueueId, usize>,
    on_the_way: usize,
    /// Queues of which something was left out.
    blocked: BTreeSet<QueueId>,
}

impl Room {
    /// Whether a message with so many tasks of a queue goes in. One that no empty window would take is let through: the
    /// core says what is wrong with it.
    fn take(&mut self, queue: &QueueId, tasks: usize) -> bool {
        if self.blocked.contains(queue) {
            return false;
        }
        let queued = self.queued.entry(queue.clone()).or_insert(self.on_the_way);
        let in_window = tasks <= self.left || tasks > self.window;
        let in_share = *queued + tasks <= self.share || tasks > self.share;
        if in_window && in_share {
            self.left = self.left.saturating_sub(tasks);
            *queued += tasks;
        } else {
            self.blocked.insert(queue.clone());
        }
        in_window && in_share
    }
}

#[async_trait]
impl Taker for WindowTaker {
    async fn credit(&mut self) -> usize {
        loop {
            match look(&self.context, self.window, &self.credit, self.belt.on_the_way()) {
                Ok(tasks) => {
                    note(&self.context, self.window, None);
                    self.patient_until = Instant::now() + PATIENCE.min(self.context.take_over / 3);
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
        self.pack = average.max((self.pack + average) / 2.0).max(1.0);
        self.take_in(chunk).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_holds_back_its_own_queue_alone() {
        let [mine, other] = ["mine", "other"].map(|name| QueueId::parse(name).expect("a name"));
        let mut room = Room {
            window: 100,
            left: 70,
            share: 50,
            queued: BTreeMap::from([(mine.clone(), 30)]),
            on_the_way: 0,
            blocked: BTreeSet::new(),
        };
        assert!(room.take(&mine, 10));
        assert!(!room.take(&mine, 11), "with it the queue has more than its share");
        assert!(!room.take(&mine, 1), "it would overtake what waits");
        assert!(room.take(&other, 50), "the other queue has its share to itself");
        assert!(!room.take(&other, 11), "the window is full by then");
    }

    #[test]
    fn a_message_that_no_window_would_take_is_let_through() {
        let queue = QueueId::parse("q").expect("a name");
        let (queued, blocked) = (BTreeMap::new(), BTreeSet::new());
        let mut room = Room { window: 100, left: 100, share: 50, queued, on_the_way: 0, blocked };
        assert!(room.take(&queue, 101));
    }
}
