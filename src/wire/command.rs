//! Commands over NATS: `{"request": "…", "command": "hold", …}`, and the payload of a cancel.
//!
//! Law: what is written here is read back as the same. `request` names the command for whoever repeats it; one
//! without it is taken each time it comes.

use std::sync::Arc;

use serde::Serialize;

use super::Malformed;
use super::fields::{Fields, Required, json};
use super::message::bytes;
use super::pull;
use crate::core::input::Command;
use crate::model::{IntentId, QueueId, RunnerId, TaskId};

/// The longest reason, in bytes.
pub const LONGEST_REASON: usize = 1024;
/// The most runners one acknowledgement may name.
pub const MOST_RUNNERS: u32 = 100_000;
/// The reason where none is given.
const UNASKED: &str = "on request";

/// A command with the name of its request.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub request: Option<Arc<str>>,
    pub command: Command,
}

/// Reads a command to a runner, a queue or the pool.
pub fn read_command(body: &[u8]) -> Result<Asked, Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    let intent = || fields.id("intent").required(&fields, "intent");
    let runner = || fields.id("runner").required(&fields, "runner");
    // Without a queue the whole pool is meant.
    let queue = || fields.id("queue");
    let command = match fields.text("command").required(&fields, "command")? {
        "hold" => Command::HoldRunner { runner: runner()?, reason: reason(&fields, "held on request")? },
        "drain" => Command::DrainRunner { runner: runner()? },
        "resume" => Command::ResumeRunner { runner: runner()? },
        "pause" => queue()?.map_or(Command::PausePool, |queue| Command::PauseQueue { queue }),
        "unpause" => queue()?.map_or(Command::UnpausePool, |queue| Command::UnpauseQueue { queue }),
        "ack_intent" => {
            Command::AcknowledgeIntent { intent: intent()?, count: fields.count("count", 1, MOST_RUNNERS)? }
        }
        "decline_intent" => {
            Command::DeclineIntent { intent: intent()?, reason: reason(&fields, "declined on request")? }
        }
        "subscribe" => Command::Subscribe(pull::subscription(&fields)?),
        "unsubscribe" => Command::Unsubscribe {
            subscription: fields.id("subscription").required(&fields, "subscription")?,
        },
        "bind" => Command::BindRunner(pull::binding(&fields)?),
        "unbind" => Command::UnbindRunner(pull::binding(&fields)?),
        "ask_for_runner" => Command::AskForRunner { group: fields.id("group").required(&fields, "group")? },
        "lease" => Command::Lease {
            lease: fields.parsed("lease").required(&fields, "lease")?,
            word: pull::word(&fields)?,
        },
        "unfreeze" => Command::Unfreeze,
        other => {
            let why = "expected hold, drain, resume, pause, unpause, ack_intent, decline_intent, \
                 subscribe, unsubscribe, bind, unbind, ask_for_runner, lease or unfreeze; a cancel has a subject of its own";
            return Err(fields.refuse("command", &other.into(), why));
        }
    };
    let request = fields.text("request")?.map(Arc::from);
    Ok(Asked { request, command })
}

/// Writes a command; a cancel is none of these.
pub fn write_command(request: &str, command: &Command) -> Option<Vec<u8>> {
    let of = |command, runner: Option<&RunnerId>, queue: Option<&QueueId>, reason: Option<&str>| {
        let (runner, queue) = (runner.map(|id| id.to_string()), queue.map(|id| id.to_string()));
        let reason = reason.map(str::to_owned);
        bytes(&CommandJson { request, command, runner, queue, reason, ..CommandJson::default() })
    };
    let of_intent = |command, intent: &IntentId, count, reason: Option<&str>| {
        let (intent, reason) = (Some(intent.to_string()), reason.map(str::to_owned));
        bytes(&CommandJson { request, command, intent, count, reason, ..CommandJson::default() })
    };
    Some(match command {
        Command::HoldRunner { runner, reason } => of("hold", Some(runner), None, Some(reason)),
        Command::DrainRunner { runner } => of("drain", Some(runner), None, None),
        Command::ResumeRunner { runner } => of("resume", Some(runner), None, None),
        Command::PauseQueue { queue } => of("pause", None, Some(queue), None),
        Command::UnpauseQueue { queue } => of("unpause", None, Some(queue), None),
        Command::PausePool => of("pause", None, None, None),
        Command::UnpausePool => of("unpause", None, None, None),
        Command::AcknowledgeIntent { intent, count } => of_intent("ack_intent", intent, *count, None),
        Command::DeclineIntent { intent, reason } => of_intent("decline_intent", intent, None, Some(reason)),
        Command::Unfreeze => of("unfreeze", None, None, None),
        Command::Subscribe(subscription) => pull::write_subscription(request, subscription),
        Command::Unsubscribe { subscription } => pull::write_unsubscription(request, subscription),
        Command::BindRunner(binding) => pull::write_binding(request, "bind", binding),
        Command::UnbindRunner(binding) => pull::write_binding(request, "unbind", binding),
        Command::AskForRunner { group } => pull::write_wish(request, group),
        Command::Lease { lease, word } => pull::write_word(request, lease, word),
        Command::Cancel { .. } => return None,
    })
}

