//! Scenarios 11, 13, 14 and 15: who is waited for, for how long, and in which order.

use serde_json::{Value, json};

use super::pool::{CACHE_WAIT, DEPS_WAIT, Pool, with_one_and_with_three};

with_one_and_with_three! {
    a_task_nobody_holds_anything_of_goes_to_anyone_also_to_one_who_came_later,
    a_runner_takes_first_what_reads_something_it_holds,
    the_waits_follow_each_other_and_the_first_is_only_for_what_somebody_holds,
    news_moves_a_task_that_is_open_to_all_and_it_starts_once,
}

async fn waited(pool: &Pool, task: &str) -> u64 {
    pool.shows(task, "running").await["waited_ms"].as_u64().expect("it was placed")
}

/// Scenario 11.
async fn a_task_nobody_holds_anything_of_goes_to_anyone_also_to_one_who_came_later(mut pool: Pool) {
    let mut full = pool.runner("full", 1).await;
    pool.submit([json!({"id": "busy"})]).await;
    assert_eq!(full.next(&pool).await.id, "busy");
    pool.submit([json!({"id": "t", "queue": "near", "inputs": ["x"]})]).await;
    pool.loses_its_leader().await;
    let mut late = pool.runner("late", 1).await;
    assert_eq!(late.next(&pool).await.id, "t");
    assert!(waited(&pool, "t").await >= DEPS_WAIT);
    assert!(full.has_nothing_new(&pool).await);
}

/// Scenario 13.
async fn a_runner_takes_first_what_reads_something_it_holds(pool: Pool) {
    let mut runner = pool.runner("r", 1).await;
    runner.holds(&pool, &["x"], &[]).await;
    let (plain, reads) =
        (json!({"id": "j2", "queue": "near"}), json!({"id": "j1", "queue": "near", "inputs": ["x"]}));
    pool.submit([plain, reads]).await;
    let first = runner.next(&pool).await;
    assert_eq!(first.id, "j1");
    runner.end(&pool, &first, "succeeded").await;
    assert_eq!(runner.next(&pool).await.id, "j2");
    assert!(waited(&pool, "j2").await >= DEPS_WAIT);
}

/// Scenario 14.
async fn the_waits_follow_each_other_and_the_first_is_only_for_what_somebody_holds(pool: Pool) {
    let mut holder = pool.runner("holder", 1).await;
    pool.submit([json!({"id": "busy"})]).await;
    let busy = holder.next(&pool).await;
    holder.holds(&pool, &["cached"], &[&busy]).await;
    let mut other = pool.runner("other", 8).await;
    let wants = |id: &str, output: &str| json!({"id": id, "queue": "near", "output": output});
    pool.submit([wants("nowhere", "new"), wants("somewhere", "cached")]).await;
    assert_eq!(other.next(&pool).await.id, "nowhere");
    assert_eq!(other.next(&pool).await.id, "somewhere");
    assert!(waited(&pool, "nowhere").await >= DEPS_WAIT);
    assert!(waited(&pool, "somewhere").await >= CACHE_WAIT + DEPS_WAIT);
}

/// Scenario 15.
async fn news_moves_a_task_that_is_open_to_all_and_it_starts_once(mut pool: Pool) {
    let mut cheap = pool.runner_like("cheap", json!({"cost": 0.1})).await;
    let mut first = pool.runner_like("first", json!({"cost": 1.0})).await;
    let mut second = pool.runner_like("second", json!({"cost": 2.0})).await;
    pool.post("/v1/queues/near/pause", Value::Null).await;
    pool.submit([json!({"id": "t", "queue": "near", "inputs": ["x", "y"], "output": "o"})]).await;
    pool.until("/v1/tasks/t/why", |why| why["position"] == 0).await;
    first.holds(&pool, &["x", "y", "o"], &[]).await;
    second.holds(&pool, &["y", "x"], &[]).await;
    pool.loses_its_leader().await;
    pool.post("/v1/queues/near/resume", Value::Null).await;
    let given = first.next(&pool).await;
    assert_eq!(given.id, "t", "cheap would have had it");
    first.end(&pool, &given, "succeeded").await;
    assert_eq!(pool.shows("t", "succeeded").await["attempt"], 1);
    for other in [&mut cheap, &mut second] {
        assert!(other.has_nothing_new(&pool).await);
    }
}
