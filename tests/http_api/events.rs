//! The event stream.

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ByHand, PATIENCE, Server};

/// An open stream, read event by event.
struct Stream {
    bytes: futures_util::stream::BoxStream<'static, Vec<u8>>,
    read: String,
}

impl Stream {
    async fn open(server: &Server, query: &str) -> Self {
        let response =
            server.request(Method::GET, &format!("/v1/events?{query}")).send().await.expect("a stream");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let bytes = response.bytes_stream().map(|part| part.expect("bytes").to_vec()).boxed();
        Self { bytes, read: String::new() }
    }

    /// The next event's name and data; nothing when the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.read.find("\n\n") {
                let event: String = self.read.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    return Some((name.to_owned(), serde_json::from_str(data).expect("JSON")));
                }
                continue;
            }
            let part =
                tokio::time::timeout(PATIENCE, self.bytes.next()).await.expect("the stream goes on")?;
            self.read.push_str(std::str::from_utf8(&part).expect("text"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_tells_the_life_of_a_task_as_it_is_committed() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server, "id=t1").await;
    let runner = ByHand::register(&server, "r1").await;
    server.submit(json!({"tasks": [{"id": "other"}]}).get("tasks").expect("a list")[0].clone()).await;
    let (other, token) = runner.start_next().await;
    runner.report(&[runner.ended(&other, &token, "succeeded")]).await;
    server.submit(json!({"id": "t1"})).await;
    let (_, token) = runner.start_next().await;
    runner.report(&[runner.ended("t1", &token, "failed")]).await;
    for state in ["pending", "assigned", "running", "ended"] {
        let (name, event) = stream.next().await.expect("an event");
        assert_eq!((name.as_str(), &event["state"]), ("task", &json!(state)));
        assert_eq!((&event["id"], &event["v"]), (&json!("t1"), &json!(1)));
        assert!(event["at"].as_str().expect("a time").ends_with('Z'));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_shows_what_was_asked_for() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server, "state=pending&queue=q2&kind=job").await;
    server.submit(json!({"id": "t1"})).await;
    server.submit(json!({"id": "t2", "queue": "q2"})).await;
    assert_eq!(stream.next().await.expect("an event").1["id"], "t2");
    server.get("/v1/events?state=done").await.problem(400, "malformed", &["state", "done"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_polls_end_at_once_when_the_server_stops() {
    let server = Server::start().await;
    let runner = ByHand::register(&server, "r1").await;
    let mut stream = Stream::open(&server, "").await;
    let poll = runner.poll("5m");
    let (delivery, ended, ()) = tokio::join!(poll, stream.next(), async {
        server.until_polled().await;
        server.begin_to_stop();
    });
    assert_eq!(delivery, json!({"assignments": [], "stop": []}));
    assert_eq!(ended, None);
    assert_eq!(server.stop().await, longshore::runtime::Stopped::Released);
}
