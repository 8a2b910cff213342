//! The demo over NATS: two dispatchers that share a table, runners that speak NATS, and a producer that only
//! knows subjects. In the middle of the day whoever leads is stopped.
//!
//! Law: all of it is in a pool of its own under a name drawn by lot, and goes with the demo; nothing else on the
//! server is touched. Whether the change of leaders cost anything is asked of the rows: no task may have been
//! attempted once more for it, and what the new leader shows must be what the table's log says.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::board::Voice;
use super::day::{self, Planned};
use crate::adapters::jetstream::{JetStreamTable, Options, setup};
use crate::broker::{Connection, chain};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::local::{Local, set};
use crate::cli::nats::Named;
use crate::cli::paper::{Ink, Paper, took};
use crate::cli::{shared, table};
use crate::model::{Id, Kind, QueueId, RunnerId, TaskId};
use crate::ports::Table as _;
use crate::runner::backend::Backend;
use crate::runner::nats::NatsLink;
use crate::runtime::Stopped;
use crate::wire::command::write_cancel;
use crate::wire::subject::Names;

/// How long a dispatcher may take to lead, or to follow.
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Room for each of the demo's streams, in bytes.
const ROOM: u64 = 64 << 20;
/// The most tasks of one message.
const PACK: usize = 100;

/// Two dispatchers and what is known of them.
pub(super) struct Replicas {
    named: Named,
    connection: Connection,
    pool: Id,
    pub(super) local: Local,
    /// Where the one that leads at first answers.
    first: String,
}

/// How the change of leaders went.
#[derive(Debug)]
pub(super) struct TakeOver {
    /// How many tasks had ended when the leader was stopped.
    ended: u64,
    /// From then until the other led, in milliseconds.
    gap_ms: u64,
    turn: u64,
    /// What it cost that it should not have; empty if all went as it should.
    pub(super) wrong: Vec<String>,
}

