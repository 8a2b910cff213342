//! Output in the stream of history: one subject for each attempt.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use tokio::time::timeout;

use crate::broker::{Connection, chain};
use crate::model::{OutputPiece, RunnerId, TaskId, Token};
use crate::ports::{OutputError, OutputPage, OutputStore};
use crate::wire::output::{read_piece, write_piece};
use crate::wire::subject::Names;

/// The most bytes of one page.
const PAGE: usize = 256 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The output of a pool's attempts.
#[derive(Debug, Clone)]
pub struct JetStreamOutput {
    connection: Connection,
    names: Names,
}

impl JetStreamOutput {
    /// Output in the streams of these names.
    pub fn new(connection: &Connection, names: &Names) -> Self {
        Self { connection: connection.clone(), names: names.clone() }
    }

    async fn stream(&self) -> Result<Stream<()>, String> {
        let stream = self.connection.jetstream.get_stream_no_info(self.names.history_stream()).await;
        stream.map_err(|why| chain(&why))
    }

    async fn try_keep(&self, runner: &RunnerId, pieces: &[OutputPiece]) -> Result<(), String> {
        let stored = pieces.iter().map(|piece| publish(&self.connection, &self.names, runner, piece));
        try_join_all(stored).await.map(|_| ())
    }

    async fn try_attempts(&self, task: &TaskId) -> Result<Vec<Token>, String> {
        let filter = format!("{}.>", self.names.output_of("*", task));
        let found = self.stream().await?.info_with_subjects(filter).await.map_err(|why| chain(&why))?;
        let subjects: Vec<(String, usize)> = found.try_collect().await.map_err(|why| chain(&why))?;
        let mut tokens: Vec<Token> =
            subjects.iter().filter_map(|(subject, _)| self.names.token_of_output(subject)).collect();
        tokens.sort_unstable();
        tokens.dedup();
        Ok(tokens)
    }

    async fn try_read(&self, task: &TaskId, token: Token, from: u64) -> Result<OutputPage, String> {
        let subject = format!("{}.{token}", self.names.output_of("*", task));
        let stream = self.stream().await?;
        let mut page = OutputPage { next: from, ..OutputPage::default() };
        while page.text.len() < PAGE && !page.over {
            let found = stream.direct_get_next_for_subject(subject.as_str(), Some(page.next.max(1))).await;
            match found {
                Ok(message) => {
                    page.next = message.sequence + 1;
                    let Ok(piece) = read_piece(&message.payload) else { continue };
                    page.text.push_str(&piece.text);
                    page.over = piece.last;
                }
                Err(why) if why.kind() == DirectGetErrorKind::NotFound => break,
                Err(why) => return Err(chain(&why)),
            }
        }
        Ok(page)
    }

    async fn within<T>(&self, done: impl Future<Output = Result<T, String>>) -> Result<T, OutputError> {
        let done = timeout(ANSWER_WITHIN, done).await;
        let done = done.unwrap_or_else(|_| Err(format!("no answer within {}s", ANSWER_WITHIN.as_secs())));
        done.map_err(|why| OutputError {
            what: format!("output in stream {}", self.names.history_stream()),
            why,
        })
    }
}

/// Puts one piece into the stream, and waits until it is there.
pub(crate) async fn publish(
    connection: &Connection,
    names: &Names,
    runner: &RunnerId,
    piece: &OutputPiece,
) -> Result<(), String> {
    let subject = format!("{}.{}", names.output_of(runner.as_str(), &piece.id), piece.token);
    // The server forgets a piece it has had already.
    let words = PublishMessage::build()
        .payload(write_piece(piece).into())
        .message_id(format!("output {} {} {}", piece.id, piece.token, piece.from));
    let sent = connection.jetstream.send_publish(subject, words).await.map_err(|why| chain(&why))?;
    sent.await.map(|_| ()).map_err(|why| chain(&why))
}

#[async_trait]
impl OutputStore for JetStreamOutput {
    async fn keep(&self, runner: &RunnerId, pieces: &[OutputPiece]) -> Result<(), OutputError> {
        self.within(self.try_keep(runner, pieces)).await
    }

    async fn attempts(&self, task: &TaskId) -> Result<Vec<Token>, OutputError> {
        self.within(self.try_attempts(task)).await
    }

    async fn read(&self, task: &TaskId, token: Token, from: u64) -> Result<OutputPage, OutputError> {
        self.within(self.try_read(task, token, from)).await
    }
}
