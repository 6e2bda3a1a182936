//! What holds for the queues of each engine: the same tests for all of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use apalis_board_api::framework::{ApiBuilder, RegisterRoute};
use apalis_core::{
    backend::{Filter, ListQueues, ListTasks, ListWorkers, Metrics},
    task::{builder::TaskBuilder, status::Status},
};
use axum::{Router, body::Body};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tower::ServiceExt;
use tower_background::{BoxError, Job, JobQueue, JobStore, JobWorker, Receipt};

use super::{Events, soon, until};

/// As good as for ever, as far as a test goes.
pub const LONG: Duration = Duration::from_secs(3600);

pub type Jobs<S> = JobQueue<S, String>;

/// A worker that runs beside the test, and tells each job that it has begun.
pub struct Working {
    pub begun: mpsc::UnboundedReceiver<Job<String>>,
    stop: Option<oneshot::Sender<()>>,
    run: JoinHandle<()>,
}

/// Quick enough for a test.
pub fn worker<S: JobStore>(queue: &Jobs<S>) -> JobWorker<S, String> {
    let worker = queue.worker("test").poll(Duration::from_millis(20)).dead_after(Duration::from_secs(2));
    worker.retry(Duration::ZERO, Duration::ZERO)
}

impl Working {
    /// Runs `handler` for each job, after it was told.
    pub fn start<S, F>(worker: JobWorker<S, String>, handler: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        S: JobStore,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let (tell, begun) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = move |job: Job<String>| {
            let work = handler(job.args().clone());
            drop(tell.send(job));
            work
        };
        let run = tokio::spawn(worker.run(handle, async { drop(stopped.await) }));
        Self { begun, stop: Some(stop), run }
    }

    /// One whose jobs succeed at once.
    pub fn idle<S: JobStore>(queue: &Jobs<S>) -> Self {
        Self::start(worker(queue), async |_| Ok(()))
    }

    /// The next job that it begins.
    pub async fn next(&mut self) -> Job<String> {
        soon(self.begun.recv()).await.expect("the worker runs")
    }

    /// The arguments of the next jobs, in the order of their text.
    pub async fn texts(&mut self, jobs: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..jobs {
            texts.push(self.next().await.into_args());
        }
        texts.sort_unstable();
        texts
    }

    /// Stops it, as one should: the jobs that run come to their end.
    pub async fn stop(mut self) -> Vec<String> {
        drop(self.stop.take());
        soon(self.run).await.expect("no worker panics");
        let mut begun = Vec::new();
        while let Ok(job) = self.begun.try_recv() {
            begun.push(job.into_args());
        }
        begun
    }

    /// Stops it as the death of its process does.
    pub async fn die(self) {
        self.run.abort();
        assert!(soon(self.run).await.is_err_and(|error| error.is_cancelled()));
    }
}

/// What begins until all that is due has begun. Two jobs tell that: what is due with the first is taken before the second.
async fn last<S: JobStore>(queue: &Jobs<S>, working: &mut Working) -> Vec<String> {
    let mut before = Vec::new();
    for _ in 0..2 {
        queue.push("last".to_owned()).await.expect("it is written");
        loop {
            let job = working.next().await.into_args();
            if job == "last" {
                break;
            }
            before.push(job);
        }
    }
    before
}

pub async fn what_is_pushed_runs_once<S: JobStore>(queue: &Jobs<S>) {
    let id = queue.push("one".to_owned()).await.expect("it is written").remove(0).to_string();
    queue.push(vec!["two".to_owned(), "three".to_owned()]).await.expect("they are written");
    queue.clone().oneshot("four".to_owned()).await.expect("it is a service");

    let mut working = Working::idle(queue);
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(working.next().await);
    }
    let one = jobs.iter().find(|job| job.args() == "one").expect("it ran");
    assert_eq!((one.id(), one.attempt()), (id.as_str(), 1));
    let mut texts: Vec<_> = jobs.iter().map(|job| job.args().as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["four", "one", "three", "two"]);
    assert_eq!(last(queue, &mut working).await, [""; 0], "each ran once");
    working.stop().await;
}

pub async fn held_jobs_wait_for_their_release<S: JobStore>(queue: &Jobs<S>) {
    let held = queue.held(LONG);
    let first = held.push("first".to_owned()).await.expect("it is written");
    let batch = held.clone().oneshot(vec!["second".to_owned(), "third".to_owned()]).await.expect("they are written");
    let kept = held.push("kept".to_owned()).await.expect("it is written");
    assert_eq!((first.ids().len(), batch.ids().len()), (1, 2));

    let mut working = Working::idle(queue);
    assert_eq!(last(queue, &mut working).await, [""; 0], "they wait");
    first.release().await.expect("the database is there");
    assert_eq!(working.next().await.args(), "first");
    batch.release().await.expect("the database is there");
    assert_eq!(working.texts(2).await, ["second", "third"]);
    drop(kept);
    assert_eq!(last(queue, &mut working).await, [""; 0], "a receipt that is dropped releases nothing");
    working.stop().await;
}

