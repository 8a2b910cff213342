//! Runs work that is given as a function: one task of the runtime for each attempt.
//!
//! Law: a function that ended by itself has the end it says, one that was dropped has ended as it was made to. The end
//! is told when the function is over and nobody holds its updates any more.
//!
//! A function lives in its runner's process: the guard cannot end it when that process is stopped. It can only look
//! ([`Updates::is_held`]), and hand its token to whoever it writes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::ending::{Ending, Ways};
use super::{Backend, Start, StartFailed, Stops, Work};
use crate::model::{AttemptOutcome, End};
use crate::runner::attempt::{Attempt, Told, Updates};

/// What is said of how a function was made to end.
const WAYS: Ways = Ways { asked: "ended", forced: "dropped" };

type Function = dyn Fn(Attempt) -> BoxFuture<'static, End> + Send + Sync;

/// Runs one function for every task.
#[derive(Clone)]
pub struct FunctionBackend {
    function: Arc<Function>,
    /// Until when its work may run, in nanoseconds since the machine started.
    until: Arc<AtomicU64>,
    /// Between asking and dropping work that has run out of its time.
    timeout_grace: Duration,
}

impl std::fmt::Debug for FunctionBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FunctionBackend").field("timeout_grace", &self.timeout_grace).finish_non_exhaustive()
    }
}

impl FunctionBackend {
    /// Work that is done by `function`. One that runs out of its task's `timeout` is asked to stop, and dropped after
    /// `timeout_grace`.
    pub fn new<F, Ran, E>(function: F, timeout_grace: Duration) -> Self
    where
        F: Fn(Attempt) -> Ran + Send + Sync + 'static,
        Ran: Future<Output = E> + Send + 'static,
        E: Into<End>,
    {
        let function = move |attempt| -> BoxFuture<'static, End> {
            let ran = function(attempt);
            Box::pin(async move { ran.await.into() })
        };
        Self { function: Arc::new(function), until: Arc::default(), timeout_grace }
    }
}

#[async_trait]
impl Backend for FunctionBackend {
    async fn start(&self, start: Start) -> Result<Work, StartFailed> {
        let (tell, told) = watch::channel(Told::Nothing);
        let heard = Arc::new(AtomicBool::new(false));
        let updates = Updates::new(told, heard.clone(), self.until.clone());
        let (stops, ending) = (start.stops.clone(), Ending::new(start.order.timeout, self.timeout_grace));
        let (function, attempt) = (self.function.clone(), Attempt::of(start, updates));
        let run = AbortOnDropHandle::new(tokio::spawn(async move { function(attempt).await }));
        let watch = Watch { run, tell, heard, stops, ending };
        Ok(Work { group: None, end: Box::pin(watch.until_end()) })
    }

    fn hold_until(&self, until: Duration) {
        self.until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }
}

/// A function that runs, and what is asked of it.
struct Watch {
    run: AbortOnDropHandle<End>,
    tell: watch::Sender<Told>,
    heard: Arc<AtomicBool>,
    stops: Stops,
    ending: Ending,
}

impl Watch {
    async fn until_end(mut self) -> End {
        let ran = loop {
            tokio::select! {
                biased;
                ran = &mut self.run => break ran,
                grace = self.stops.next() => match self.ending.ask(grace) {
                    Some(Signal::KILL) => self.take_away(),
                    _ => self.ask(grace),
                },
                signal = self.ending.due() => match signal {
                    Signal::KILL => self.take_away(),
                    _ => self.ask(self.ending.timeout_grace()),
                },
            }
        };
        self.tell.send_replace(Told::Over);
        self.tell.closed().await;
        self.end(ran)
    }

    /// Asks it to end within `grace`, or within what is left of a shorter one.
    fn ask(&self, grace: Duration) {
        self.tell.send_if_modified(|told| {
            let sooner = match told {
                Told::Nothing => true,
                Told::Stop(before) => grace < *before,
                Told::Over => false,
            };
            if sooner {
                *told = Told::Stop(grace);
            }
            sooner
        });
    }

    fn take_away(&self) {
        self.tell.send_replace(Told::Over);
        self.run.abort();
    }

    fn end(&self, ran: Result<End, JoinError>) -> End {
        let made = self.ending.reason(WAYS);
        let end = match ran {
            Ok(end) => end,
            Err(why) if why.is_panic() => return End::failed(format!("panicked: {}", panic_text(why))),
            Err(_) => {
                let (outcome, reason) =
                    made.unwrap_or_else(|| (AttemptOutcome::Cancelled, "its runtime has ended".to_owned()));
                return End { outcome, ..End::failed(reason) };
            }
        };
        // What a function fails of after it has heard that it is to stop is the stop's doing.
        let made = made.filter(|_| self.heard.load(Ordering::Acquire));
        match (end.outcome, made, &end.message) {
            (AttemptOutcome::Failed | AttemptOutcome::Cancelled, Some((outcome, reason)), message) => {
                let message = message.as_ref().map(|message| format!("{reason}: {message}"));
                End { outcome, message: Some(message.unwrap_or(reason).into()), ..end }
            }
            (AttemptOutcome::Cancelled, None, None) => {
                End::failed("its function says that it was stopped, and nobody asked for that")
            }
            _ => end,
        }
    }
}

fn panic_text(why: JoinError) -> String {
    let said = why.into_panic();
    let text = said.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| said.downcast_ref::<&str>().copied()).unwrap_or("without a text").to_owned()
}
