//! Following the log: every turn after the one named, as it is written.
//!
//! Law: turns come once, in order, by their numbers; where the next one is missing the stream says `Behind` and
//! ends, where the log went back it says `Lost` and ends. A turn that this version cannot read is never passed
//! on: the stream says `Behind`, and loading again says what is the matter. The log is read by a task of its own
//! that starts when the stream is first asked and outlives every connection; when nobody asks any more, it ends.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc::{self, Sender};

use super::Shared;
use super::bucket::{turn_key, turn_number};
use super::load::decode_turn;
use super::log::{self, TURNS};
use super::reader::{Entry, Reader};
use super::trouble::Trouble;
use crate::model::TurnId;
use crate::ports::Follow;

/// How many turns are read ahead of whoever follows.
const AHEAD: usize = 64;

/// Where a follower stands.
struct Follower {
    shared: Arc<Shared>,
    tell: Sender<Follow>,
    /// The last turn that was passed on, or the one it was asked to begin after.
    after: u64,
    /// What that turn is and where it stands, once known.
    place: Option<(TurnId, u64)>,
}

/// Why reading stopped.
enum Stop {
    /// Nobody listens any more.
    Unheard,
    /// This is the last thing there is to say.
    Say(Follow),
    /// Reading failed: try again from where it was.
    Failed(String),
}

impl From<Trouble> for Stop {
    fn from(why: Trouble) -> Self {
        match why {
            Trouble::Unclear(why) | Trouble::Missing(why) => Stop::Failed(why),
            Trouble::Lost(why) => Stop::Say(Follow::Lost { why }),
            Trouble::Unusable(why) | Trouble::Newer(why) | Trouble::Damaged(why) => {
                tracing::error!(%why, "table cannot be followed");
                Stop::Say(Follow::Behind)
            }
        }
    }
}

/// Every turn after number `after`, then each new one.
pub(super) fn follow(shared: Arc<Shared>, after: u64) -> BoxStream<'static, Follow> {
    let start = async move {
        let (tell, told) = mpsc::channel(AHEAD);
        tokio::spawn(Follower { shared, tell, after, place: None }.run());
        stream::unfold(told, async |mut told| told.recv().await.map(|said| (said, told)))
    };
    stream::once(start).flatten().boxed()
}

impl Follower {
    async fn run(mut self) {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(20))
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        let mut pause = pauses.build();
        loop {
            let before = self.after;
            match self.read().await {
                Stop::Unheard => return,
                Stop::Say(last) => {
                    let _ = self.tell.send(last).await; // nobody listening is as good
                    return;
                }
                Stop::Failed(why) => tracing::debug!(after = self.after, %why, "log is read again"),
            }
            if self.after > before {
                pause = pauses.build();
            }
            let wait = pause.next().unwrap_or(Duration::from_secs(2));
            tokio::select! {
                () = self.tell.closed() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Passes turns on until something ends it.
    async fn read(&mut self) -> Stop {
        let shared = self.shared.clone();
        let mut lost = shared.lost.subscribe();
        let mut weather = shared.bucket.connection.weather();
        let connects = weather.borrow_and_update().connects;
        let mut reader = match self.start().await {
            Ok(from) => match Reader::start(&shared.bucket, &[TURNS], from).await {
                Ok(reader) => reader,
                Err(why) => return why.into(),
            },
            Err(stop) => return stop,
        };
        loop {
            let entry = tokio::select! {
                biased;
                _ = lost.wait_for(Option::is_some) => {
                    let why = shared.lost().map_or(String::new(), |why| why.to_string());
                    return Stop::Say(Follow::Lost { why });
                }
                () = self.tell.closed() => return Stop::Unheard,
                // What the consumer was asked for went with the connection, and maybe more than that.
                _ = weather.wait_for(|weather| weather.connects != connects) => {
                    return Stop::Failed("connected anew".to_owned());
                }
                entry = reader.next() => entry,
            };
            let passed = match entry {
                Ok(entry) => self.pass(&entry).await,
                Err(why) => Err(why.into()),
            };
            if let Err(stop) = passed {
                return stop;
            }
        }
    }

    /// The sequence to read from, after making sure that the turn named is where it was.
    async fn start(&mut self) -> Result<u64, Stop> {
        self.shared.last_sequence().await?;
        if self.after == 0 {
            return Ok(1);
        }
        let bucket = &self.shared.bucket;
        if let Some(found) = bucket.last(&turn_key(self.after)).await? {
            let place = (decode_turn(self.after, &found.bytes)?.id, found.sequence);
            if self.place.is_some_and(|seen| seen != place) {
                return Err(self.shared.is_lost(format!("turn {} is not the one it was", self.after)).into());
            }
            self.place = Some(place);
            return Ok(found.sequence + 1);
        }
        let last = log::last_number(bucket).await?;
        if last >= self.after {
            return Ok(1); // dropped; the next one may still be there
        }
        let seen = self.shared.seen().map_or(0, |(_, head)| head.number);
        if self.place.is_none() && seen < self.after {
            return Err(Stop::Say(Follow::Behind));
        }
        let why = format!("the log ends with turn {last}, and turn {} was seen", self.after);
        Err(self.shared.doubt(why).into())
    }

    async fn pass(&mut self, entry: &Entry) -> Result<(), Stop> {
        let Some(number) = turn_number(&entry.key) else { return Ok(()) };
        if number <= self.after {
            return match self.place.filter(|(_, seen)| entry.sequence > *seen) {
                None => Ok(()), // read from the beginning, for want of a better place
                Some((_, seen)) => {
                    let after = self.after;
                    let why =
                        format!("turn {number} stands after sequence {seen}, where turn {after} was seen");
                    Err(self.shared.is_lost(why).into())
                }
            };
        }
        if number > self.after + 1 {
            return Err(Stop::Say(Follow::Behind));
        }
        let turn = decode_turn(number, entry.bytes())?;
        // With a gap, this process has not loaded what came before; it will when it has to write.
        self.shared.take_in(entry.sequence, &turn)?;
        (self.after, self.place) = (number, Some((turn.id, entry.sequence)));
        // Nothing but turns is read here, and they stand without a gap.
        self.shared.newest.send_replace(number + entry.pending);
        self.tell.send(Follow::Turn(turn)).await.map_err(|_| Stop::Unheard)
    }
}
