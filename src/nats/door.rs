//! The door of any replica: what is asked over HTTP goes to the streams and to whoever leads, over the same
//! subjects every other client uses.
//!
//! Law: it makes no difference which replica is asked, nor whether it leads. A submission or a cancel that is
//! durable and not decided within a second is answered as such.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use uuid::Uuid;

use super::chunk::REPLY;
use crate::broker::{Connection, chain};
use crate::core::input::{Answer, Command, Input};
use crate::model::{NewTask, PullRequest, Pulled, Report};
use crate::runtime::{Door, Handle, Unavailable};
use crate::wire::answer::read_answers;
use crate::wire::command::{write_cancel, write_command};
use crate::wire::refusal::{self, FROZEN};
use crate::wire::subject::{Ask, Names};
use crate::wire::{message, registration};

/// How long a submission waits for its decision once it is durable.
const DECIDED_WITHIN: Duration = Duration::from_secs(1);
/// How long a request waits for a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(5);
/// The pause before a request is sent again.
const AGAIN: Duration = Duration::from_millis(100);
/// The most bytes of one message.
const MOST_BYTES: usize = 250 << 10;
/// The most tasks or reports of one message.
const MOST: usize = 1_000;

/// The way to whoever leads.
#[derive(Debug, Clone)]
pub struct NatsDoor {
    connection: Connection,
    names: Names,
    handle: Handle,
}

/// Some inputs in one message, by their places.
struct Pack {
    subject: String,
    body: Vec<u8>,
    places: Vec<usize>,
}

impl NatsDoor {
    /// A door of the pool with these names. `handle` shows how far this replica has followed.
    pub fn new(connection: &Connection, names: &Names, handle: &Handle) -> Self {
        Self { connection: connection.clone(), names: names.clone(), handle: handle.clone() }
    }

