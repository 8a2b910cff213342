//! What a turn is taken to be large is never less than what is written, whatever its tasks carry, and not much more.

use std::sync::Arc;
use std::time::Duration;

use longshore::model::size;
use longshore::model::*;
use proptest::option::of;
use proptest::prelude::*;
use uuid::Uuid;

fn names() -> impl Strategy<Value = Id> {
    let text = prop_oneof![3 => "[a-z0-9-]{1,12}", 1 => "[A-Za-z0-9_=-]{128}"];
    text.prop_map(|text| Id::parse(&text).expect("a name"))
}

/// What producers and runners say freely: output is full of what JSON writes as several characters.
fn texts() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["[ -~]{0,40}", "[\"\\\\\n\u{1}\u{7f}é]{0,60}"].prop_map(Arc::from)
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![0..100_000u64, Just(u64::MAX)]
}

fn times() -> impl Strategy<Value = Time> {
    prop_oneof![9 => 1_700_000_000_000..1_900_000_000_000u64, 1 => Just(u64::MAX)].prop_map(Time)
}

fn tokens() -> impl Strategy<Value = Token> {
    (any::<u32>(), numbers(), any::<u32>()).prop_map(|(epoch, turn, index)| Token { epoch, turn, index })
}

fn spans() -> impl Strategy<Value = Duration> {
    (0..31_536_000_000u64).prop_map(Duration::from_millis)
}

fn shapes() -> impl Strategy<Value = Arc<Shape>> {
    let resources = (numbers(), numbers(), prop::collection::btree_map(texts(), numbers(), 0..4));
    let labels = prop::collection::btree_map(texts(), texts(), 0..4);
    let tolerations = prop::collection::btree_set(texts(), 0..4);
    let kind = prop_oneof![Just(Kind::Job), Just(Kind::Build)];
    (kind, names(), resources, texts(), texts(), labels, tolerations, of(names())).prop_map(
        |(kind, queue, (cpu, memory, other), arch, os, labels, tolerations, group)| {
            let resources = Resources { cpu, memory, other };
            Arc::new(Shape { kind, queue, resources, arch, os, labels, tolerations, group })
        },
    )
}

fn limits() -> impl Strategy<Value = Arc<Limits>> {
    let if_unplaceable = prop_oneof![
        Just(IfUnplaceable::Fail),
        Just(IfUnplaceable::Hold),
        spans().prop_map(IfUnplaceable::FailAfter)
    ];
    (1..=100u32, 0..=100u32, of(spans()), of(times()), of(spans()), if_unplaceable).prop_map(
        |(max_attempts, retries, timeout, not_before, expires_in, if_unplaceable)| {
            Arc::new(Limits { max_attempts, retries, timeout, not_before, expires_in, if_unplaceable })
        },
    )
}

fn assignments() -> impl Strategy<Value = Box<Assignment>> {
    let cause =
        prop_oneof![Just(StopCause::Cancelled), Just(StopCause::AskedBack), Just(StopCause::HandBack)];
    let stop = (cause, texts(), times()).prop_map(|(cause, reason, at)| Box::new(Stop { cause, reason, at }));
    let pulled = of(names()).prop_map(|name| Box::new(Puller { name, request: Uuid::max() }));
    (names(), texts(), tokens(), (times(), times(), of(times())), any::<bool>(), of(stop), of(pulled))
        .prop_map(|(runner, incarnation, token, (assigned, deadline, started), confirmed, stop, pulled)| {
            let (runner, incarnation) = (runner, incarnation);
            Box::new(Assignment {
                runner,
                incarnation,
                token,
                assigned,
                deadline,
                confirmed,
                started,
                stop,
                pulled,
            })
        })
}

fn endings() -> impl Strategy<Value = Box<Ending>> {
    let by = (of(names()), of(tokens()), of(times()), of(times()), times());
    (by, of(texts()), of(any::<i32>()), of(texts())).prop_map(
        |((runner, token, assigned, started, ended), reason, exit_code, message)| {
            let outcome = Outcome::Exhausted;
            Box::new(Ending { outcome, reason, runner, token, assigned, started, ended, exit_code, message })
        },
    )
}

fn states() -> impl Strategy<Value = TaskState> {
    prop_oneof![
        (times(), of(times()), of(texts())).prop_map(|(since, not_before, reason)| TaskState::Pending {
            since,
            not_before,
            reason
        }),
        assignments().prop_map(TaskState::Assigned),
        assignments().prop_map(TaskState::Running),
        endings().prop_map(TaskState::Ended),
    ]
}

fn artifacts() -> impl Strategy<Value = Option<Arc<Artifacts>>> {
    let name = || "[ -~]{1,256}".prop_map(|text| ArtifactId::parse(&text).ok());
    (prop::collection::vec(name(), 0..5), of(name()))
        .prop_map(|(inputs, output)| Artifacts::of(inputs.into_iter().flatten().collect(), output.flatten()))
}

