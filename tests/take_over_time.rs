//! What the table's clock says when the leader changes: durations go on, and the calendar is not lost.

use std::sync::Arc;
use std::time::Duration;

use longshore::adapters::MemoryTable;
use longshore::core::{Settings, State};
use longshore::model::{RunnerId, Time, TurnRecord};
use longshore::ports::{Clock, Inbox, Outbox};
use longshore::runtime::handle::Role;
use longshore::runtime::member::{Parts, Rank};
use longshore::runtime::{Handle, Member};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TAKE_OVER: Duration = Duration::from_secs(3);
/// How far the table's clock may be behind: a leader says what time it is once a second.
const BETWEEN_TURNS: Duration = Duration::from_millis(1_100);

struct Nobody;

impl Inbox for Nobody {
    fn read_reports(&self, _: u64) {}
}

impl Outbox for Nobody {
    fn deliver(&self, _: &RunnerId, _: &Arc<TurnRecord>) {}
}

/// The paused clock of the test, with a wall that shows the same.
#[derive(Debug, Clone, Copy)]
struct TestClock(Instant);

impl Clock for TestClock {
    fn wall(&self) -> Time {
        Time(1_700_000_000_000) + self.0.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A pool that replicas come to and go from.
struct Pool {
    table: MemoryTable,
    clock: TestClock,
}

struct Replica {
    handle: Handle,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Pool {
    fn new() -> Self {
        Self { table: MemoryTable::new(), clock: TestClock(Instant::now()) }
    }

    async fn starts(&self) -> Replica {
        let parts = Parts {
            replica: Uuid::now_v7(),
            table: Arc::new(self.table.clone()),
            settings: Arc::new(Settings::default()),
            clock: Arc::new(self.clock),
            report: Box::new(|_, _| {}),
        };
        let nobody = |_: &Handle| (Arc::new(Nobody) as Arc<dyn Inbox>, Arc::new(Nobody) as Arc<dyn Outbox>);
        let (member, handle) = Member::open(parts, nobody).await.expect("the table is there");
        let stop = CancellationToken::new();
        let rank = watch::channel(Rank::default()).1;
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            member.take_part(TAKE_OVER, rank, stopped).await;
        });
        Replica { handle, stop, running }
    }

    /// How far the table's clock is behind the wall, as a replica sees it.
    fn behind(&self, replica: &Replica) -> Duration {
        self.clock.wall().since(replica.handle.view().read(State::now))
    }
}

impl Replica {
    async fn leads(&self) {
        let mut status = self.handle.status_changes();
        status.wait_for(|status| status.role == Role::Leading).await.expect("it runs");
    }

    /// Ends without a word, as if it was killed.
    async fn dies(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    async fn stops(self) {
        self.stop.cancel();
        self.running.await.expect("it stops");
    }
}

#[tokio::test(start_paused = true)]
async fn the_tables_clock_goes_on_while_nobody_leads() {
    let pool = Pool::new();
    let mut leader = pool.starts().await;
    leader.leads().await;
    for _ in 0..5 {
        let follower = pool.starts().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        leader.dies().await;
        follower.leads().await;
        leader = follower;
        assert!(pool.behind(&leader) < BETWEEN_TURNS, "behind by {:?}", pool.behind(&leader));
    }
}

#[tokio::test(start_paused = true)]
async fn the_tables_clock_is_the_walls_again_after_all_replicas_were_away() {
    const AWAY: Duration = Duration::from_secs(3_600);
    let pool = Pool::new();
    let leader = pool.starts().await;
    leader.leads().await;
    leader.stops().await;
    advance(AWAY).await;
    let leader = pool.starts().await;
    leader.leads().await;
    assert!(pool.behind(&leader) < BETWEEN_TURNS, "after a stop: behind by {:?}", pool.behind(&leader));
    leader.dies().await;
    advance(AWAY).await;
    let leader = pool.starts().await;
    leader.leads().await;
    assert!(pool.behind(&leader) < BETWEEN_TURNS, "after a crash: behind by {:?}", pool.behind(&leader));
}