/// Reads a cancel; its place in the inbox is not part of it.
pub fn read_cancel(body: &[u8]) -> Result<(TaskId, Arc<str>), Malformed> {
    let value = json(body)?;
    let fields = Fields::of_payload(&value)?;
    Ok((fields.id("id").required(&fields, "id")?, reason(&fields, "cancelled on request")?))
}

/// Writes a cancel.
pub fn write_cancel(id: &TaskId, reason: &str) -> Vec<u8> {
    bytes(&CancelJson { id: id.as_str(), reason })
}

fn reason(fields: &Fields<'_>, otherwise: &str) -> Result<Arc<str>, Malformed> {
    let given = fields.text("reason")?.unwrap_or(otherwise);
    if given.len() > LONGEST_REASON {
        let why = format!("has {} bytes; at most {LONGEST_REASON} are allowed", given.len());
        return Err(fields.refuse("reason", &given.into(), why));
    }
    Ok(if given.is_empty() { UNASKED } else { given }.into())
}

#[derive(Default, Serialize)]
struct CommandJson<'a> {
    request: &'a str,
    command: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct CancelJson<'a> {
    id: &'a str,
    reason: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::model::{AttemptOutcome, Binding, Id, LeaseWord};

    #[test]
    fn a_command_is_read_back_as_it_was_written() {
        let id = |text: &str| Id::parse(text).expect("a name");
        let (runner, queue) = (id("r1"), id("q"));
        let body =
            br#"{"topic": "q", "lease": "1500ms", "arch": "amd64", "resources": {"cpu": 2}, "cost": 2.5}"#;
        let subscription = pull::read_subscription(body, id("s1")).expect("well-formed");
        let (group, seen, lease) = (id("g1"), Some(7), Duration::from_secs(9));
        let binding = Binding { group, runner: id("r1"), seen, lease };
        let lease = |word| Command::Lease { lease: "1-2-3-t1".parse().expect("a lease"), word };
        for command in [
            Command::HoldRunner { runner: runner.clone(), reason: "hot".into() },
            Command::DrainRunner { runner: runner.clone() },
            Command::ResumeRunner { runner },
            Command::PauseQueue { queue: queue.clone() },
            Command::UnpauseQueue { queue },
            Command::PausePool,
            Command::UnpausePool,
            Command::AcknowledgeIntent { intent: id("i1"), count: Some(2) },
            Command::AcknowledgeIntent { intent: id("i1"), count: None },
            Command::DeclineIntent { intent: id("i1"), reason: "no quota".into() },
            Command::Unfreeze,
            Command::Subscribe(subscription),
            Command::Unsubscribe { subscription: id("s1") },
            Command::AskForRunner { group: id("g1") },
            Command::BindRunner(binding.clone()),
            Command::UnbindRunner(Binding { seen: None, ..binding }),
            lease(LeaseWord::Start),
            lease(LeaseWord::Extend),
            lease(LeaseWord::Ack {
                outcome: AttemptOutcome::Failed,
                exit_code: Some(3),
                message: Some("no".into()),
            }),
            lease(LeaseWord::Nack { delay: Duration::from_millis(1_500), reason: "busy".into() }),
        ] {
            let written = write_command("q-1", &command).expect("no cancel");
            assert_eq!(read_command(&written), Ok(Asked { request: Some("q-1".into()), command }));
        }
        assert_eq!(read_cancel(&write_cancel(&id("t1"), "why")), Ok((id("t1"), "why".into())));
    }

    #[test]
    fn a_command_nobody_knows_is_refused_with_those_there_are() {
        let said = read_command(br#"{"command":"explode"}"#).expect_err("unknown").to_string();
        assert!(said.contains("\"explode\"") && said.contains("hold, drain"), "{said}");
    }
}
