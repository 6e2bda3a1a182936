//! `ApalisQueue`: what reaches a sink of apalis', in which order and with which options, and what becomes of its errors.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, builder::TaskBuilder, task_id::TaskId},
    worker::context::WorkerContext,
};
use futures_util::Sink;
use tower::{Service, ServiceExt};
use tower_background::{ApalisQueue, BoxError, IntoTasks};

/// A storage that keeps what was flushed, one list for each flush, and fails for want of it.
#[derive(Clone, Default)]
struct Kept {
    flushed: Arc<Mutex<Vec<Vec<Task<&'static str>>>>>,
    buffer: Vec<Task<&'static str>>,
}

impl Sink<Task<&'static str>> for Kept {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(mut self: Pin<&mut Self>, task: Task<&'static str>) -> io::Result<()> {
        self.buffer.push(task);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tasks = std::mem::take(&mut self.buffer);
        if tasks.iter().any(|task| task.args == "bad") {
            return Poll::Ready(Err(io::Error::other("the disk is full")));
        }
        self.flushed.lock().expect("nothing panics under it").push(tasks);
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Backend for Kept {
    type Task = Task<&'static str>;
    type Error = io::Error;

    fn poll_ready(&mut self, _cx: &mut Context<'_>, _worker: &WorkerContext) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_next(&mut self, _cx: &mut Context<'_>, _worker: &WorkerContext) -> Poll<Option<io::Result<Self::Task>>> {
        Poll::Pending
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>, _worker: &WorkerContext) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Kept {
    type Args = &'static str;
    type Id = Infallible;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = ();

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _worker: &mut WorkerContext) {}
}

/// Gives the jobs to the destination, and tells the ids that it answers with.
async fn give<J: IntoTasks<&'static str>>(queue: &mut ApalisQueue<Kept, &'static str>, jobs: J) -> Result<Vec<TaskId>, BoxError> {
    Service::<J>::call(ServiceExt::<J>::ready(queue).await?, jobs).await
}

#[tokio::test]
async fn jobs_reach_the_sink_in_order_with_their_options_and_an_id() {
    let storage = Kept::default();
    let mut queue = ApalisQueue::new(storage.clone());

    let mut ids = give(&mut queue, "plain").await.expect("it is kept");
    let task = TaskBuilder::new("urgent").priority(7).max_attempts(2).idempotency_key("once").run_at_timestamp(9).build();
    ids.extend(give(&mut queue, task).await.expect("it is kept"));
    ids.extend(give(&mut queue, vec!["one", "two"]).await.expect("they are kept"));
    let named = TaskBuilder::new("named").task_id(TaskId::from_string("mine")).build();
    ids.extend(give(&mut queue, vec![named]).await.expect("it is kept"));

    let flushed = storage.flushed.lock().expect("nothing panics under it");
    assert_eq!(flushed.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 1], "a list is flushed as one");
    let kept: Vec<_> = flushed.iter().flatten().collect();
    assert_eq!(kept.iter().map(|task| task.args).collect::<Vec<_>>(), ["plain", "urgent", "one", "two", "named"]);
    assert_eq!(kept.iter().filter_map(|task| task.task_id().cloned()).collect::<Vec<_>>(), ids);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 5, "each has an id of its own");
    assert_eq!(ids[4].to_string(), "mine", "an id that was given is kept");
    let urgent = kept[1];
    assert_eq!((urgent.priority(), urgent.max_attempts(), urgent.run_at()), (Some(7), Some(2), Some(9)));
    assert_eq!(urgent.idempotency_key(), Some("once"));
}

#[tokio::test]
async fn what_the_sink_could_not_take_is_an_error_and_spoils_no_later_job() {
    let storage = Kept::default();
    let mut queue = ApalisQueue::new(storage.clone());

    let error = give(&mut queue, vec!["good", "bad"]).await.expect_err("the sink fails");
    assert!(error.to_string().contains("the disk is full"), "{error}");

    give(&mut queue, "next").await.expect("it is kept");
    let flushed = storage.flushed.lock().expect("nothing panics under it");
    assert_eq!(flushed.iter().flatten().map(|task| task.args).collect::<Vec<_>>(), ["next"]);
}
