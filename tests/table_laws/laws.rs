//! The laws every table keeps.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use longshore::model::{
    ArtifactId, Artifacts, Change, Class, Closed, Group, Head, Holding, Intent, Key, Kind, Limits, Offer,
    Pool, Queue, Reservation, Resources, Row, Runner, Shape, Standing, Stopped, Task, TaskState, Terms, Time,
    TurnRecord, Wait,
};
use longshore::ports::table::TURNS_KEPT;
use longshore::ports::{Commit, Follow, Table};
use uuid::Uuid;

use crate::fixture::{Fixture, Leader, delete, id, next_turns, put, row, sum};

pub(crate) async fn a_new_table_is_empty_and_stands_at_turn_zero<F: Fixture>() {
    let fixture = F::fresh().await;
    let load = fixture.writer().await.load().await.unwrap();
    assert_eq!((load.head, load.rows), (Head::empty(), vec![]));
    assert_ne!(load.table, F::fresh().await.writer().await.load().await.unwrap().table);
}

pub(crate) async fn a_turn_is_accepted_only_directly_after_the_one_before<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let mut leader = Leader::number(1);
    let (second, first, third) =
        (leader.turn(2, vec![], vec![]), leader.turn(1, vec![], vec![]), leader.turn(3, vec![], vec![]));

    assert_eq!(table.commit(&second).await, Commit::Deposed { by: Head::empty().id });
    assert_eq!(table.commit(&first).await, Commit::Done);
    assert_eq!(table.commit(&third).await, Commit::Deposed { by: first.id });
    assert_eq!(table.load().await.unwrap().head, first.head());
    assert_eq!(table.commit(&second).await, Commit::Done);
    assert_eq!(table.commit(&third).await, Commit::Done);
    assert_eq!(table.load().await.unwrap().head, third.head());
}

pub(crate) async fn a_turn_is_there_whole_or_not_at_all<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let mut leader = Leader::number(1);
    let changes: Vec<_> = (0..100).map(|n| put(&format!("t{n}"), 1)).collect();
    let whole = leader.turn(1, changes, vec![]);
    let late = Leader::number(2).turn(1, vec![put("late", 1), delete("t5")], vec![]);

    assert_eq!(table.commit(&whole).await, Commit::Done);
    assert_eq!(table.commit(&late).await, Commit::Deposed { by: whole.id });
    assert_eq!(table.load().await.unwrap().rows, sum([&whole]));
    let mut stream = table.follow(0).await.unwrap();
    assert_eq!(next_turns(&mut stream, 1).await, [whole]);
}

pub(crate) async fn of_several_writers_exactly_one_wins_each_number<F: Fixture>() {
    const WRITERS: u64 = 4;
    const TURNS: u64 = 25;
    let fixture = F::fresh().await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let table = fixture.writer().await;
        // Threads of their own, so that they really race.
        writers.push(std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut leader = Leader::number(u128::from(writer) + 1);
                let mut won = Vec::new();
                for number in 1..=TURNS {
                    let turn = leader.turn(
                        number,
                        vec![put("t", writer), put(&format!("n{number}"), writer)],
                        vec![],
                    );
                    match table.commit(&turn).await {
                        Commit::Done => won.push(turn),
                        Commit::Deposed { by } => assert_ne!(by, turn.id),
                        other => panic!("turn {number} of writer {writer}: {other:?}"),
                    }
                }
                won
            })
        }));
    }
    let mut won: Vec<Arc<TurnRecord>> =
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    won.sort_by_key(|turn| turn.number);

    assert_eq!(won.iter().map(|turn| turn.number).collect::<Vec<_>>(), (1..=TURNS).collect::<Vec<_>>());
    let table = fixture.writer().await;
    let mut stream = table.follow(0).await.unwrap();
    assert_eq!(next_turns(&mut stream, won.len()).await, won);
    assert_eq!(table.load().await.unwrap().rows, sum(&won));
}

pub(crate) async fn a_turn_committed_again_is_done_as_long_as_it_stands_there<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let turns = Leader::number(1).commits(&*table, 5).await;
    let before = table.load().await.unwrap();
    for turn in &turns {
        assert_eq!(table.commit(turn).await, Commit::Done);
    }
    assert_eq!(table.load().await.unwrap(), before);
    let mut stream = table.follow(0).await.unwrap();
    assert_eq!(next_turns(&mut stream, 5).await, turns);
}

