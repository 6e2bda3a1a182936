//! Jobs that wait for the end of a response.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    http::{Request, StatusCode},
    routing::post,
};
use tower::ServiceExt;
use tower_background::{BackgroundLayer, BackgroundTasks};
use tower_background_jobs::JobQueue;

use crate::{on_both, support::eventually};

const LONG: Duration = Duration::from_secs(3_600);

on_both! {
    async fn a_held_job_is_invisible_until_it_is_released(database) {
        let queue: JobQueue<u8> = database.queue("held").await;
        let released = queue.hold(LONG).push(&1).await.unwrap();
        let discarded = queue.hold(LONG).header("tenant", 7).push(&2).await.unwrap();
        let forgotten = queue.hold(LONG).push(&3).await.unwrap();
        assert_eq!(queue.depth().await.unwrap().invisible, 3);
        assert!(released.release().await.unwrap());
        assert!(!released.release().await.unwrap(), "it is visible");
        assert!(discarded.discard().await.unwrap());
        assert!(!discarded.release().await.unwrap(), "it is deleted");
        drop(forgotten);
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.ready, depth.invisible), (1, 1));
    }
}

on_both! {
    async fn a_held_job_runs_after_its_grace(database) {
        let queue: JobQueue<u8> = database.queue("grace").await;
        let worker = queue.worker(|_, _| async { Ok(()) }).start();
        let held = queue.hold(Duration::from_millis(200)).push(&1).await.unwrap();
        eventually("it is done", async || worker.counts().done == 1).await;
        worker.stop(Duration::from_secs(5)).await;
        assert!(!held.discard().await.unwrap(), "it is done");
    }
}

async fn answer(queue: State<JobQueue<u8>>, tasks: BackgroundTasks, status: String) -> StatusCode {
    let held = queue.hold(LONG).push(&1).await.expect("it is pushed");
    tasks.add(held.into_task());
    StatusCode::from_bytes(status.as_bytes()).expect("it is a status")
}

on_both! {
    async fn a_response_decides_about_its_job(database) {
        let queue: JobQueue<u8> = database.queue("responses").await;
        let layer = BackgroundLayer::new();
        let supervisor = layer.supervisor().clone();
        let app = Router::new().route("/", post(answer)).layer(layer).with_state(queue.clone());
        for (status, ready) in [("200", 1), ("500", 1), ("204", 2), ("404", 2)] {
            let request = Request::post("/").body(Body::from(status)).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            to_bytes(response.into_body(), 100).await.unwrap();
            supervisor.idle().await;
            let depth = queue.depth().await.unwrap();
            assert_eq!((depth.ready, depth.invisible), (ready, 0), "after {status}");
        }
        // The client left before the answer.
        let request = Request::post("/").body(Body::from("200")).unwrap();
        drop(app.clone().oneshot(request).await.unwrap());
        supervisor.idle().await;
        assert_eq!(queue.depth().await.unwrap().invisible, 0, "it was decided about");
    }
}
