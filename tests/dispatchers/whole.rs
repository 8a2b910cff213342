//! Scenarios 16 and 33: stopping leaves nothing behind, and builds that wait for their jobs all end.

use serde_json::json;

use super::pool::{Pool, with_one_and_with_three};

with_one_and_with_three! {
    stopping_leaves_no_task_and_no_message_behind,
    four_builds_on_four_slots_that_each_wait_for_a_job_all_end,
}

/// Scenario 16.
async fn stopping_leaves_no_task_and_no_message_behind(pool: Pool) {
    let mut runner = pool.runner("r", 1).await;
    pool.submit([json!({"id": "busy"})]).await;
    let busy = runner.next(&pool).await;
    runner.holds(&pool, &["o"], &[&busy]).await;
    let waiting = [
        json!({"id": "for-its-output", "queue": "far", "output": "o"}),
        json!({"id": "for-an-input", "queue": "far", "inputs": ["x"]}),
        json!({"id": "for-room"}),
    ];
    pool.submit(waiting).await;
    for task in ["for-its-output", "for-an-input", "for-room"] {
        pool.shows(task, "pending").await;
        pool.cancel(task).await;
        assert_eq!(pool.shows(task, "cancelled").await["attempt"], 0);
    }
    runner.end(&pool, &busy, "succeeded").await;
    pool.until("/v1/status", |status| {
        let counts = &status["counts"];
        counts["pending"] == 0 && counts["assigned"] == 0 && counts["running"] == 0 && counts["ended"] == 4
    })
    .await;
    runner.leaves(&pool, &[]).await;
    pool.until("/v1/runners", |runners| runners["runners"] == json!([])).await;
    pool.stops_with_nothing_left().await;
}

/// Scenario 33.
async fn four_builds_on_four_slots_that_each_wait_for_a_job_all_end(mut pool: Pool) {
    let mut runner = pool.runner_like("r", json!({"resources": null, "slots": 4})).await;
    let build = |number: u32| json!({"id": format!("b{number}"), "kind": "build"});
    pool.submit([build(0), build(1), build(2), build(3)]).await;
    let mut builds = Vec::new();
    for ended in 0..4 {
        // What starts first are builds, as many as leave a slot for jobs; then each end lets one more in.
        while builds.len() < 3.min(4 - ended) {
            let build = runner.next(&pool).await;
            assert!(build.id.starts_with('b'), "{build:?}");
            builds.push(build);
        }
        if ended == 1 {
            pool.loses_its_leader().await;
        }
        let build = builds.remove(0);
        pool.submit([json!({"id": format!("job-of-{}", build.id), "build": build.id})]).await;
        let job = runner.next(&pool).await;
        assert_eq!(job.id, format!("job-of-{}", build.id));
        runner.end(&pool, &job, "succeeded").await;
        pool.shows(&job.id, "succeeded").await;
        runner.end(&pool, &build, "succeeded").await;
    }
    for number in 0..4 {
        pool.shows(&format!("b{number}"), "succeeded").await;
    }
}