impl Replicas {
    /// Starts two dispatchers in a new pool. The first leads.
    pub(super) async fn start(named: &Named, settings: &[(&'static str, &str)]) -> Result<Self, Failure> {
        let drawn = Uuid::now_v7().simple().to_string();
        let pool = Id::parse(&format!("demo-{}", &drawn[24..])).expect("letters and digits");
        let named = named.in_pool(pool.as_str());
        let connection = named.as_somebody("demo".to_owned()).connect().await?;
        let local = Local::empty(None)?;
        let mut replicas = Self { named, connection, pool, local, first: String::new() };
        match replicas.begin(settings).await {
            Ok(()) => Ok(replicas),
            Err(why) => {
                // That it could not begin is what is to be said.
                let _ = replicas.end(false).await;
                Err(why)
            }
        }
    }

    async fn begin(&mut self, settings: &[(&'static str, &str)]) -> Result<(), Failure> {
        for role in ["leader", "follower"] {
            let url = self.named.place();
            let own = [("server.listen", "127.0.0.1:0"), ("nats.url", url.as_str())];
            let own: Vec<_> = own.iter().chain(settings).copied().collect();
            let settings = set(&own)?;
            let mut nats = settings.nats.clone().expect("it has an address");
            nats.server = self.named.as_somebody(format!("demo-{role}")).server().clone();
            nats.pools = vec![self.pool.clone()];
            (nats.table_bytes, nats.submit_bytes) = (ROOM, ROOM);
            (nats.report_bytes, nats.history_bytes) = (ROOM, ROOM);
            let stop = CancellationToken::new();
            let dispatcher = shared::start(&settings, &nats, stop.clone()).await?;
            self.local.join(dispatcher, stop);
            let client = Client::new(&self.local.url())?;
            let ready = until(&client, |status| status["role"] == role && status["leader"].is_string());
            let late = || Failure::Broken(format!("no dispatcher was a {role} within {READY_WITHIN:?}"));
            timeout(READY_WITHIN, ready).await.map_err(|_| late())??;
            if self.first.is_empty() {
                self.first = self.local.url();
            }
        }
        Ok(())
    }

    /// Adds the runners of the day. Their work is told the address of the dispatcher that stays.
    pub(super) async fn add_runners(&mut self, backend: &Arc<dyn Backend>) -> Result<(), Failure> {
        let url: Arc<str> = self.local.url().into();
        for runner in day::RUNNERS {
            let id = RunnerId::parse(runner.id).expect("runners of the program have legal names");
            let connection = self.named.as_somebody(format!("demo-{id}")).connect().await?;
            let link = NatsLink::open(connection, self.named.names.clone(), &id, Some(url.clone())).await;
            let link = link.map_err(|why| Failure::Broken(why.to_string()))?;
            self.local.add_on(runner, Arc::new(link), backend.clone());
        }
        Ok(())
    }

    /// Who submits over subjects.
    pub(super) fn producer(&self) -> Producer {
        Producer { connection: self.connection.clone(), names: self.named.names.clone() }
    }

    /// Stops the leader once a third of the day has ended, and waits until the other leads.
    pub(super) async fn change_leaders(
        &mut self,
        plan: &[Planned],
        voice: &Voice,
    ) -> Result<TakeOver, Failure> {
        let client = Client::new(&self.local.url())?;
        let third = plan.len() as u64 / 3;
        let ended = |status: &Value| status["counts"]["ended"].as_u64().unwrap_or(0);
        let status = until(&client, |status| ended(status) >= third).await?;
        let ended = ended(&status);
        voice.say(format!(
            "stopping the leader at {}: {ended} of {} tasks have ended",
            self.first,
            plan.len()
        ));
        let began = Instant::now();
        let stopped = self.local.stop_first().await;
        let status = until(&client, |status| status["role"] == "leader").await?;
        let gap_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let turn = status["turn"].as_u64().unwrap_or(0);
        let span = took(gap_ms);
        voice.say(format!("the other leads since turn {turn}, {span} after the first was asked to stop"));
        let mut wrong = Vec::new();
        if stopped != Stopped::Released {
            wrong.push(format!("the first leader did not stop in order: {stopped:?}"));
        }
        Ok(TakeOver { ended, gap_ms, turn, wrong })
    }

    /// Whether the day left everything as if there had been one leader. Adds what is not so to `change`.
    pub(super) async fn judge(&self, told: &[Value], change: &mut TakeOver) -> Result<(), Failure> {
        for task in told {
            let allowed = if task["id"] == day::FLAKY { 2 } else { 1 };
            let attempts = task["attempt"].as_u64().unwrap_or(0);
            if attempts > allowed {
                change.wrong.push(format!("{} was attempted {attempts} times", task["id"]));
            }
        }
        let opened = JetStreamTable::open(&self.connection, &self.named.names, Options::default()).await;
        let opened = opened.map_err(table::said)?;
        let load = opened.load().await.map_err(table::said)?;
        let (broken, compared) = table::judge(load, opened, &[self.local.url()]).await?;
        change.wrong.extend(broken);
        change.wrong.extend(compared.into_iter().flat_map(|one| one.differs));
        Ok(())
    }

    /// Stops everything, and removes the pool unless it is to stay.
    pub(super) async fn end(self, stays: bool) -> Result<(), Failure> {
        let stopped = self.local.stop().await;
        if !stays {
            let removed = setup::remove(&self.connection, &self.named.names).await;
            removed.map_err(|why| {
                let prefix = self.named.names.prefix();
                Failure::Broken(format!("{why}; streams of the pool {prefix} are left on the server"))
            })?;
        }
        stopped
    }

    /// Says what is shown, for people.
    pub(super) fn introduce(&self, paper: Paper) {
        paper.line(format!("  dispatchers {} leads, {} follows", self.first, self.local.url()));
        let (place, pool) = (self.named.place(), &self.pool);
        paper.line(format!("  table       in the pool {pool} on NATS at {place}, made for this"));
    }
}

/// Somebody who only knows subjects.
pub(super) struct Producer {
    connection: Connection,
    names: Names,
}

impl Producer {
    /// Publishes the tasks of the day, some in a message.
    pub(super) async fn submit(&self, plan: &[Planned]) -> Result<(), Failure> {
        let queue = QueueId::parse("default").expect("a name");
        let tasks = plan.iter().filter_map(|planned| planned.task.as_ref());
        let (builds, jobs): (Vec<&Value>, Vec<&Value>) = tasks.partition(|task| task["kind"] == "build");
        for (kind, tasks) in [(Kind::Build, builds), (Kind::Job, jobs)] {
            let subject = self.names.pending(kind, &queue, None);
            for some in tasks.chunks(PACK) {
                self.publish(&subject, json!({"tasks": some}).to_string().into_bytes()).await?;
            }
        }
        Ok(())
    }

    /// Cancels the task that is to be cancelled, once it runs.
    pub(super) async fn cancel(&self, client: &Client) -> Result<(), Failure> {
        let path = format!("/v1/tasks/{}", day::CANCELLED);
        loop {
            match client.get(&path, &[]).await {
                Ok(task) if task["state"] == "running" => break,
                Ok(_) => {}
                Err(Failure::Problem(problem)) if problem.status == 404 => {}
                Err(why) => return Err(why),
            }
            sleep(LOOK_AGAIN).await;
        }
        let id = TaskId::parse(day::CANCELLED).expect("a name");
        self.publish(&self.names.cancel(), write_cancel(&id, "the branch was deleted")).await
    }

    async fn publish(&self, subject: &str, body: Vec<u8>) -> Result<(), Failure> {
        let failed =
            |why: &dyn std::error::Error| Failure::Broken(format!("publish {subject}: {}", chain(why)));
        let sent = self.connection.jetstream.publish(subject.to_owned(), body.into()).await;
        sent.map_err(|why| failed(&why))?.await.map(drop).map_err(|why| failed(&why))
    }
}

impl TakeOver {
    /// The day did not get so far.
    pub(super) fn never() -> Self {
        let wrong = vec!["the leaders did not change in time".to_owned()];
        Self { ended: 0, gap_ms: 0, turn: 0, wrong }
    }

    pub(super) fn json(&self) -> Value {
        json!({"ended_before": self.ended, "gap_ms": self.gap_ms, "turn": self.turn, "wrong": self.wrong})
    }

    pub(super) fn show(&self, paper: Paper) {
        if self.wrong.is_empty() {
            let span = took(self.gap_ms);
            paper.line(paper.ink(
                Ink::Good,
                format!(
                    "The leader was stopped after {} tasks; the other led {span} later, from turn {} on. No task was run again for it, and the new leader shows what the log says.",
                    self.ended, self.turn
                ),
            ));
        }
        self.wrong.iter().for_each(|what| paper.line(paper.ink(Ink::Bad, what)));
    }
}

/// Waits until the status of a dispatcher is as wanted.
async fn until(client: &Client, wanted: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
    loop {
        let status = client.get("/v1/status", &[]).await?;
        if wanted(&status) {
            return Ok(status);
        }
        sleep(LOOK_AGAIN).await;
    }
}
