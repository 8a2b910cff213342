//! A disk that takes no more: the dispatcher's, where output is kept, and the runner's own.

mod binary;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use binary::{Process, Server, longshore, runner, text, wait_for};
use rustix::process::{Pid, Resource, Rlimit};
use serde_json::json;
use tempfile::TempDir;

fn submit(server: &Server, dir: &Path, id: &str, script: &str) {
    let file = dir.join(format!("{id}.json"));
    let spec = json!({"command": ["sh", "-c", script]});
    let task = json!({"id": id, "resources": {"cpu": 1, "memory": "64MiB"}, "spec": spec});
    fs::write(&file, task.to_string()).expect("the directory can be written");
    let sent = server.run([Path::new("submit"), &file]);
    assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
}

fn logs(server: &Server, id: &str) -> String {
    text(&server.run(["logs", id]).stdout).to_owned()
}

/// The one file with what an attempt of the task wrote.
fn file_of(server: &Server, id: &str) -> PathBuf {
    let shards = fs::read_dir(server.data.join("output")).expect("there is output");
    let task = shards.map(|shard| shard.expect("an entry").path().join(id)).find(|task| task.is_dir());
    let files = fs::read_dir(task.expect("it has written")).expect("it can be read");
    let mut logs = files.map(|file| file.expect("an entry").path());
    logs.find(|file| file.extension().is_some_and(|ending| ending == "log")).expect("it has written")
}

#[test]
fn a_task_ends_as_it_does_though_its_output_finds_no_room_and_what_waits_comes_when_there_is() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::start(&dir.path().join("data"));
    let _runner = runner(&server.url, "r1", dir.path(), &["--cpu", "1"]);
    server.wait_for_runners(1);
    let gate = dir.path().join("gate");
    let script = format!("echo one; while [ ! -e {} ]; do sleep 0.05; done; echo two", gate.display());
    submit(&server, dir.path(), "t1", &script);
    wait_for("the first line is there", || (logs(&server, "t1") == "one\n").then_some(()));

    // The kernel's own file that has no room left stands in for the disk.
    let (log, kept) = (file_of(&server, "t1"), dir.path().join("kept"));
    fs::rename(&log, &kept).expect("it can be moved");
    std::os::unix::fs::symlink("/dev/full", &log).expect("it can be linked");
    File::create(&gate).expect("the directory can be written");
    let ended = server.wait_until("t1", "ended");
    assert_eq!((&ended["outcome"], &ended["message"]), (&json!("succeeded"), &json!("one\ntwo")), "{ended}");

    fs::rename(&kept, &log).expect("it can be moved");
    wait_for("what waited for room is there", || (logs(&server, "t1") == "one\ntwo\n").then_some(()));
}

#[test]
fn a_runner_whose_disk_is_full_ends_with_its_work_and_goes_on_when_there_is_room() {
    let dir = TempDir::new().expect("a directory");
    let server = Server::with_short_leases(dir.path());
    let said = dir.path().join("said");
    let start = || {
        let longshore = longshore();
        // A write that goes too far is to fail, as on a full disk, and not to end the process.
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(longshore.get_program());
        // Without any setting of whoever runs the tests, as that command is.
        longshore.get_envs().for_each(|(name, _)| _ = shell.env_remove(name));
        shell.args(["runner", "--id", "r1", "--cpu", "2", "--url", &server.url, "--data"]);
        shell.arg(dir.path().join("r1")).stderr(File::create(&said).expect("the directory can be written"));
        Process::start(&mut shell)
    };
    let mut first = start();
    server.wait_for_runners(1);
    let (gate, pids) = (dir.path().join("gate"), dir.path().join("pids"));
    let (gate_at, pids_at) = (gate.display(), pids.display());
    submit(
        &server,
        dir.path(),
        "t1",
        &format!("echo $$ >> {pids_at}; while [ ! -e {gate_at} ]; do sleep 0.05; done"),
    );
    server.wait_until("t1", "running");
    let of_runner = Pid::from_raw(first.id().try_into().expect("a pid"));
    let none = Rlimit { current: Some(4096), maximum: Some(4096) };
    rustix::process::prlimit(of_runner, Resource::Fsize, none).expect("it may be limited");
    submit(&server, dir.path(), "t2", "true");
    let ended = wait_for("the runner ends", || first.ended());
    assert!(ended.code().is_some_and(|code| code != 0), "{ended:?}");
    let why = fs::read_to_string(&said).expect("it can be read");
    assert!(why.contains("runner.redb: ") && why.contains("the disk not full"), "{why}");
    let pid = fs::read_to_string(&pids).expect("it has begun");
    let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid");
    wait_for("its work is gone", || rustix::process::test_kill_process(pid).is_err().then_some(()));

    let second = start();
    File::create(&gate).expect("the directory can be written");
    for id in ["t1", "t2"] {
        assert_eq!(server.wait_until(id, "ended")["outcome"], "succeeded");
    }
    assert_eq!(second.terminate().code(), Some(0));
}