pub async fn held_jobs_run_when_their_grace_is_over<S: JobStore>(queue: &Jobs<S>) {
    let forgotten = queue.held(Duration::from_secs(1)).push("forgotten".to_owned()).await.expect("it is written");
    let late = queue.held(Duration::from_secs(1)).push("late".to_owned()).await.expect("it is written");
    drop(forgotten);
    let mut working = Working::idle(queue);
    assert_eq!(working.texts(2).await, ["forgotten", "late"]);
    late.release().await.expect("it is no error that the job was started");
    assert_eq!(last(queue, &mut working).await, [""; 0], "that started nothing again");
    working.stop().await;
}

/// A start time of the job's own is later than the release, and is what counts then.
pub async fn a_release_keeps_to_a_start_time<S: JobStore>(queue: &Jobs<S>) {
    let tomorrow = TaskBuilder::new("tomorrow".to_owned()).run_in_hours(24).build();
    let past = TaskBuilder::new("past".to_owned()).run_at_timestamp(1_000_000).build();
    let held = queue.held(LONG).push(vec![tomorrow, past]).await.expect("they are written");
    let mut working = Working::idle(queue);
    assert_eq!(last(queue, &mut working).await, [""; 0], "they wait");
    held.release().await.expect("the database is there");
    assert_eq!(working.next().await.args(), "past");
    assert_eq!(last(queue, &mut working).await, [""; 0], "it is not tomorrow");
    working.stop().await;
}

pub async fn a_key_is_written_once<S: JobStore>(queue: &Jobs<S>) {
    let task = |text: &str| TaskBuilder::new(text.to_owned()).idempotency_key("key").build();
    queue.push(task("first")).await.expect("it is written");
    queue.push(vec![task("again"), TaskBuilder::new("other".to_owned()).build()]).await.expect("a key that is there is no error");
    queue.held(LONG).push(task("held")).await.expect("nor here").release().await.expect("nor here");
    let mut working = Working::idle(queue);
    assert_eq!(working.texts(2).await, ["first", "other"]);
    assert_eq!(last(queue, &mut working).await, [""; 0]);
    working.stop().await;
}

pub async fn what_fails_is_tried_again_and_stops_nobody<S: JobStore>(queue: &Jobs<S>) {
    let task = |text: &str| TaskBuilder::new(text.to_owned()).max_attempts(3).priority(1).build();
    queue.push(vec![task("fails"), task("panics"), task("hangs")]).await.expect("they are written");
    let mut working = Working::start(worker(queue).timeout(Duration::from_millis(50)), |text| async move {
        match text.as_str() {
            "fails" => Err("as it does".into()),
            "panics" => panic!("as it does"),
            "hangs" => std::future::pending().await,
            _ => Ok(()),
        }
    });
    let mut attempts = Vec::new();
    for _ in 0..9 {
        let job = working.next().await;
        attempts.push((job.attempt(), job.into_args()));
    }
    attempts.sort();
    let each = |attempt| ["fails", "hangs", "panics"].map(|text| (attempt, text.to_owned()));
    assert_eq!(attempts, [each(1), each(2), each(3)].concat());
    assert_eq!(last(queue, &mut working).await, [""; 0], "none is tried more often than it may");
    working.stop().await;
}

pub async fn jobs_of_the_dead_are_taken_up<S: JobStore>(queue: &Jobs<S>) {
    queue.push(TaskBuilder::new("unlucky".to_owned()).max_attempts(2).build()).await.expect("it is written");
    // Both have the same name, as one that is started again has.
    for attempt in 1..=2 {
        let mut dying = Working::start(worker(queue), |_| std::future::pending());
        assert_eq!(dying.next().await.attempt(), attempt);
        dying.die().await;
    }
    // A job that kills each worker must not do so for ever.
    queue.push("lucky".to_owned()).await.expect("it is written");
    let mut dying = Working::start(worker(queue), |_| std::future::pending());
    assert_eq!(dying.next().await.args(), "lucky");
    dying.die().await;
    let mut working = Working::idle(queue);
    let lucky = working.next().await;
    assert_eq!((lucky.args().as_str(), lucky.attempt()), ("lucky", 2));
    assert_eq!(last(queue, &mut working).await, [""; 0]);
    working.stop().await;
}

