//! Whether anybody hears a subject: asked of the server, message by message.
//!
//! Law: "nobody" is only said of a subject on which something was published since [`Listeners::begin`] and reached
//! nobody; what is not known counts as heard. So nothing is left out that somebody who subscribed in time would
//! have got, and whoever is heard of waits for no answer.
//!
//! A message that names a reply and reaches no subscription is answered by the server with the status 503, to its
//! sender alone. A message to the sender's own inbox that follows it on the same connection comes back after that
//! answer: a mark. Once the mark is back, no answer means that somebody heard.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use rustc_hash::FxHashMap;
use tokio::time::timeout;

use crate::broker::Connection;

/// How long the server is waited for. A connection that was lost answers nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The most subjects remembered.
const MOST: usize = 10_000;

/// What is known of a subject.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The number of the last question about it.
    asked: u64,
    /// Whether that question was answered.
    answered: bool,
    /// What the last answer says; until there is one, that somebody hears.
    nobody: bool,
}

/// What is known of the subjects one sender publishes on.
#[derive(Debug)]
pub(super) struct Listeners {
    connection: Connection,
    inbox: String,
    answers: Option<Subscriber>,
    subjects: FxHashMap<String, Known>,
    /// Questions whose answers are not there, by number, with their subjects. The number ends the reply they name.
    open: BTreeMap<u64, String>,
    /// The number of the next question or mark.
    next: u64,
    /// The first number since [`Self::begin`].
    begun: u64,
}

impl Listeners {
    /// Takes everybody to be listening.
    pub(super) fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            inbox: connection.client.new_inbox(),
            answers: None,
            subjects: FxHashMap::default(),
            open: BTreeMap::new(),
            next: 0,
            begun: 0,
        }
    }

    /// From here on every subject is asked about anew.
    pub(super) async fn begin(&mut self) {
        if self.answers.is_none() || self.subjects.len() > MOST {
            self.begin_anew().await;
        }
        if !self.open.is_empty() {
            self.mark().await;
        }
        while let Some(Some(answer)) = self.answers.as_mut().and_then(|answers| answers.next().now_or_never())
        {
            self.take(&answer);
        }
        self.begun = self.next;
    }

    /// Whether a message on this subject would be heard by nobody. Waits for the server only if nobody heard the last
    /// that is known of.
    pub(super) async fn nobody_hears(&mut self, subject: &str) -> bool {
        let Some(known) = self.subjects.get(subject).filter(|known| known.asked >= self.begun) else {
            return false;
        };
        if known.nobody && !known.answered {
            let answered = timeout(ANSWER_WITHIN, self.answered(subject)).await;
            if answered != Ok(true) {
                self.begin_anew().await;
            }
        }
        self.subjects.get(subject).is_some_and(|known| known.nobody && known.answered)
    }

    /// Publishes, and asks with the first message on a subject whether it is heard. At best effort.
    pub(super) async fn publish(&mut self, subject: String, headers: HeaderMap, body: Bytes) {
        let client = &self.connection.client;
        let known = self.subjects.get(&subject);
        if self.answers.is_none() || known.is_some_and(|known| known.asked >= self.begun) {
            let _ = client.publish_with_headers(subject, headers, body).await;
            return;
        }
        let reply = format!("{}.{}", self.inbox, self.next);
        let _ = client.publish_with_reply_and_headers(subject.clone(), reply, headers, body).await;
        let nobody = known.is_some_and(|known| known.nobody);
        self.open.insert(self.next, subject.clone());
        self.subjects.insert(subject, Known { asked: self.next, answered: false, nobody });
        self.next += 1;
    }

    /// Knows nothing any more, and takes no answer to an earlier question for one to a later.
    async fn begin_anew(&mut self) {
        self.subjects.clear();
        self.open.clear();
        self.inbox = self.connection.client.new_inbox();
        // Without answers everybody is taken to be listening.
        self.answers = self.connection.client.subscribe(format!("{}.*", self.inbox)).await.ok();
    }

    async fn mark(&mut self) {
        let mark = format!("{}.{}", self.inbox, self.next);
        let _ = self.connection.client.publish(mark, Bytes::new()).await;
        self.next += 1;
    }

    /// Takes answers until there is one about this subject; `false` if none comes any more.
    async fn answered(&mut self, subject: &str) -> bool {
        self.mark().await;
        while self.subjects.get(subject).is_some_and(|known| !known.answered) {
            let Some(answers) = &mut self.answers else { return false };
            let Some(answer) = answers.next().await else { return false };
            self.take(&answer);
        }
        true
    }

    /// An answer, or a mark, which answers all before it that are open.
    fn take(&mut self, answer: &Message) {
        let number = answer.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let Some(number) = number else { return };
        match answer.status {
            Some(StatusCode::NO_RESPONDERS) => {
                if let Some(subject) = self.open.remove(&number) {
                    self.learn(&subject, number, true);
                }
            }
            // Whoever heard may answer too; only what names no question is a mark.
            _ if self.open.contains_key(&number) => {}
            _ => {
                let later = self.open.split_off(&number);
                for (number, subject) in std::mem::replace(&mut self.open, later) {
                    self.learn(&subject, number, false);
                }
            }
        }
    }

    fn learn(&mut self, subject: &str, number: u64, nobody: bool) {
        if let Some(known) = self.subjects.get_mut(subject) {
            known.nobody = nobody;
            known.answered = known.asked == number;
        }
    }
}
