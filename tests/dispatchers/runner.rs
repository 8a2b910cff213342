//! A runner that knows nothing but the protocol, and whoever of the dispatchers answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::pool::Pool;

/// A runner by hand.
pub struct ByHand {
    id: &'static str,
    beats: u64,
    seen: BTreeSet<String>,
}

/// A task it was given.
#[derive(Debug, Clone)]
pub struct Given {
    pub id: String,
    token: String,
}

impl ByHand {
    pub fn new(id: &'static str) -> Self {
        Self { id, beats: 0, seen: BTreeSet::new() }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/runners/{}/{what}", self.id)
    }

    /// Waits for what it was not given yet, and starts it.
    pub async fn next(&mut self, pool: &Pool) -> Given {
        loop {
            let delivery = pool.get(&self.path("assignments?wait=1s")).await;
            for assignment in delivery["assignments"].as_array().expect("a list") {
                let text = |field: &str| assignment[field].as_str().expect("a text").to_owned();
                let given = Given { id: text("id"), token: text("token") };
                if self.seen.insert(given.token.clone()) {
                    self.report(pool, &given, json!({"report": "start"})).await;
                    return given;
                }
            }
        }
    }

    /// Whether anything waits for it that it was not given yet.
    pub async fn has_nothing_new(&self, pool: &Pool) -> bool {
        let delivery = pool.get(&self.path("assignments?wait=0s")).await;
        let assignments = delivery["assignments"].as_array().expect("a list");
        assignments.iter().all(|one| self.seen.contains(one["token"].as_str().expect("a text")))
    }

    pub async fn end(&self, pool: &Pool, given: &Given, outcome: &str) {
        self.report(pool, given, json!({"report": "end", "outcome": outcome})).await;
    }

    async fn report(&self, pool: &Pool, given: &Given, mut report: Value) {
        let about = json!({"id": given.id, "token": given.token, "incarnation": "one"});
        for (field, value) in about.as_object().expect("fields") {
            report[field] = value.clone();
        }
        pool.post(&self.path("reports"), json!({"reports": [report]})).await;
    }

    /// Says in a heartbeat what it has come to hold.
    pub async fn holds(&mut self, pool: &Pool, artifacts: &[&str], running: &[&Given]) {
        self.beats += 1;
        let running: Vec<Value> =
            running.iter().map(|given| json!({"id": given.id, "token": given.token})).collect();
        let news = json!({"number": self.beats, "added": artifacts, "removed": []});
        let beat = json!({"incarnation": "one", "number": self.beats, "running": running, "artifacts": news});
        pool.post(&self.path("heartbeat"), beat).await;
        for artifact in artifacts {
            let known = |answer: &Value| {
                answer["runners"].as_array().is_some_and(|known| known.contains(&json!(self.id)))
            };
            pool.until(&format!("/v1/artifacts/{artifact}"), known).await;
        }
    }

    /// Leaves, and gives back what of it runs nowhere.
    pub async fn leaves(self, pool: &Pool, handback: &[&str]) {
        pool.post(&self.path("leave"), json!({"incarnation": "one", "handback": handback})).await;
    }
}