/// `seen` gives the second in which each worker of the queue was last seen to live.
pub async fn a_living_worker_keeps_its_jobs<S: JobStore>(queue: &Jobs<S>, seen: impl AsyncFn() -> Vec<i64>) {
    queue.push("long".to_owned()).await.expect("it is written");
    let (end, ended) = tokio::sync::watch::channel(false);
    let mut one = Working::start(worker(queue), move |_| {
        let mut ended = ended.clone();
        async move { Ok(ended.wait_for(|ended| *ended).await.map(drop)?) }
    });
    assert_eq!(one.next().await.args(), "long");
    let other = Working::idle(queue);
    until(async || seen().await.len() == 2).await;
    // Each would count as dead after two seconds in which it does not tell that it lives, and looks for the dead as it tells that.
    let first = seen().await.into_iter().max().expect("there are two");
    until(async || seen().await.into_iter().all(|last| last >= first + 4)).await;
    end.send_replace(true);
    assert_eq!(one.stop().await, [""; 0], "it has ended the job");
    assert_eq!(other.stop().await, [""; 0], "which nobody else has begun");
}

/// One that was silent for so long that it counts as dead, as `silence` makes it, goes on with its job and takes it anew. How the
/// older attempt ends is of no account then.
pub async fn a_late_end_is_not_that_of_a_newer_attempt<S: JobStore>(store: &S, queue: &Jobs<S>, silence: impl AsyncFn()) {
    queue.push("job".to_owned()).await.expect("it is written");
    let (end, ended) = tokio::sync::watch::channel(0);
    let attempts = AtomicUsize::new(0);
    // It tells seldom that it lives.
    let mut working = Working::start(worker(queue).dead_after(LONG), move |text| {
        let (is_ours, mut ended) = (text == "job", ended.clone());
        let attempt = if is_ours { attempts.fetch_add(1, SeqCst) + 1 } else { 0 };
        async move {
            ended.wait_for(|ended| *ended >= attempt).await?;
            if attempt == 1 { Err("too late".into()) } else { Ok(()) }
        }
    });
    assert_eq!(working.next().await.attempt(), 1);
    silence().await;
    store.alive("another", queue.name(), Duration::from_secs(2)).await.expect("the database is there");
    assert_eq!(working.next().await.attempt(), 2);
    end.send_replace(1);
    assert_eq!(last(queue, &mut working).await, [""; 0], "it is not tried again while the second attempt runs");
    end.send_replace(2);
    assert_eq!(working.stop().await, [""; 0]);
}

pub async fn a_worker_that_is_stopped_ends_what_it_has_begun<S: JobStore>(queue: &Jobs<S>) {
    let ended = Arc::new(AtomicUsize::new(0));
    let (release, released) = tokio::sync::watch::channel(false);
    queue.push(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]).await.expect("they are written");
    let counting = Arc::clone(&ended);
    let mut working = Working::start(worker(queue).concurrency(2), move |_| {
        let (ended, mut released) = (Arc::clone(&counting), released.clone());
        async move {
            released.wait_for(|released| *released).await?;
            ended.fetch_add(1, SeqCst);
            Ok(())
        }
    });
    working.texts(2).await;
    let stopped = tokio::spawn(working.stop());
    super::settle().await;
    assert!(!stopped.is_finished());
    release.send_replace(true);
    assert_eq!(soon(stopped).await.expect("no worker panics"), [""; 0], "it begins nothing more");
    assert_eq!(ended.load(SeqCst), 2);
    // And what it has not begun is there for another.
    let mut working = Working::idle(queue);
    assert_eq!(working.texts(1).await.len(), 1);
    assert_eq!(last(queue, &mut working).await, [""; 0]);
    working.stop().await;
}

