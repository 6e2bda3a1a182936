//! Tracking allocates nothing for a write, and a known number of times for a response.

use std::{
    alloc::System,
    convert::Infallible,
    env,
    io::IoSlice,
    pin::{Pin, pin},
    process::Command,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use http_body_util::Full;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, StartOn, Supervisor, sent::SentStream,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static BODY: [u8; 2_000] = [b'.'; 2_000];

/// Creates a stream that accepts all writes, and has nothing to read.
fn stream() -> (
    SentStream<impl AsyncRead + AsyncWrite + Unpin>,
    DuplexStream,
) {
    let (reads, client) = tokio::io::duplex(1);
    (
        SentStream::new(tokio::io::join(reads, tokio::io::sink())),
        client,
    )
}

/// Runs this as a tokio task, as a server serves a connection.
fn served<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let builder = tokio::runtime::Builder::new_current_thread().build();
    let runtime = builder.expect("there is a runtime");
    let task = runtime.spawn(tokio::task::unconstrained(async { f() }));
    runtime.block_on(task).expect("the test does not panic")
}

/// Returns how often `f` allocates.
fn allocations(f: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    f();
    region.change().allocations
}

/// Counts several times, and returns the lowest count. Another thread of the process allocates when
/// it starts.
fn least(count: impl FnMut() -> usize) -> usize {
    std::iter::repeat_with(count)
        .take(5)
        .min()
        .expect("there are five counts")
}

/// Calls the service, and serves the response as a server does. The frames are written and dropped
/// by the task that serves the connection, and then the connection is flushed.
fn respond<S, B>(
    service: &mut S,
    stream: &mut SentStream<impl AsyncWrite + Unpin>,
    version: Version,
) where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut request = Request::new(());
    *request.version_mut() = version;
    let mut future = pin!(service.call(request));
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        unreachable!("the service answers at once")
    };
    {
        let mut body = pin!(response.into_body());
        let _ = Pin::new(&mut *stream).poll_write(&mut cx, b"head");
        let frame = body.as_mut().poll_frame(&mut cx);
        assert!(body.is_end_stream());
        let _ = Pin::new(&mut *stream).poll_write(&mut cx, &BODY);
        drop(frame);
    }
    assert!(Pin::new(stream).poll_flush(&mut cx).is_ready());
}

/// Returns how often a response with a task allocates, until its task starts.
fn of_a_response(start_on: StartOn, version: Version) -> usize {
    served(move || {
        let supervisor = Supervisor::builder().start_on(start_on).build();
        let service = service_fn(|request: Request<()>| {
            request
                .background_tasks()
                .expect("the layer is there")
                .add(async {});
            let body = Full::new(Bytes::from_static(&BODY));
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let mut plain = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service);
        let (mut stream, _client) = stream();
        let mut tracked = stream.connection().layer(plain.clone());
        let mut once = || {
            let counted = allocations(|| match start_on {
                StartOn::LastByteSent => respond(&mut tracked, &mut stream, version),
                _ => respond(&mut plain, &mut stream, version),
            });
            assert_eq!(supervisor.stats().deferred, 0, "the task was started");
            counted
        };
        // The first responses grow tables.
        (0..8).for_each(|_| {
            once();
        });
        least(once)
    })
}

/// The counter counts all threads of a process, so this test runs in a process of its own.
#[test]
fn nothing_for_a_write_and_little_for_a_response() {
    const ALONE: &str = "TOWER_BACKGROUND_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return count();
    }
    let name = "allocations::nothing_for_a_write_and_little_for_a_response";
    let output = Command::new(env::current_exe().expect("the test has a path"))
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("the test starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

fn count() {
    let writes = served(|| {
        let (mut stream, _client) = stream();
        let mut cx = Context::from_waker(Waker::noop());
        let mut space = [0; 16];
        let mut write = || {
            let mut read = ReadBuf::new(&mut space);
            let mut stream = Pin::new(&mut stream);
            let _ = stream.as_mut().poll_read(&mut cx, &mut read);
            assert!(stream.as_mut().poll_write(&mut cx, b"hello").is_ready());
            let slices = [IoSlice::new(b"hello")];
            assert!(
                stream
                    .as_mut()
                    .poll_write_vectored(&mut cx, &slices)
                    .is_ready()
            );
            assert!(stream.as_mut().poll_flush(&mut cx).is_ready());
        };
        write();
        least(|| allocations(|| (0..1_000).for_each(|_| write())))
    });
    assert_eq!(writes, 0, "a write allocates");

    for (version, more) in [(Version::HTTP_11, 3), (Version::HTTP_2, 4)] {
        let counted = [StartOn::EndOfStream, StartOn::LastByteSent]
            .map(|start_on| of_a_response(start_on, version));
        assert_eq!(counted[1] - counted[0], more, "{version:?}: {counted:?}");
    }
}
