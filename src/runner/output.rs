//! What work writes, on its way to the dispatcher.
//!
//! Law: whoever writes never waits, and memory is bounded: what the dispatcher does not take in time, and what is
//! beyond the limit of an attempt, is left out, and the output says how much. Secrets never leave this process. Output
//! is told apart from reports: it may be lost, they may not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::link::{Link, LinkError};
use super::pause::Pause;
use super::positions::{Position, Positions};
use crate::model::{Held, OutputPiece, RunnerId};

/// What of one attempt waits to be sent, in bytes at most.
const WAITING: usize = 256 << 10;
/// The most bytes of one piece.
const PIECE: usize = 64 << 10;
/// The most pieces sent at once.
const PACK: usize = 16;
/// How long output is gathered before it is sent.
const GATHER: Duration = Duration::from_millis(100);
/// How long a runner that leaves still sends.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Texts that must not be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets(Arc<[String]>);

impl Secrets {
    /// What stands in the place of one.
    const MASK: &'static str = "***";
    /// A shorter one would mask what everybody writes.
    const SHORTEST: usize = 3;

    /// These texts, but for those that are too short to be secrets.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.into_iter().filter(|text| text.len() >= Self::SHORTEST).collect();
        // One may be a part of another: the longer is masked first.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(texts.into())
    }

    /// The text without them.
    pub fn mask(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), Self::MASK))
    }

    /// How many bytes at the end of `bytes` may be the beginning of one.
    fn begun(&self, bytes: &[u8]) -> usize {
        let begun = |secret: &String| {
            let secret = secret.as_bytes();
            (1..secret.len().min(bytes.len() + 1)).rev().find(|length| bytes.ends_with(&secret[..*length]))
        };
        self.0.iter().filter_map(begun).max().unwrap_or(0)
    }
}

/// Output of one attempt that was not sent yet.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Bytes that were sent, as they were sent.
    sent: u64,
    /// Bytes that were written.
    written: u64,
    /// Of those, how many were sent, or left out and said to be.
    taken: u64,
    /// So many bytes come again that an earlier start of the runner has sent.
    again: u64,
    left_out: u64,
    secrets: Secrets,
    over: bool,
}

impl Waiting {
    /// Takes out what can be sent now.
    fn take(&mut self, held: &Held) -> Option<OutputPiece> {
        let mut end = self.bytes.len().min(PIECE);
        let whole = end == self.bytes.len();
        if !(whole && self.over) {
            end -= self.secrets.begun(&self.bytes[..end]);
            end -= unfinished(&self.bytes[..end]);
        }
        let last = whole && self.over;
        if end == 0 && !last {
            return None;
        }
        let taken: Vec<u8> = self.bytes.drain(..end).collect();
        self.taken += taken.len() as u64;
        let mut text = self.secrets.mask(&String::from_utf8_lossy(&taken));
        if self.left_out > 0 && self.bytes.is_empty() {
            self.taken += self.left_out;
            text.push_str(&format!("\n[{} bytes were left out]\n", std::mem::take(&mut self.left_out)));
        }
        let piece = OutputPiece {
            id: held.id.clone(),
            token: held.token,
            from: self.sent,
            text: text.as_str().into(),
            last,
        };
        self.sent += text.len() as u64;
        Some(piece)
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(why) if why.error_len().is_none() => bytes.len() - why.valid_up_to(),
        _ => 0,
    }
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<BTreeMap<Held, Waiting>>,
    news: Notify,
    sent: Notify,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Held, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The output of all attempts of a runner.
#[derive(Debug, Clone)]
pub(super) struct Outputs {
    shared: Arc<Shared>,
    /// How much of one attempt is sent, in bytes.
    limit: u64,
    /// Where it is noted how far that of work that may outlive this process was sent.
    positions: Option<Positions>,
}

impl Outputs {
    pub(super) fn new(limit: u64, positions: Option<Positions>) -> Self {
        Self { shared: Arc::default(), limit, positions }
    }

    /// Where an attempt writes. Its output is over when this and its clones are dropped.
    pub(super) fn begin(&self, held: &Held, secrets: Secrets) -> OutputWriter {
        self.begin_at(Position::default(), held, secrets)
    }

