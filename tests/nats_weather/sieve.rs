//! A wire to a server that sees each message on it, and can lose one or stand still before it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// A message on the wire.
#[derive(Debug)]
pub struct Passing<'a> {
    pub way: Way,
    pub subject: &'a str,
    /// Where an answer is wanted.
    pub reply: Option<&'a str>,
    /// Headers included.
    body: &'a [u8],
}

impl Passing<'_> {
    /// Whether it says `text` anywhere.
    pub fn says(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

/// A message's line and its payload.
type Message<'a> = (&'a str, &'a [u8]);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Passes,
    Lost,
    /// Neither it nor anything after it goes through, either way.
    Held,
}

type Rule = Box<dyn FnMut(&Passing<'_>) -> Fate + Send>;

struct Shared {
    rule: Mutex<Option<Rule>>,
    held: watch::Sender<bool>,
    lost: watch::Sender<usize>,
}

/// The wire.
pub struct Sieve {
    url: String,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

impl Sieve {
    /// A wire to the server at `url`, on which everything passes.
    pub async fn to(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("nats://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            rule: Mutex::new(None),
            held: watch::Sender::new(false),
            lost: watch::Sender::new(0),
        });
        let sharing = shared.clone();
        let serving = async move {
            // They go with the wire.
            let mut carrying = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let ((from_client, client), (from_server, server)) =
                    (client.into_split(), server.into_split());
                carrying.spawn(carry(from_client, server, Way::ToServer, sharing.clone()));
                carrying.spawn(carry(from_server, client, Way::ToClient, sharing.clone()));
            }
        };
        Self { url, shared, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    /// Where it begins.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Decides over each message from now on.
    pub fn rule(&self, rule: impl FnMut(&Passing<'_>) -> Fate + Send + 'static) {
        *self.shared.rule.lock().expect("no panic while held") = Some(Box::new(rule));
    }

    /// Waits until it stands still.
    pub async fn is_held(&self) {
        let mut held = self.shared.held.subscribe();
        let held = tokio::time::timeout(crate::binary::PATIENCE, held.wait_for(|held| *held));
        held.await.expect("the message comes").expect("the wire is there");
    }

    /// Lets everything pass again.
    pub fn mend(&self) {
        *self.shared.rule.lock().expect("no panic while held") = None;
        self.shared.held.send_replace(false);
    }

    /// Waits until so many messages were lost.
    pub async fn has_lost(&self, count: usize) {
        let mut lost = self.shared.lost.subscribe();
        let lost = tokio::time::timeout(crate::binary::PATIENCE, lost.wait_for(|lost| *lost >= count));
        lost.await.expect("the message comes").expect("the wire is there");
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, shared: Arc<Shared>) {
    let (mut waiting, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let mut held = shared.held.subscribe();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some((length, message)) = frame(&waiting) {
            let fate = message.map_or(Fate::Passes, |(head, body)| judged(&shared, way, head, body));
            if fate == Fate::Held {
                shared.held.send_replace(true);
            }
            // What stands still stays there until it is mended.
            if held.wait_for(|held| !*held).await.is_err() {
                return;
            }
            if fate == Fate::Lost {
                shared.lost.send_modify(|lost| *lost += 1);
            } else if to.write_all(&waiting[..length]).await.is_err() {
                return;
            }
            waiting.drain(..length);
        }
    }
}

fn judged(shared: &Shared, way: Way, head: &str, body: &[u8]) -> Fate {
    let words: Vec<&str> = head.split_ascii_whitespace().collect();
    // PUB subject [reply] size; HPUB has two sizes. MSG and HMSG have a number after the subject.
    let sizes = if words[0].starts_with('H') { 2 } else { 1 };
    let named = if way == Way::ToServer { 2 } else { 3 };
    let reply = (words.len() > named + sizes).then(|| words[named]);
    let passing = Passing { way, subject: words[1], reply, body };
    let mut rule = shared.rule.lock().expect("no panic while held");
    rule.as_mut().map_or(Fate::Passes, |rule| rule(&passing))
}

/// The length of the first whole line, with its payload if it is a message; and of a message, the line and the
/// payload.
fn frame(bytes: &[u8]) -> Option<(usize, Option<Message<'_>>)> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let head = std::str::from_utf8(&bytes[..line]).expect("the protocol is text");
    let verb = head.split_ascii_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if !matches!(verb.as_str(), "PUB" | "HPUB" | "MSG" | "HMSG") {
        return Some((line + 2, None));
    }
    let size: usize = head.rsplit(' ').next().and_then(|size| size.parse().ok()).expect("a size");
    let length = line + 2 + size + 2;
    (bytes.len() >= length).then(|| (length, Some((head, &bytes[line + 2..length - 2]))))
}

#[test]
fn lines_and_messages_are_told_apart() {
    assert_eq!(frame(b"PING\r\nPONG\r\n"), Some((6, None)));
    assert_eq!(frame(b"PUB a.b 5\r\nhel"), None);
    assert_eq!(
        frame(b"PUB a.b in 5\r\nhello\r\nPING"),
        Some((21, Some(("PUB a.b in 5", b"hello".as_slice()))))
    );
    assert_eq!(frame(b"INFO {"), None);
}
