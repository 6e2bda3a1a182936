//! [`SentStream`]: the IO of a connection that knows when the socket took the last byte of a response.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sent_connection::SentConnection;

pin_project! {
    /// The IO of a connection, for [`Release::Sent`](crate::Release::Sent): it passes everything on, and notes when the socket
    /// has all of a response.
    ///
    /// Put it around what a server accepts, and spawn each connection as a tokio task of its own, as all servers do.
    /// What is promised for each protocol is told in [`guide::sent`](crate::guide::sent).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::SentStream;
    ///
    /// async fn accept(listener: tokio::net::TcpListener) -> std::io::Result<SentStream<tokio::net::TcpStream>> {
    ///     let (stream, _) = listener.accept().await?;
    ///     Ok(SentStream::new(stream))
    /// }
    /// # let _ = accept;
    /// ```
    #[derive(Debug)]
    pub struct SentStream<T> {
        #[pin]
        inner: T,
        connection: SentConnection,
    }

    impl<T> PinnedDrop for SentStream<T> {
        fn drop(this: Pin<&mut Self>) {
            this.connection.close();
        }
    }
}

impl<T> SentStream<T> {
    /// Wraps a stream.
    pub fn new(inner: T) -> Self {
        Self { inner, connection: SentConnection::new() }
    }

    /// The wrapped stream.
    pub const fn get_ref(&self) -> &T {
        &self.inner
    }

    /// The wrapped stream. What is written to it directly is not seen.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// A handle of the connection.
    #[must_use]
    pub fn connection(&self) -> SentConnection {
        self.connection.clone()
    }
}

impl<T: AsyncWrite> SentStream<T> {
    /// The server has offered so many bytes, and this came of it.
    fn offered(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: usize, written: &Poll<io::Result<usize>>) {
        let Poll::Ready(Ok(accepted)) = written else { return };
        let this = self.project();
        let gauge = this.connection.gauge();
        gauge.offered(bytes, *accepted);
        // A socket has nothing to flush. TLS has tried to write what it took, and tells by this whether it could.
        if gauge.is_asked() && matches!(this.inner.poll_flush(cx), Poll::Ready(Ok(()))) {
            gauge.settled();
        }
    }
}

impl<T: AsyncRead> AsyncRead for SentStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.connection.touch();
        this.connection.reads();
        let read = this.inner.poll_read(cx, buffer);
        this.connection.read(read.is_ready());
        if read.is_pending() {
            this.connection.turn(cx);
        }
        read
    }
}

impl<T: AsyncWrite> AsyncWrite for SentStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.as_mut().project();
        this.connection.touch();
        this.connection.writes();
        let written = this.inner.poll_write(cx, bytes);
        self.offered(cx, bytes.len(), &written);
        written
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.as_mut().project();
        this.connection.touch();
        this.connection.writes();
        let written = this.inner.poll_write_vectored(cx, bytes);
        self.offered(cx, bytes.iter().map(|slice| slice.len()).sum(), &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.connection.touch();
        this.connection.writes();
        ready!(this.inner.poll_flush(cx))?;
        this.connection.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}
