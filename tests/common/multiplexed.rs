//! An HTTP/2 client with prior knowledge. The test decides about windows and resets.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, Response, request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use super::{Server, soon};

/// A connection.
pub struct Multiplexed {
    requests: SendRequest<Bytes>,
    windows: mpsc::UnboundedSender<u32>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Multiplexed {
    /// Connects with the windows that HTTP/2 begins with.
    pub async fn connect(server: &Server) -> Self {
        Self::with_window(server, 65_535).await
    }

    /// Connects, and lets each stream begin with a window of this size.
    pub async fn with_window(server: &Server, window: u32) -> Self {
        let stream = TcpStream::connect(server.address)
            .await
            .expect("the server listens");
        Self::over(stream, window).await
    }

    /// Uses this stream, with a window of this size for each HTTP/2 stream.
    pub async fn over<T>(stream: T, window: u32) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, mut connection) = Builder::new()
            .initial_window_size(window)
            .handshake(stream)
            .await
            .expect("it speaks HTTP/2");
        let (windows, mut wanted) = mpsc::unbounded_channel();
        let mut next = None;
        let connection = tokio::spawn(poll_fn(move |cx| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(ended);
                }
                if next.is_none() {
                    next = match wanted.poll_recv(cx) {
                        Poll::Ready(wanted) => wanted,
                        Poll::Pending => None,
                    };
                }
                // A window waits until the server has accepted the one before.
                match next.map(|size| connection.set_initial_window_size(size)) {
                    Some(Ok(())) => next = None,
                    _ => return Poll::Pending,
                }
            }
        }));
        Self {
            requests,
            windows,
            connection,
        }
    }

    /// Sends a request without a body; the stream is there for resets.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        self.request(Request::builder().method(method), path).await
    }

    /// Sends a `GET` that has this header.
    pub async fn ask(
        &mut self,
        path: &str,
        name: &str,
        value: &str,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        self.request(Request::builder().header(name, value), path)
            .await
    }

    /// Calls a method of gRPC with this message, and returns the head of the answer.
    pub async fn call(&mut self, path: &str, message: &'static [u8]) -> Response<RecvStream> {
        let request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc");
        let request = request
            .header("te", "trailers")
            .body(())
            .expect("the tests ask for what there is");
        let mut requests = soon(self.requests.clone().ready())
            .await
            .expect("the connection is open");
        let (response, mut stream) = requests
            .send_request(request, false)
            .expect("the connection is open");
        stream
            .send_data(Bytes::from_static(message), true)
            .expect("the server has a window");
        soon(response).await.expect("there is a head")
    }

    async fn request(
        &mut self,
        request: request::Builder,
        path: &str,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let uri = format!("http://localhost{path}");
        let request = request
            .uri(uri)
            .body(())
            .expect("the tests ask for what there is");
        let mut requests = soon(self.requests.clone().ready())
            .await
            .expect("the connection is open");
        requests
            .send_request(request, true)
            .expect("the connection is open")
    }

    /// The head of the answer to a `GET`, and what is to be read.
    pub async fn get(&mut self, path: &str) -> Response<RecvStream> {
        let (response, _) = self.send(Method::GET, path).await;
        soon(response).await.expect("there is a head")
    }

    /// Sets the window that each stream begins with, also for those that are open.
    pub fn set_window(&self, size: u32) {
        self.windows.send(size).expect("the connection is open");
    }

    /// Waits until the server has said that it takes no more streams.
    pub async fn refused(&self) {
        soon(async {
            // The client tells it to who asks, and wakes nobody.
            while self.requests.clone().ready().await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Closes the socket without a word.
    pub async fn leave(self) {
        self.connection.abort();
        assert!(
            self.connection
                .await
                .is_err_and(|error| error.is_cancelled()),
            "the connection was open"
        );
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(self) -> Result<(), h2::Error> {
        soon(self.connection)
            .await
            .expect("the connection does not panic")
    }
}

/// The next data, whose window is opened again.
pub async fn data(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = soon(body.data()).await;
    if let Some(Ok(data)) = &data {
        body.flow_control()
            .release_capacity(data.len())
            .expect("it was received");
    }
    data
}

/// Returns the next data, which must come, and opens its window again.
pub async fn next_data(body: &mut RecvStream) -> Bytes {
    let next = data(body).await.expect("there is more");
    next.expect("the server sends")
}

/// Returns the next data, which must come, and does not open its window again.
pub async fn unreleased_data(body: &mut RecvStream) -> Bytes {
    let next = soon(body.data()).await.expect("there is more");
    next.expect("the server sends")
}

/// All that comes until the end of the stream.
pub async fn rest(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut read = Vec::new();
    while let Some(data) = data(body).await {
        read.extend_from_slice(&data?);
    }
    Ok((read, soon(body.trailers()).await?))
}
