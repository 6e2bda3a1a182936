//! Queues with many rows that are not of interest.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tower_background_jobs::{JobQueue, engines::QueueName};

use crate::{
    on_both,
    support::{
        PATIENCE, eventually,
        large::{ARCHIVED, DELAYED, fill},
    },
};

on_both! {
    async fn a_million_archived_and_many_delayed_rows_are_no_matter(database) {
        // A busy machine may take long to count a million rows.
        let engine = database.engine_with(PATIENCE).await;
        let queue: JobQueue<u8> = JobQueue::open_shared(Arc::clone(&engine), "large").await.unwrap();
        let queue = queue.bound(PATIENCE);
        let begun = Instant::now();
        fill(&database.location(), "large").await;
        println!("filled in {:?}", begun.elapsed());
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.invisible, depth.archived), (DELAYED, ARCHIVED));
        let name = QueueName::new("large").unwrap();
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
        assert!(times[10] < Duration::from_millis(50), "{times:?}");

        assert_eq!(queue.list_archived(0, 10).await.unwrap().len(), 10);
        let worker = queue.worker(|_, _| async { Ok(()) }).keep_archived(None).start();
        queue.push(&1).await.unwrap();
        eventually("it is done", async || worker.counts().done == 1).await;
        let begun = Instant::now();
        let purged = queue.purge(Duration::from_secs(14 * 24 * 60 * 60)).await.unwrap();
        println!("purged in {:?}", begun.elapsed());
        assert_eq!(purged, ARCHIVED);
    }
}
