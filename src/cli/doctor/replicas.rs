//! The dispatchers themselves: who leads, how far the others are behind, and what troubles them.

use serde::Deserialize;

use super::Findings;
use crate::cli::client::Client;
use crate::cli::failure::Failure;

/// Turns a follower may be behind before it is worth a word: it would have to read them before it leads.
const BEHIND: u64 = 1_000;

/// How a dispatcher says it stands.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    #[serde(skip)]
    url: String,
    role: String,
    leader: Option<String>,
    table: String,
    turn: u64,
    frozen: Option<String>,
    trouble: Option<String>,
    builds_unsafe: bool,
    credit: Vec<Credit>,
}

#[derive(Debug, Deserialize)]
struct Credit {
    consumer: String,
    reason: Option<String>,
}

/// Asks the dispatcher at `url` how it stands.
pub(super) async fn ask(url: &str) -> Result<Status, Failure> {
    let answer = Client::new(url)?.get("/v1/status", &[]).await?;
    let status: Status = serde_json::from_value(answer)
        .map_err(|why| Failure::Broken(format!("{url} does not say its status: {why}")))?;
    Ok(Status { url: url.to_owned(), ..status })
}

impl Status {
    pub(super) fn leads(&self) -> bool {
        self.role == "leader"
    }

    /// Says how it stands; `log` is the table and the last turn of it that was read before.
    pub(super) fn judge(&self, found: &mut Findings, log: Option<(&str, u64)>) {
        let url = &self.url;
        if let Some((table, _)) = log.filter(|(table, _)| *table != self.table) {
            let says = format!("{url} shows table {}, the bucket is table {table}", self.table);
            return found.fail("dispatcher", says, "it is of another pool or server; name the right one");
        }
        if let Some(why) = &self.trouble {
            return found.fail("dispatcher", format!("{url} ({}): {why}", self.role), "");
        }
        if let Some(why) = &self.frozen {
            let remedy = "settle why, then `longshore unfreeze`";
            return found.fail("dispatcher", format!("{url}: the pool is frozen: {why}"), remedy);
        }
        let behind = log.map_or(0, |(_, turn)| turn.saturating_sub(self.turn));
        let who = match (&self.leader, self.leads()) {
            (_, true) => "leads".to_owned(),
            (Some(leader), false) => format!("follows {leader}"),
            (None, false) => "follows, and nobody leads".to_owned(),
        };
        let says = format!("{url} {who}, at turn {}, {behind} behind", self.turn);
        match behind {
            0..BEHIND => found.ok("dispatcher", says),
            _ => {
                found.warn("dispatcher", says, "see that it reaches the NATS server and has a cpu to itself")
            }
        }
        if self.builds_unsafe {
            let says = format!("{url}: a running build has no room for a job of its own, so no build starts");
            found.warn("builds", says, "add a runner that fits its jobs");
        }
        for credit in self.credit.iter().filter(|_| self.leads()) {
            match credit.reason.as_deref() {
                Some("table") => {
                    found.fail("credit", format!("{}: paused, the table is in trouble", credit.consumer), "");
                }
                Some(reason) => found.ok("credit", format!("{}: paused for {reason}", credit.consumer)),
                None => {}
            }
        }
    }
}
