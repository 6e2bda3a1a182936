//! HTTP/1.1: a service answers with the same bytes without the layer, with it, and with tasks.

use std::convert::Infallible;

use axum::routing::get;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, response::Builder};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Supervisor};

use crate::common::{Raw, Script, Server, Step, Witness, soon};

type Answer = Response<UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>>;

/// What a client sends, up to `connection: close` of the last request, and a part of the expected
/// answer.
const CONVERSATIONS: &[(&[&str], &str)] = &[
    (&["GET /full"], "\r\n\r\nhello"),
    (&["GET /empty"], "\r\ncontent-length: 0\r\n"),
    (&["GET /204"], "HTTP/1.1 204 No Content\r\n"),
    (&["GET /204/full"], "HTTP/1.1 204 No Content\r\n"),
    (&["GET /204/stream"], "HTTP/1.1 204 No Content\r\n"),
    (&["GET /304"], "HTTP/1.1 304 Not Modified\r\n"),
    (&["GET /304/full"], "HTTP/1.1 304 Not Modified\r\n"),
    (&["GET /304/stream"], "HTTP/1.1 304 Not Modified\r\n"),
    (&["HEAD /full"], "\r\ncontent-length: 5\r\n"),
    (&["HEAD /stream"], "HTTP/1.1 200 OK\r\n"),
    (&["GET /stream"], "\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
    (&["GET /length/6"], "\r\n\r\nonetwo"),
    (&["GET /length/4"], "\r\n\r\nonet"),
    (&["GET /length/9"], ""),
    (&["GET /sized"], "\r\n\r\nonetwo"),
    (
        &["GET /trailers"],
        "\r\n5\r\nhello\r\n0\r\nx-sum: 15\r\n\r\n",
    ),
    (&["GET /reason"], "HTTP/1.1 200 Because\r\n"),
    (&["GET /error"], ""),
    (
        &["GET /full", "GET /stream", "GET /nowhere"],
        "HTTP/1.1 404 Not Found\r\n",
    ),
    (
        &[
            "GET /stream",
            "HEAD /full",
            "GET /304/stream",
            "GET /length/4",
            "GET /full",
        ],
        "\r\n\r\nhello",
    ),
    (&["CONNECT example.org:80"], "\r\n\r\nping"),
];

fn response<B>(builder: Builder, body: B) -> Answer
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    // With a date of its own, the server sets none.
    let builder = builder.header("date", "today").header("x-own", "1");
    builder
        .body(body.map_err(Into::into).boxed_unsync())
        .expect("the headers are valid")
}

fn answer<B: Send + 'static>(request: Request<B>) -> Answer {
    let builder = Response::builder();
    let stream = || Script::new([Step::data("one"), Step::data("two")]);
    if request.method() == Method::CONNECT {
        tokio::spawn(async move {
            let mut tunnel =
                TokioIo::new(hyper::upgrade::on(request).await.expect("it is accepted"));
            let mut ping = [0; 4];
            tunnel
                .read_exact(&mut ping)
                .await
                .expect("the client sends it");
            tunnel.write_all(&ping).await.expect("the client reads it");
        });
        return response(builder, stream());
    }
    match request.uri().path() {
        "/full" => response(builder, Full::from("hello")),
        "/empty" => response(builder, Empty::new()),
        "/204" => response(builder.status(StatusCode::NO_CONTENT), Empty::new()),
        "/204/full" => response(builder.status(StatusCode::NO_CONTENT), Full::from("hello")),
        "/204/stream" => response(builder.status(StatusCode::NO_CONTENT), stream()),
        "/304" => response(builder.status(StatusCode::NOT_MODIFIED), Empty::new()),
        "/304/full" => response(
            builder.status(StatusCode::NOT_MODIFIED),
            Full::from("hello"),
        ),
        "/304/stream" => response(builder.status(StatusCode::NOT_MODIFIED), stream()),
        "/stream" => response(builder, stream()),
        "/sized" => response(builder, stream().sized(6).tells_end()),
        "/trailers" => response(
            builder.header("trailer", "x-sum"),
            Script::new([Step::data("hello"), Step::trailer("x-sum", "15")]),
        ),
        "/reason" => response(
            builder.extension(hyper::ext::ReasonPhrase::from_static(b"Because")),
            Full::from("hello"),
        ),
        "/error" => response(builder, Script::new([Step::Error])),
        path => match path.strip_prefix("/length/") {
            Some(length) => response(builder.header("content-length", length), stream()),
            None => response(builder.status(StatusCode::NOT_FOUND), Full::from("nothing")),
        },
    }
}

/// All that the server sends for these requests.
async fn answered(server: &Server, requests: &[&str]) -> String {
    let requested = |line: &&str| format!("{line} HTTP/1.1\r\nhost: h\r\nte: trailers\r\n\r\n");
    let mut text = requests.iter().map(requested).collect::<Vec<_>>().concat();
    if requests[0].starts_with("CONNECT") {
        text.push_str("ping");
    } else {
        text.insert_str(text.len() - 2, "connection: close\r\n");
    }
    let mut client = Raw::connect(server.address).await;
    client.send(text).await;
    client.rest().await
}

/// The service's response with some tasks left behind; it must not be different for that.
fn with_tasks<B: Send + 'static>(request: Request<B>, tasks: usize) -> Answer {
    for _ in 0..tasks {
        request
            .background_tasks()
            .expect("the layer is there")
            .add(async {});
    }
    answer(request)
}

/// Holds the conversations with both servers. The layered one's requests leave `tasks` tasks each.
async fn compare(plain: &Server, layered: &Server, tasks: usize) {
    let mut left = 0;
    for (requests, part) in CONVERSATIONS {
        let expected = answered(plain, requests).await;
        assert!(expected.contains(part), "{requests:?}: {expected:?}");
        assert_eq!(
            answered(layered, requests).await,
            expected,
            "{requests:?}, with {tasks} tasks"
        );
        left += requests.len() * tasks;
    }
    soon(layered.supervisor.idle()).await;
    assert_eq!(layered.supervisor.stats().succeeded, left as u64);
}

#[tokio::test]
async fn by_hyper() {
    let service = |tasks| {
        service_fn(move |request| {
            std::future::ready(Ok::<_, Infallible>(with_tasks(request, tasks)))
        })
    };
    let plain = Server::serve(service(0), Supervisor::new(), Witness::new()).await;
    for tasks in [0, 2] {
        let supervisor = Supervisor::new();
        let layered = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service(tasks));
        compare(
            &plain,
            &Server::serve(layered, supervisor, Witness::new()).await,
            tasks,
        )
        .await;
    }
}

#[tokio::test]
async fn by_axum() {
    let router = |tasks| {
        let handler = async move |request: axum::extract::Request| {
            with_tasks(request, tasks).map(axum::body::Body::new)
        };
        // A route answers `HEAD` by its `GET`, and drops the body; a fallback is asked as it is.
        axum::Router::new()
            .route("/full", get(handler))
            .route("/stream", get(handler))
            .fallback(handler)
    };
    let plain = Server::axum(router(0), Supervisor::new(), Witness::new()).await;
    for tasks in [0, 2] {
        let supervisor = Supervisor::new();
        let layered = router(tasks).layer(BackgroundLayer::with_supervisor(supervisor.clone()));
        compare(
            &plain,
            &Server::axum(layered, supervisor, Witness::new()).await,
            tasks,
        )
        .await;
    }
}
