//! What a story changes and a program is answered from: state whose clones are one, and a word whenever it changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct Watched<S> {
    state: Arc<Mutex<S>>,
    changed: watch::Sender<()>,
}

impl<S> Clone for Watched<S> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), changed: self.changed.clone() }
    }
}

impl<S> Watched<S> {
    pub(super) fn new(state: S) -> Self {
        Self { state: Arc::new(Mutex::new(state)), changed: watch::channel(()).0 }
    }

    /// The state, for a moment. What is changed so, nobody hears of.
    pub(super) fn state(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        let done = change(&mut self.state());
        self.changed.send_replace(());
        done
    }

    /// Hears of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
