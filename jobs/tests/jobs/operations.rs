//! What an operator can see and do.

use std::time::Duration;

use tower_background_jobs::{Error, JobError, JobQueue, PushOptions};

use crate::{on_both, support::eventually};

on_both! {
    async fn an_operator_sees_and_changes_a_queue(database) {
        let queue: JobQueue<String> = database.queue("ops").await;
        let other: JobQueue<String> = database.queue("ops_2").await;
        other.push(&"not of this queue".to_owned()).await.unwrap();
        let later = PushOptions::new().delay(Duration::from_secs(3_600));
        let waits = queue.push_with(&"waits".to_owned(), later).await.unwrap();
        let bad = queue.push(&"bad".to_owned()).await.unwrap();
        let worker = queue
            .worker(|what: String, _| async move {
                if what == "bad" { Err(JobError::give_up("it is bad")) } else { Ok(()) }
            })
            .start();
        eventually("it is archived", async || worker.counts().archived == 1).await;
        eventually("that is written", async || worker.counts().running == 0).await;

        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.ready, depth.invisible, depth.archived), (0, 1, 1));
        let queued = queue.list_queued(0, 10).await.unwrap();
        assert_eq!(queued.iter().map(|job| job.id).collect::<Vec<_>>(), [waits]);
        assert!(queue.list_queued(waits, 10).await.unwrap().is_empty());
        let archived = queue.list_archived(0, 10).await.unwrap();
        assert_eq!(archived[0].id, bad);
        assert_eq!(archived[0].error(), Some("it is bad"));

        assert_eq!(queue.retry(waits).await.unwrap(), Some(waits));
        eventually("it ran now, and that is written", async || {
            let counts = worker.counts();
            counts.done == 1 && counts.running == 0
        })
        .await;
        assert_eq!(queue.retry(waits).await.unwrap(), None, "it is done");
        assert!(!queue.discard(waits).await.unwrap(), "it is done");
        assert_eq!(queue.purge(Duration::from_secs(60)).await.unwrap(), 0, "it is young");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(queue.purge(Duration::ZERO).await.unwrap(), 1);
        let later = PushOptions::new().delay(Duration::from_secs(3_600));
        let discarded = queue.push_with(&"x".to_owned(), later).await.unwrap();
        assert!(queue.discard(discarded).await.unwrap());
        assert_eq!(queue.depth().await.unwrap(), Default::default());
        assert_eq!(other.depth().await.unwrap().ready, 1);
        let engine = database.engine().await;
        assert_eq!(engine.queues().await.unwrap(), ["ops", "ops_2"]);
    }
}

on_both! {
    async fn the_name_of_a_queue_is_checked(database) {
        let opened = JobQueue::<u8>::open_shared(database.engine().await, "Mails").await;
        assert!(matches!(opened, Err(Error::QueueName { .. })));
    }
}
