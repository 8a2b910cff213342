//! What only real servers do: they are killed, paused, filled, put back to yesterday; and several dispatchers
//! share them.

mod ends;
mod halves;
mod interrupted;
mod racing;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use longshore::adapters::JetStreamTable;
use longshore::adapters::jetstream::Options;
use longshore::broker::Connection;
use longshore::model::TurnRecord;
use longshore::ports::{Commit, Table};
use longshore::wire::subject::Names;

use crate::broker::Broker;
use crate::jetstream::{connect, create, some_names};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a fact.
async fn wait_for<F: Future<Output = bool>>(what: &str, mut fact: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !fact().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

/// Commits a turn again and again until it is not unknown any more.
async fn settle(table: &JetStreamTable, turn: &Arc<TurnRecord>) -> Commit {
    let settled = tokio::time::timeout(PATIENCE, async {
        loop {
            match table.commit(turn).await {
                Commit::Unknown { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
                answer => return answer,
            }
        }
    });
    settled.await.expect("it is settled")
}

/// A table on a server of its own, and a connection to look into the bucket with.
struct Alone {
    server: Broker,
    names: Names,
    table: JetStreamTable,
    connection: Connection,
}

impl Alone {
    async fn with(server: Broker, options: Options) -> Self {
        let names = some_names();
        let table = create(&server.url(), &names, options).await;
        let connection = connect(&server.url()).await;
        Self { server, names, table, connection }
    }

    /// The keys that stand in the bucket.
    async fn keys(&self) -> Vec<String> {
        use futures_util::TryStreamExt;
        let stream = self.connection.jetstream.get_stream(self.names.bucket_stream()).await.unwrap();
        let listed = stream.info_with_subjects(self.names.key(">")).await.unwrap();
        let subjects: Vec<(String, usize)> = listed.try_collect().await.unwrap();
        let prefix = self.names.key("");
        subjects.into_iter().map(|(subject, _)| subject.strip_prefix(&prefix).unwrap().to_owned()).collect()
    }

    /// The number of turns in the log.
    async fn turns(&self) -> usize {
        self.keys().await.iter().filter(|key| key.starts_with("turn.")).count()
    }
}