pub(crate) async fn whoever_is_deposed_learns_by_which_turn<F: Fixture>() {
    let fixture = F::fresh().await;
    let (table, other) = (fixture.writer().await, fixture.writer().await);
    let (mut old, mut new) = (Leader::number(1), Leader::number(2));
    let standing = old.commits(&*table, 2).await;
    let taken = new.turn(3, vec![put("t", 3)], vec![]);
    assert_eq!(other.commit(&taken).await, Commit::Done);

    assert_eq!(table.commit(&old.turn(3, vec![], vec![])).await, Commit::Deposed { by: taken.id });
    assert_eq!(table.commit(&old.turn(1, vec![], vec![])).await, Commit::Deposed { by: standing[0].id });
    assert_eq!(table.commit(&old.turn(9, vec![], vec![])).await, Commit::Deposed { by: taken.id });
}

pub(crate) async fn a_deposed_writer_goes_on_once_it_has_followed<F: Fixture>() {
    let fixture = F::fresh().await;
    let (table, other) = (fixture.writer().await, fixture.writer().await);
    let (mut old, mut new) = (Leader::number(1), Leader::number(2));
    let taken = new.commits(&*other, 3).await;
    assert!(matches!(table.commit(&old.turn(1, vec![], vec![])).await, Commit::Deposed { .. }));

    let mut stream = table.follow(0).await.unwrap();
    let followed = next_turns(&mut stream, 3).await;
    assert_eq!(followed, taken);
    let next = old.turn_after(&followed[2].head(), vec![]);
    assert_eq!(table.commit(&next).await, Commit::Done);
}

pub(crate) async fn a_turn_beyond_the_budget_is_refused_with_both_numbers<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let budget = table.budget();
    let mut leader = Leader::number(1);

    let rows = leader.turn(1, (0..=budget.rows).map(|n| delete(&format!("t{n}"))).collect(), vec![]);
    let Commit::Refused { why } = table.commit(&rows).await else { panic!("not refused") };
    assert!(why.contains(&(budget.rows + 1).to_string()) && why.contains(&budget.rows.to_string()), "{why}");

    let body = Row::Spec { id: id("t"), body: "x".repeat(budget.bytes).into() };
    let bytes = leader.turn(1, vec![Change::Put(body)], vec![]);
    let size = serde_json::to_vec(&*bytes).unwrap().len();
    let Commit::Refused { why } = table.commit(&bytes).await else { panic!("not refused") };
    assert!(why.contains(&size.to_string()) && why.contains(&budget.bytes.to_string()), "{why}");

    let load = table.load().await.unwrap();
    assert_eq!((load.head, load.rows), (Head::empty(), vec![]));
}

pub(crate) async fn a_refused_turn_leaves_its_number_to_a_smaller_one<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let mut leader = Leader::number(1);
    let too_large =
        leader.turn(1, (0..=table.budget().rows).map(|n| delete(&format!("t{n}"))).collect(), vec![]);
    assert!(matches!(table.commit(&too_large).await, Commit::Refused { .. }));
    let smaller = leader.turn(1, vec![put("t", 1)], vec![]);
    assert_eq!(table.commit(&smaller).await, Commit::Done);
    assert_eq!(table.commit(&too_large).await, Commit::Deposed { by: smaller.id });
}

pub(crate) async fn who_is_deposed_learns_that_before_that_its_turn_is_too_large<F: Fixture>() {
    let fixture = F::fresh().await;
    let (table, other) = (fixture.writer().await, fixture.writer().await);
    table.load().await.unwrap();
    let standing = Leader::number(2).commits(&*other, 2).await;
    let mut late = Leader::number(1);
    let changes = (0..=table.budget().rows).map(|n| delete(&format!("t{n}"))).collect();
    let too_large = late.turn(1, changes, vec![]);
    assert_eq!(table.commit(&too_large).await, Commit::Deposed { by: standing[0].id });
}

pub(crate) async fn a_released_head_is_read_back_as_such<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let turn = Leader::number(1).turn(1, vec![], vec![]);
    let last = Arc::new(TurnRecord { released: true, epoch: 4, ..(*turn).clone() });
    assert_eq!(table.commit(&last).await, Commit::Done);
    let head = table.load().await.unwrap().head;
    assert_eq!((head, head.released, head.epoch), (last.head(), true, 4));
}

/// Commits enough turns, without changes but for the first few, for compaction to drop `beyond`.
async fn fill<F: Fixture>(table: &F::Table, beyond: u64) -> Vec<Arc<TurnRecord>> {
    let mut leader = Leader::number(1);
    let mut turns = leader.commits(table, 10).await;
    for number in 11..=TURNS_KEPT + beyond {
        let turn = leader.turn(number, vec![], vec![]);
        assert_eq!(table.commit(&turn).await, Commit::Done);
        turns.push(turn);
    }
    turns
}

pub(crate) async fn compaction_changes_nothing_of_what_is_loaded<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let turns = fill::<F>(&table, 20).await;
    let before = table.load().await.unwrap();
    for _ in 0..2 {
        table.compact().await.unwrap();
        assert_eq!(table.load().await.unwrap(), before);
    }
    assert_eq!(before.rows, sum(&turns));
}

