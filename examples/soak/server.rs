//! The server: hyper, the layer, and a handler that follows the plan of the request.

use std::{
    fmt,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet, time::Sleep};
use tower::{Layer, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Supervisor};

use crate::{
    dice::Dice,
    plan::{self, BodyEnd, Head, Plan},
    shared::Shared,
};

/// This is longer than clients and a shutdown wait. It is not endless, because a server does not
/// notice that a client left if the client had pipelined another request. Endless responses would
/// use up `max_pending`.
const HANG: Duration = Duration::from_millis(600);

/// The error of services and bodies that should fail.
#[derive(Debug)]
pub struct Planned;

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the plan says so")
    }
}

impl std::error::Error for Planned {}

/// Serves until it is notified. Then it waits for the connections to end.
pub async fn serve(
    listener: TcpListener,
    supervisor: Supervisor,
    shared: Arc<Shared>,
    stopping: Arc<Notify>,
) {
    let service = BackgroundLayer::with_supervisor(supervisor).layer(service_fn(
        move |request: Request<Incoming>| answer(&request, &shared),
    ));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // There are too many open files, or the client left already.
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let builder = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(service.clone());
                let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
                connections.spawn(async move { drop(connection.await) });
            }
            Some(_ended_or_panicked) = connections.join_next() => {}
            () = stopping.notified() => break,
        }
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
}

/// The handler. One part runs inside the call of the service, and the other in the returned future.
fn answer(
    request: &Request<Incoming>,
    shared: &Arc<Shared>,
) -> impl Future<Output = Result<Response<Flow>, Planned>> + use<> {
    shared.arrived();
    let tasks = request.background_tasks().expect("the layer is there");
    let seed = u64::from_str_radix(&request.uri().path()[1..], 16).expect("clients ask for seeds");
    let plan = Plan::of(seed);
    let mut dice = Dice::new(seed).fork();
    if let Some(order) = plan.order {
        tasks.set_order(order);
    }
    for _ in 0..dice.among(&[(30, 0), (40, 1), (15, 2), (10, 3), (5, 8)]) {
        let number = shared.leave(&tasks, plan, &mut dice, 2);
        if dice.percent(3) {
            tasks.remove(&number.to_string());
        }
    }
    if dice.percent(5) {
        add_later(shared, &tasks, plan, &mut dice);
    }
    if plan.head == Head::PanicsInCall {
        resume_unwind(Box::new("the service panics"));
    }
    let shared = Arc::clone(shared);
    async move {
        if let Some(think) = plan.think {
            tokio::time::sleep(think).await;
        }
        if dice.percent(10) {
            let tasks = BackgroundTasks::current().expect("a handler is code of its request");
            shared.leave(&tasks, plan, &mut dice, 1);
        }
        match plan.head {
            Head::Fails => return Err(Planned),
            Head::Panics => resume_unwind(Box::new("the handler panics")),
            Head::Hangs => {
                tokio::time::sleep(HANG).await;
                return Err(Planned);
            }
            Head::Answers | Head::PanicsInCall => {}
        }
        let mut response = Response::new(Flow::new(plan, shared, dice));
        *response.status_mut() = plan.status;
        if let (Some(declared), BodyEnd::Declared | BodyEnd::Short | BodyEnd::Long) =
            (plan.declared(), plan.body_end)
        {
            response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(declared));
        }
        Ok(response)
    }
}

/// Adds tasks from outside the request: before, at, or after the end of the response.
fn add_later(shared: &Arc<Shared>, tasks: &BackgroundTasks, plan: Plan, dice: &mut Dice) {
    let Some(helper) = shared.helper() else {
        return;
    };
    let (shared, tasks, mut dice) = (Arc::clone(shared), tasks.clone(), dice.fork());
    tokio::spawn(async move {
        match dice.below(3) {
            0 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(dice.below(12))).await,
        }
        for _ in 0..=dice.below(3) {
            shared.leave(&tasks, plan, &mut dice, 1);
        }
        // `helper` is dropped last, because the round waits for it before it looks at the others.
        drop(tasks);
        drop(shared);
        drop(helper);
    });
}

/// A body that follows the plan, and adds tasks.
pub struct Flow {
    plan: Plan,
    shared: Arc<Shared>,
    dice: Dice,
    position: usize,
    over: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Flow {
    const fn new(plan: Plan, shared: Arc<Shared>, dice: Dice) -> Self {
        Self {
            plan,
            shared,
            dice,
            position: 0,
            over: false,
            pause: None,
        }
    }

    fn leave(&mut self, percent: u64) {
        if self.dice.percent(percent) {
            let tasks = BackgroundTasks::current().expect("a body is code of its request");
            self.shared.leave(&tasks, self.plan, &mut self.dice, 1);
        }
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = Planned;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Planned>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let left = self.plan.bytes - self.position;
        if left > 0 {
            self.leave(3);
            let length = left.min(self.plan.chunk);
            let data = plan::data(self.position, length);
            self.position += length;
            let percent = self.plan.pauses;
            if left > length && self.dice.percent(percent) {
                self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(1))));
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if std::mem::replace(&mut self.over, true) {
            return Poll::Ready(None);
        }
        match self.plan.body_end {
            BodyEnd::Trailers => {
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-end"),
                    HeaderValue::from_static("1"),
                )]);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            BodyEnd::Fails => Poll::Ready(Some(Err(Planned))),
            BodyEnd::Panics => resume_unwind(Box::new("the body panics")),
            BodyEnd::Hangs => {
                let mut hang = Box::pin(tokio::time::sleep(HANG));
                let polled = hang.as_mut().poll(cx);
                self.pause = Some(hang);
                polled.map(|()| None)
            }
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.plan.bytes
            && matches!(self.plan.body_end, BodyEnd::TellsEnd | BodyEnd::Sized)
    }

    fn size_hint(&self) -> SizeHint {
        match self.plan.body_end {
            BodyEnd::Sized => SizeHint::with_exact((self.plan.bytes - self.position) as u64),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // The body can also be dropped outside of its request.
        if BackgroundTasks::current().is_some() {
            self.leave(2);
        }
    }
}
