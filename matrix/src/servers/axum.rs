//! `axum::serve`, on TCP and on a Unix socket.

use std::{
    env, fs, process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

use super::Running;
use crate::{app::App, target::Target};

pub(super) async fn tcp(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = Target::Tcp(listener.local_addr()?);
    let server = axum::serve(listener, app.layered());
    Ok(Running::new(target, async {
        server
            .with_graceful_shutdown(stop.cancelled_owned())
            .await?;
        Ok(())
    }))
}

pub(super) async fn unix(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    static SOCKETS: AtomicU64 = AtomicU64::new(0);
    let name = format!("matrix-{}-{}", process::id(), SOCKETS.fetch_add(1, Relaxed));
    let path = env::temp_dir().join(name);
    let listener = UnixListener::bind(&path)?;
    let server = axum::serve(listener, app.layered());
    Ok(Running::new(Target::Unix(path.clone()), async move {
        server
            .with_graceful_shutdown(stop.cancelled_owned())
            .await?;
        fs::remove_file(path)?;
        Ok(())
    }))
}