    /// Where an attempt of an earlier start writes, from its beginning: what that start has sent is passed over.
    pub(super) fn go_on(&self, held: &Held, secrets: Secrets) -> OutputWriter {
        let sent = self.positions.as_ref().map(|positions| positions.get(held));
        self.begin_at(sent.unwrap_or_default(), held, secrets)
    }

    /// Forgets how far the output of all others was sent.
    pub(super) fn keep_positions(&self, of: &[Held]) {
        self.positions.iter().for_each(|positions| positions.keep(of));
    }

    fn begin_at(&self, Position { written, sent }: Position, held: &Held, secrets: Secrets) -> OutputWriter {
        if self.limit == 0 {
            return OutputWriter::default();
        }
        let begun = Waiting { secrets, written, taken: written, again: written, sent, ..Waiting::default() };
        self.shared.waiting().insert(held.clone(), begun);
        let begun = Begun { shared: self.shared.clone(), held: held.clone(), limit: self.limit };
        OutputWriter(Some(Arc::new(begun)))
    }

    /// Sends what is written until nobody asks for it any more.
    pub(super) async fn send(self, link: Arc<dyn Link>, runner: RunnerId) {
        loop {
            let pieces = self.take();
            if pieces.is_empty() {
                self.shared.sent.notify_waiters();
                self.shared.news.notified().await;
                sleep(GATHER).await;
                continue;
            }
            send_pack(&*link, &runner, &pieces).await;
            self.note(&pieces);
        }
    }

    /// Notes how far output was sent, now that these are.
    fn note(&self, pieces: &[OutputPiece]) {
        let Some(positions) = &self.positions else { return };
        for piece in pieces {
            let held = Held { id: piece.id.clone(), token: piece.token };
            let output = self.shared.waiting();
            let position = output.get(&held).map(|it| Position { written: it.taken, sent: it.sent });
            drop(output);
            positions.put(&held, position);
        }
    }

    /// Waits until all is sent of what has been written, but not for long.
    pub(super) async fn flush(&self) {
        let flushed = async {
            loop {
                let sent = self.shared.sent.notified();
                if self.shared.waiting().is_empty() {
                    return;
                }
                sent.await;
            }
        };
        let _ = timeout(LAST_WITHIN, flushed).await;
    }

    fn take(&self) -> Vec<OutputPiece> {
        let mut waiting = self.shared.waiting();
        let mut pieces = Vec::new();
        for (held, output) in waiting.iter_mut() {
            // Of work that wrote nothing there is nothing to say.
            if output.over && output.written == 0 {
                continue;
            }
            pieces.extend(output.take(held));
            if pieces.len() == PACK {
                break;
            }
        }
        let over = |held: &Held, output: &Waiting| {
            output.over
                && (output.written == 0
                    || pieces
                        .iter()
                        .any(|piece| piece.last && piece.id == held.id && piece.token == held.token))
        };
        waiting.retain(|held, output| !over(held, output));
        pieces
    }
}

async fn send_pack(link: &dyn Link, runner: &RunnerId, pieces: &[OutputPiece]) {
    let mut pause = Pause::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut waits = false;
    loop {
        match link.output(runner, pieces).await {
            Ok(()) => return,
            Err(LinkError::Retry { after, message }) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::warn!(why = %message, "output is not taken; it is sent again");
                }
                sleep(pause.next(after)).await;
            }
            Err(why) => {
                tracing::warn!(%why, "output was refused and is left out");
                return;
            }
        }
    }
}

#[derive(Debug)]
struct Begun {
    shared: Arc<Shared>,
    held: Held,
    limit: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(output) = self.shared.waiting().get_mut(&self.held) {
            output.over = true;
        }
        self.shared.news.notify_one();
    }
}

/// Where what an attempt writes goes: to `longshore logs`, with secrets masked and within the runner's limit.
#[derive(Debug, Clone, Default)]
pub struct OutputWriter(Option<Arc<Begun>>);

