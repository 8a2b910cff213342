//! Pulls: a request for one task that stays open until there is one.
//!
//! Law: whoever asks is answered once. When the wait is over the request is withdrawn and its answer awaited, so that
//! what was placed for it meanwhile is not lost; when whoever asked is gone, it is withdrawn as gone. A pull costs one
//! timer and nothing else while it waits.

use std::time::Duration;

use super::handle::{Handle, Unavailable};
use crate::core::input::{Answer, Input};
use crate::model::{PullRequest, Pulled};

/// Withdraws a request nobody waits for any more.
struct Guard<'a> {
    handle: &'a Handle,
    asked: Option<PullRequest>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.handle.tell(vec![Input::Withdraw { asked, gone: true }]);
        }
    }
}

/// Asks this process's own loop for one task, and waits for it for `wait` at most.
pub(super) async fn pull(handle: &Handle, asked: PullRequest, wait: Duration) -> Result<Pulled, Unavailable> {
    let mut answers = handle.begin(vec![Input::Pull(asked.clone())])?;
    let mut guard = Guard { handle, asked: Some(asked.clone()) };
    let in_time = if asked.patient {
        tokio::time::timeout(wait, &mut answers).await.ok()
    } else {
        Some((&mut answers).await)
    };
    let answered = match in_time {
        Some(answered) => answered,
        None => {
            handle.tell(vec![Input::Withdraw { asked, gone: false }]);
            answers.await
        }
    };
    guard.asked = None;
    match answered.ok().and_then(|mut answers| answers.pop()) {
        Some(Answer::Pulled(pulled)) => Ok(pulled),
        Some(Answer::Frozen { reason }) => Err(Unavailable::Frozen(reason.to_string())),
        _ => Err(Unavailable::NoLeader),
    }
}
