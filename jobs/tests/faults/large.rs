//! Queues with many rows that are not of interest.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tower_background_jobs::{JobQueue, engines::QueueName};

use crate::{
    on_both,
    support::{Database, eventually},
};

const ARCHIVED: u64 = 1_000_000;
const DELAYED: u64 = 100_000;

/// Writes archived and delayed rows, older than anything that a test pushes.
async fn fill(database: &Database, queue: &str) {
    let delayed = format!("generate_series(1, {DELAYED}) AS i");
    let archived = format!("generate_series(1, {ARCHIVED}) AS i");
    if database.is_postgres() {
        let sql = format!(
            "INSERT INTO pgmq.q_{queue} (vt, message)
                SELECT now() + interval '1 day' + i * interval '1 ms', '1' FROM {delayed};
             INSERT INTO pgmq.a_{queue} (msg_id, vt, message, archived_at)
                SELECT 10000000 + i, now(), '1', now() - interval '15 days' FROM {archived};
             ANALYZE pgmq.q_{queue}, pgmq.a_{queue};"
        );
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    } else {
        let numbers = |count| {
            format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
            )
        };
        let sql = format!(
            "{} INSERT INTO background_jobs (queue, visible_at, enqueued_at, message)
                SELECT '{queue}', 9000000000000 + i, 0, '1' FROM n;
             {} INSERT INTO background_jobs_archive
                (id, queue, visible_at, read_count, enqueued_at, archived_at, message)
                SELECT 10000000 + i, '{queue}', 0, 1, 0, 0, '1' FROM n;",
            numbers(DELAYED),
            numbers(ARCHIVED)
        );
        let mut connection = SqliteConnection::connect(&database.location())
            .await
            .unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

on_both! {
    async fn a_million_archived_and_many_delayed_rows_are_no_matter(database) {
        let queue: JobQueue<u8> = database.queue("large").await;
        let begun = Instant::now();
        fill(&database, "large").await;
        println!("filled in {:?}", begun.elapsed());
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.invisible, depth.archived), (DELAYED, ARCHIVED));
        let (engine, name) = (database.engine().await, QueueName::new("large").unwrap());
        let mut times = Vec::new();
        for _ in 0..20 {
            for _ in 0..16 {
                queue.push(&1).await.unwrap();
            }
            let begun = Instant::now();
            let batch = engine.read(&name, 16, Duration::from_secs(3_600)).await.unwrap();
            times.push(begun.elapsed());
            assert_eq!(batch.messages.len(), 16);
        }
        times.sort_unstable();
        println!("a read of 16: {:?}", times[10]);
        // A read of all rows would take far longer.
        assert!(times[10] < Duration::from_millis(30), "{times:?}");

        assert_eq!(queue.list_archived(0, 10).await.unwrap().len(), 10);
        let worker = queue.worker(|_, _| async { Ok(()) }).start();
        queue.push(&1).await.unwrap();
        eventually("it is done", async || worker.counts().done == 1).await;
        let begun = Instant::now();
        let purged = queue.purge(Duration::from_secs(14 * 24 * 60 * 60)).await.unwrap();
        println!("purged in {:?}", begun.elapsed());
        assert_eq!(purged, ARCHIVED);
    }
}