    /// Publishes to a stream and waits a little for what becomes of it.
    async fn submit(&self, pack: &Pack) -> Result<Option<Vec<Answer>>, Unavailable> {
        let client = &self.connection.client;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|why| no_leader(&why))?;
        let mut headers = HeaderMap::new();
        headers.insert(REPLY, inbox.as_str());
        let js = &self.connection.jetstream;
        let sent = js.publish_with_headers(pack.subject.clone(), headers, pack.body.clone().into()).await;
        let kept = sent.map_err(|why| Unavailable::Table(chain(&why)))?.await;
        kept.map_err(|why| Unavailable::Table(format!("publish {}: {}", pack.subject, chain(&why))))?;
        let Ok(Some(said)) = tokio::time::timeout(DECIDED_WITHIN, answers.next()).await else {
            return Ok(None);
        };
        let said = read_answers(&said.payload).map_err(|why| Unavailable::Refused(why.to_string()))?;
        self.has_seen(said.turn).await;
        Ok((said.answers.len() == pack.places.len()).then_some(said.answers))
    }

    /// Asks whoever leads, again until somebody does.
    async fn request(&self, subject: &str, body: Vec<u8>) -> Result<Bytes, Unavailable> {
        let body = Bytes::from(body);
        let asked = async {
            loop {
                match self.connection.client.request(subject.to_owned(), body.clone()).await {
                    Ok(reply) => return reply.payload,
                    Err(why) => tracing::debug!(subject, why = chain(&why), "nobody answers"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::time::timeout(LEADER_WITHIN, asked).await.map_err(|_| Unavailable::NoLeader)
    }

    /// Waits, not for ever, until this replica shows turn `turn`.
    async fn has_seen(&self, turn: u64) {
        let mut status = self.handle.status_changes();
        let seen = status.wait_for(|status| status.turn >= turn);
        let _ = tokio::time::timeout(DECIDED_WITHIN, seen).await;
    }

    async fn ask(&self, input: &Input) -> Result<Answer, Unavailable> {
        let (subject, body) = match input {
            Input::Register(asked) => {
                (self.names.ask(Ask::Register, &asked.runner), registration::write_registration(asked))
            }
            Input::Heartbeat(beat) => {
                (self.names.ask(Ask::Heartbeat, &beat.runner), message::write_heartbeat(beat))
            }
            Input::Leave(leave) => (self.names.ask(Ask::Leave, &leave.runner), message::write_leave(leave)),
            Input::Command(command) => {
                let request = Uuid::now_v7().to_string();
                let body = write_command(&request, command).expect("a cancel goes another way");
                (self.names.command(), body)
            }
            Input::Report(_)
            | Input::Submit { .. }
            | Input::ReportsRead { .. }
            | Input::Pull(_)
            | Input::Withdraw { .. } => {
                unreachable!("what goes to a stream goes another way")
            }
        };
        let reply = self.request(&subject, body).await?;
        if let Some(refused) = refusal::read(&reply) {
            let reason: Arc<str> = refused.detail.as_str().into();
            return match (refused.code.as_str(), input) {
                (FROZEN, _) => Ok(Answer::Frozen { reason }),
                (refusal::CONFLICT, Input::Register(_)) => Ok(Answer::RegistrationRefused { reason }),
                _ => Err(Unavailable::Refused(refused.detail)),
            };
        }
        let unread = |why: crate::wire::Malformed| Unavailable::Refused(why.to_string());
        match input {
            Input::Register(_) => {
                let registered = message::read_registered(&reply).map_err(unread)?;
                self.has_seen(registered.turn).await;
                Ok(Answer::Registered(registered))
            }
            Input::Heartbeat(_) => {
                Ok(Answer::Heartbeat(message::read_heartbeat_answer(&reply).map_err(unread)?))
            }
            _ => {
                let mut said = read_answers(&reply).map_err(unread)?;
                self.has_seen(said.turn).await;
                said.answers.pop().ok_or(Unavailable::NoLeader)
            }
        }
    }

    async fn report(&self, pack: &Pack) -> Result<(), Unavailable> {
        let js = &self.connection.jetstream;
        let mut headers = HeaderMap::new();
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, &pack.body).to_string();
        headers.insert("Nats-Msg-Id", id.as_str());
        let sent = js.publish_with_headers(pack.subject.clone(), headers, pack.body.clone().into()).await;
        let kept = sent.map_err(|why| Unavailable::Table(chain(&why)))?.await;
        kept.map(|_| ())
            .map_err(|why| Unavailable::Table(format!("publish {}: {}", pack.subject, chain(&why))))
    }

    /// Tasks and cancels by the subjects they go to.
    fn submissions(&self, inputs: &[Input]) -> Vec<Pack> {
        let mut packs = Vec::new();
        let mut open: BTreeMap<String, (Vec<&NewTask>, Vec<usize>, usize)> = BTreeMap::new();
        for (place, input) in inputs.iter().enumerate() {
            match input {
                Input::Submit { task, .. } => {
                    let shape = &task.shape;
                    let subject = self.names.pending(shape.kind, &shape.queue, task.build.as_ref());
                    let bytes = open.get(&subject).map_or(0, |(.., bytes)| *bytes) + task.body.len();
                    if bytes > MOST_BYTES || open.get(&subject).is_some_and(|(tasks, ..)| tasks.len() == MOST)
                    {
                        packs.extend(open.remove_entry(&subject).map(close));
                    }
                    let (tasks, places, bytes) = open.entry(subject).or_default();
                    tasks.push(task);
                    places.push(place);
                    *bytes += task.body.len() + 1;
                }
                Input::Command(Command::Cancel { id, reason, .. }) => {
                    let body = write_cancel(id, reason);
                    packs.push(Pack { subject: self.names.cancel(), body, places: vec![place] });
                }
                _ => {}
            }
        }
        packs.extend(open.into_iter().map(close));
        packs
    }

    /// Reports in their order, in runs that go to one subject.
    fn reports(&self, inputs: &[Input]) -> Vec<Pack> {
        let mut packs = Vec::new();
        let mut run: Vec<(usize, &Report)> = Vec::new();
        let subject = |report: &Report| self.names.report(report.kind, report.what.as_str(), &report.runner);
        let mut close = |run: &mut Vec<(usize, &Report)>| {
            let Some((_, first)) = run.first() else { return };
            let reports: Vec<Report> = run.iter().map(|(_, report)| (*report).clone()).collect();
            let places = run.iter().map(|(place, _)| *place).collect();
            packs.push(Pack { subject: subject(first), body: message::write_reports(&reports), places });
            run.clear();
        };
        for (place, input) in inputs.iter().enumerate() {
            let Input::Report(report) = input else { continue };
            // A report is at most some 5 KiB long, its message included.
            if run.len() == 40 || run.last().is_some_and(|(_, last)| subject(last) != subject(report)) {
                close(&mut run);
            }
            run.push((place, report));
        }
        close(&mut run);
        packs
    }
}

fn close((subject, (tasks, places, _)): (String, (Vec<&NewTask>, Vec<usize>, usize))) -> Pack {
    let mut body = b"{\"tasks\":[".to_vec();
    for (index, task) in tasks.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(task.body.as_bytes());
    }
    body.extend_from_slice(b"]}");
    Pack { subject, body, places }
}

fn no_leader(why: &dyn std::error::Error) -> Unavailable {
    Unavailable::Table(chain(why))
}

#[async_trait]
impl Door for NatsDoor {
    async fn put(&self, inputs: Vec<Input>) -> Result<Vec<Option<Answer>>, Unavailable> {
        let mut answers: Vec<Option<Answer>> = vec![None; inputs.len()];
        let submissions = self.submissions(&inputs);
        let decided = join_all(submissions.iter().map(|pack| self.submit(pack))).await;
        for (pack, decided) in submissions.iter().zip(decided) {
            for (place, answer) in pack.places.iter().zip(decided?.into_iter().flatten()) {
                answers[*place] = Some(answer);
            }
        }
        for pack in self.reports(&inputs) {
            self.report(&pack).await?;
            for place in pack.places {
                answers[place] = Some(Answer::Taken);
            }
        }
        for (place, input) in inputs.iter().enumerate() {
            if matches!(
                input,
                Input::Report(_) | Input::Submit { .. } | Input::Command(Command::Cancel { .. })
            ) {
                continue;
            }
            answers[place] = Some(self.ask(input).await?);
        }
        Ok(answers)
    }

    async fn pull(&self, asked: PullRequest, wait: Duration) -> Result<Pulled, Unavailable> {
        super::pulls::pull(&self.connection, &self.names, &self.handle, asked, wait).await
    }

    async fn may_hold_undecided(&self) -> bool {
        // What was decided is no longer in the stream. A server that does not say may hold anything.
        let asked = self.connection.jetstream.get_stream(self.names.submit_stream()).await;
        asked.map_or(true, |stream| stream.cached_info().state.messages > 0)
    }
}
