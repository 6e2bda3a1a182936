//! HTTP/2: how responses end whose service or body fails or panics.

use std::convert::Infallible;

use bytes::Bytes;
use h2::Reason;
use http::{Method, Response};
use http_body_util::Empty;
use tower_background::{Supervisor, report::ResponseError};

use crate::{
    common::{Multiplexed, Script, Scripted, Server, Step, rest, soon},
    http2_cut::{assert_still_serves, read_one},
    responses::{declaring, empty, pausing, stream},
    table::check,
};

#[tokio::test]
async fn body_error_before_the_first_frame() {
    let server = Server::new(|_, course| {
        Response::new(Script::new([Step::Error]).seen_by(course.expect_body()))
    })
    .await;
    let (response, _) = Multiplexed::connect(&server)
        .await
        .send(Method::GET, "/")
        .await;
    // The reset overtakes a head that was not written yet.
    let reset = match soon(response).await {
        Ok(mut response) => rest(response.body_mut()).await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(
        reset.expect_err("it is cut").reason(),
        Some(Reason::INTERNAL_ERROR)
    );
    let seen = check(&server, "HTTP/2", "body error before the first frame").await;
    assert_eq!(seen.end.error(), Some(ResponseError::Body));
}

/// Serves a body that takes this step when the client has its first frame. Returns the error that
/// the client then gets.
async fn after_the_first_frame(last: fn() -> [Step; 1]) -> (Server, Multiplexed, h2::Error) {
    let (server, go) = pausing(Supervisor::new(), last).await;
    let mut client = Multiplexed::connect(&server).await;
    let (mut response, _) = read_one(&mut client).await;
    go.notify_one();
    let error = rest(response.body_mut()).await.expect_err("it is cut");
    (server, client, error)
}

#[tokio::test]
async fn body_error_after_the_first_frame() {
    let (server, mut client, error) = after_the_first_frame(|| [Step::Error]).await;
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    let seen = check(&server, "HTTP/2", "body error after the first frame").await;
    assert_eq!(seen.end.error(), Some(ResponseError::Body));
    assert_still_serves(&mut client, &server).await;
}

#[tokio::test]
async fn panic_in_the_body() {
    let (server, mut client, error) = after_the_first_frame(|| [Step::Panic]).await;
    assert!(error.is_reset() && error.is_remote(), "{error}");
    check(&server, "HTTP/2", "panic in the body").await;
    assert_still_serves(&mut client, &server).await;
}

#[tokio::test]
async fn panic_in_the_handler() {
    let server = Server::awaiting(async |_, _| -> Result<Response<Empty<Bytes>>, Infallible> {
        panic!("the test says so")
    })
    .await;
    let (response, _) = Multiplexed::connect(&server)
        .await
        .send(Method::GET, "/")
        .await;
    let error = soon(response).await.expect_err("there is no head");
    assert!(error.is_reset() && error.is_remote(), "{error}");
    check(&server, "HTTP/2", "panic in the handler").await;
}

#[tokio::test]
async fn panic_in_the_call_of_the_handler() {
    // This one is not in the stream's own task, so it takes the connection along.
    let server = Server::new(|_, _| -> Response<Empty<Bytes>> { panic!("the test says so") }).await;
    let (response, _) = Multiplexed::connect(&server)
        .await
        .send(Method::GET, "/")
        .await;
    soon(response).await.expect_err("there is no head");
    check(&server, "HTTP/2", "panic in the handler").await;
}

#[tokio::test]
async fn service_error() {
    let server = Server::awaiting(async |_, _| Err::<Response<Empty<Bytes>>, _>(Scripted)).await;
    let (response, _) = Multiplexed::connect(&server)
        .await
        .send(Method::GET, "/")
        .await;
    let error = soon(response).await.expect_err("there is no head");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    check(&server, "HTTP/2", "service error").await;
}

/// Requests, and checks that the client does not accept the head of the response.
async fn assert_rejected(server: &Server) {
    let (response, _) = Multiplexed::connect(server)
        .await
        .send(Method::GET, "/")
        .await;
    let error = soon(response).await.expect_err("the head is not valid");
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
}

/// A client takes such a head for one before the final head, which must not end the stream.
#[tokio::test]
async fn informational_status() {
    for status in [100, 101, 103, 199] {
        let server = empty(status).await;
        assert_rejected(&server).await;
        let seen = check(&server, "HTTP/2", "status 100-199").await;
        assert_eq!(seen.end.error(), Some(ResponseError::InformationalStatus));
    }
}

#[tokio::test]
async fn length_that_is_no_number() {
    for length in ["six", "+6", "6 ", "-1", "18446744073709551616"] {
        let server =
            Server::new(move |_, course| declaring(length, stream().seen_by(course.expect_body())))
                .await;
        assert_rejected(&server).await;
        let seen = check(&server, "HTTP/2", "`content-length` that is no number").await;
        assert_eq!(seen.end.error(), Some(ResponseError::InvalidLength));
    }
}