/// `silent` makes a worker of this queue that was not seen to live for so many days; `workers` gives all that there are, by name.
pub async fn workers_that_are_long_dead_are_forgotten<S: JobStore>(
    queue: &Jobs<S>,
    silent: impl AsyncFn(&str, &str, i64),
    workers: impl AsyncFn() -> Vec<String>,
) {
    // What it has begun, it has not ended; nobody else has seen that yet.
    queue.push("begun".to_owned()).await.expect("it is written");
    let mut begins = Working::start(worker(queue), |_| std::future::pending());
    assert_eq!(begins.next().await.args(), "begun");
    begins.die().await;
    let begun = workers().await;
    assert_eq!(begun.len(), 1);
    for (name, days) in [(begun[0].as_str(), 9), ("long dead", 8), ("not so long dead", 6)] {
        silent(queue.name(), name, days).await;
    }
    silent("other", "of another queue", 9).await;

    // It strikes them off before it looks for jobs.
    let mut working = Working::idle(queue);
    assert_eq!(working.next().await.attempt(), 2);
    working.stop().await;
    let known = workers().await;
    assert!(!known.iter().any(|name| name == "long dead"), "{known:?}");
    assert!(["not so long dead", "of another queue"].iter().all(|name| known.iter().any(|known| known == name)), "{known:?}");
    let done_by = known.iter().filter(|name| name.starts_with("test-")).max().expect("there is one").clone();

    // A job that is done still tells who did it.
    silent(queue.name(), &done_by, 9).await;
    silent(queue.name(), "long dead, too", 9).await;
    queue.push("next".to_owned()).await.expect("it is written");
    let mut working = Working::idle(queue);
    assert_eq!(working.next().await.args(), "next");
    working.stop().await;
    let known = workers().await;
    assert!(known.contains(&done_by) && !known.iter().any(|name| name == "long dead, too"), "{known:?}");
}

/// Waits until a worker has told so often of each of these that it failed.
pub async fn failed(events: &Events, times: usize, what: &[&str]) {
    let failures = |what: &str| {
        let all = events.with_message("a worker has no database");
        all.iter().filter(|event| event.field("what") == Some(what)).count()
    };
    until(async || what.iter().all(|what| failures(what) >= times)).await;
}

/// That apalis-board lists what is held, what was done and what has failed, and that a job from there is run here.
pub async fn a_board_shows<S: JobStore, B>(queue: &Jobs<S>, storage: B)
where
    ApiBuilder<Router>: RegisterRoute<B, String>,
{
    let board = ApiBuilder::new(Router::new()).register(queue.name(), storage).build();
    let ask = async |method: Method, path: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let response = board.clone().oneshot(request.body(Body::from(body)).expect("it is a request")).await;
        let response = response.unwrap_or_else(|never| match never {});
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.expect("it does not fail").to_bytes();
        serde_json::from_slice::<Value>(&body).expect("it is JSON")
    };
    let listed = async |status: &str| {
        let tasks = ask(Method::GET, &format!("/queues/{}/tasks?status={status}", queue.name()), "").await;
        let tasks = tasks.as_array().expect("it is a list").clone();
        tasks.iter().map(|task| task["args"].as_str().expect("it is text").to_owned()).collect::<Vec<_>>()
    };
    let seldom = worker(queue).retry(LONG, LONG);
    let mut working = Working::start(seldom, async |text| if text == "fails" { Err("as it does".into()) } else { Ok(()) });
    drop(queue.held(LONG).push("held".to_owned()).await.expect("it is written"));
    queue.push(vec!["done".to_owned(), "fails".to_owned()]).await.expect("they are written");
    working.texts(2).await;
    for (status, text) in [("Pending", "held"), ("Done", "done"), ("Failed", "fails")] {
        until(async || listed(status).await == [text]).await;
    }
    let queues = ask(Method::GET, "/queues", "").await;
    assert_eq!(queues[0]["name"], queue.name());
    assert!(ask(Method::GET, "/workers", "").await[0]["id"].as_str().is_some_and(|id| id.starts_with("test-")));
    ask(Method::PUT, &format!("/queues/{}/tasks", queue.name()), "\"from the board\"").await;
    assert_eq!(working.next().await.args(), "from the board");
    working.stop().await;
}

/// That apalis' own tools see a queue with a worker, a job that waits, and one that is or will be done.
pub async fn tools_see<B>(storage: &B, waits: String)
where
    B: ListQueues + ListWorkers + ListTasks + Metrics,
    B::Error: std::fmt::Debug,
{
    let queues: Vec<_> = storage.list_queues().await.expect("it is asked for").into_iter().map(|queue| queue.name).collect();
    assert_eq!(queues, ["jobs"]);
    let workers = storage.list_workers().await.expect("it is asked for");
    assert_eq!(workers.len(), 1);
    assert!(workers[0].id.starts_with("test-"), "{}", workers[0].id);
    let list = async |status| {
        let filter = Filter { status: Some(status), page: 1, page_size: None };
        let tasks = storage.list_tasks(&filter).await.expect("it is asked for");
        tasks.iter().filter_map(|task| task.task_id().map(ToString::to_string)).collect::<Vec<_>>()
    };
    assert_eq!(list(Status::Pending).await, [waits]);
    until(async || !list(Status::Done).await.is_empty()).await;
    assert!(!storage.global().await.expect("it is asked for").is_empty());
    assert!(!storage.fetch_by_queue().await.expect("it is asked for").is_empty());
}
