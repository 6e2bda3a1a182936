//! The page, its stream of news, and the buttons that send no plain request. None of these routes
//! is inside the layer.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::{sync::broadcast::error::RecvError, time::interval};
use tower::ServiceExt;

use crate::{
    demos::{self, GRACE},
    news::News,
    slow::read_slowly,
    stage::Stage,
};

/// How often a page gets the statistics, if they have changed.
const FIGURES: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Tour {
    address: SocketAddr,
    stage: Arc<Stage>,
    news: Arc<News>,
}

pub(crate) fn router(address: SocketAddr, stage: Arc<Stage>, news: Arc<News>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/news", get(follow))
        .route(
            "/clock",
            get(async |State(tour): State<Tour>| tour.news.now().to_string()),
        )
        .route("/source/{handler}", get(source))
        .route("/slow/{request}", post(slow))
        .route("/shutdown", post(shutdown))
        .route(
            "/restart",
            post(async |State(tour): State<Tour>| tour.stage.restart()),
        )
        // A route with parameters would add them to the parameters of the handlers.
        .fallback(demo)
        .with_state(Tour {
            address,
            stage,
            news,
        })
}

/// Returns the page, which is one file and may load nothing else.
async fn page() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, include_str!("page.html"))
}

async fn source(Path(handler): Path<String>) -> Result<String, StatusCode> {
    demos::source(&handler).ok_or(StatusCode::NOT_FOUND)
}

/// Calls a handler below the layer, in the router of the current supervisor.
async fn demo(State(tour): State<Tour>, request: Request) -> impl IntoResponse {
    tour.stage.router().oneshot(request).await
}

async fn slow(State(tour): State<Tour>, Path(request): Path<String>) {
    read_slowly(tour.address, &request, &tour.news).await;
}

async fn shutdown(State(tour): State<Tour>) -> Json<Value> {
    tour.news
        .tell("closing", json!({ "grace": GRACE.as_millis() }));
    let report = demos::shut_down(&tour.stage.supervisor()).await;
    Json(json!({ "clean": report.is_clean() }))
}

/// Sends the news, and the statistics whenever they have changed.
async fn follow(State(tour): State<Tour>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut news = tour.news.follow();
    let mut ticks = interval(FIGURES);
    let mut last = Value::Null;
    let stream = async_stream::stream! {
        loop {
            tokio::select! {
                biased;
                () = tour.news.closed() => break,
                piece = news.recv() => match piece {
                    Ok(piece) => yield Ok(event("news", &piece)),
                    // The page missed some news, so its drawing would be wrong. It connects again.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => break,
                },
                _ = ticks.tick() => {
                    let figures = tour.stage.figures();
                    if figures != last {
                        yield Ok(event("figures", &figures));
                        last = figures;
                    }
                }
            }
        }
    };
    Sse::new(stream).keep_alive(KeepAlive::default())
}

fn event(kind: &str, data: &Value) -> Event {
    Event::default().event(kind).data(data.to_string())
}
