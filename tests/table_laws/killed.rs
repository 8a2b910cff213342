//! A process is killed while it commits: everything it was told is done is there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longshore::adapters::RedbTable;
use longshore::ports::{Commit, History, Table};
use tempfile::tempdir;

use crate::fixture::{Leader, delete, next_turns, put, sum};
use crate::history::{about, last, numbers};

const OTHER_PROCESS: &str = "LONGSHORE_TEST_DIR";

/// This very test in a process of its own, which finds `dir` with [`in_other_process`].
pub(crate) fn process(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(OTHER_PROCESS, dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The directory to work on, in the other process of a test.
pub(crate) fn in_other_process() -> Option<PathBuf> {
    std::env::var_os(OTHER_PROCESS).map(PathBuf::from)
}

async fn commit_until_killed(dir: &Path) {
    let table = RedbTable::open(dir).unwrap();
    let mut head = table.load().await.unwrap().head;
    let mut leader = Leader::number(u128::from(head.number) + 1);
    loop {
        let number = head.number + 1;
        let changes = (0..20).map(|n| match (n + number) % 3 {
            0 => delete(&format!("t{n}")),
            _ => put(&format!("t{n}"), number),
        });
        let turn = leader.turn(number, changes.collect(), vec![about("t")]);
        assert_eq!(table.commit(&turn).await, Commit::Done);
        head = turn.head();
        println!("done {number}");
        if number % 50 == 0 {
            table.compact().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    if let Some(dir) = in_other_process() {
        commit_until_killed(&dir).await;
    }
    let dir = tempdir().unwrap();
    let mut before = 0;
    for more in [1, 3, 20, 60, 7, 150] {
        let mut child = process("killed::what_was_acknowledged_survives_a_kill", dir.path()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        let mut hear = |line: std::io::Result<String>| {
            // The first line may share its line with the name of the test.
            let line = line.unwrap();
            if let Some((_, number)) = line.split_once("done ") {
                acknowledged = number.parse().expect("a whole line");
            }
            acknowledged
        };
        while hear(said.next().expect("it commits until it is killed")) < before + more {}
        child.kill().unwrap();
        for line in said {
            hear(line);
        }
        child.wait().unwrap();

        let head = RedbTable::check(dir.path()).unwrap();
        let table = RedbTable::open(dir.path()).unwrap();
        let load = table.load().await.unwrap();
        assert_eq!(load.head, head);
        assert!(
            head.number >= acknowledged,
            "turn {acknowledged} was acknowledged, {} is there",
            head.number
        );
        assert!(head.number <= acknowledged + 1, "one turn at most was on its way");
        let mut stream = table.follow(0).await.unwrap();
        let turns = next_turns(&mut stream, usize::try_from(head.number).unwrap()).await;
        assert_eq!(load.rows, sum(&turns));
        let events = table.events(last(10_000)).await.unwrap();
        assert_eq!(numbers(&events), (1..=head.number).collect::<Vec<_>>());
        before = head.number;
    }
}
