//! The HTTP API against the real thing: the embedded dispatcher in this process, its table in a file, requests
//! over a socket. Each story waits for facts, never for time.

#[path = "http_api/support.rs"]
mod support;

#[path = "http_api/walk.rs"]
mod walk;
