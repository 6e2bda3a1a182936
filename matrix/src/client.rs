//! The clients: one for each protocol.

use axum::body::Body;
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use http::{Method, Request, Response, StatusCode, Uri, header::HOST};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    ext::Protocol as Extended,
};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use tokio::sync::mpsc;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::protocol::Role};
use tonic::transport::{Channel, Endpoint};
use tonic_web::GrpcWebClientService;
use tower_background::BoxError;

use crate::{
    grpc, http3,
    target::{Io, Target},
};

/// What a client receives, message by message. A client that drops it leaves.
pub type Messages = BoxStream<'static, Result<Bytes, BoxError>>;

/// The protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, with a new connection for each request.
    Http1,
    /// HTTP/2, with one connection for all requests.
    Http2,
    /// HTTP/3, with a new connection for each request.
    Http3,
    /// gRPC, by the client of tonic.
    Grpc,
    /// gRPC-Web, by the client of tonic-web.
    GrpcWeb,
}

impl Protocol {
    /// Returns the name in the short table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Http3 => "HTTP/3",
            Self::Grpc => "gRPC",
            Self::GrpcWeb => "gRPC-Web",
        }
    }
}

type WebClient = GrpcWebClientService<
    legacy::Client<legacy::connect::HttpConnector, tonic_web::GrpcWebCall<tonic::body::Body>>,
>;

/// A client that is ready to send requests.
#[derive(Debug)]
pub enum Client {
    /// HTTP/1.1.
    Http1(Target),
    /// HTTP/2.
    Http2(http2::SendRequest<Body>),
    /// HTTP/3.
    Http3(Target),
    /// gRPC.
    Grpc(Channel),
    /// gRPC-Web.
    GrpcWeb(Uri, Box<WebClient>),
}

impl Client {
    /// Creates a client of the server at this target.
    ///
    /// # Errors
    ///
    /// If it cannot connect.
    pub async fn new(target: Target, protocol: Protocol) -> Result<Self, BoxError> {
        Ok(match protocol {
            Protocol::Http1 => Self::Http1(target),
            Protocol::Http3 => Self::Http3(target),
            Protocol::Http2 => {
                let io = TokioIo::new(target.connect("h2").await?);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Self::Http2(sender)
            }
            Protocol::Grpc => {
                let Target::Tcp(address) = target else {
                    return Err("the server of tonic listens on TCP".into());
                };
                Self::Grpc(
                    Endpoint::try_from(format!("http://{address}"))?
                        .connect()
                        .await?,
                )
            }
            Protocol::GrpcWeb => {
                let Target::Tcp(address) = target else {
                    return Err("the server of tonic listens on TCP".into());
                };
                let client = legacy::Client::builder(TokioExecutor::new()).build_http();
                let origin = Uri::try_from(format!("http://{address}"))?;
                Self::GrpcWeb(origin, Box::new(GrpcWebClientService::new(client)))
            }
        })
    }

    /// Requests this, and returns the answer as it comes.
    ///
    /// # Errors
    ///
    /// If there is no answer, or one that is no success.
    pub async fn open(&self, name: &str) -> Result<Messages, BoxError> {
        match self {
            Self::Http1(_) | Self::Http2(_) => {
                let response = self.send(Method::GET, name, Body::empty()).await?;
                let body = Body::new(successful(response)?.into_body());
                Ok(body.into_data_stream().map_err(Into::into).boxed())
            }
            Self::Http3(target) => http3::open(target, name).await,
            Self::Grpc(channel) => grpc::open(channel.clone(), origin(), name).await,
            Self::GrpcWeb(origin, client) => {
                grpc::open((**client).clone(), origin.clone(), name).await
            }
        }
    }

    /// Uploads these chunks as they come, and returns the answer.
    ///
    /// # Errors
    ///
    /// If there is no answer, or one that is no success.
    pub async fn upload(&self, parts: mpsc::Receiver<&'static str>) -> Result<Bytes, BoxError> {
        match self {
            Self::Http1(_) | Self::Http2(_) => {
                let body = Body::from_stream(chunks(parts).map(Ok::<_, BoxError>));
                let response = self.send(Method::POST, "upload", body).await?;
                let body = Body::new(successful(response)?.into_body());
                Ok(axum::body::to_bytes(body, usize::MAX).await?)
            }
            Self::Http3(target) => http3::upload(target, parts).await,
            Self::Grpc(channel) => grpc::upload(channel.clone(), origin(), parts).await,
            Self::GrpcWeb(..) => Err("gRPC-Web has no client streams".into()),
        }
    }

    /// Opens a WebSocket: by an upgrade over HTTP/1.1, by an extended CONNECT over HTTP/2.
    ///
    /// # Errors
    ///
    /// If the server opens none.
    pub async fn socket(&self) -> Result<WebSocketStream<Box<dyn Io>>, BoxError> {
        match self {
            Self::Http1(target) => {
                let io = target.connect("http/1.1").await?;
                Ok(client_async("ws://localhost/socket", io).await?.0)
            }
            Self::Http2(sender) => {
                // After an answer, the client knows whether the server allows an extended CONNECT.
                self.send(Method::GET, "nothing", Body::empty()).await?;
                let request = Request::connect("http://localhost/socket")
                    .extension(Extended::from_static("websocket"))
                    .header("sec-websocket-version", "13")
                    .body(Body::empty())?;
                let response = successful(sender.clone().send_request(request).await?)?;
                let upgraded = hyper::upgrade::on(response).await?;
                let io: Box<dyn Io> = Box::new(TokioIo::new(upgraded));
                Ok(WebSocketStream::from_raw_socket(io, Role::Client, None).await)
            }
            _ => Err("this protocol has no WebSockets here".into()),
        }
    }

    /// Sends a request over HTTP/1.1 or HTTP/2.
    async fn send(
        &self,
        method: Method,
        name: &str,
        body: Body,
    ) -> Result<Response<Incoming>, BoxError> {
        let request = Request::builder().method(method);
        match self {
            Self::Http1(target) => {
                let io = TokioIo::new(target.connect("http/1.1").await?);
                let (mut sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                let request = request.uri(format!("/{name}")).header(HOST, "localhost");
                Ok(sender.send_request(request.body(body)?).await?)
            }
            Self::Http2(sender) => {
                let request = request.uri(format!("http://localhost/{name}"));
                Ok(sender.clone().send_request(request.body(body)?).await?)
            }
            _ => Err("this is a client of another protocol".into()),
        }
    }
}

/// The channel of tonic knows its server, so this stands for any address.
fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

fn successful<B>(response: Response<B>) -> Result<Response<B>, BoxError> {
    match response.status() {
        StatusCode::OK => Ok(response),
        status => Err(format!("the server answered {status}").into()),
    }
}

/// The parts of an upload as a stream.
pub(crate) fn chunks(
    parts: mpsc::Receiver<&'static str>,
) -> impl Stream<Item = &'static str> + Send + 'static {
    stream::unfold(parts, async |mut parts| Some((parts.recv().await?, parts)))
}
