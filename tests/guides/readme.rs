//! The tables and the list of features in the README are true, and the README is short.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BoxError, Supervisor};
use tower_http::timeout::TimeoutLayer;

use crate::{
    table::table,
    tasks::{Seen, add_all},
};

const README: &str = include_str!("../../README.md");
const MANIFEST: &str = include_str!("../../Cargo.toml");
const CRATE_DOCS: &str = include_str!("../../src/lib.rs");

type AnyBody = UnsyncBoxBody<Bytes, BoxError>;
type Frames = Vec<Result<Frame<Bytes>, BoxError>>;

/// How the handler answers.
enum Answer {
    Now(StatusCode, HeaderMap, Frames),
    /// The body yields these frames and then nothing, without an end.
    Endless(HeaderMap, Frames),
    Never,
    Panics,
}

/// What the client does.
#[derive(PartialEq)]
enum Client {
    Reads,
    LeavesBeforeHead,
    LeavesAfterHead,
    /// Holds the open response until the tasks have run.
    Waits,
}

fn data() -> Frame<Bytes> {
    Frame::data(Bytes::from("hello"))
}

fn grpc(status: Option<u16>) -> (HeaderMap, Frames) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
    let trailers = status.map(|status| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        Ok(Frame::trailers(trailers))
    });
    (headers, [Ok(data())].into_iter().chain(trailers).collect())
}

fn response(status: StatusCode, headers: HeaderMap, body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    response
}

impl Answer {
    async fn give(self, request: Request<()>) -> Result<Response<AnyBody>, Infallible> {
        add_all(&request);
        Ok(match self {
            Self::Now(status, headers, frames) => response(
                status,
                headers,
                StreamBody::new(tokio_stream::iter(frames)).boxed_unsync(),
            ),
            Self::Endless(headers, frames) => {
                let frames = tokio_stream::iter(frames).chain(tokio_stream::pending());
                response(
                    StatusCode::OK,
                    headers,
                    StreamBody::new(frames).boxed_unsync(),
                )
            }
            Self::Never => std::future::pending().await,
            Self::Panics => panic!("the handler panics"),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn when_a_task_runs() {
    for row in table(README, "what happened") {
        let [event, expected @ ..] = &row[..] else {
            panic!("{row:?}")
        };
        let seen = match event.as_str() {
            "endless stream, after the time of `SupervisorBuilder::start_within`" => {
                Seen::with(Supervisor::builder().start_within(Duration::from_secs(9)))
            }
            _ => Seen::new(),
        };
        happen(&seen, event).await;
        let happened = ["Responded", "Success", "Complete", "Delivered", "Always"]
            .map(|condition| seen.cell(condition));
        assert_eq!(happened, expected, "{event}");
    }
}

async fn happen(seen: &Seen, event: &str) {
    let fast =
        TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(10));
    match event {
        "the handler panicked" => {
            let service = seen
                .layer
                .layer(service_fn(|request| Answer::Panics.give(request)));
            let call = tokio::spawn(service.oneshot(Request::new(())));
            call.await.map(drop).unwrap_err();
        }
        "a timeout layer inside `BackgroundLayer` answered 408" => {
            let slow = fast.layer(service_fn(|request| Answer::Never.give(request)));
            let response = seen.layer.layer(slow).oneshot(Request::new(())).await;
            assert_eq!(response.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
        }
        "a timeout layer outside `BackgroundLayer` answered 408" => {
            let slow = seen
                .layer
                .layer(service_fn(|request| Answer::Never.give(request)));
            let response = fast.layer(slow).oneshot(Request::new(())).await;
            assert_eq!(response.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
        }
        _ => {
            let (give, client) = answer_and_client(event);
            answer(seen, give, client).await;
        }
    }
    seen.supervisor
        .idle_within(Duration::from_secs(60))
        .await
        .unwrap();
}

fn answer_and_client(event: &str) -> (Answer, Client) {
    let now = |status| Answer::Now(status, HeaderMap::new(), vec![Ok(data())]);
    match event {
        "complete response, status below 400" => (now(StatusCode::FOUND), Client::Reads),
        "complete response, status 400 or above" => (now(StatusCode::BAD_REQUEST), Client::Reads),
        "client left before the response head" => (Answer::Never, Client::LeavesBeforeHead),
        "client left after the head, status below 400" => {
            (now(StatusCode::OK), Client::LeavesAfterHead)
        }
        "the response body failed" => {
            let frames = vec![Ok(data()), Err("broken".into())];
            (
                Answer::Now(StatusCode::OK, HeaderMap::new(), frames),
                Client::Reads,
            )
        }
        "WebSocket, at the upgrade" => {
            let upgrade = Answer::Now(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new(), vec![]);
            (upgrade, Client::LeavesAfterHead)
        }
        "gRPC call with status 0" => {
            let (headers, frames) = grpc(Some(0));
            (Answer::Now(StatusCode::OK, headers, frames), Client::Reads)
        }
        "gRPC call with an error status" => {
            let (headers, frames) = grpc(Some(13));
            (Answer::Now(StatusCode::OK, headers, frames), Client::Reads)
        }
        "gRPC stream that the client cancelled" => {
            let (headers, frames) = grpc(None);
            (Answer::Endless(headers, frames), Client::LeavesAfterHead)
        }
        "endless stream, after the time of `SupervisorBuilder::start_within`" => (
            Answer::Endless(HeaderMap::new(), vec![Ok(data())]),
            Client::Waits,
        ),
        _ => panic!("no test for {event:?}"),
    }
}

async fn answer(seen: &Seen, answer: Answer, client: Client) {
    let mut answer = Some(answer);
    let service = service_fn(|request| answer.take().expect("one call").give(request));
    let call = seen.layer.layer(service).oneshot(Request::new(()));
    if client == Client::LeavesBeforeHead {
        timeout(Duration::from_millis(10), call)
            .await
            .map(drop)
            .expect_err("there is no answer");
        return;
    }
    let Ok(response) = call.await;
    match client {
        Client::Reads => drop(response.into_body().collect().await),
        Client::Waits => seen
            .supervisor
            .idle_within(Duration::from_secs(60))
            .await
            .unwrap(),
        Client::LeavesAfterHead | Client::LeavesBeforeHead => drop(response),
    }
}

/// The names in the first column of the table of features.
fn features(markdown: &str) -> Vec<String> {
    let rows = table(markdown, "feature");
    rows.iter()
        .flat_map(|row| row[0].split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .collect()
}

#[test]
fn the_features_are_those_of_the_manifest() {
    let (_, section) = MANIFEST.split_once("[features]\n").unwrap();
    let (section, _) = section.split_once("\n[").unwrap();
    let mut expected: Vec<_> = section
        .lines()
        .filter_map(|line| line.split_once(" = ["))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != "default")
        .collect();
    expected.sort();
    let crate_docs: String = CRATE_DOCS
        .split_inclusive('\n')
        .map(|line| line.trim_start_matches("//! "))
        .collect();
    for listed in [features(README), features(&crate_docs)] {
        let mut listed = listed;
        listed.sort();
        assert_eq!(listed, expected);
    }
}

#[test]
fn the_readme_is_short_and_has_no_relative_link_but_its_picture() {
    assert!(README.lines().count() <= 200);
    let links: Vec<_> = README
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap())
        .collect();
    let relative: Vec<_> = links
        .iter()
        .filter(|link| !link.starts_with("https://"))
        .collect();
    assert_eq!(
        relative,
        [&"docs/tour.png"],
        "a registry shows the README without the repository"
    );
}
