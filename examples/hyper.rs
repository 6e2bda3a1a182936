//! A plain hyper server, with an accept loop of its own, that leaves work behind.
//!
//! `cargo run --example hyper` starts a server, calls it once, and tells what happened when. Then it serves until Ctrl-C; `--once`
//! stops it after its own call.

use std::{
    env,
    fmt::Display,
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, pin, signal};
use tower::ServiceBuilder;
use tower_background::{BackgroundLayer, BoxError, MissingLayer, Supervisor, defer};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Tells what happens how long after the start.
fn tell(what: impl Display) {
    println!("{:>9.3} ms  {what}", STARTED.elapsed().as_secs_f64() * 1e3);
}

async fn greet(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, MissingLayer> {
    tell("service: answers");
    count(request.uri().path())?;
    Ok(Response::new("Hello!\n".into()))
}

/// Somewhere below the service, where the request is not at hand.
fn count(path: &str) -> Result<(), MissingLayer> {
    let path = path.to_owned();
    defer(async move {
        tell(format!("task:    starts to count {path}"));
        tokio::time::sleep(Duration::from_millis(200)).await;
        tell("task:    ends");
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let once = env::args().any(|argument| argument == "--once");
    let supervisor = Supervisor::new();
    let service = ServiceBuilder::new().layer(BackgroundLayer::with(supervisor.clone())).service_fn(greet);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let visit = visit(format!("http://{}/", listener.local_addr()?).parse()?, supervisor.clone(), once);
    pin!(visit);

    let connections = GracefulShutdown::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            result = &mut visit => break result?,
        };
        let server = auto::Builder::new(TokioExecutor::new());
        let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone())).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection failed: {error}");
            }
        });
    }

    // Let the open connections end, then what their responses left behind.
    connections.shutdown().await;
    let report = supervisor.shutdown(Duration::from_secs(10)).await;
    for task in report.abandoned() {
        eprintln!("{:?} of {} {} was dropped", task.name(), task.method(), task.path());
    }
    Ok(())
}

/// Calls the server once, as any client would, then waits for Ctrl-C.
async fn visit(url: Uri, supervisor: Supervisor, once: bool) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    tell("client:  asks");
    let response = client.get(url.clone()).await?;
    tell(format!("client:  has the head, {}", response.status()));
    let body = response.into_body().collect().await?.to_bytes();
    tell(format!("client:  has the whole response, {} bytes", body.len()));

    supervisor.idle().await;
    println!("\n{:?}", supervisor.stats());
    if !once {
        println!("\nNow it is your turn, until Ctrl-C:\n\n    curl -i {url}\n");
        signal::ctrl_c().await?;
    }
    Ok(())
}
