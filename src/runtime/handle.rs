//! The one door for inputs and the one window on committed turns, for HTTP and everything else in the process.
//!
//! Law: an answer means that the turn it was given in is committed. What is read is the last committed turn,
//! never one on its way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::core::State;
use crate::core::input::{Answer, Input};
use crate::model::{PullRequest, Pulled, TurnRecord};

/// The committed state, shared by all readers.
#[derive(Debug, Clone)]
pub struct View(Arc<RwLock<State>>);

impl View {
    /// A view of `state`.
    pub fn new(state: State) -> Self {
        Self(Arc::new(RwLock::new(state)))
    }

    /// Reads the last committed turn. `read` must be short: the next turn waits for it.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a state that was loaded again in place of this one.
    pub(super) fn replace(&self, state: State) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Applies a committed turn.
    pub fn apply(&self, record: &TurnRecord) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).apply(record);
    }
}

/// What a replica is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads as soon as its first turn is committed: inputs wait for that.
    Claiming,
    Leading,
    Following,
}

/// How the replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This process's id.
    pub replica: Uuid,
    pub role: Role,
    /// Who decided the last committed turn, unless it was its last.
    pub leader: Option<Uuid>,
    /// The last committed turn this replica has seen.
    pub turn: u64,
    /// What is wrong with the table, if anything: no input is taken while this is set.
    pub trouble: Option<String>,
    pub stopping: bool,
}

/// Inputs with the way back for their answers, in the same order.
#[derive(Debug)]
pub struct Call {
    pub inputs: Vec<Input>,
    pub reply: Option<oneshot::Sender<Vec<Answer>>>,
}

/// Why an input was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the dispatcher is stopping")]
    Stopping,
    #[error("the table takes nothing at the moment: {0}")]
    Table(String),
    #[error("no leader takes inputs at the moment")]
    NoLeader,
    /// Nothing is decided until an operator says so.
    #[error("the pool is frozen: {0}")]
    Frozen(String),
    /// Whoever leads would not take it; nothing was changed.
    #[error("{0}")]
    Refused(String),
}

/// Where inputs are put from outside: the turn loop's own door, or the way to whoever leads.
#[async_trait]
pub trait Door: Send + Sync {
    /// Puts inputs through and waits until the turns that took them are committed. The answers stand in the order
    /// of the inputs. `None` stands for a submission or a cancel that is durable and not decided yet.
    async fn put(&self, inputs: Vec<Input>) -> Result<Vec<Option<Answer>>, Unavailable>;

    /// Asks for one task and waits for it for `wait` at most. Dropped, it withdraws the request.
    async fn pull(&self, asked: PullRequest, wait: Duration) -> Result<Pulled, Unavailable>;

    /// Whether submissions that are durable may still wait to be decided.
    async fn may_hold_undecided(&self) -> bool {
        false
    }
}

#[async_trait]
impl Door for Handle {
    async fn put(&self, inputs: Vec<Input>) -> Result<Vec<Option<Answer>>, Unavailable> {
        Ok(self.ask(inputs).await?.into_iter().map(Some).collect())
    }

    async fn pull(&self, asked: PullRequest, wait: Duration) -> Result<Pulled, Unavailable> {
        super::pulling::pull(self, asked, wait).await
    }
}

/// How many calls may wait for their answers at once; more wait before the door.
const CALLS: usize = 4_096;

/// The door and the window.
#[derive(Debug, Clone)]
pub struct Handle {
    door: mpsc::UnboundedSender<Call>,
    permits: Arc<Semaphore>,
    view: View,
    turns: broadcast::Sender<Arc<TurnRecord>>,
    status: watch::Receiver<Status>,
    /// The newest turn the table is known to have.
    newest: watch::Receiver<u64>,
    sequence: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(
        door: mpsc::UnboundedSender<Call>,
        view: View,
        turns: broadcast::Sender<Arc<TurnRecord>>,
        status: watch::Receiver<Status>,
        newest: watch::Receiver<u64>,
    ) -> Self {
        let sequence = view.read(|state| state.turn()) << 20;
        let sequence = Arc::new(AtomicU64::new(sequence));
        Self { door, permits: Arc::new(Semaphore::new(CALLS)), view, turns, status, newest, sequence }
    }

