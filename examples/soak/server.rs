//! The server: a handler that does what the request's plan says, behind the layer, behind hyper.

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
    field::Field,
    plan::{self, Head, Plan, Tail},
};

/// Longer than any client waits for what hangs, and than a shutdown waits. Not for ever: a server does not notice that a client
/// has left which had sent another request before, so that what never ends would hold its tasks, and with them all the room
/// that `max_pending` gives.
const HANG: Duration = Duration::from_millis(600);

/// The error of services and bodies whose plan says so.
#[derive(Debug)]
pub struct Planned;

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the plan says so")
    }
}

impl std::error::Error for Planned {}

/// Serves until it is told to stop, then lets the connections end for as long as it is polled.
pub async fn serve(listener: TcpListener, supervisor: Supervisor, field: Arc<Field>, stopping: Arc<Notify>) {
    let service = BackgroundLayer::with(supervisor).layer(service_fn(move |request: Request<Incoming>| answer(&request, &field)));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Too many open files, or a client that is gone already.
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

/// The part of the handler that runs in the call, and the part that runs later.
fn answer(request: &Request<Incoming>, field: &Arc<Field>) -> impl Future<Output = Result<Response<Flow>, Planned>> + use<> {
    field.arrived();
    let tasks = request.background_tasks().expect("the layer is there");
    let seed = u64::from_str_radix(&request.uri().path()[1..], 16).expect("clients ask for seeds");
    let plan = Plan::of(seed);
    let mut dice = Dice::new(seed).fork();
    if let Some(order) = plan.order {
        tasks.order(order);
    }
    for _ in 0..dice.among(&[(30, 0), (40, 1), (15, 2), (10, 3), (5, 8)]) {
        let number = field.leave(&tasks, plan, &mut dice, 2);
        if dice.percent(3) {
            tasks.remove(&number.to_string());
        }
    }
    if dice.percent(5) {
        add_later(field, &tasks, plan, &mut dice);
    }
    if plan.head == Head::PanicsInCall {
        resume_unwind(Box::new("the service panics"));
    }
    let field = Arc::clone(field);
    async move {
        if let Some(think) = plan.think {
            tokio::time::sleep(think).await;
        }
        if dice.percent(10) {
            let tasks = BackgroundTasks::current().expect("the request's registry is the current one");
            field.leave(&tasks, plan, &mut dice, 1);
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
        let mut response = Response::new(Flow::new(plan, field, dice));
        *response.status_mut() = plan.status;
        if let (Some(declared), Tail::Declared | Tail::Short | Tail::Long) = (plan.declared(), plan.tail) {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(declared));
        }
        Ok(response)
    }
}

/// Takes the registry out of the request, and adds to it whenever: before the end of the response, at it, or after it.
fn add_later(field: &Arc<Field>, tasks: &BackgroundTasks, plan: Plan, dice: &mut Dice) {
    let Some(helper) = field.helper() else { return };
    let (field, tasks, mut dice) = (Arc::clone(field), tasks.clone(), dice.fork());
    tokio::spawn(async move {
        match dice.below(3) {
            0 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(dice.below(12))).await,
        }
        for _ in 0..=dice.below(3) {
            field.leave(&tasks, plan, &mut dice, 1);
        }
        // The last of its handles first, so that who waits for the helpers finds nothing of theirs.
        drop(tasks);
        drop(field);
        drop(helper);
    });
}

/// A body that does what the plan says, and leaves tasks meanwhile.
pub struct Flow {
    plan: Plan,
    field: Arc<Field>,
    dice: Dice,
    position: usize,
    over: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Flow {
    const fn new(plan: Plan, field: Arc<Field>, dice: Dice) -> Self {
        Self { plan, field, dice, position: 0, over: false, pause: None }
    }

    fn leave(&mut self, percent: u64) {
        if self.dice.percent(percent) {
            let tasks = BackgroundTasks::current().expect("the request's registry is the body's, too");
            self.field.leave(&tasks, self.plan, &mut self.dice, 1);
        }
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = Planned;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Planned>>> {
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
        match self.plan.tail {
            Tail::Trailers => {
                let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), HeaderValue::from_static("1"))]);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Tail::Fails => Poll::Ready(Some(Err(Planned))),
            Tail::Panics => resume_unwind(Box::new("the body panics")),
            Tail::Hangs => {
                let mut hang = Box::pin(tokio::time::sleep(HANG));
                let polled = hang.as_mut().poll(cx);
                self.pause = Some(hang);
                polled.map(|()| None)
            }
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.plan.bytes && matches!(self.plan.tail, Tail::TellsEnd | Tail::Sized)
    }

    fn size_hint(&self) -> SizeHint {
        match self.plan.tail {
            Tail::Sized => SizeHint::with_exact((self.plan.bytes - self.position) as u64),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // A service that answers a panic with another body drops this one, too.
        if BackgroundTasks::current().is_some() {
            self.leave(2);
        }
    }
}
