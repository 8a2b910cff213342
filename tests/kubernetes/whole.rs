//! The real binary: a dispatcher, a runner of a cluster, and the scripted cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::binary::{Process, Server, longshore, text, wait_for};
use crate::cluster::{Cluster, OnTerm, State};

const ROLE: &str = include_str!("../../config/kubernetes-rbac.yaml");

fn machine(arch: &str) -> Value {
    let labels = json!({"kubernetes.io/arch": arch, "kubernetes.io/os": "linux"});
    let allocatable = json!({"cpu": "3500m", "memory": "8Gi", "nvidia.com/gpu": "1"});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    json!({"metadata": {"name": arch, "labels": labels}, "status": {"allocatable": allocatable, "conditions": ready}})
}

fn cluster_runner(server: &Server, cluster: &Cluster, id: &str, dir: &Path, more: &[&str]) -> Process {
    let mut command = longshore();
    command.args([
        "runner",
        "--log-level",
        "warn",
        "--url",
        &server.url,
        "--id",
        id,
        "--backend",
        "kubernetes",
    ]);
    command.arg("--kubeconfig").arg(cluster.kubeconfig()).arg("--data").arg(dir.join(id)).args(more);
    Process::start(&mut command)
}

fn submit(server: &Server, dir: &Path, task: Value) {
    let file = dir.join("task.json");
    std::fs::write(&file, json!({"tasks": [task]}).to_string()).expect("the directory can be written");
    let sent = server.run([Path::new("submit"), &file]);
    assert!(sent.status.success(), "{}{}", text(&sent.stdout), text(&sent.stderr));
}

fn task(id: &str) -> Value {
    json!({"id": id, "resources": {"cpu": 1, "memory": "64MiB"}, "spec": {"image": "tools:1", "command": ["make"]}})
}

fn server(dir: &Path, lease: &str) -> Server {
    let config = dir.join("longshore.toml");
    std::fs::write(&config, lease).expect("the directory can be written");
    Server::start_at(&dir.join("data"), "127.0.0.1:0", &["--config".as_ref(), config.as_os_str()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_as_jobs_of_a_cluster_that_is_one_runner_with_all_its_machines() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().expect("a directory"));
    let dir = dir.path();
    cluster.change(|state| state.nodes = vec![machine("amd64"), machine("amd64")]);
    let server = server(dir, "");
    let runner = cluster_runner(&server, &cluster, "cluster", dir, &["--resource", "license=3"]);
    server.wait_for_runners(1);
    let offered = server.json(["runners", "cluster"]);
    let capacity = &offered["capacity"];
    assert_eq!([&capacity["cpu"], &capacity["gpu"], &capacity["license"]], [7, 2, 3], "{offered}");
    assert_eq!(offered["arch"], "amd64");

    submit(&server, dir, task("t1"));
    let pod = cluster.running_pod().await;
    server.wait_until("t1", "running");
    cluster.writes(&pod, "hello from a pod\n");
    wait_for("what it writes is there while it runs", || {
        text(&server.run(["logs", "t1"]).stdout).contains("hello from a pod").then_some(())
    });
    cluster.exits(&pod, 0);
    assert_eq!(server.wait_until("t1", "ended")["outcome"], "succeeded");
    assert!(cluster.is_empty());

    // A pod that is lost spends an attempt, and is no failure of its task.
    let mut fragile = task("t2");
    fragile["max_attempts"] = json!(1);
    submit(&server, dir, fragile);
    let pod = cluster.running_pod().await;
    server.wait_until("t2", "running");
    cluster.evicts(&pod, "The node was low on resource: memory.");
    let ended = server.wait_until("t2", "ended");
    assert_eq!(ended["outcome"], "exhausted");
    let why = ended["reason"].as_str().unwrap_or_default();
    assert!(why.contains("was lost on cluster: its pod was lost: Evicted"), "{ended}");

    submit(&server, dir, task("t3"));
    cluster.running_pod().await;
    server.wait_until("t3", "running");
    assert_eq!(runner.terminate().code(), Some(0));
    assert!(cluster.is_empty(), "a runner that leaves takes its work with it");
    // Only where an answer was lost, or a pod went unseen, is a Job looked at by its name.
    cluster.change(|state| state.calls.insert(("get".to_owned(), "jobs".to_owned())));
    assert_eq!(allowed(), cluster.state().calls, "the role allows what is used, and nothing else");
}

/// What the shipped roles allow.
fn allowed() -> BTreeSet<(String, String)> {
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let documents: Vec<Value> =
        ROLE.split("\n---\n").map(|text| serde_saphyr::from_str(text).expect("YAML")).collect();
    let roles = documents.iter().filter(|one| one["kind"] == "Role" || one["kind"] == "ClusterRole");
    let rules = roles.flat_map(|role| role["rules"].as_array().expect("rules").clone());
    let mut all = BTreeSet::new();
    for rule in rules {
        for resource in texts(&rule["resources"]) {
            all.extend(texts(&rule["verbs"]).into_iter().map(|verb| (verb, resource.clone())));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_runner_that_was_killed_end_before_another_runner_has_the_task() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().expect("a directory"));
    let dir = dir.path();
    cluster.change(|state| state.on_term = OnTerm::Deaf);
    let server = server(dir, "[lease]\nttl = \"9s\"\nheartbeat = \"2s\"\nmargin = \"1s\"\n");
    let offer = ["--cpu", "1", "--memory", "1GiB", "--grace", "1s"];
    let first = cluster_runner(&server, &cluster, "first", dir, &offer);
    server.wait_for_runners(1);
    submit(&server, dir, task("t1"));
    cluster.running_pod().await;
    server.wait_until("t1", "running");
    let second = cluster_runner(&server, &cluster, "second", dir, &offer);
    server.wait_for_runners(2);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(
        running(&cluster.state(), "first"),
        1,
        "it runs on for as long as its runner renews its lease"
    );
    first.kill();
    cluster.until("another has it", |state| (running(state, "second") == 1).then_some(())).await;
    assert_eq!(running(&cluster.state(), "first"), 0, "the cluster ended it first");

    // The next start finds what is left, and removes it before anything begins.
    let first = cluster_runner(&server, &cluster, "first", dir, &offer);
    let gone = |state: &State| (!state.jobs.keys().any(|job| job.contains("first"))).then_some(());
    cluster.until("nothing is left of the first", gone).await;
    assert_eq!(running(&cluster.state(), "second"), 1, "and nothing else");
    assert_eq!(first.terminate().code(), Some(0));
    assert_eq!(second.terminate().code(), Some(0));
    assert!(cluster.is_empty());
}

fn running(state: &State, runner: &str) -> usize {
    let runs = |pod: &&Value| {
        pod["status"]["phase"] == "Running" && pod["metadata"]["annotations"]["longshore/runner"] == runner
    };
    state.pods.values().filter(runs).count()
}

#[test]
fn a_runner_without_its_cluster_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = longshore();
    command.args(["runner", "--backend", "kubernetes", "--slots-only", "--kubeconfig", "/nowhere", "--data"]);
    let ended = command.arg(dir.path()).output().expect("it runs");
    assert_eq!(ended.status.code(), Some(1));
    let said = text(&ended.stderr);
    assert!(
        said.contains("--backend kubernetes: --kubeconfig /nowhere: ")
            && said.contains("start the runner inside"),
        "{said}"
    );
}
