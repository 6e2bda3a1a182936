//! What it costs to carry `BackgroundTasks::current()`: a poll of a handler and of a body, with and
//! without the layer, and a call.
//!
//! `cargo bench --bench current`. The difference of a poll is all that the layer does there: it
//! sets the current request, and notes what it saw. Each number is the best of several rounds, in
//! ns.

use std::{
    convert::Infallible,
    future::poll_fn,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks};

const POLLS: u32 = 1_000_000;
const ROUNDS: usize = 15;

fn main() {
    let layer = BackgroundLayer::new();

    let handler = || {
        service_fn(|_: Request<()>| {
            poll_fn(|_| Poll::<Result<Response<Pending>, Infallible>>::Pending)
        })
    };
    row(
        "a poll of the handler",
        polls_of_future(handler()),
        polls_of_future(layer.layer(handler())),
    );

    let endless = || service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Pending)));
    row(
        "a poll of the body",
        polls_of_body(endless()),
        polls_of_body(layer.layer(endless())),
    );

    let whole = || {
        service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
        })
    };
    row(
        "a request without tasks",
        requests(whole()),
        requests(layer.layer(whole())),
    );

    let calls = service_fn(async |_: Request<()>| {
        let best = best(|| drop(black_box(BackgroundTasks::current())));
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(format!("{best:.1} ns"))))
    });
    println!(
        "`current()` outside of a request: {:.1} ns",
        best(|| drop(black_box(BackgroundTasks::current())))
    );
    let Poll::Ready(Ok(response)) = poll(pin!(layer.layer(calls).call(Request::new(())))) else {
        unreachable!("it never waits")
    };
    let mut body = response.into_body();
    let Poll::Ready(Some(Ok(frame))) = poll_body(Pin::new(&mut body)) else {
        unreachable!("it is full")
    };
    println!(
        "`current()` inside: {}",
        String::from_utf8_lossy(frame.data_ref().expect("it is data"))
    );
}

/// A body that never has anything.
struct Pending;

impl Body for Pending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn row(what: &str, bare: f64, layered: f64) {
    println!(
        "{what}: {bare:.1} ns bare, {layered:.1} ns with the layer, {:.1} ns more",
        layered - bare
    );
}

/// The time of one call of `f`.
fn best(mut f: impl FnMut()) -> f64 {
    let round = |f: &mut dyn FnMut()| {
        let started = Instant::now();
        f();
        started.elapsed().as_secs_f64() * 1e9 / f64::from(POLLS)
    };
    let mut calls = || (0..POLLS).for_each(|_| f());
    (0..ROUNDS)
        .map(|_| round(&mut calls))
        .fold(f64::INFINITY, f64::min)
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    black_box(future.poll(&mut Context::from_waker(Waker::noop())))
}

type PolledFrame<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

fn poll_body<B: Body>(body: Pin<&mut B>) -> PolledFrame<B> {
    black_box(body.poll_frame(&mut Context::from_waker(Waker::noop())))
}

fn polls_of_future<S: Service<Request<()>>>(mut service: S) -> f64 {
    let mut future = pin!(service.call(Request::new(())));
    best(|| assert!(poll(future.as_mut()).is_pending()))
}

fn response<S, B>(service: &mut S) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let Poll::Ready(Ok(response)) = poll(pin!(service.call(black_box(Request::new(()))))) else {
        unreachable!("it never waits")
    };
    response
}

fn polls_of_body<S, B>(mut service: S) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    let mut body = pin!(response(&mut service).into_body());
    best(|| assert!(poll_body(body.as_mut()).is_pending()))
}

fn requests<S, B>(mut service: S) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    best(|| {
        let mut body = pin!(response(&mut service).into_body());
        assert!(poll_body(body.as_mut()).is_ready());
    })
}
