//! A runner that does nothing by itself: it says exactly what a story has it say, in the words of the protocol.

use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use longshore::broker::Connection;
use serde_json::{Value, json};

use super::pool::{connect, until};
use super::producer::publish;
use crate::binary::PATIENCE;

/// A runner called by its id, with four cores.
pub struct Puppet {
    pub id: String,
    connection: Connection,
    assigned: Subscriber,
    beats: u64,
}

impl Puppet {
    /// Listens and registers.
    pub async fn join(nats: &str, id: &str) -> Self {
        let connection = connect(nats).await;
        let assigned =
            connection.client.subscribe(format!("longshore.assign.{id}")).await.expect("a subscription");
        let puppet = Self { id: id.to_owned(), connection, assigned, beats: 0 };
        puppet.register(&[]).await;
        puppet
    }

    /// Registers until it is answered well.
    pub async fn register(&self, running: &[&Value]) -> Value {
        let body = json!({
            "id": self.id, "incarnation": "0001", "kinds": ["job", "build"], "arch": "amd64", "os": "linux",
            "resources": {"cpu": 4, "memory": "8GiB"}, "slots": 100, "running": running.iter().map(held).collect::<Vec<_>>(),
        });
        until("it is registered", async || {
            let answer = self.ask("register", &body).await?;
            answer.get("table").is_some().then_some(answer)
        })
        .await
    }

    /// One heartbeat, until it is answered.
    pub async fn beat(&mut self, running: &[&Value]) -> Value {
        self.beats += 1;
        let running: Vec<Value> = running.iter().map(held).collect();
        let body = json!({"incarnation": "0001", "number": self.beats, "running": running});
        until("its heartbeat is answered", async || {
            self.ask("heartbeat", &body).await.filter(|answer| answer["number"] == self.beats)
        })
        .await
    }

    async fn ask(&self, ask: &str, body: &Value) -> Option<Value> {
        let subject = format!("longshore.runner.{ask}.{}", self.id);
        let answer = self.connection.client.request(subject, body.to_string().into()).await.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }

    /// The next message on its subject.
    pub async fn next(&mut self) -> Value {
        let message = tokio::time::timeout(PATIENCE, self.assigned.next()).await.expect("something comes");
        serde_json::from_slice(&message.expect("it is subscribed").payload).expect("it is JSON")
    }

    /// Waits for an assignment of this task.
    pub async fn assigned(&mut self, id: &str) -> Value {
        loop {
            let said = self.next().await;
            let listed = said["assignments"].as_array().cloned().unwrap_or_default();
            if let Some(found) = listed.into_iter().find(|assignment| assignment["id"] == id) {
                return found;
            }
        }
    }

    /// Waits until it is asked to stop this task.
    pub async fn asked_to_stop(&mut self, id: &str) -> Value {
        loop {
            let said = self.next().await;
            let listed = said["stop"].as_array().cloned().unwrap_or_default();
            if let Some(found) = listed.into_iter().find(|stop| stop["id"] == id) {
                return found;
            }
        }
    }

    /// Whether nothing comes for so long.
    pub async fn hears_nothing(&mut self, span: Duration) -> bool {
        tokio::time::timeout(span, self.assigned.next()).await.is_err()
    }

    /// Reports a start until the stream has it.
    pub async fn started(&self, assignment: &Value) {
        self.report(
            "start",
            json!({"incarnation": "0001", "id": assignment["id"], "token": assignment["token"]}),
        )
        .await;
    }

    /// Reports an end until the stream has it.
    pub async fn ended(&self, assignment: &Value, outcome: &str) {
        let body = json!({
            "incarnation": "0001", "id": assignment["id"], "token": assignment["token"], "outcome": outcome,
        });
        self.report("end", body).await;
    }

    /// Reports anything of jobs.
    pub async fn report(&self, word: &str, body: Value) {
        publish(&self.connection.jetstream, &format!("longshore.job.{word}.{}", self.id), &body).await;
    }
}

fn held(assignment: &&Value) -> Value {
    json!({"id": assignment["id"], "token": assignment["token"]})
}