pub(crate) async fn a_turn_that_was_compacted_away_deposes_with_the_heads_id<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let turns = fill::<F>(&table, 20).await;
    table.compact().await.unwrap();
    let head = turns.last().unwrap().id;
    assert_eq!(table.commit(&turns[0]).await, Commit::Deposed { by: head });
    assert_eq!(table.commit(&turns[20]).await, Commit::Done);
}

pub(crate) async fn following_yields_every_turn_once_and_in_order<F: Fixture>() {
    let fixture = F::fresh().await;
    let (table, other) = (fixture.writer().await, fixture.writer().await);
    let mut leader = Leader::number(1);
    let mut turns = leader.commits(&*table, 10).await;
    let mut from_start = table.follow(0).await.unwrap();
    let mut from_four = other.follow(4).await.unwrap();
    let mut seen = next_turns(&mut from_start, 3).await;

    turns.extend(leader.commits(&*table, 10).await);
    seen.extend(next_turns(&mut from_start, 12).await);
    turns.extend(leader.commits(&*table, 10).await);
    seen.extend(next_turns(&mut from_start, 15).await);

    assert_eq!(seen, turns);
    assert_eq!(next_turns(&mut from_four, 26).await, turns[4..]);
}

pub(crate) async fn following_waits_for_the_next_turn<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let mut leader = Leader::number(1);
    let turns = leader.commits(&*table, 3).await;
    let mut stream = table.follow(3).await.unwrap();
    let commit = async {
        let next = leader.turn_after(&turns[2].head(), vec![put("t", 4)]);
        assert_eq!(table.commit(&next).await, Commit::Done);
        next
    };
    let (followed, committed) = tokio::join!(stream.next(), commit);
    assert_eq!(followed, Some(Follow::Turn(committed)));
    assert!(stream.next().now_or_never().is_none());
}

pub(crate) async fn who_has_read_one_turn_knows_how_many_are_left<F: Fixture>() {
    let fixture = F::fresh().await;
    let leader = fixture.writer().await;
    // More than is read ahead of whoever follows.
    Leader::number(1).commits(&*leader, 150).await;
    let table = fixture.writer().await;
    let mut newest = table.newest();
    let mut stream = table.follow(0).await.unwrap();
    assert!(matches!(stream.next().await, Some(Follow::Turn(turn)) if turn.number == 1));
    let known = newest.wait_for(|newest| *newest == 150);
    tokio::time::timeout(Duration::from_secs(10), known).await.expect("it is told").unwrap();
    for number in 2..=150 {
        assert!(matches!(stream.next().await, Some(Follow::Turn(turn)) if turn.number == number));
    }
    assert_eq!(*newest.borrow(), 150);
}

pub(crate) async fn following_from_before_the_log_is_behind_and_never_a_gap<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    fill::<F>(&table, 20).await;
    let mut early = table.follow(0).await.unwrap();
    table.compact().await.unwrap();
    for after in [0, 5, 19] {
        let mut stream = table.follow(after).await.unwrap();
        assert_eq!(stream.next().await, Some(Follow::Behind), "after {after}");
        assert_eq!(stream.next().await, None);
    }
    assert_eq!(early.next().await, Some(Follow::Behind));
}

pub(crate) async fn following_from_beyond_the_head_is_behind<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    Leader::number(1).commits(&*table, 2).await;
    assert_eq!(table.follow(3).await.unwrap().next().await, Some(Follow::Behind));
}

pub(crate) async fn following_from_the_first_kept_turn_has_no_gap<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let turns = fill::<F>(&table, 20).await;
    table.compact().await.unwrap();
    let mut stream = table.follow(20).await.unwrap();
    let kept = usize::try_from(TURNS_KEPT).unwrap();
    assert_eq!(next_turns(&mut stream, kept).await, turns[20..]);
}

pub(crate) async fn every_kind_of_row_is_read_back_as_it_was_put<F: Fixture>() {
    let fixture = F::fresh().await;
    let table = fixture.writer().await;
    let mut rows = one_of_each();
    let turn = Leader::number(1).turn(1, rows.iter().cloned().map(Change::Put).collect(), vec![]);
    assert_eq!(table.commit(&turn).await, Commit::Done);

    rows.sort_by_key(Row::key);
    assert_eq!(table.load().await.unwrap().rows, rows);
    let mut stream = table.follow(0).await.unwrap();
    assert_eq!(next_turns(&mut stream, 1).await, [turn]);

    let away = rows.iter().map(|row| Change::Delete(row.key())).collect();
    assert_eq!(table.commit(&Leader::number(2).turn(2, away, vec![])).await, Commit::Done);
    assert_eq!(table.load().await.unwrap().rows, vec![]);
}

