//! The fixtures of the table on JetStream: one server, and three that keep every stream together.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use longshore::adapters::JetStreamTable;
use longshore::adapters::jetstream::Options;
use longshore::broker::{Connection, Server};
use longshore::ports::TableError;
use longshore::wire::subject::Names;
use uuid::Uuid;

use crate::broker::{Broker, Cluster};
use crate::fixture::Fixture;

/// A table on a server that the tests of this process share.
pub(crate) struct OneServer {
    server: Arc<Broker>,
    names: Names,
}

/// A table on three servers that the tests of this process share.
pub(crate) struct ThreeServers {
    servers: Arc<Cluster>,
    names: Names,
}

/// What is shared as long as somebody holds it.
fn shared<T>(slot: &Mutex<Weak<T>>, start: impl FnOnce() -> T) -> Arc<T> {
    let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    slot.upgrade().unwrap_or_else(|| {
        let started = Arc::new(start());
        *slot = Arc::downgrade(&started);
        started
    })
}

/// The names of a pool nobody else uses.
pub(crate) fn some_names() -> Names {
    Names::of_pool(&format!("t{}", Uuid::now_v7().simple()))
}

/// A connection of its own.
pub(crate) async fn connect(urls: &str) -> Connection {
    let server = Server { url: urls.to_owned(), name: "test".to_owned(), ..Server::default() };
    Connection::open(&server).await.expect("the server answers")
}

/// A connection of its own to the table that is there.
pub(crate) async fn open(urls: &str, names: &Names) -> JetStreamTable {
    JetStreamTable::open(&connect(urls).await, names, Options::default()).await.expect("the table is there")
}

/// Makes an empty table, as soon as the servers have agreed on who leads.
pub(crate) async fn create(urls: &str, names: &Names, options: Options) -> JetStreamTable {
    let connection = connect(urls).await;
    let mut said = None;
    for _ in 0..100 {
        match JetStreamTable::create(&connection, names, options).await {
            Ok(table) => return table,
            Err(why @ TableError::Unreadable { .. }) => said = Some(why),
            Err(why) => panic!("{why}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Ok(table) = JetStreamTable::open(&connection, names, options).await {
            return table; // made, and only the answer was lost
        }
    }
    panic!("{said:?}");
}

impl Fixture for OneServer {
    type Table = JetStreamTable;
    const CASES: u32 = 16;

    async fn fresh() -> Self {
        static SERVER: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
        let server = shared(&SERVER, Broker::start);
        let names = some_names();
        create(&server.url(), &names, Options::default()).await;
        Self { server, names }
    }

    async fn writer(&self) -> Arc<JetStreamTable> {
        Arc::new(open(&self.server.url(), &self.names).await)
    }
}

impl ThreeServers {
    /// The servers, to be held while several laws run on them.
    pub(crate) async fn get_ready() -> Arc<Cluster> {
        static SERVERS: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        shared(&SERVERS, Cluster::start)
    }
}

impl Fixture for ThreeServers {
    type Table = JetStreamTable;
    const CASES: u32 = 6;

    async fn fresh() -> Self {
        let (servers, names) = (Self::get_ready().await, some_names());
        create(&servers.urls(), &names, Options { replicas: 3, ..Options::default() }).await;
        Self { servers, names }
    }

    async fn writer(&self) -> Arc<JetStreamTable> {
        Arc::new(open(&self.servers.urls(), &self.names).await)
    }
}
