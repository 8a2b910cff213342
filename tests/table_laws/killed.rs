//! A process is killed while it commits: everything it was told is done is there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use longshore::adapters::RedbTable;
use longshore::ports::{Commit, History, Table};
use tempfile::tempdir;

use crate::fixture::{Leader, delete, next_turns, put, sum};
use crate::history::{about, last, numbers};

/// This very program in a process of its own, with one of its ignored tests.
pub(crate) fn process(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("LONGSHORE_TEST_DIR", dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "the process that the test below kills"]
fn commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os("LONGSHORE_TEST_DIR") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let table = RedbTable::open(Path::new(&dir)).unwrap();
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
            writeln!(std::io::stdout(), "done {number}").unwrap();
            if number % 50 == 0 {
                table.compact().await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempdir().unwrap();
    let mut before = 0;
    for more in [1, 3, 20, 60, 7, 150] {
        let mut child = process("killed::commits_until_it_is_killed", dir.path()).spawn().unwrap();
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
