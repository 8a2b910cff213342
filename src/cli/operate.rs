//! What an operator tells the dispatcher about runners, queues and the pool: `hold`, `drain`, `resume`, `pause`,
//! `unpause`, `unfreeze`.
//!
//! Law: each says what shall be, so saying it twice changes nothing.

use clap::Args;
use serde_json::{Value, json};

use super::Remote;
use super::client::Body;
use super::failure::Failure;

/// Give a runner nothing new; what it has runs on
#[derive(Debug, Args)]
pub(super) struct Hold {
    /// The runner
    runner: String,
    /// Why, for whoever asks later
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Let a runner finish what it has and give it nothing more
#[derive(Debug, Args)]
pub(super) struct Drain {
    /// The runner
    runner: String,
    #[command(flatten)]
    remote: Remote,
}

/// Give work to a held or draining runner again
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The runner
    runner: String,
    #[command(flatten)]
    remote: Remote,
}

/// Start nothing new, from one queue or in the whole pool; what runs runs on
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// The queue; without one, the whole pool
    queue: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Start work again, from a paused queue or in a paused pool
#[derive(Debug, Args)]
pub(super) struct Unpause {
    /// The queue; without one, the whole pool
    queue: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Let a frozen pool decide again, after you have found out why it froze
#[derive(Debug, Args)]
pub(super) struct Unfreeze {
    #[command(flatten)]
    remote: Remote,
}

impl Hold {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { runner, reason, remote } = self;
        let body = reason.map(|reason| json!({"reason": reason}));
        let path = format!("/v1/runners/{runner}/hold");
        say(&remote, &path, body, &format!("{runner} is held; `longshore resume {runner}` ends that")).await
    }
}

impl Drain {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { runner, remote } = self;
        let path = format!("/v1/runners/{runner}/drain");
        say(
            &remote,
            &path,
            None,
            &format!("{runner} is draining; `longshore runners {runner}` says what is left"),
        )
        .await
    }
}

impl Resume {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { runner, remote } = self;
        say(&remote, &format!("/v1/runners/{runner}/resume"), None, &format!("{runner} is ready")).await
    }
}

impl Pause {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { queue, remote } = self;
        let Some(queue) = queue else {
            let done = "the pool is paused, all of it; `longshore unpause` ends that";
            return say(&remote, "/v1/pause", None, done).await;
        };
        let done = format!("queue {queue} is paused; `longshore unpause {queue}` ends that");
        say(&remote, &format!("/v1/queues/{queue}/pause"), None, &done).await
    }
}

impl Unpause {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { queue, remote } = self;
        let Some(queue) = queue else {
            let done = "the pool is open; a queue that was paused by itself stays so";
            return say(&remote, "/v1/resume", None, done).await;
        };
        say(&remote, &format!("/v1/queues/{queue}/resume"), None, &format!("queue {queue} is open")).await
    }
}

impl Unfreeze {
    pub(super) async fn run(self) -> Result<(), Failure> {
        say(&self.remote, "/v1/unfreeze", None, "the pool decides again").await
    }
}

async fn say(remote: &Remote, path: &str, body: Option<Value>, done: &str) -> Result<(), Failure> {
    let (client, paper) = remote.open()?;
    let answer = client.post(path, body.as_ref().map(Body::Json).unwrap_or_default()).await?;
    if paper.is_json() {
        paper.json(&if answer == Value::Null { json!({"done": true}) } else { answer });
    } else {
        paper.line(done);
    }
    Ok(())
}
