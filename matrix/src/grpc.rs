//! The gRPC side of the application, and its client. The messages are strings, so no code is generated.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::IntoResponse,
};
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use http::{Uri, uri::PathAndQuery};
use tokio::sync::mpsc;
use tonic::{
    Response, Status, Streaming,
    client::{Grpc, GrpcService},
};
use tonic_prost::ProstCodec;
use tower::service_fn;
use tower_background::{BackgroundTasks, BoxError};

use crate::{
    app::{App, Event},
    client::{Messages, chunks},
};

type Replies = BoxStream<'static, Result<String, Status>>;

fn codec() -> ProstCodec<String, String> {
    ProstCodec::default()
}

/// Serves the methods of the service `matrix.Matrix`.
pub(crate) async fn serve(
    State(app): State<App>,
    Path(method): Path<String>,
    tasks: BackgroundTasks,
    request: Request,
) -> Result<http::Response<Body>, Infallible> {
    app.leave_task(&tasks);
    let mut grpc = tonic::server::Grpc::new(codec());
    let response = match method.as_str() {
        "success" => {
            let reply = |_: tonic::Request<String>| async {
                Ok::<_, Status>(Response::new("hello".to_owned()))
            };
            grpc.unary(service_fn(reply), request).await
        }
        "upload" => {
            let reply = |request: tonic::Request<Streaming<String>>| receive(app.clone(), request);
            grpc.client_streaming(service_fn(reply), request).await
        }
        _ => {
            let reply = |_: tonic::Request<String>| {
                let replies = replies(&method, app.clone(), &tasks);
                async { Ok::<_, Status>(Response::new(replies)) }
            };
            grpc.server_streaming(service_fn(reply), request).await
        }
    };
    Ok(response.map(Body::new).into_response())
}

fn replies(method: &str, app: App, tasks: &BackgroundTasks) -> Replies {
    let first = stream::iter([Ok("first".to_owned())]);
    let rest = match method {
        "stream" => app
            .go_on()
            .map(|()| Ok("last".to_owned()))
            .into_stream()
            .boxed(),
        "fails" => {
            let error = app.go_on().map(|()| Err(Status::data_loss("broken")));
            error.into_stream().boxed()
        }
        "endless" => stream::pending().take_until(tasks.stopping()).boxed(),
        _ => stream::iter([Err(Status::unimplemented("no such method"))]).boxed(),
    };
    first.chain(rest).boxed()
}

async fn receive(
    app: App,
    request: tonic::Request<Streaming<String>>,
) -> Result<Response<String>, Status> {
    let mut chunks = request.into_inner();
    let mut bytes = 0;
    while let Some(chunk) = chunks.message().await? {
        if bytes == 0 {
            app.tell(Event::Upload);
        }
        bytes += chunk.len();
    }
    Ok(Response::new(format!("{bytes} bytes")))
}

/// Connects the client with a service that sends its requests.
async fn connected<S>(service: S, origin: Uri) -> Result<Grpc<S>, BoxError>
where
    S: GrpcService<tonic::body::Body>,
{
    let mut grpc = Grpc::with_origin(service, origin);
    grpc.ready().await.map_err(Into::into)?;
    Ok(grpc)
}

fn path(method: &str) -> Result<PathAndQuery, BoxError> {
    Ok(PathAndQuery::try_from(format!("/matrix.Matrix/{method}"))?)
}

/// Calls a method, and returns its replies as they come.
pub(crate) async fn open<S>(service: S, origin: Uri, method: &str) -> Result<Messages, BoxError>
where
    S: GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut grpc = connected(service, origin).await?;
    let (request, path) = (tonic::Request::new(String::new()), path(method)?);
    if method == "success" {
        let reply = grpc
            .unary::<String, String, _>(request, path, codec())
            .await?;
        let reply = reply.into_inner();
        return Ok(stream::iter([Ok(reply.into())]).boxed());
    }
    let replies = grpc.server_streaming(request, path, codec()).await?;
    let replies = replies.into_inner().map_ok(|reply: String| reply.into());
    Ok(replies.map_err(Into::into).boxed())
}

/// Sends these chunks as messages, and returns the reply.
pub(crate) async fn upload<S>(
    service: S,
    origin: Uri,
    parts: mpsc::Receiver<&'static str>,
) -> Result<Bytes, BoxError>
where
    S: GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut grpc = connected(service, origin).await?;
    let request = tonic::Request::new(chunks(parts).map(str::to_owned));
    let reply = grpc
        .client_streaming(request, path("upload")?, codec())
        .await?;
    let reply: String = reply.into_inner();
    Ok(reply.into())
}
