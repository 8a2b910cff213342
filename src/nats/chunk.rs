//! A chunk of messages on its way through the turn loop.
//!
//! Law: a message is acknowledged after the commit of the turn that took the last of its inputs, and handed back
//! when that turn will not come from here. While it is on its way it is kept from being delivered again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Context;
use super::letters::may_answer;
use crate::core::input::{Answer, Input, Submitted};
use crate::wire::answer::write_answers;

/// The header that names where the answers to a submission are wanted.
pub const REPLY: &str = "Longshore-Reply";
/// How many chunks of one sort may be on their way.
const CHUNKS: usize = 64;
/// The most inputs put before the loop as one call.
const INPUTS: usize = 4_000;
/// How long a message that found no room stays away.
pub(super) const NO_ROOM: Duration = Duration::from_secs(1);
/// How long a message stays away from a table that takes nothing.
const TROUBLE: Duration = Duration::from_secs(1);
/// How long a message stays away from a pool that decides nothing.
const FROZEN: Duration = Duration::from_secs(5);

/// One message with its inputs.
pub(super) struct Taken {
    pub message: Message,
    pub inputs: Vec<Input>,
}

/// Puts chunks before the loop and sees to their messages.
pub(super) struct Belt {
    context: Arc<Context>,
    on_the_way: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    settling: JoinSet<()>,
}

impl Belt {
    /// A belt with nothing on it.
    pub fn new(context: &Arc<Context>) -> Self {
        Self {
            context: context.clone(),
            on_the_way: Arc::default(),
            permits: Arc::new(Semaphore::new(CHUNKS)),
            settling: JoinSet::new(),
        }
    }

    /// How many inputs are on their way.
    pub fn on_the_way(&self) -> usize {
        self.on_the_way.load(Ordering::Relaxed)
    }

    /// Puts a chunk before the loop, waiting while too many are on their way. `brought` hears how many of its
    /// tasks were admitted.
    pub async fn put(&mut self, chunk: Vec<Taken>, brought: impl Fn(usize) + Clone + Send + 'static) {
        let (mut call, mut inputs) = (Vec::new(), 0);
        for taken in chunk {
            if inputs + taken.inputs.len() > INPUTS && !call.is_empty() {
                self.put_call(std::mem::take(&mut call), brought.clone()).await;
                inputs = 0;
            }
            inputs += taken.inputs.len();
            call.push(taken);
        }
        if !call.is_empty() {
            self.put_call(call, brought).await;
        }
    }

    async fn put_call(&mut self, chunk: Vec<Taken>, brought: impl FnOnce(usize) + Send + 'static) {
        while self.settling.try_join_next().is_some() {}
        let permit = self.permits.clone().acquire_owned().await.expect("it is never closed");
        let mut inputs = Vec::new();
        let mut messages = Vec::with_capacity(chunk.len());
        for taken in chunk {
            messages.push((taken.message, taken.inputs.len()));
            inputs.extend(taken.inputs);
        }
        let count = inputs.len();
        self.on_the_way.fetch_add(count, Ordering::Relaxed);
        let on_the_way = self.on_the_way.clone();
        let begun = self.context.handle.begin(inputs);
        let context = self.context.clone();
        self.settling.spawn(async move {
            let answers = match begun {
                Err(_) => None,
                Ok(mut answers) => loop {
                    match tokio::time::timeout(context.take_over / 2, &mut answers).await {
                        Ok(answered) => break answered.ok(),
                        Err(_) => {
                            for (message, _) in &messages {
                                acknowledge(message, AckKind::Progress).await;
                            }
                        }
                    }
                },
            };
            on_the_way.fetch_sub(count, Ordering::Relaxed);
            match answers {
                Some(answers) => {
                    let admitted = |answer: &&Answer| **answer == Answer::Submitted(Submitted::Admitted);
                    brought(answers.iter().filter(admitted).count());
                    settle(&context, &messages, &answers).await;
                }
                None => {
                    // Whoever leads takes it at once; while nothing is taken it is not passed to and fro.
                    let away = context.handle.status().trouble.map(|_| TROUBLE);
                    for (message, _) in &messages {
                        acknowledge(message, AckKind::Nak(away)).await;
                    }
                }
            }
            drop(permit);
        });
    }

    /// Waits until nothing is on its way, as long as a take-over lasts: what a table in trouble keeps waiting for
    /// longer comes again by itself.
    pub async fn empty(mut self) {
        let emptied = async { while self.settling.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(self.context.take_over, emptied).await;
    }
}

async fn settle(context: &Context, messages: &[(Message, usize)], answers: &[Answer]) {
    let turn = context.handle.status().turn;
    let mut rest = answers;
    for (message, count) in messages {
        let (own, others) = rest.split_at(*count);
        rest = others;
        let full = own.iter().any(|answer| matches!(answer, Answer::Submitted(Submitted::Full { .. })));
        let frozen = own.iter().any(|answer| matches!(answer, Answer::Frozen { .. }));
        if full || frozen {
            let away = if frozen { FROZEN } else { NO_ROOM };
            acknowledge(message, AckKind::Nak(Some(away))).await;
            continue;
        }
        acknowledge(message, AckKind::Ack).await;
        let asked = message.headers.as_ref().and_then(|headers| headers.get(REPLY));
        if let Some(asked) = asked.filter(|asked| may_answer(asked.as_str())) {
            let said = write_answers(turn, own);
            // Whoever asked may have gone; the answer stands in the table.
            let _ = context.connection.client.publish(asked.as_str().to_owned(), said.into()).await;
        }
    }
}

/// Tells the stream about a message. One that is not heard comes again, and is recognised.
pub(super) async fn acknowledge(message: &Message, kind: AckKind) {
    if let Err(why) = message.ack_with(kind).await {
        tracing::debug!(%why, subject = %message.subject, "acknowledgement was not sent");
    }
}
