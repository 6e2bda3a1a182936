//! [`Gate`]: lets a socket take as many writes as a test allows.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncWrite, join},
    net::tcp::OwnedWriteHalf,
    sync::Notify,
};
use tower::Layer;
use tower_background::{Supervisor, sent::SentStream};

use crate::common::{Servable, Server, Witness};

/// How many more writes the socket takes.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    writes: AtomicUsize,
    /// How many bytes the socket took.
    taken: AtomicUsize,
    waker: AtomicWaker,
}

impl Gate {
    /// A gate that lets all writes through.
    pub(super) fn open() -> Self {
        Self(Arc::new(GateState {
            writes: AtomicUsize::new(usize::MAX),
            taken: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
        }))
    }

    /// Lets so many more writes through.
    pub(super) fn allow(&self, writes: usize) {
        self.0.writes.store(writes, SeqCst);
        self.0.waker.wake();
    }

    pub(super) fn taken(&self) -> usize {
        self.0.taken.load(SeqCst)
    }

    /// Serves tracked connections, whose sockets have this gate. A connection ends when it is told to
    /// stop.
    pub(super) async fn serve(
        &self,
        supervisor: Supervisor,
        witness: Witness,
        stop: Arc<Notify>,
        service: impl Servable,
    ) -> Server {
        let gate = self.clone();
        Server::each(supervisor, witness, move |stream| {
            let (reader, inner) = stream.into_split();
            let gate = gate.clone();
            let stream = SentStream::new(join(reader, Gated { inner, gate }));
            let service = TowerToHyperService::new(stream.connection().layer(service.clone()));
            let stop = stop.clone();
            async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                tokio::select! {
                    // The client of the test checks how a connection ends.
                    _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                    () = stop.notified() => {}
                }
                stop.notify_one();
            }
        })
        .await
    }
}

/// The half of a socket that writes.
#[derive(Debug)]
struct Gated {
    inner: OwnedWriteHalf,
    gate: Gate,
}

impl AsyncWrite for Gated {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = Arc::clone(&self.gate.0);
        gate.waker.register(cx.waker());
        if gate.writes.load(SeqCst) == 0 {
            return Poll::Pending;
        }
        let taken = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bytes))?;
        gate.writes.fetch_sub(1, SeqCst);
        gate.taken.fetch_add(taken, SeqCst);
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
