//! Dead letters: input that can never be taken, kept with the reason.
//!
//! Law: a message that cannot be read is kept for the operator before it is acknowledged, and never blocks what
//! comes after it. Answers go to inboxes and back to other accounts alone: a client that names another subject
//! gets none.

use async_nats::jetstream::{AckKind, Message};
use serde_json::json;

use super::Context;
use super::chunk::acknowledge;
use crate::broker::chain;

/// Where the server takes an answer on from when the request came from another account.
const FROM_ANOTHER_ACCOUNT: &str = "_R_.";

/// Whether an answer may be published to `subject`, which a client has named in a header.
pub(super) fn may_answer(subject: &str) -> bool {
    subject.starts_with("_INBOX") && !subject.contains(['*', '>', ' '])
}

/// Whether a request may be answered: what it names is an inbox, or the server put its own way back in place of
/// what was named.
pub(super) fn may_reply(subject: &str) -> bool {
    may_answer(subject) || (subject.starts_with(FROM_ANOTHER_ACCOUNT) && !subject.contains(['*', '>', ' ']))
}

/// Keeps a message under `reason`, one word, with `why` in sentences, and acknowledges it; where it cannot be
/// kept it comes again.
pub(super) async fn bury(context: &Context, message: &Message, reason: &str, why: &[String]) {
    let kept = keep(context, message, reason, why).await;
    acknowledge(message, if kept { AckKind::Ack } else { AckKind::Nak(Some(context.take_over)) }).await;
}

/// Keeps a message, of which the rest is taken, under `reason`; whether it is kept.
pub(super) async fn keep(context: &Context, message: &Message, reason: &str, why: &[String]) -> bool {
    let sequence = message.info().map(|info| info.stream_sequence).unwrap_or_default();
    let input = match serde_json::from_slice::<serde_json::Value>(&message.payload) {
        Ok(read) => read,
        Err(_) => String::from_utf8_lossy(&message.payload).into_owned().into(),
    };
    let subject = message.subject.as_str();
    let letter =
        json!({ "reason": reason, "why": why, "subject": subject, "sequence": sequence, "input": input });
    tracing::warn!(
        subject,
        sequence,
        reason,
        why = why.first(),
        "input was refused and is kept as a dead letter"
    );
    context.metrics.dead_letter(reason);
    let body = serde_json::to_vec(&letter).expect("texts and numbers");
    let to = context.names.dead(reason);
    let sent = async { context.connection.jetstream.publish(to, body.into()).await?.await };
    match sent.await {
        Ok(_) => true,
        Err(why) => {
            tracing::error!(why = chain(&why), "dead letter was not kept");
            false
        }
    }
}
