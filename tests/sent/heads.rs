//! Heads of responses that the server or a layer changes, and bodies that tell their end between two
//! polls.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, response::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, EndKind, StartOn, Supervisor, middleware::ResponseBody,
};

use super::tracked::{assert_ends, last_byte, serve_tracked};
use crate::common::{Multiplexed, Raw, Servable, Server, Witness, rest};

/// Answers each request with the response that `respond` makes.
fn service<B: Body<Data = Bytes, Error = Infallible> + Send + 'static>(
    supervisor: &Supervisor,
    witness: &Witness,
    respond: impl Fn() -> Response<B> + Clone + Send + 'static,
) -> impl Servable<Body = ResponseBody<B>, Response = Response<ResponseBody<B>>, Error = Infallible>
{
    let watching = witness.clone();
    BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            std::future::ready(Ok(respond()))
        },
    ))
}

/// hyper removes the headers that `connection` names, so none of them can have the guard.
#[tokio::test]
async fn http2_a_header_that_the_server_removes() {
    for names in ["x-hop", "x-first, X-Hop"] {
        let (supervisor, witness) = (last_byte(), Witness::new());
        let service = service(&supervisor, &witness, move || {
            let response = Response::builder()
                .header("x-hop", "1")
                .header("connection", names)
                .header("x-end", "1");
            response.body(Empty::<Bytes>::new()).expect("it is valid")
        });
        let server = serve_tracked(supervisor, witness, service).await;
        let mut client = Multiplexed::connect(&server).await;
        let response = client.get("/").await;
        assert!(!response.headers().contains_key("x-hop"));
        assert!(response.headers().contains_key("x-end"));
        assert_ends(&server, EndKind::Complete).await;
    }
}

/// A cache keeps the head or a clone of it, and the server gets the other one.
#[tokio::test]
async fn a_cache_that_keeps_a_head() {
    for method in ["GET", "HEAD"] {
        for tracked in [false, true] {
            for keeps_clone in [false, true] {
                let (supervisor, witness) = (last_byte(), Witness::new());
                let kept = Arc::new(Mutex::new(Vec::<Parts>::new()));
                let keeping = kept.clone();
                let respond = || Response::new(Full::<Bytes>::from("hello"));
                let service = service(&supervisor, &witness, respond).and_then(
                    move |response: Response<ResponseBody<Full<Bytes>>>| {
                        let keeping = keeping.clone();
                        async move {
                            let (head, body) = response.into_parts();
                            let whole = body.collect().await?.to_bytes();
                            let (kept, sent) = if keeps_clone {
                                (head.clone(), head)
                            } else {
                                let sent = head.clone();
                                (head, sent)
                            };
                            keeping.lock().expect("nobody panics with it").push(kept);
                            Ok::<_, Infallible>(Response::from_parts(sent, Full::new(whole)))
                        }
                    },
                );
                let server = if tracked {
                    serve_tracked(supervisor, witness, service).await
                } else {
                    Server::serve(service, supervisor, witness).await
                };
                let mut client = Raw::connect(server.address).await;
                client
                    .send(format!("{method} / HTTP/1.1\r\nhost: localhost\r\n\r\n"))
                    .await;
                client.until("\r\n\r\n").await;
                assert_ends(&server, EndKind::Complete).await;
            }
        }
    }
}

/// A body whose end becomes known between two calls of `is_end_stream`, as that of hyper's client does
/// over HTTP/2.
#[derive(Debug)]
struct LateEnd {
    data: Option<Bytes>,
    /// How many calls of `is_end_stream` after the data return `false`.
    late: AtomicUsize,
}

impl Body for LateEnd {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        let is_late = |late: usize| late.checked_sub(1);
        self.data.is_none() && self.late.fetch_update(SeqCst, SeqCst, is_late).is_err()
    }
}

#[tokio::test]
async fn a_body_that_tells_its_end_between_two_polls() {
    for start_on in [StartOn::EndOfStream, StartOn::LastByteSent] {
        for data in [None, Some("hello")] {
            for late in 0..5 {
                let supervisor = Supervisor::builder().start_on(start_on).build();
                let witness = Witness::new();
                let service = service(&supervisor, &witness, move || {
                    Response::new(LateEnd {
                        data: data.map(Bytes::from),
                        late: late.into(),
                    })
                });
                let server = serve_tracked(supervisor, witness, service).await;
                let mut client = Multiplexed::connect(&server).await;
                let (response, _) = client.send(Method::GET, "/").await;
                let mut response = response.await.expect("there is a head");
                let read = rest(response.body_mut()).await.expect("it is whole").0;
                assert_eq!(read, data.unwrap_or_default().as_bytes());
                assert_ends(&server, EndKind::Complete).await;

                let mut client = Raw::connect(server.address).await;
                client.get_last("/").await;
                assert!(client.rest().await.starts_with("HTTP/1.1 200"));
                assert_ends(&server, EndKind::Complete).await;
            }
        }
    }
}
