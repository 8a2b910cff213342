//! The HTTP API against the real thing: the embedded dispatcher in this process, its table in a file, requests
//! over a socket. Each story waits for facts, never for time.

#[path = "http_api/support.rs"]
mod support;

#[path = "http_api/artifacts.rs"]
mod artifacts;
#[path = "http_api/bad_input.rs"]
mod bad_input;
#[path = "http_api/events.rs"]
mod events;
#[path = "http_api/fleet.rs"]
mod fleet;
#[path = "http_api/groups.rs"]
mod groups;
#[path = "http_api/intents.rs"]
mod intents;
#[path = "http_api/listing.rs"]
mod listing;
#[path = "http_api/operating.rs"]
mod operating;
#[path = "http_api/pull.rs"]
mod pull;
#[path = "http_api/pull_groups.rs"]
mod pull_groups;
#[path = "http_api/repeats.rs"]
mod repeats;
#[path = "http_api/tasks.rs"]
mod tasks;
#[path = "http_api/trouble.rs"]
mod trouble;
#[path = "http_api/walk.rs"]
mod walk;
