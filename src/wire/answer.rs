//! Answers over NATS to submissions, cancels and commands: `{"turn": 3118, "answers": [{"answer", …}]}`.
//!
//! Law: one answer to each thing asked, in their order, given after the turn that decided them was committed.
//! `turn` is one that contains them all: a replica that has seen it shows what was decided.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Malformed;
use super::message::bytes;
use crate::core::input::{Answer, Commanded, Submitted};
use crate::model::time::span;
use crate::model::{Outcome, Time};

/// What was decided, and by which turn at the latest.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    pub turn: u64,
    pub answers: Vec<Answer>,
}

/// Writes answers to submissions, cancels and commands; any other answer reads `taken`.
pub fn write_answers(turn: u64, answers: &[Answer]) -> Vec<u8> {
    bytes(&AnswersJson { turn, answers: answers.iter().map(AnswerJson::of).collect() })
}

/// Reads them.
pub fn read_answers(body: &[u8]) -> Result<Answers, Malformed> {
    let unread = |why: serde_json::Error| Malformed::payload(format!("is no list of answers: {why}"));
    let read: AnswersJson = serde_json::from_slice(body).map_err(unread)?;
    let answers = read.answers.into_iter().map(AnswerJson::read).collect::<Result<_, _>>()?;
    Ok(Answers { turn: read.turn, answers })
}

#[derive(Serialize, Deserialize)]
struct AnswersJson {
    turn: u64,
    answers: Vec<AnswerJson>,
}

#[derive(Serialize, Deserialize)]
struct AnswerJson {
    answer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    /// Of a lease that goes on; its reason says why the work is to be stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Time>,
    #[serde(default, with = "span::option", skip_serializing_if = "Option::is_none")]
    runs: Option<Duration>,
    /// What a group's is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modification_count: Option<u64>,
}

impl AnswerJson {
    fn of(answer: &Answer) -> Self {
        let (word, reason, outcome) = match answer {
            Answer::Submitted(Submitted::Admitted) => ("admitted", None, None),
            Answer::Submitted(Submitted::Duplicate) => ("duplicate", None, None),
            Answer::Submitted(Submitted::Rejected { reason }) => ("rejected", Some(reason), None),
            Answer::Submitted(Submitted::Conflict { reason }) => ("conflict", Some(reason), None),
            Answer::Submitted(Submitted::Full { reason }) => ("full", Some(reason), None),
            Answer::Commanded(Commanded::Done) => ("done", None, None),
            Answer::Commanded(Commanded::Unchanged) => ("unchanged", None, None),
            Answer::Commanded(Commanded::UnknownRunner) => ("unknown_runner", None, None),
            Answer::Commanded(Commanded::UnknownIntent) => ("unknown_intent", None, None),
            Answer::Commanded(Commanded::IntentRefused { reason }) => ("intent_refused", Some(reason), None),
            Answer::Commanded(Commanded::Leased { stop, .. }) => ("leased", stop.as_ref(), None),
            Answer::Commanded(Commanded::LeaseOver { reason }) => ("lease_over", Some(reason), None),
            Answer::Commanded(Commanded::PullRefused { reason }) => ("pull_refused", Some(reason), None),
            Answer::Commanded(Commanded::UnknownGroup) => ("unknown_group", None, None),
            Answer::Commanded(Commanded::GroupChanged { .. }) => ("group_changed", None, None),
            Answer::Commanded(Commanded::AlreadyEnded { outcome }) => ("already_ended", None, Some(*outcome)),
            Answer::Frozen { reason } | Answer::RegistrationRefused { reason } => {
                ("frozen", Some(reason), None)
            }
            Answer::Taken | Answer::Registered(_) | Answer::Heartbeat(_) | Answer::Pulled(_) => {
                ("taken", None, None)
            }
        };
        let (deadline, runs) = match answer {
            Answer::Commanded(Commanded::Leased { deadline, runs, .. }) => (Some(*deadline), Some(*runs)),
            _ => (None, None),
        };
        let modification_count = match answer {
            Answer::Commanded(Commanded::GroupChanged { modification_count }) => Some(*modification_count),
            _ => None,
        };
        let reason = reason.map(|reason| reason.to_string());
        Self { answer: word.to_owned(), reason, outcome, deadline, runs, modification_count }
    }

