//! A hyper server with tracked connections.

use std::convert::Infallible;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tower::{Layer, Service};
use tower_background::{BoxError, Supervisor, sent::SentStream};

use crate::common::{Server, Witness};

/// Serves tracked connections.
pub(super) async fn serve_tracked<S, B>(
    supervisor: Supervisor,
    witness: Witness,
    service: S,
) -> Server
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    Server::each(supervisor, witness, move |stream| {
        let stream = SentStream::new(stream);
        let service = TowerToHyperService::new(stream.connection().layer(service.clone()));
        async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            // The client of the test checks how a connection ends.
            let _ = connection.await;
        }
    })
    .await
}
