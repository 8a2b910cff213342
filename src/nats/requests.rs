//! Requests that only the leader answers: registrations, heartbeats, farewells and commands.
//!
//! Law: an answer is given after the commit of the turn that took the request. A request this replica cannot
//! decide gets no answer from it at all: whoever leads gives one, or the asker tries again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_nats::Message;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::letters::may_reply;
use crate::broker::chain;
use crate::core::input::{Answer, Input};
use crate::model::RunnerId;
use crate::wire::answer::write_answers;
use crate::wire::command::read_command;
use crate::wire::refusal::{self, Refusal};
use crate::wire::subject::Ask;
use crate::wire::{Malformed, message, registration};

/// The most requests put before the loop at once.
const CHUNK: usize = 512;
/// How many answered requests are remembered for whoever repeats one.
const REMEMBERED: usize = 10_000;
/// The pause before a subscription that ended is made again.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// What repeats of a request are answered.
#[derive(Default)]
struct Answered {
    replies: BTreeMap<Arc<str>, Bytes>,
    order: VecDeque<Arc<str>>,
}

impl Answered {
    fn remember(&mut self, request: Arc<str>, reply: Bytes) {
        if self.replies.insert(request.clone(), reply).is_none() {
            self.order.push_back(request);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.replies.remove(&oldest);
        }
    }
}

/// A request with its input, and the name under which its answer is remembered.
struct Read {
    input: Input,
    request: Option<Arc<str>>,
}

/// Starts to answer.
pub(super) fn start(duties: &mut JoinSet<()>, context: &Arc<Context>, stop: &CancellationToken) {
    for ask in Ask::ALL {
        let context = context.clone();
        let stop = stop.clone();
        duties.spawn(async move {
            let subject = context.names.asks(ask);
            let names = context.names.clone();
            let read = move |request: &Message| {
                let runner = names.asking(ask, &request.subject);
                let runner = runner.ok_or_else(|| Malformed::new("runner", "in the subject is no name"))?;
                let input = read_ask(ask, &request.payload, &runner)?;
                Ok(Read { input, request: None })
            };
            answer_all(&context, subject, read, &stop).await;
        });
    }
    let context = context.clone();
    let stop = stop.clone();
    duties.spawn(async move {
        let read = |request: &Message| {
            let asked = read_command(&request.payload)?;
            Ok(Read { input: Input::Command(asked.command), request: asked.request })
        };
        answer_all(&context, context.names.command(), read, &stop).await;
    });
}

fn read_ask(ask: Ask, body: &[u8], runner: &RunnerId) -> Result<Input, Malformed> {
    Ok(match ask {
        Ask::Register => Input::Register(registration::read_registration(body, Some(runner))?),
        Ask::Heartbeat => Input::Heartbeat(message::read_heartbeat(body, Some(runner))?),
        Ask::Leave => Input::Leave(message::read_leave(body, Some(runner))?),
    })
}

async fn answer_all(
    context: &Arc<Context>,
    subject: String,
    read: impl Fn(&Message) -> Result<Read, Malformed>,
    stop: &CancellationToken,
) {
    let answered = Arc::new(Mutex::new(Answered::default()));
    let mut answering = JoinSet::new();
    while !stop.is_cancelled() {
        let mut requests = match context.connection.client.subscribe(subject.clone()).await {
            Ok(requests) => requests,
            Err(why) => {
                tracing::warn!(subject, why = chain(&why), "requests cannot be heard");
                let _ = tokio::time::timeout(AGAIN, stop.cancelled()).await;
                continue;
            }
        };
        loop {
            let first = tokio::select! {
                first = requests.next() => first,
                () = stop.cancelled() => None,
            };
            let Some(first) = first else { break };
            let mut chunk = vec![first];
            while chunk.len() < CHUNK
                && let Some(Some(more)) = requests.next().now_or_never()
            {
                chunk.push(more);
            }
            while answering.try_join_next().is_some() {}
            put(context, chunk, &read, &answered, &mut answering).await;
        }
    }
    // Whom a table in trouble keeps waiting asks again.
    let answered = async { while answering.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(context.take_over, answered).await;
}

async fn put(
    context: &Arc<Context>,
    chunk: Vec<Message>,
    read: impl Fn(&Message) -> Result<Read, Malformed>,
    answered: &Arc<Mutex<Answered>>,
    answering: &mut JoinSet<()>,
) {
    let (mut inputs, mut askers) = (Vec::new(), Vec::new());
    for request in chunk {
        let Some(reply) = request.reply.clone().filter(|reply| may_reply(reply)) else { continue };
        match read(&request) {
            Err(why) => {
                let refused = refusal::write(&Refusal::new(refusal::MALFORMED, why.to_string()));
                say(context, reply, refused.into()).await;
            }
            Ok(Read { input, request }) => {
                let known = request.as_ref().and_then(|request| {
                    answered.lock().expect("nobody panics with it").replies.get(request).cloned()
                });
                match known {
                    Some(known) => say(context, reply, known).await,
                    None => {
                        inputs.push(input);
                        askers.push((reply, request));
                    }
                }
            }
        }
    }
    if inputs.is_empty() {
        return;
    }
    let Ok(answers) = context.handle.begin(inputs) else { return };
    let (context, answered) = (context.clone(), answered.clone());
    answering.spawn(async move {
        let Ok(answers) = answers.await else { return };
        let turn = context.handle.status().turn;
        for (answer, (reply, request)) in answers.iter().zip(askers) {
            let body: Bytes = write(answer, turn).into();
            if let Some(request) = request {
                answered.lock().expect("nobody panics with it").remember(request, body.clone());
            }
            say(&context, reply, body).await;
        }
    });
}

fn write(answer: &Answer, turn: u64) -> Vec<u8> {
    match answer {
        Answer::Registered(registered) => message::write_registered(registered),
        Answer::Heartbeat(answer) => message::write_heartbeat_answer(answer),
        Answer::RegistrationRefused { reason } => refusal::write(&Refusal::new(refusal::CONFLICT, &**reason)),
        Answer::Frozen { reason } => refusal::write(&Refusal::new(refusal::FROZEN, &**reason)),
        Answer::Commanded(_) | Answer::Submitted(_) | Answer::Pulled(_) | Answer::Taken => {
            write_answers(turn, std::slice::from_ref(answer))
        }
    }
}

async fn say(context: &Context, reply: async_nats::Subject, body: Bytes) {
    // Whoever asked tries again if this is not heard.
    let _ = context.connection.client.publish(reply, body).await;
}
