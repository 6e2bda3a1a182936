//! Adds tasks to the requests of a test, and collects what these tasks see.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use tokio::sync::{Mutex, mpsc};
use tower_background::{BackgroundTasks, EndKind, ResponseEnd, Task, When};

use super::soon;

/// What a task saw when it started.
#[derive(Debug)]
pub struct Seen {
    pub end: ResponseEnd,
    /// How many tasks of the same request had started before.
    pub nth: usize,
}

impl Seen {
    /// As `tests/README.md` writes it.
    pub fn cell(&self) -> String {
        let grpc = self
            .end
            .grpc_status()
            .map(|status| format!(", gRPC {status}"))
            .unwrap_or_default();
        format!("{:?}, {} B{grpc}", self.end.kind(), self.end.bytes())
    }
}

/// What became of a scripted body.
#[derive(Debug, Clone, Default)]
pub struct Course(Arc<CourseState>);

#[derive(Debug, Default)]
struct CourseState {
    bodies: AtomicUsize,
    over: AtomicBool,
}

impl Course {
    /// A body that reports here exists.
    pub fn expect_body(&self) -> Self {
        self.0.bodies.fetch_add(1, SeqCst);
        self.clone()
    }

    pub(super) fn polled(&self, last: bool) {
        if last {
            self.0.over.store(true, SeqCst);
        }
    }

    pub(super) fn dropped(&self) {
        self.0.over.store(true, SeqCst);
    }

    fn may_start(&self) -> bool {
        self.0.bodies.load(SeqCst) == 0 || self.0.over.load(SeqCst)
    }
}

/// Watches the requests of one service.
#[derive(Debug, Clone)]
pub struct Witness {
    sender: mpsc::UnboundedSender<Seen>,
    receiver: Arc<Mutex<mpsc::UnboundedReceiver<Seen>>>,
    watched: Arc<AtomicUsize>,
}

impl Witness {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            sender,
            receiver: Arc::new(Mutex::new(receiver)),
            watched: Arc::default(),
        }
    }

    /// Adds a task that reports the end of the response. The task checks that the body was over
    /// before it started, unless `start_within` was first.
    pub fn watch(&self, tasks: &BackgroundTasks) -> Course {
        let course = Course::default();
        let watched = course.clone();
        let sender = self.sender.clone();
        let started = Arc::new(AtomicUsize::new(0));
        self.watched.fetch_add(1, SeqCst);
        tasks.add(
            Task::with_context(move |cx| async move {
                let end = cx.end().expect("it is a task of a request").clone();
                let in_time = end.kind() == EndKind::Unfinished || watched.may_start();
                assert!(
                    in_time,
                    "the task started before its response was over: {end:?}"
                );
                sender
                    .send(Seen {
                        end,
                        nth: started.fetch_add(1, SeqCst),
                    })
                    .expect("the test is there");
            })
            .named("witness")
            .when(When::Always),
        );
        course
    }

    /// The next end that a task saw.
    pub async fn next(&self) -> Seen {
        let mut receiver = self.receiver.lock().await;
        let seen = soon(receiver.recv()).await.expect("this holds a sender");
        assert_eq!(seen.nth, 0, "a task ran twice");
        seen
    }

    /// Checks that nothing was seen but what `next` gave.
    pub async fn nothing_else(&self) {
        assert!(
            self.receiver.lock().await.try_recv().is_err(),
            "a response ended that the test did not expect"
        );
    }
}
