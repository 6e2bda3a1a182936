//! Fills a queue with rows that are not of interest.

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

pub const ARCHIVED: u64 = 1_000_000;
pub const DELAYED: u64 = 100_000;

/// Writes archived and delayed rows, older than anything that a test pushes.
pub async fn fill(database: &str, queue: &str) {
    let delayed = format!("generate_series(1, {DELAYED}) AS i");
    let archived = format!("generate_series(1, {ARCHIVED}) AS i");
    if database.contains("://") {
        let sql = format!(
            "INSERT INTO pgmq.q_{queue} (vt, message)
                SELECT now() + interval '1 day' + i * interval '1 ms', '1' FROM {delayed};
             INSERT INTO pgmq.a_{queue} (msg_id, vt, message, archived_at)
                SELECT 10000000 + i, now(), '1', now() - interval '15 days' FROM {archived};"
        );
        // PostgreSQL does this by itself some time after the rows were written.
        let vacuum = format!("VACUUM ANALYZE pgmq.q_{queue}, pgmq.a_{queue}");
        let mut connection = PgConnection::connect(database).await.unwrap();
        for sql in [sql, vacuum] {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .unwrap();
        }
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
        let mut connection = SqliteConnection::connect(database).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}
