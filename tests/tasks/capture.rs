//! A task runs in the context that was captured where the task was added.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::FutureExt;
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, Capture, Scope, Supervisor, Task, When, defer};

use crate::common::{Call, Events, soon};

tokio::task_local!(static TENANT: u32);

/// Captures the tenant, and counts how often a context is captured, entered and dropped.
#[derive(Clone, Default)]
struct Tenant(Arc<Counts>);

#[derive(Default)]
struct Counts {
    captured: AtomicUsize,
    entered: AtomicUsize,
    dropped: AtomicUsize,
}

struct TenantScope {
    tenant: Option<u32>,
    counts: Arc<Counts>,
}

impl Capture for Tenant {
    fn capture(&self) -> Box<dyn Scope> {
        self.0.captured.fetch_add(1, SeqCst);
        Box::new(TenantScope {
            tenant: TENANT.try_get().ok(),
            counts: self.0.clone(),
        })
    }
}

impl Scope for TenantScope {
    fn enter(&self, poll: &mut dyn FnMut()) {
        self.counts.entered.fetch_add(1, SeqCst);
        match self.tenant {
            Some(tenant) => TENANT.sync_scope(tenant, poll),
            None => poll(),
        }
    }
}

impl Drop for TenantScope {
    fn drop(&mut self) {
        self.counts.dropped.fetch_add(1, SeqCst);
    }
}

impl Tenant {
    fn counts(&self) -> (usize, usize, usize) {
        (
            self.0.captured.load(SeqCst),
            self.0.entered.load(SeqCst),
            self.0.dropped.load(SeqCst),
        )
    }
}

/// Notes the tenant that code sees.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Option<u32>>>>);

impl Seen {
    fn note(&self) {
        self.0.lock().unwrap().push(TENANT.try_get().ok());
    }

    fn all(&self) -> Vec<Option<u32>> {
        self.0.lock().unwrap().clone()
    }
}

/// Adds a task for a tenant, ends the response, and waits for the task.
async fn run(tenant: &Tenant, task: Task) -> Supervisor {
    let supervisor = Supervisor::builder().capture(tenant.clone()).build();
    let call = Call::new(&supervisor, "/");
    TENANT.sync_scope(7, || call.tasks.add(task));
    call.finish().await;
    soon(supervisor.idle()).await;
    supervisor
}

#[tokio::test]
async fn each_poll_enters_it() {
    for has_function in [false, true] {
        let (tenant, seen) = (Tenant::default(), Seen::default());
        let noting = seen.clone();
        let work = async move {
            for _ in 0..3 {
                noting.note();
                tokio::task::yield_now().await;
            }
        };
        let task = if has_function {
            Task::with_context(|_| work)
        } else {
            Task::new(work)
        };
        assert_eq!(run(&tenant, task).await.stats().succeeded, 1);
        assert_eq!(seen.all(), [Some(7); 3]);
        assert_eq!(
            tenant.counts(),
            (1, 4, 1),
            "captured once, entered for each poll, dropped"
        );
    }
}

#[tokio::test]
async fn the_functions_of_a_task_enter_it() {
    for blocking in [true, false] {
        let (tenant, seen) = (Tenant::default(), Seen::default());
        let (judging, making) = (seen.clone(), seen.clone());
        let task = if blocking {
            Task::blocking(move || making.note())
        } else {
            Task::with_context(move |_| {
                making.note();
                async {}
            })
        };
        let task = task.when(When::matches(move |_| {
            judging.note();
            true
        }));
        assert_eq!(run(&tenant, task).await.stats().succeeded, 1);
        assert_eq!(
            seen.all(),
            [Some(7); 2],
            "the condition and the function, blocking: {blocking}"
        );
    }
}

#[tokio::test]
async fn a_task_hands_it_on_to_its_own_tasks() {
    let (tenant, seen) = (Tenant::default(), Seen::default());
    let noting = seen.clone();
    let task = Task::new(async move { defer(async move { noting.note() }) });
    assert_eq!(run(&tenant, task).await.stats().succeeded, 2);
    assert_eq!(seen.all(), [Some(7)]);
}

