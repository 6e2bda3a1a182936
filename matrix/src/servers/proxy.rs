//! A reverse proxy by the client of hyper-util. The proxy and the origin behind it each have the layer.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http::{
    StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio_util::sync::CancellationToken;
use tower_background::{BackgroundTasks, BoxError};

use super::{Running, hyper};
use crate::{app::App, target::Target};

#[derive(Clone)]
struct Proxy {
    app: App,
    client: Client<HttpConnector, Body>,
    origin: SocketAddr,
}

pub(super) async fn to_http1(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    serve(app, stop, false).await
}

pub(super) async fn to_http2(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    serve(app, stop, true).await
}

async fn serve(app: App, stop: CancellationToken, http2: bool) -> Result<Running, BoxError> {
    let (origin_app, stop_origin) = (app.origin(), CancellationToken::new());
    let origin = hyper::serve(origin_app.clone(), stop_origin.clone()).await?;
    let Target::Tcp(address) = origin.target else {
        return Err("the origin listens on TCP".into());
    };
    let proxy = Proxy {
        app: app.clone(),
        client: Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http(),
        origin: address,
    };
    let router = Router::new().fallback(forward).with_state(proxy);
    let router = app.watched(router).layer(app.layer());
    let front = hyper::serve_router(router, stop).await?;
    Ok(Running::new(front.target, async move {
        front.stopped.await??;
        // The origin sees that the proxy has left, before it stops itself.
        origin_app.supervisor().idle().await;
        origin_app.supervisor().begin_shutdown();
        stop_origin.cancel();
        origin.stopped.await??;
        let report = origin_app
            .supervisor()
            .shutdown(Duration::from_secs(20))
            .await;
        if report.is_clean() {
            Ok(())
        } else {
            Err(format!("the origin: {report:?}").into())
        }
    }))
}

async fn forward(
    State(proxy): State<Proxy>,
    tasks: BackgroundTasks,
    mut request: Request,
) -> Response {
    proxy.app.leave_task(&tasks);
    let path = request.uri().path();
    *request.uri_mut() = match Uri::try_from(format!("http://{}{path}", proxy.origin)) {
        Ok(uri) => uri,
        Err(_) => return StatusCode::BAD_REQUEST.into_response(),
    };
    // The client chooses the version of its connection.
    *request.version_mut() = Version::HTTP_11;
    for name in [CONNECTION, HOST, TRANSFER_ENCODING] {
        request.headers_mut().remove(name);
    }
    let Ok(mut response) = proxy.client.request(request).await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    for name in [CONNECTION, TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
    let is_endless = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "text/event-stream");
    response.map(|body| {
        let body = Body::new(body);
        if is_endless {
            // The proxy can stop although its origin does not.
            Body::from_stream(body.into_data_stream().take_until(tasks.stopping()))
        } else {
            body
        }
    })
}