    fn read(self) -> Result<Answer, Malformed> {
        if let ("leased", Some(deadline), Some(runs)) = (&*self.answer, self.deadline, self.runs) {
            let stop = self.reason.map(Into::into);
            return Ok(Answer::Commanded(Commanded::Leased { deadline, runs, stop }));
        }
        let reason = self.reason.unwrap_or_default().into();
        Ok(match self.answer.as_str() {
            "admitted" => Answer::Submitted(Submitted::Admitted),
            "duplicate" => Answer::Submitted(Submitted::Duplicate),
            "rejected" => Answer::Submitted(Submitted::Rejected { reason }),
            "conflict" => Answer::Submitted(Submitted::Conflict { reason }),
            "full" => Answer::Submitted(Submitted::Full { reason }),
            "done" => Answer::Commanded(Commanded::Done),
            "unchanged" => Answer::Commanded(Commanded::Unchanged),
            "unknown_runner" => Answer::Commanded(Commanded::UnknownRunner),
            "unknown_intent" => Answer::Commanded(Commanded::UnknownIntent),
            "intent_refused" => Answer::Commanded(Commanded::IntentRefused { reason }),
            "unknown_group" => Answer::Commanded(Commanded::UnknownGroup),
            "group_changed" => {
                let modification_count = self.modification_count.unwrap_or_default();
                Answer::Commanded(Commanded::GroupChanged { modification_count })
            }
            "lease_over" => Answer::Commanded(Commanded::LeaseOver { reason }),
            "pull_refused" => Answer::Commanded(Commanded::PullRefused { reason }),
            "already_ended" => {
                let outcome = self.outcome.ok_or_else(|| Malformed::new("outcome", "is missing"))?;
                Answer::Commanded(Commanded::AlreadyEnded { outcome })
            }
            "frozen" => Answer::Frozen { reason },
            "taken" => Answer::Taken,
            other => {
                return Err(Malformed::payload(format!("has an answer this version does not know: {other}")));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_back_as_they_were_written() {
        let answers = vec![
            Answer::Submitted(Submitted::Admitted),
            Answer::Submitted(Submitted::Duplicate),
            Answer::Submitted(Submitted::Rejected { reason: "no gpu".into() }),
            Answer::Submitted(Submitted::Conflict { reason: "other".into() }),
            Answer::Submitted(Submitted::Full { reason: "window".into() }),
            Answer::Commanded(Commanded::Done),
            Answer::Commanded(Commanded::Unchanged),
            Answer::Commanded(Commanded::UnknownRunner),
            Answer::Commanded(Commanded::AlreadyEnded { outcome: Outcome::Failed }),
            Answer::Commanded(Commanded::UnknownIntent),
            Answer::Commanded(Commanded::IntentRefused { reason: "acknowledged already".into() }),
            Answer::Commanded(Commanded::Leased {
                deadline: Time(1_800_000_000_000),
                runs: Duration::from_secs(60),
                stop: Some("cancelled".into()),
            }),
            Answer::Commanded(Commanded::LeaseOver { reason: "it ended".into() }),
            Answer::Commanded(Commanded::UnknownGroup),
            Answer::Commanded(Commanded::GroupChanged { modification_count: 7 }),
            Answer::Commanded(Commanded::PullRefused { reason: "it runs already".into() }),
            Answer::Frozen { reason: "foreign table".into() },
            Answer::Taken,
        ];
        let read = read_answers(&write_answers(7, &answers)).expect("answers");
        assert_eq!(read, Answers { turn: 7, answers });
    }
}