/// One row of every kind; the match says when one is missing.
fn one_of_each() -> Vec<Row> {
    let offer = Arc::new(Offer {
        kinds: [Kind::Job, Kind::Build].into(),
        queues: [id("q")].into(),
        arch: "arm64".into(),
        os: "linux".into(),
        labels: [("zone".into(), "a".into())].into(),
        taints: ["gpu".into()].into(),
        group: None,
        resources: Some(Resources::new(4_000, 1 << 33)),
        slots: 4,
        open: false,
    });
    let rows = vec![
        Row::Task(Arc::new(task("t"))),
        Row::Spec { id: id("t"), body: r#"{"command":["a \"b\""]}"#.into() },
        Row::Runner(Arc::new(Runner {
            id: id("r"),
            incarnation: "i".into(),
            offer: offer.clone(),
            cost: 0.1 + 0.2,
            class: Some(id("c")),
            intent: Some(id("i")),
            standing: Standing::Held { reason: "disk".into() },
            pull: None,
            lost: Some(Time(9)),
            registered: Time(3),
            version: "0.1".into(),
            incidents: 1,
            last_incident: Some(Time(8)),
            refusals: 2,
            crash: None,
            extra: Default::default(),
        })),
        Row::Holding(Holding { runner: id("r"), artifact: artifact("sha256:a/b c"), sequence: 6 }),
        Row::Queue(Queue { id: id("q"), paused: true, since: Time(2) }),
        Row::Class(Arc::new(Class { id: id("c"), offer, last_seen: Time(5) })),
        Row::Intent(Arc::new(Intent {
            id: id("i"),
            class: id("c"),
            shape: task("t").shape,
            asked: 1,
            starting: 2,
            arrived: 3,
            reason: "no room".into(),
            tasks: vec![id("t")],
            waiting: 4,
            made: Time(1),
            answer_by: Some(Time(2)),
            start_by: Some(Time(3)),
            closed: Some(Closed { reason: "no quota".into(), declined: true, until: Time(4) }),
            extra: Default::default(),
        })),
        row("late", 1),
        Row::Group(Arc::new(Group {
            id: id("g"),
            terms: Terms { max_runners: Some(2), ordered: true, stop_on_failure: true },
            build: Some(id("b")),
            stopped: Some(Stopped { after: Some(3), reason: "t ended failed".into() }),
            wanted: 2,
            modification_count: 9,
            last_modified: Time(8),
            extra: Default::default(),
        })),
        Row::Reservation(Reservation {
            task: id("t"),
            runner: id("r"),
            since: Time(7),
            fits_by: Some(Time(8)),
        }),
        Row::Pool(Pool { frozen: Some("it was".into()), paused_since: Some(Time(3)), ..Pool::default() }),
    ];
    for row in &rows {
        match row.key() {
            Key::Task(_) | Key::Spec(_) | Key::Runner(_) | Key::Queue(_) => {}
            Key::Holding(..) | Key::Class(_) | Key::Intent(_) | Key::EarlyCancel(_) => {}
            Key::Group(_) | Key::Reservation(_) | Key::Pool => {}
        }
    }
    rows
}

fn artifact(text: &str) -> ArtifactId {
    ArtifactId::parse(text).expect("a name")
}

pub(crate) fn task(name: &str) -> Task {
    let limits = Limits {
        max_attempts: 3,
        retries: 1,
        timeout: None,
        not_before: None,
        expires_in: None,
        if_unplaceable: Default::default(),
    };
    let shape = Shape {
        kind: Kind::Job,
        queue: id("q"),
        resources: Resources::new(500, 1 << 20),
        arch: "".into(),
        os: "linux".into(),
        labels: [("zone".into(), "a".into())].into(),
        tolerations: Default::default(),
        group: Some(id("g")),
    };
    Task {
        id: id(name),
        shape: Arc::new(shape),
        tenant: id("x"),
        priority: -3,
        build: None,
        jobs: Arc::new([]),
        index: Some(7),
        limits: Arc::new(limits),
        artifacts: Artifacts::of(vec![artifact("in")], Some(artifact("out"))),
        wait: Some(Arc::new(Wait { cache_until: Time(5), deps_until: Time(6) })),
        content: Uuid::from_u128(77),
        sequence: 12,
        submitted: Time(4),
        attempt: 0,
        spent: 0,
        retried: 0,
        traceparent: longshore::model::Traceparent::parse(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .map(Arc::new),
        state: TaskState::Pending { since: Time(4), not_before: None, reason: Some("lost".into()) },
        extra: Default::default(),
    }
}
