//! A hyper server with tracked connections, and what the tests check of its tasks.

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tower::Layer;
use tower_background::{EndKind, StartOn, Supervisor, sent::SentStream};

use crate::common::{Servable, Server, Witness, settle, soon};

/// Returns a supervisor whose tasks start on the last byte.
pub(super) fn last_byte() -> Supervisor {
    Supervisor::builder()
        .start_on(StartOn::LastByteSent)
        .build()
}

/// Serves tracked connections.
pub(super) async fn serve_tracked(
    supervisor: Supervisor,
    witness: Witness,
    service: impl Servable,
) -> Server {
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

/// Waits until this many tasks wait for the ends of their responses.
pub(super) async fn until_deferred(server: &Server, count: u64) {
    soon(async {
        while server.supervisor.stats().deferred < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Checks that the only task has not started, and that its response is open.
pub(super) async fn assert_waits(server: &Server, case: &str) {
    settle().await;
    let stats = server.supervisor.stats();
    assert_eq!(
        (stats.deferred, server.supervisor.open_responses()),
        (1, 1),
        "{case}: {stats:?}"
    );
}

/// Checks that the next response has this end, and that all tasks have ended.
pub(super) async fn assert_ends(server: &Server, end: EndKind) {
    assert_eq!(server.witness.next().await.end.kind(), end);
    soon(server.supervisor.idle()).await;
    server.witness.nothing_else().await;
}