/// Notes its number, and that it is left.
struct Numbered(u8, Arc<Mutex<Vec<u8>>>);

impl Capture for Numbered {
    fn capture(&self) -> Box<dyn Scope> {
        Box::new(Self(self.0, self.1.clone()))
    }
}

impl Scope for Numbered {
    fn enter(&self, poll: &mut dyn FnMut()) {
        self.1.lock().unwrap().push(self.0);
        poll();
        self.1.lock().unwrap().push(self.0);
    }
}

#[tokio::test]
async fn the_first_of_several_is_the_outermost() {
    let entered = Arc::default();
    let supervisor = Supervisor::builder()
        .capture(Numbered(1, Arc::clone(&entered)))
        .capture(Numbered(2, Arc::clone(&entered)));
    let supervisor = supervisor.build();
    let handle = supervisor.spawn(async {}).expect("the supervisor is open");
    assert_eq!(soon(handle).await.label(), "succeeded");
    assert_eq!(*entered.lock().unwrap(), [1, 2, 2, 1]);
}

/// Where a context panics.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Panics {
    Capture,
    Before,
    After,
    Drop,
    /// The scope does not call what it should.
    Never,
}

impl Capture for Panics {
    fn capture(&self) -> Box<dyn Scope> {
        assert_ne!(*self, Self::Capture, "as it should");
        Box::new(PanicsScope(*self))
    }
}

struct PanicsScope(Panics);

impl Scope for PanicsScope {
    fn enter(&self, poll: &mut dyn FnMut()) {
        assert_ne!(self.0, Panics::Before, "as it should");
        if self.0 != Panics::Never {
            poll();
        }
        assert_ne!(self.0, Panics::After, "as it should");
    }
}

impl Drop for PanicsScope {
    fn drop(&mut self) {
        assert_ne!(self.0, Panics::Drop, "as it should");
    }
}

#[tokio::test]
async fn a_context_that_panics_does_not_disturb_the_task() {
    for panics in [
        Panics::Capture,
        Panics::Before,
        Panics::After,
        Panics::Drop,
        Panics::Never,
    ] {
        let (events, _guard) = Events::record();
        let supervisor = Supervisor::builder().capture(panics).build();
        let call = Call::new(&supervisor, "/");
        call.tasks.add(tokio::task::yield_now());
        call.tasks.add(Task::blocking(|| {}));
        call.finish().await;
        soon(supervisor.idle()).await;
        assert_eq!(supervisor.stats().succeeded, 2, "{panics:?}");
        let logged = events.with_message("a panic was caught").len();
        assert_eq!(
            logged > 0,
            panics != Panics::Never,
            "{panics:?}: {logged} panics are logged"
        );
    }
}

/// A context whose code serves another request.
struct OtherRequest;

impl Capture for OtherRequest {
    fn capture(&self) -> Box<dyn Scope> {
        Box::new(Self)
    }
}

impl Scope for OtherRequest {
    fn enter(&self, poll: &mut dyn FnMut()) {
        let service = BackgroundLayer::new().layer(service_fn(|_: Request<()>| {
            poll();
            ready(Ok::<_, Infallible>(Response::new(String::new())))
        }));
        let answer = service.oneshot(Request::new(())).now_or_never();
        drop(answer.expect("it never waits").expect("it can't fail"));
    }
}

#[tokio::test]
async fn a_task_gets_the_end_of_its_own_request_also_inside_another_one() {
    let supervisor = Supervisor::builder().capture(OtherRequest).build();
    let call = Call::new(&supervisor, "/own");
    let (sender, path) = tokio::sync::oneshot::channel();
    call.tasks.add(Task::with_context(|cx| async move {
        let path = cx.end().map(|end| end.path().to_owned());
        sender.send(path).expect("the test waits");
    }));
    call.finish().await;
    assert_eq!(soon(path).await.expect("it runs").as_deref(), Some("/own"));
}
