//! A wire that can be cut in one direction: what is sent waits, nobody is told, and the other direction goes on.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A way to a server that can be cut.
#[derive(Debug)]
pub struct Wire {
    url: String,
    to_server: watch::Sender<bool>,
    to_client: watch::Sender<bool>,
    _serving: AbortOnDropHandle<()>,
}

impl Wire {
    /// A wire to the server at `url`.
    pub async fn to(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("nats://{}", listener.local_addr().expect("an address"));
        let ((to_server, there), (to_client, back)) = (watch::channel(true), watch::channel(true));
        let serving = async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let ((from_client, client), (from_server, server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, server, there.clone()));
                tokio::spawn(carry(from_server, client, back.clone()));
            }
        };
        Self { url, to_server, to_client, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    /// Where it begins.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Cuts or mends the way to the server.
    pub fn to_server(&self, whole: bool) {
        self.to_server.send_replace(whole);
    }

    /// Cuts or mends the way back.
    pub fn to_client(&self, whole: bool) {
        self.to_client.send_replace(whole);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if whole.wait_for(|whole| *whole).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
