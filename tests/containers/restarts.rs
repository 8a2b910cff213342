//! A runner that is killed while a container runs, with a real engine: what its next start goes on with, and what not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore::runner::backend::Backend;
use longshore::runner::boottime;
use serde_json::{Value, json};

use crate::binary::{Process, Server, runner, text, wait_for};
use crate::docker_backend::{IMAGE, backend_with, containers, docker, running, sh, start_of, until};

/// A server, and a directory that the task writes into.
struct Scene {
    server: Server,
    dir: tempfile::TempDir,
    runner: &'static str,
}

impl Scene {
    fn with(runner: &'static str, seconds: u32) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("shared")).expect("a directory");
        Self { server: Server::with_leases(dir.path(), seconds), dir, runner }
    }

    fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    fn start_runner(&self) -> Process {
        let mount = self.shared();
        let mount = mount.to_str().expect("a name in UTF-8");
        let how = ["--cpu", "1", "--backend", "docker", "--pull", "never", "--mount", mount];
        runner(&self.server.url, self.runner, self.dir.path(), &how)
    }

    /// Submits a task that notes each time it is run, and ends well once it may.
    fn submit(&self) {
        let script =
            "echo ran >> /shared/ran; echo begun; while [ ! -e /shared/go ]; do sleep 0.05; done; echo done";
        let mounts = [format!("{}:/shared", self.shared().display())];
        let spec = json!({"image": IMAGE, "command": ["sh", "-c", script], "mounts": mounts});
        let task = json!({"id": "t1", "resources": {"cpu": 1, "memory": "64MiB"}, "spec": spec});
        let file = self.dir.path().join("task.json");
        std::fs::write(&file, json!({"tasks": [task]}).to_string()).expect("the directory can be written");
        let sent = self.server.run([Path::new("submit"), &file]);
        assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
    }

    fn runs_seen(&self) -> usize {
        std::fs::read_to_string(self.shared().join("ran")).map_or(0, |text| text.lines().count())
    }

    fn let_it_end(&self) {
        std::fs::write(self.shared().join("go"), "").expect("the directory can be written");
    }

    fn runs(&self, times: usize) {
        wait_for("the container runs", || {
            (running(self.runner) == 1 && self.runs_seen() == times).then_some(())
        });
        self.server.wait_until("t1", "running");
    }

    fn ended(&self) -> Value {
        self.server.wait_until("t1", "ended")
    }
}

#[test]
fn a_runner_that_comes_back_in_time_goes_on_with_its_container() {
    let scene = Scene::with("story-back", 8);
    let first = scene.start_runner();
    scene.submit();
    scene.runs(1);
    let container = containers(scene.runner);
    first.kill();
    let killed = boottime();
    let second = scene.start_runner();
    wait_for("the lease under which it began is over", || {
        (boottime() > killed + Duration::from_secs(9)).then_some(())
    });
    assert_eq!((containers(scene.runner), running(scene.runner)), (container.clone(), 1), "it runs on");
    // Once more: what was gone on with can be gone on with.
    second.kill();
    let third = scene.start_runner();
    scene.server.wait_for_runners(1);
    scene.let_it_end();
    let task = scene.ended();
    assert_eq!((&task["outcome"], &task["attempt"]), (&json!("succeeded"), &json!(1)), "{task}");
    assert_eq!(scene.runs_seen(), 1);
    assert_eq!(text(&scene.server.run(["logs", "t1"]).stdout), "begun\ndone\n");
    wait_for("its container is removed", || containers(scene.runner).is_empty().then_some(()));
    assert_eq!(third.terminate().code(), Some(0));
}

#[test]
fn an_end_that_no_runner_saw_is_told_by_the_next_start() {
    let scene = Scene::with("story-unseen", 8);
    let first = scene.start_runner();
    scene.submit();
    scene.runs(1);
    first.kill();
    scene.let_it_end();
    wait_for("it has ended", || (running(scene.runner) == 0).then_some(()));
    assert_eq!(containers(scene.runner).len(), 1, "its guard keeps it for the next start");
    let second = scene.start_runner();
    let task = scene.ended();
    assert_eq!((&task["outcome"], &task["attempt"]), (&json!("succeeded"), &json!(1)), "{task}");
    assert_eq!(scene.runs_seen(), 1);
    assert_eq!(second.terminate().code(), Some(0));
}

#[test]
fn a_container_whose_runner_does_not_come_back_is_gone_before_its_task_is_given_away() {
    let scene = Scene::with("story-late", 3);
    let first = scene.start_runner();
    scene.submit();
    scene.runs(1);
    first.kill();
    scene.server.wait_until("t1", "pending");
    assert_eq!(running(scene.runner), 0);
    let second = scene.start_runner();
    scene.runs(2);
    scene.let_it_end();
    let task = scene.ended();
    assert_eq!((&task["outcome"], &task["attempt"]), (&json!("succeeded"), &json!(2)), "{task}");
    assert_eq!(second.terminate().code(), Some(0));
}

#[test]
fn a_container_whose_guard_is_gone_too_is_removed_by_the_next_start() {
    let scene = Scene::with("story-unguarded", 8);
    let first = scene.start_runner();
    scene.submit();
    scene.runs(1);
    let before = containers(scene.runner);
    let guard = guard_of(first.id());
    // First the runner, which a guard that is gone would end.
    first.pause();
    rustix::process::kill_process(guard, rustix::process::Signal::KILL).expect("it is there");
    first.kill();
    let second = scene.start_runner();
    scene.runs(2);
    assert_ne!(containers(scene.runner), before);
    let names = docker(&["ps", "-a", "-q"]);
    assert!(!names.contains(&before[0]), "nobody knows until when it could have run");
    assert_eq!(second.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_makes_late_of_what_a_killed_runner_asked_for_is_removed() {
    let home = tempfile::tempdir().expect("a directory");
    let backend = backend_with("story-asked", |settings| settings.home = Some(home.path().to_owned())).await;
    let (start, _stop) = start_of(sh("sleep 100"));
    let name = format!("longshore-story-asked-{}", start.held.token);
    let adopted = backend.adopt(vec![start]).await.expect("the engine answers");
    assert!(adopted.work.is_empty(), "no guard says until when it may run");
    docker(&["create", "--name", &name, "--label", "longshore.runner=story-asked", IMAGE, "sleep", "100"]);
    until("it is gone", || containers("story-asked").is_empty()).await;
}

/// The process that a runner started as its guard.
fn guard_of(runner: u32) -> rustix::process::Pid {
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The fields behind the name: state, then the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1));
        parent == Some(runner.to_string().as_str())
    };
    let processes = std::fs::read_dir("/proc").expect("it can be listed").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children: Vec<i32> = pids.filter(is_child).collect();
    assert_eq!(children.len(), 1, "a runner of containers has one child");
    rustix::process::Pid::from_raw(children[0]).expect("a pid")
}
