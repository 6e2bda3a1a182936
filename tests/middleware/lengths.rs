//! A body whose exact size contradicts the `content-length` of its head.
//!
//! hyper sends the header, and cuts the body at the size. So the client waits for data that does
//! not come, or takes the rest for the next response. Debug builds of hyper panic instead. So these
//! tests call the service without a server, and read as hyper does.

use std::convert::Infallible;

use crate::common::{Script, Seen, Step, Witness, soon};
use http::{Method, Request, Response, Version};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, EndKind, report::ResponseError};

/// How a response ends of which the server takes `frames` frames, and then drops the body.
async fn ending(
    method: Method,
    version: Version,
    declared: &'static str,
    body: fn() -> Script,
    frames: usize,
) -> Seen {
    ending_among(&[], method, version, declared, body, frames).await
}

/// The same, with these headers beside `content-length`.
async fn ending_among(
    others: &'static [&'static str],
    method: Method,
    version: Version,
    declared: &'static str,
    body: fn() -> Script,
    frames: usize,
) -> Seen {
    let layer = BackgroundLayer::new();
    let witness = Witness::new();
    let watching = witness.clone();
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let course = watching.watch(&request.background_tasks().expect("the layer is there"));
        let body = body().seen_by(course.expect_body());
        let response = others.iter().fold(Response::builder(), |response, name| {
            response.header(*name, "0")
        });
        let response = response
            .header("content-length", declared)
            .body(body)
            .expect("the headers are valid");
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let request = Request::builder()
        .method(method)
        .version(version)
        .body(())
        .expect("it is valid");
    let response = service.oneshot(request).await.expect("it answers");
    let mut body = response.into_body();
    for _ in 0..frames {
        body.frame()
            .await
            .expect("there is a frame")
            .expect("it is one");
    }
    drop(body);
    let seen = witness.next().await;
    soon(layer.supervisor().idle()).await;
    witness.nothing_else().await;
    assert_eq!(
        (
            layer.supervisor().stats().added(),
            layer.supervisor().stats().succeeded
        ),
        (1, 1)
    );
    seen
}

fn six() -> Script {
    Script::new([Step::data("one"), Step::data("two")])
        .sized(6)
        .tells_end()
}

/// Checks that the error names the declared length, and the six bytes of the body.
fn assert_contradicted(seen: &Seen, length: u64) {
    let error = seen.end.error();
    assert!(
        matches!(
            error,
            Some(ResponseError::Contradicted { declared, hinted: 6, .. }) if declared == length
        ),
        "{seen:?}, after a declared length of {length}"
    );
}

fn assert_end(seen: &Seen, kind: EndKind, bytes: u64) {
    assert_eq!(
        (seen.end.kind(), seen.end.bytes()),
        (kind, bytes),
        "{seen:?}"
    );
}

#[tokio::test]
async fn agreed() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let seen = ending(Method::GET, version, "6", six, 2).await;
        assert_end(&seen, EndKind::Complete, 6);
    }
}

#[tokio::test]
async fn contradicted() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (header, declared) in [("5", 5), ("7", 7)] {
            let seen = ending(Method::GET, version, header, six, 2).await;
            assert_end(&seen, EndKind::Failed, 6);
            assert_contradicted(&seen, declared);
        }
    }
}

#[tokio::test]
async fn contradicted_among_other_headers() {
    for others in [
        &["date", "x-length"][..],
        &["date", "x-length", "vary", "age", "content-type", "server"],
    ] {
        let seen = ending_among(others, Method::GET, Version::HTTP_11, "7", six, 2).await;
        assert_contradicted(&seen, 7);
    }
}

#[tokio::test]
async fn client_leaves_before_it_matters() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let seen = ending(Method::GET, version, "7", six, 1).await;
        assert_end(&seen, EndKind::Interrupted, 3);
    }
}

#[tokio::test]
async fn no_body_at_all() {
    let empty = || Script::new([]).sized(0).tells_end();
    // Over HTTP/1 hyper leaves the header out, and the client accepts that. Over HTTP/2 the head
    // ends the stream.
    let seen = ending(Method::GET, Version::HTTP_11, "7", empty, 0).await;
    assert_eq!(seen.end.kind(), EndKind::Complete);
    let seen = ending(Method::GET, Version::HTTP_2, "7", empty, 0).await;
    assert_eq!(seen.end.kind(), EndKind::Failed);
    // To `HEAD` the header tells what `GET` would get.
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let seen = ending(Method::HEAD, version, "7", empty, 0).await;
        assert_eq!(seen.end.kind(), EndKind::Complete, "{version:?}");
    }
}