impl OutputWriter {
    /// Takes in what was written next. Never waits.
    pub fn write(&self, bytes: &[u8]) {
        let Some(begun) = &self.0 else { return };
        let mut waiting = begun.shared.waiting();
        let Some(output) = waiting.get_mut(&begun.held) else { return };
        let again = output.again.min(bytes.len() as u64);
        output.again -= again;
        let bytes = &bytes[usize::try_from(again).expect("no more than there are")..];
        let allowed = usize::try_from(begun.limit.saturating_sub(output.written)).unwrap_or(usize::MAX);
        let kept = bytes.len().min(allowed).min(WAITING.saturating_sub(output.bytes.len()));
        output.bytes.extend_from_slice(&bytes[..kept]);
        output.written += bytes.len() as u64;
        output.left_out += (bytes.len() - kept) as u64;
        drop(waiting);
        begun.shared.news.notify_one();
    }
}

/// Never fails and never waits.
impl std::io::Write for OutputWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        OutputWriter::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Id, Token};

    fn held() -> Held {
        Held { id: Id::parse("t1").expect("a name"), token: Token { epoch: 1, turn: 2, index: 3 } }
    }

    fn all(outputs: &Outputs) -> Vec<OutputPiece> {
        std::iter::from_fn(|| Some(outputs.take()).filter(|pieces| !pieces.is_empty())).flatten().collect()
    }

    fn text(pieces: &[OutputPiece]) -> String {
        pieces.iter().map(|piece| &*piece.text).collect()
    }

    #[test]
    fn a_secret_is_masked_wherever_the_pieces_are_cut() {
        let outputs = Outputs::new(1 << 20, None);
        let writer = outputs.begin(&held(), Secrets::new(["hunter2".to_owned(), "hunter2-long".to_owned()]));
        let mut sent = Vec::new();
        for byte in "a hunter2-long b hunter2 c hunt\n".bytes() {
            writer.write(&[byte]);
            sent.extend(all(&outputs));
        }
        drop(writer);
        sent.extend(all(&outputs));
        assert_eq!(text(&sent), "a *** b *** c hunt\n");
        assert!(sent.last().expect("some").last && outputs.take().is_empty());
        let ends = sent.iter().scan(0, |end, piece| {
            let from = std::mem::replace(end, *end + piece.text.len() as u64);
            Some(from == piece.from)
        });
        assert!(ends.into_iter().all(|right| right), "each piece begins where the one before ended");
    }

    #[test]
    fn what_is_beyond_the_limit_is_left_out_and_said() {
        let outputs = Outputs::new(10, None);
        let writer = outputs.begin(&held(), Secrets::default());
        writer.write(b"0123456789abc");
        writer.write(b"def");
        drop(writer);
        assert_eq!(text(&all(&outputs)), "0123456789\n[6 bytes were left out]\n");
    }

    #[test]
    fn another_start_goes_on_where_the_one_before_had_got_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let secrets = || Secrets::new(["hunter2".to_owned()]);
        let begin = || Outputs::new(1 << 20, Some(Positions::of(directory.path())));
        let first = begin();
        let writer = first.go_on(&held(), secrets());
        writer.write(b"a hunter2 b hun");
        let sent = first.take();
        first.note(&sent);
        assert_eq!(text(&sent), "a *** b ");

        let second = begin();
        let writer_again = second.go_on(&held(), secrets());
        writer_again.write(b"a hunter2 b ");
        writer_again.write(b"hunter2 c\n");
        drop(writer_again);
        let rest = all(&second);
        assert_eq!((text(&rest).as_str(), rest[0].from), ("*** c\n", 8));
        second.note(&rest);
        assert_eq!(Positions::of(directory.path()).get(&held()), Position::default(), "it is over");
        drop(writer);
    }

    #[test]
    fn nothing_is_said_of_work_that_wrote_nothing() {
        let outputs = Outputs::new(10, None);
        drop(outputs.begin(&held(), Secrets::default()));
        assert_eq!(all(&outputs), []);
        assert!(outputs.shared.waiting().is_empty());
    }

    proptest! {
        #[test]
        fn text_arrives_as_it_was_written(parts in prop::collection::vec("[a-zä€\n]{0,12}", 0..20)) {
            let outputs = Outputs::new(1 << 20, None);
            let writer = outputs.begin(&held(), Secrets::default());
            let mut sent = Vec::new();
            for part in &parts {
                let (first, second) = part.as_bytes().split_at(part.len() / 2);
                writer.write(first);
                sent.extend(all(&outputs));
                writer.write(second);
            }
            drop(writer);
            sent.extend(all(&outputs));
            prop_assert_eq!(text(&sent), parts.concat());
        }
    }
}
