//! What `Release::Sent` allocates: nothing for a write, and a known number for a response.

use std::{
    alloc::System,
    convert::Infallible,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use http_body_util::Full;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tower::{Layer, Service, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Release, SentStream, Supervisor};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static BODY: [u8; 2_000] = [b'.'; 2_000];

/// A stream that takes all, and has nothing to read.
fn stream() -> (SentStream<impl AsyncRead + AsyncWrite + Unpin>, DuplexStream) {
    let (reads, client) = tokio::io::duplex(1);
    (SentStream::new(tokio::io::join(reads, tokio::io::sink())), client)
}

/// Runs this as a task, as which a connection is served.
fn served<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("there is a runtime");
    let task = runtime.spawn(tokio::task::unconstrained(async { f() }));
    runtime.block_on(task).expect("it does not panic")
}

/// How often `f` allocates.
fn allocations(f: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    f();
    region.change().allocations
}

/// What is counted without what another thread of the test's process allocates meanwhile, as it does when it starts.
fn least(count: impl FnMut() -> usize) -> usize {
    std::iter::repeat_with(count).take(5).min().expect("there are some")
}

/// Calls the service and lets go of the response, as a server does: the frames are written and dropped while the connection is
/// served, then it is flushed.
fn respond<S, B>(service: &mut S, stream: &mut SentStream<impl AsyncWrite + Unpin>, version: Version)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut request = Request::new(());
    *request.version_mut() = version;
    let mut future = std::pin::pin!(service.call(request));
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else { unreachable!("the service answers at once") };
    {
        let mut body = std::pin::pin!(response.into_body());
        let _ = Pin::new(&mut *stream).poll_write(&mut cx, b"head");
        let frame = body.as_mut().poll_frame(&mut cx);
        assert!(body.is_end_stream());
        let _ = Pin::new(&mut *stream).poll_write(&mut cx, &BODY);
        drop(frame);
    }
    assert!(Pin::new(stream).poll_flush(&mut cx).is_ready());
}

/// How often a response with a task allocates, until its task is released.
fn of_a_response(release: Release, version: Version) -> usize {
    served(move || {
        let supervisor = Supervisor::builder().release(release).build();
        let service = BackgroundLayer::with(supervisor.clone()).layer(service_fn(|request: Request<()>| {
            request.background_tasks().expect("the layer is there").add(async {});
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&BODY)))))
        }));
        let (mut stream, _client) = stream();
        let mut tracked = stream.connection().layer(service.clone());
        let mut plain = service;
        let mut once = || {
            let counted = allocations(|| match release {
                Release::Sent => respond(&mut tracked, &mut stream, version),
                _ => respond(&mut plain, &mut stream, version),
            });
            assert_eq!(supervisor.stats().collected, 0, "the task was released");
            counted
        };
        // The first ones make room.
        (0..8).for_each(|_| {
            once();
        });
        least(once)
    })
}

/// One test, as all threads of a process count together.
#[test]
fn nothing_for_a_write_and_little_for_a_response() {
    let writes = served(|| {
        let (mut stream, _client) = stream();
        let mut cx = Context::from_waker(Waker::noop());
        let mut space = [0; 16];
        let mut write = || {
            let mut read = ReadBuf::new(&mut space);
            let _ = Pin::new(&mut stream).poll_read(&mut cx, &mut read);
            assert!(Pin::new(&mut stream).poll_write(&mut cx, b"hello").is_ready());
            assert!(Pin::new(&mut stream).poll_write_vectored(&mut cx, &[IoSlice::new(b"hello")]).is_ready());
            assert!(Pin::new(&mut stream).poll_flush(&mut cx).is_ready());
        };
        write();
        least(|| allocations(|| (0..1_000).for_each(|_| write())))
    });
    assert_eq!(writes, 0, "a write allocates nothing");

    for (version, more) in [(Version::HTTP_11, 2), (Version::HTTP_2, 3)] {
        let counted = [Release::EndOfStream, Release::Sent].map(|release| of_a_response(release, version));
        assert_eq!(counted[1] - counted[0], more, "{version:?}: {counted:?}");
    }
}