    /// Puts inputs through the door and waits until the turns that took them are committed. The answers stand in
    /// the order of the inputs.
    pub async fn ask(&self, inputs: Vec<Input>) -> Result<Vec<Answer>, Unavailable> {
        let _permit = self.permits.acquire().await.map_err(|_| Unavailable::Stopping)?;
        let answers = self.begin(inputs)?;
        answers.await.map_err(|_| self.is_available().err().unwrap_or(Unavailable::NoLeader))
    }

    /// Puts inputs through the door at once; the answers come when their turns are committed, and never if this
    /// replica ceases to lead before. Whoever calls bounds how much it has on the way.
    pub fn begin(&self, inputs: Vec<Input>) -> Result<oneshot::Receiver<Vec<Answer>>, Unavailable> {
        self.is_available()?;
        let (reply, answers) = oneshot::channel();
        self.door.send(Call { inputs, reply: Some(reply) }).map_err(|_| Unavailable::Stopping)?;
        Ok(answers)
    }

    /// Puts inputs through the door without waiting: a loop that has ended needs them no more.
    pub fn tell(&self, inputs: Vec<Input>) {
        let _ = self.door.send(Call { inputs, reply: None });
    }

    /// Puts one input through the door.
    pub async fn ask_one(&self, input: Input) -> Result<Answer, Unavailable> {
        let mut answers = self.ask(vec![input]).await?;
        answers.pop().ok_or(Unavailable::NoLeader)
    }

    fn is_available(&self) -> Result<(), Unavailable> {
        let status = self.status.borrow();
        match &status.trouble {
            _ if status.stopping => Err(Unavailable::Stopping),
            Some(why) => Err(Unavailable::Table(why.clone())),
            None if status.role == Role::Following => Err(Unavailable::NoLeader),
            None => Ok(()),
        }
    }

    /// The next place in the inbox, for a submission or a cancel.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// The window on committed turns.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Every turn from now on, once it is committed. A receiver that falls far behind is told how many it missed.
    pub fn turns(&self) -> broadcast::Receiver<Arc<TurnRecord>> {
        self.turns.subscribe()
    }

    /// How the replica stands.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// How many turns stand in the table, as far as is known, that what is read here does not show yet. Whoever
    /// leads writes them itself, and is never behind.
    pub fn lag(&self) -> u64 {
        if self.status.borrow().role == Role::Leading {
            return 0;
        }
        self.newest.borrow().saturating_sub(self.view.read(State::turn))
    }

    /// A receiver of every change of how the replica stands.
    pub fn status_changes(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Settings;
    use crate::model::{Head, TurnId};

    #[test]
    fn who_follows_is_behind_by_what_the_table_has_beyond_what_is_read_here() {
        let replica = Uuid::from_u128(1);
        let mut state = State::new(Arc::new(Settings::default()), Uuid::from_u128(7));
        let mut turn = |number| {
            let id = TurnId { leader: replica, counter: number };
            let head = Head { number, id, ..Head::empty() };
            state = State::load(state.settings.clone(), state.table, head, Vec::new());
            state.clone()
        };
        let view = View::new(turn(3));
        let (status, statuses) = watch::channel(Status {
            replica,
            role: Role::Following,
            leader: None,
            turn: 3,
            trouble: None,
            stopping: false,
        });
        let (newest, known) = watch::channel(0);
        let (door, _calls) = mpsc::unbounded_channel();
        let handle = Handle::new(door, view.clone(), broadcast::channel(1).0, statuses, known);
        assert_eq!(handle.lag(), 0, "nothing is known of the table yet");
        newest.send_replace(10);
        assert_eq!(handle.lag(), 7);
        view.replace(turn(9));
        assert_eq!(handle.lag(), 1);
        view.replace(turn(11));
        assert_eq!(handle.lag(), 0, "it was loaded again, beyond what was followed");
        newest.send_replace(12);
        status.send_modify(|status| status.role = Role::Leading);
        assert_eq!(handle.lag(), 0, "who leads is never behind");
    }
}
