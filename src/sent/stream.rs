//! [`SentStream`]: a stream that knows when the socket took the last byte of a response.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use pin_project::{pin_project, pinned_drop};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::SentConnection;

/// Wraps the stream of a connection, for [`StartOn::LastByteSent`](crate::StartOn::LastByteSent).
///
/// It passes all reads and writes through, and notes when the socket took a response. Wrap each
/// stream that your server accepts, and serve each connection in a separate tokio task, as all
/// servers do. The requests must also learn which connection they came over: see the
/// [module](super).
///
/// # Examples
///
/// ```
/// use tokio::net::{TcpListener, TcpStream};
/// use tower_background::sent::SentStream;
///
/// async fn accept(listener: TcpListener) -> std::io::Result<SentStream<TcpStream>> {
///     let (stream, _) = listener.accept().await?;
///     Ok(SentStream::new(stream))
/// }
/// # let _ = accept;
/// ```
#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub struct SentStream<T> {
    #[pin]
    inner: T,
    connection: SentConnection,
    /// The waker that the connection has.
    waker: Option<Waker>,
}

impl<T> SentStream<T> {
    /// Wraps a stream.
    pub fn new(inner: T) -> Self {
        Self {
            inner,
            connection: SentConnection::new(),
            waker: None,
        }
    }

    /// Returns the wrapped stream.
    pub const fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Returns the wrapped stream. The wrapper does not count the bytes that you write to it.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Returns a handle of the connection. It is a layer for the service of the connection.
    #[must_use]
    pub fn connection(&self) -> SentConnection {
        self.connection.clone()
    }
}

impl<T: AsyncWrite> SentStream<T> {
    /// Notes how many bytes the server offered, and what the inner stream returned.
    fn note_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        offered: usize,
        written: &Poll<io::Result<usize>>,
    ) {
        let Poll::Ready(Ok(accepted)) = written else {
            return;
        };
        let this = self.project();
        let progress = this.connection.state.progress();
        progress.note_write(offered, *accepted);
        // A bare socket has nothing to flush. TLS may hold bytes that the socket did not take, and
        // its flush says whether it does.
        if progress.serves_http1() && matches!(this.inner.poll_flush(cx), Poll::Ready(Ok(()))) {
            progress.note_taken();
        }
    }
}

impl<T: AsyncRead> AsyncRead for SentStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let state = &this.connection.state;
        state.before_read();
        let read = this.inner.poll_read(cx, buffer);
        state.after_read(read.is_ready());
        if read.is_pending() {
            let waker = cx.waker();
            if !this
                .waker
                .as_ref()
                .is_some_and(|known| known.will_wake(waker))
            {
                state.set_waker(waker.clone());
                *this.waker = Some(waker.clone());
            }
            state.note_read_cycle();
        }
        read
    }
}

impl<T: AsyncWrite> AsyncWrite for SentStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.as_mut().project();
        this.connection.state.before_write(bytes.len());
        let written = this.inner.poll_write(cx, bytes);
        self.note_write(cx, bytes.len(), &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.as_mut().project();
        let offered = offered(bytes);
        this.connection.state.before_write(offered);
        let written = this.inner.poll_write_vectored(cx, bytes);
        self.note_write(cx, offered, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.connection.state.before_write(0);
        ready!(this.inner.poll_flush(cx))?;
        this.connection.state.note_flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

#[pinned_drop]
impl<T> PinnedDrop for SentStream<T> {
    fn drop(self: Pin<&mut Self>) {
        self.connection.state.close();
    }
}

/// hyper offers at most so many slices with one write, and keeps the others for the next one.
const MAX_SLICES: usize = 64;

/// Returns how many bytes the server wants to write. `usize::MAX` if it may have more than it
/// offers.
fn offered(slices: &[IoSlice<'_>]) -> usize {
    if slices.len() < MAX_SLICES {
        slices.iter().map(|slice| slice.len()).sum()
    } else {
        usize::MAX
    }
}
