//! The campaign of `examples/campaign` in its short form: no job is lost in the durable modes, whenever a process is killed.
//!
//! The part with PostgreSQL is skipped where there is none, unless `TOWER_BACKGROUND_NO_SKIP` is set.

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use support::start_with;

/// Runs it to its end, and expects a row for each mode and stage.
async fn balances(engine: &str) {
    let (mut campaign, first, mut lines) =
        start_with("campaign", "axum,postgres,sqlite", &["--kills", "1", "--engine", engine]).await;
    let told = async {
        let mut told = vec![first];
        while let Some(line) = lines.next_line().await.expect("it prints text") {
            told.push(line);
        }
        told
    };
    let told = tokio::time::timeout(Duration::from_secs(300), told).await.expect("it comes to its end").join("\n");
    let status = campaign.wait().await.expect("it has ended");
    println!("{told}");
    assert!(status.success() && told.contains("the books balance"), "{status}");
    let rows = told.lines().filter(|line| line.starts_with(&format!("| {engine} |"))).count();
    assert!(rows == 15 || told.contains("skipped"), "{rows} rows");
}

#[tokio::test]
async fn on_sqlite() {
    balances("sqlite").await;
}

#[tokio::test]
async fn on_postgres() {
    balances("postgres").await;
}