fn tasks() -> impl Strategy<Value = Task> {
    let wait =
        (times(), times()).prop_map(|(cache_until, deps_until)| Arc::new(Wait { cache_until, deps_until }));
    let trace = Traceparent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").map(Arc::new);
    let counts = (any::<u32>(), any::<u32>(), any::<u32>());
    let place = (-1000..=1000i32, of(names()), of(any::<u32>()), numbers(), times());
    let jobs = prop::collection::vec(shapes(), 0..3);
    let of_locality = (artifacts(), of(wait));
    ((names(), names()), shapes(), place, jobs, limits(), of_locality, counts, any::<bool>(), states())
        .prop_map(
            move |((id, tenant), shape, place, jobs, limits, (artifacts, wait), counts, traced, state)| {
                let (priority, build, index, sequence, submitted) = place;
                let (attempt, spent, retried) = counts;
                let (jobs, traceparent) = (jobs.into(), trace.clone().filter(|_| traced));
                let content = Uuid::max();
                let mut task = Task {
                    id,
                    shape,
                    tenant,
                    priority,
                    build,
                    jobs,
                    index,
                    limits,
                    artifacts,
                    wait,
                    content,
                    sequence,
                    submitted,
                    attempt,
                    spent,
                    retried,
                    traceparent,
                    state,
                    extra: Default::default(),
                };
                task.attempt = task.attempt.max(1);
                task
            },
        )
}

/// What a row is taken for, and what is written with the comma behind it.
fn sizes(row: Row) -> (usize, usize) {
    let taken = size::of_row(&row);
    (taken, serde_json::to_vec(&Change::Put(row)).expect("it is written").len() + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_task_is_written_larger_than_it_was_taken_for(task in tasks(), body in texts()) {
        let id = task.id.clone();
        let deleted = Key::Spec(id.clone());
        let taken = size::of_delete(&deleted);
        prop_assert!(serde_json::to_vec(&Change::Delete(deleted)).expect("it is written").len() < taken);
        let event = Lifecycle {
            id: id.clone(),
            kind: Kind::Build,
            queue: task.shape.queue.clone(),
            tenant: task.tenant.clone(),
            state: LifecycleState::Assigned,
            outcome: Some(Outcome::Succeeded),
            reason: Some(body.clone()),
            runner: Some(task.tenant.clone()),
            attempt: u32::MAX,
            token: task.assignment().map(|held| held.token),
            at: task.submitted,
            waited_ms: Some(u64::MAX),
            ran_ms: Some(u64::MAX),
            exit_code: Some(i32::MIN),
        };
        let fact = Fact::Task(event);
        let written = serde_json::to_vec(&fact).expect("it is written").len() + 1;
        prop_assert!(written <= size::of_fact(&fact), "{} for a fact of {written}", size::of_fact(&fact));
        for row in [Row::Task(Arc::new(task)), Row::Spec { id, body }] {
            let (taken, written) = sizes(row.clone());
            prop_assert!(written <= taken, "{taken} for {written}: {row:?}");
        }
    }
}

#[test]
fn the_usual_task_is_not_taken_for_much_more_than_it_is() {
    let runner = Id::parse("runner-1").expect("a name");
    let held = Assignment {
        runner,
        incarnation: Uuid::max().to_string().into(),
        token: Token { epoch: 1, turn: 3_118, index: 12 },
        assigned: Time(1_770_000_000_000),
        deadline: Time(1_770_000_030_000),
        confirmed: true,
        started: Some(Time(1_770_000_000_000)),
        stop: None,
        pulled: None,
    };
    let name = |text| Id::parse(text).expect("a name");
    let shape = Shape {
        kind: Kind::Job,
        queue: name("default"),
        resources: Resources::new(1_000, 2 << 30),
        arch: "".into(),
        os: "".into(),
        labels: Default::default(),
        tolerations: Default::default(),
        group: None,
    };
    let limits = Limits {
        max_attempts: 3,
        retries: 0,
        timeout: None,
        not_before: None,
        expires_in: None,
        if_unplaceable: IfUnplaceable::Fail,
    };
    let task = Task {
        id: name("build-42-test-7"),
        shape: Arc::new(shape),
        tenant: name("default"),
        priority: 0,
        build: None,
        jobs: Arc::from([]),
        index: None,
        limits: Arc::new(limits),
        artifacts: None,
        wait: None,
        content: Uuid::max(),
        sequence: 3_269_459_968,
        submitted: Time(1_770_000_000_000),
        attempt: 1,
        spent: 0,
        retried: 0,
        traceparent: None,
        state: TaskState::Running(Box::new(held)),
        extra: Default::default(),
    };
    let (taken, written) = sizes(Row::Task(Arc::new(task)));
    assert!(taken < 2 * written, "{taken} for {written}");
}
