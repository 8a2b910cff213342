//! What survives the death of a runner: the end of its work in the outbox, and the knowledge of which processes
//! are its to end.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use longshore::model::*;
use longshore::runner::backend::ProcessGroup;
use longshore::runner::outbox::{Keep, Left, Outbox};
use tempfile::TempDir;

fn held(id: &str, token: &str) -> Held {
    Held { id: id.parse().expect("a name"), token: token.parse().expect("a token") }
}

fn ended(id: &str, token: &str) -> Report {
    let end = End {
        outcome: AttemptOutcome::Failed,
        exit_code: Some(3),
        message: Some("oh no".into()),
        artifacts: Vec::new(),
    };
    let held = held(id, token);
    let runner = Id::parse("r1").expect("a name");
    Report {
        runner,
        incarnation: "i0".into(),
        kind: Kind::Build,
        id: held.id,
        token: held.token,
        what: Reported::End(end),
    }
}

fn open(directory: &TempDir) -> (Outbox, Left) {
    Outbox::open(directory.path()).expect("it opens")
}

/// A process in a group of its own, with or without the mark of a token.
fn process(token: Option<&str>) -> (Child, ProcessGroup) {
    let mut command = Command::new("sleep");
    command.arg("100").process_group(0);
    if let Some(token) = token {
        command.env("LONGSHORE_TOKEN", token);
    }
    let child = command.spawn().expect("sleep starts");
    let id = i32::try_from(child.id()).expect("a pid");
    (child, ProcessGroup::of_leader(id).expect("it is there"))
}

#[test]
fn an_end_report_survives_a_restart_until_it_was_taken() {
    let directory = TempDir::new().expect("a directory");
    let (outbox, left) = open(&directory);
    assert_eq!(left, Left::default());
    let seen = LastSeen { table: uuid::Uuid::from_u128(7), turn: 41 };
    let first = Keep::Report { number: 1, report: ended("t1", "1.4.0") };
    let second = Keep::Report { number: 2, report: ended("t2", "1.4.1") };
    outbox.write(&[first, second, Keep::Seen(seen)]).expect("it is kept");
    drop(outbox);

    let (outbox, left) = open(&directory);
    let reports = vec![(1, ended("t1", "1.4.0")), (2, ended("t2", "1.4.1"))];
    assert_eq!((left.restored.reports, left.restored.last_seen), (reports, Some(seen)));
    outbox.write(&[Keep::Forget { through: 1 }]).expect("it is dropped");
    drop(outbox);
    assert_eq!(open(&directory).1.restored.reports, [(2, ended("t2", "1.4.1"))]);
}

#[test]
fn numbers_begin_anew_once_everything_was_taken() {
    let directory = TempDir::new().expect("a directory");
    let (outbox, _) = open(&directory);
    let kept = |number, id: &str| Keep::Report { number, report: ended(id, "1.4.0") };
    outbox
        .write(&[kept(1, "t1"), kept(2, "t2"), Keep::Forget { through: 2 }])
        .expect("it is kept and dropped");
    drop(outbox);

    let (outbox, left) = open(&directory);
    assert_eq!(left.restored.reports, []);
    outbox.write(&[kept(1, "t3")]).expect("it is kept");
    drop(outbox);
    assert_eq!(open(&directory).1.restored.reports, [(1, ended("t3", "1.4.0"))]);
}

fn begun(id: &str, token: &str) -> AssignmentMessage {
    let held = held(id, token);
    AssignmentMessage {
        id: held.id,
        kind: Kind::Build,
        queue: Id::parse("q").expect("a name"),
        attempt: 3,
        token: held.token,
        deadline: std::time::Duration::from_secs(30),
        task: format!(r#"{{"id":"{id}","timeout":"1h"}}"#).into(),
    }
}

#[test]
fn what_was_begun_is_known_until_it_is_gone() {
    let directory = TempDir::new().expect("a directory");
    let (outbox, _) = open(&directory);
    let (first, second) = (begun("t1", "1.4.0"), begun("t2", "1.4.1"));
    outbox.write(&[Keep::Begun(first.clone()), Keep::Begun(second.clone())]).expect("it is kept");
    outbox.write(&[Keep::Gone(first.held())]).expect("it is dropped");
    drop(outbox);
    let (outbox, left) = open(&directory);
    assert_eq!((&left.begun[..], left.unended()), (&[second.clone()][..], vec![second]));
    drop(outbox);
}

#[test]
fn of_what_was_begun_the_newest_attempt_of_a_task_is_gone_on_with_unless_its_end_was_kept() {
    let directory = TempDir::new().expect("a directory");
    let (outbox, _) = open(&directory);
    let tokens = [("t1", "1.4.0"), ("t1", "1.10.0"), ("t2", "1.4.1"), ("t2", "1.5.0")];
    let mut kept: Vec<Keep> = tokens.iter().map(|(id, token)| Keep::Begun(begun(id, token))).collect();
    kept.push(Keep::Report { number: 1, report: ended("t2", "1.5.0") });
    outbox.write(&kept).expect("it is kept");
    drop(outbox);
    let (_outbox, left) = open(&directory);
    assert_eq!(left.unended(), [begun("t1", "1.10.0")], "of t2 neither: what is older is over as well");
    assert_eq!(left.begun.len(), 4);
}

#[test]
fn a_second_runner_on_the_same_directory_is_told_so() {
    let directory = TempDir::new().expect("a directory");
    let _first = open(&directory);
    let why = Outbox::open(directory.path()).expect_err("it is in use").to_string();
    assert!(why.contains("is in use by another runner; stop it or give this one a data directory"), "{why}");
}

#[test]
fn only_what_is_proven_to_be_left_behind_is_ended() {
    let ours = held("t1", "1.4.0");
    let directory = TempDir::new().expect("a directory");
    let (mut left_behind, group) = process(Some("1.4.0"));
    let (mut innocent, other) = process(None);
    let (mut of_another, third) = process(Some("1.9.0"));
    let (outbox, _) = open(&directory);
    let kept = [group, other, third].map(|group| Keep::Running(ours.clone(), group));
    outbox.write(&kept[..1]).expect("it is kept");
    drop(outbox);

    let (_, left) = open(&directory);
    assert_eq!(left.running, [(ours.clone(), group)]);
    let reaper = std::thread::spawn(move || left_behind.wait());
    assert_eq!(left.running[0].1.end_left_behind("t1", ours.token).expect("it can be ended"), 1);
    assert!(!reaper.join().expect("no panic").expect("its end").success());

    assert_eq!(other.end_left_behind("t1", ours.token).expect("nothing to end"), 0, "no mark of any token");
    assert_eq!(
        third.end_left_behind("t1", ours.token).expect("nothing to end"),
        0,
        "the mark of another token"
    );
    let later = ProcessGroup { started: third.started + 1, ..third };
    assert_eq!(
        later.end_left_behind("t1", "1.9.0".parse().expect("a token")).expect("nothing to end"),
        0,
        "the number was given again"
    );
    for child in [&mut innocent, &mut of_another] {
        assert!(child.try_wait().expect("its state").is_none(), "it still runs");
        child.kill().expect("it can be ended");
        child.wait().expect("it is gone");
    }
}
