//! The feature `serde` serializes statistics and reports, and the examples `admin` and `retry` do
//! what they say.

use serde_json::{Value, json};

use crate::common::{output, soon, start_with, until};

#[tokio::test]
async fn the_admin_route_answers_json() {
    let (_child, work, mut lines) = start_with("admin", "axum,serde", &[]).await;
    let tasks = soon(lines.next_line())
        .await
        .expect("it prints text")
        .expect("it prints a second address");
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client needs nothing");
    let read = async || -> Value {
        let text = soon(client.get(&tasks).send())
            .await
            .expect("it answers")
            .text()
            .await
            .expect("the body ends well");
        serde_json::from_str(&text).expect("it is JSON")
    };
    assert_eq!(read().await["tasks"], json!([]));
    assert_eq!(
        soon(client.post(&work).send())
            .await
            .expect("it answers")
            .status(),
        202
    );
    until(async || read().await["stats"]["running"] == 1).await;
    let mut answer = read().await;
    let age = answer["tasks"][0]["age_seconds"].take();
    assert!(age.as_f64().is_some_and(|age| age > 0.0), "{age}");
    let stats = json!({
        "deferred": 0, "queued": 0, "running": 1, "succeeded": 0, "failed": 0, "panicked": 0, "timed_out": 0, "aborted": 0,
        "removed": 0, "skipped": 0, "duplicates": 0, "fell_back": 0, "refused": 0,
    });
    let task = json!({ "name": "long-work", "method": "POST", "path": "/work", "state": "running", "age_seconds": null });
    assert_eq!(answer, json!({ "stats": stats, "tasks": [task] }));
}

#[tokio::test]
async fn a_task_retries_with_backon() {
    let printed = output("retry", "axum").await;
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "two failures, and the end: {printed}");
    assert_eq!(lines[2], "attempts: 3, succeeded: 1");
}
