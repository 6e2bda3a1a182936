//! HTTP/3: a small adapter that serves a tower service by h3 and quinn.

use std::{net::Ipv4Addr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::{Buf, Bytes};
use futures_util::{Stream, stream};
use h3::{
    error::{Code, StreamError},
    server::{Connection, RequestResolver, RequestStream},
};
use http::Response;
use http_body_util::BodyExt;
use quinn::{Endpoint, Incoming, crypto::rustls::QuicServerConfig};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_background::BoxError;

use super::Running;
use crate::{app::App, target::Target, tls};

/// How long a connection stays open after its last response, if the client does not close it. A close discards what the client
/// has not received yet, and h3 does not tell when the client has everything.
const LINGER: Duration = Duration::from_secs(5);

pub(super) async fn serve(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    let (config, certificate) = tls::server(&["h3"])?;
    let config = QuicServerConfig::try_from(config)?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let target = Target::Tls(endpoint.local_addr()?, certificate);
    let router = app.layered();
    Ok(Running::new(target, async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(incoming) = endpoint.accept() => {
                    connections.spawn(connection(incoming, router.clone(), stop.clone()));
                }
                () = stop.cancelled() => break,
            }
        }
        while connections.join_next().await.is_some() {}
        endpoint.wait_idle().await;
        Ok(())
    }))
}

/// Serves the requests of a connection. Those that are open when the connection ends are dropped.
async fn connection(
    incoming: Incoming,
    router: Router,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let connection = h3_quinn::Connection::new(incoming.await?);
    let mut connection = Connection::new(connection).await?;
    let mut requests = JoinSet::new();
    let mut is_stopping = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted? {
                Some(request) => drop(requests.spawn(answer(request, router.clone()))),
                None => return Ok(()),
            },
            Some(_) = requests.join_next() => {}
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.shutdown(0).await?;
            }
            () = sleep(LINGER), if is_stopping && requests.is_empty() => return Ok(()),
        }
    }
}

async fn answer(
    request: RequestResolver<h3_quinn::Connection, Bytes>,
    router: Router,
) -> Result<(), BoxError> {
    let (request, stream) = request.resolve_request().await?;
    let (mut sender, receiver) = stream.split();
    let request = request.map(|()| Body::from_stream(chunks(receiver)));
    let (parts, body) = router.oneshot(request).await?.into_parts();
    sender
        .send_response(Response::from_parts(parts, ()))
        .await?;
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.inspect_err(|_| sender.stop_stream(Code::H3_INTERNAL_ERROR))?;
        match frame.into_data() {
            Ok(data) => sender.send_data(data).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    sender.send_trailers(trailers).await?;
                }
            }
        }
    }
    Ok(sender.finish().await?)
}

/// The body of a request.
fn chunks(
    receiver: RequestStream<h3_quinn::RecvStream, Bytes>,
) -> impl Stream<Item = Result<Bytes, StreamError>> + Send {
    stream::try_unfold(receiver, async |mut receiver| {
        let data = receiver.recv_data().await?;
        Ok(data.map(|mut data| (data.copy_to_bytes(data.remaining()), receiver)))
    })
}
