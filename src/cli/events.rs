//! Lifecycle events as they come in over the server's event stream.
//!
//! Law: a stream that breaks off, or leaves something out, is no news about any task: whoever waits for a fact
//! asks for it as well.

use reqwest::Response;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;

/// An open stream of events.
#[derive(Debug)]
pub(super) struct Events {
    response: Response,
    buffer: Vec<u8>,
}

impl Events {
    /// The events from now on that match `query`.
    pub(super) async fn open(client: &Client, query: &[(&str, String)]) -> Result<Self, Failure> {
        Ok(Self { response: client.stream("/v1/events", query).await?, buffer: Vec::new() })
    }

    /// The next event; `None` when the stream has ended. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // One line holds one event; what is not data is a name, an id or a sign of life.
                if let Some(data) = line.strip_prefix(b"data:")
                    && let Ok(event) = serde_json::from_slice(data)
                {
                    return Some(event);
                }
            }
            self.buffer.extend_from_slice(&self.response.chunk().await.ok()??);
        }
    }
}
