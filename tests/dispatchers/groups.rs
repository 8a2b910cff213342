//! Scenarios 19 and 21: groups that lose their runners, and groups that stop.

use serde_json::{Value, json};

use super::pool::{Pool, with_one_and_with_three};

with_one_and_with_three! {
    a_group_keeps_its_tasks_while_a_runner_is_left_and_with_the_last_they_are_pending_again_or_end,
    after_a_failure_the_rest_of_an_ordered_group_never_starts,
}

/// Scenario 19.
async fn a_group_keeps_its_tasks_while_a_runner_is_left_and_with_the_last_they_are_pending_again_or_end(
    mut pool: Pool,
) {
    let group = || json!({"id": "g", "max_runners": 2});
    let jobs = json!({"kinds": ["job"], "resources": {"cpu": 2, "memory": "32GiB"}});
    let mut host = pool.runner_like("host", json!({"kinds": ["build"]})).await;
    let mut first = pool.runner_like("r1", jobs.clone()).await;
    let mut second = pool.runner_like("r2", jobs.clone()).await;
    pool.submit([json!({"id": "b", "kind": "build", "jobs": [{"group": {"id": "g"}}]})]).await;
    assert_eq!(host.next(&pool).await.id, "b");
    let job =
        |id: &str, attempts: u32| json!({"id": id, "build": "b", "group": group(), "max_attempts": attempts});
    pool.submit([job("a", 3), job("c", 3), job("spare", 3), job("last", 1)]).await;
    let mut given = [first.next(&pool).await.id, first.next(&pool).await.id];
    given.sort();
    assert_eq!(given, ["a", "c"]);
    let mut others = [second.next(&pool).await.id, second.next(&pool).await.id];
    others.sort();
    assert_eq!(others, ["last", "spare"]);

    first.leaves(&pool, &["a", "c"]).await;
    for task in ["a", "c"] {
        pool.shows(task, "pending").await;
    }
    for task in ["spare", "last"] {
        assert_eq!(pool.shows(task, "running").await["runner"], "r2", "another is left");
    }
    pool.loses_its_leader().await;
    second.leaves(&pool, &[]).await;
    pool.shows("spare", "pending").await;
    pool.shows("last", "exhausted").await;
    pool.until("/v1/groups/g", |group| group["runner_ids"] == json!([])).await;
    let of_the_build = pool.get("/v1/tasks?build=b").await;
    let told =
        of_the_build["tasks"].as_array().expect("a list").iter().find(|task| task["id"] == "last").cloned();
    assert_eq!(told.expect("its build is told")["outcome"], "exhausted");
    pool.shows("b", "running").await;
}

/// Scenario 21.
async fn after_a_failure_the_rest_of_an_ordered_group_never_starts(mut pool: Pool) {
    let mut runner = pool.runner("r", 8).await;
    let step = |id: &str, index: u32| {
        let group =
            json!({"id": "g", "max_runners": 1, "ordered": true, "index": index, "stop_on_failure": true});
        json!({"id": id, "group": group})
    };
    pool.submit([step("d", 4), step("ok", 1), step("failed", 2), step("c", 3)]).await;
    let first = runner.next(&pool).await;
    assert_eq!(first.id, "ok");
    assert!(runner.has_nothing_new(&pool).await, "one after another");
    runner.end(&pool, &first, "succeeded").await;
    let second = runner.next(&pool).await;
    assert_eq!(second.id, "failed");
    pool.loses_its_leader().await;
    runner.end(&pool, &second, "failed").await;
    for task in ["c", "d"] {
        let rest = pool.shows(task, "cancelled").await;
        assert_eq!((&rest["attempt"], &rest["runner"]), (&json!(0), &Value::Null));
    }
    assert!(runner.has_nothing_new(&pool).await);
    let stopped = pool.until("/v1/groups/g", |group| group["task_ids"] == json!([])).await;
    assert_eq!(stopped["stopped"], "failed ended failed");
}
