//! A hyper server with its own accept loop, whose service adds tasks.
//!
//! `cargo run --example hyper` starts a server, makes one request, and prints what happened and
//! when. Then it serves until Ctrl-C. With `--once` it stops after its own request.

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
use tower_background::{BackgroundLayer, BoxError, NotInRequest, Supervisor, defer};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Prints what happens, with the time since the start.
fn tell(what: impl Display) {
    println!("{:>9.3} ms  {what}", STARTED.elapsed().as_secs_f64() * 1e3);
}

async fn greet(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, NotInRequest> {
    tell("service: answers");
    count(request.uri().path())?;
    Ok(Response::new("Hello!\n".into()))
}

/// Stands for code deep below the service, which does not have the request.
fn count(path: &str) -> Result<(), NotInRequest> {
    let path = path.to_owned();
    defer(async move {
        tell(format!("task:    starts to count {path}"));
        tokio::time::sleep(Duration::from_millis(200)).await;
        tell("task:    ends");
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let once = env::args().any(|argument| argument == "--once");
    let supervisor = Supervisor::new();
    let service = ServiceBuilder::new()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .service_fn(greet);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let visit = visit(
        format!("http://{}/", listener.local_addr()?).parse()?,
        supervisor.clone(),
        once,
    );
    pin!(visit);

    let connections = GracefulShutdown::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            result = &mut visit => break result?,
        };
        let server = auto::Builder::new(TokioExecutor::new());
        let connection = server
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(service.clone()),
            )
            .into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection failed: {error}");
            }
        });
    }

    // First the open connections end, then the tasks of their responses.
    connections.shutdown().await;
    let report = supervisor.shutdown(Duration::from_secs(10)).await;
    println!("{report}");
    Ok(())
}

/// Makes one request, and then waits for Ctrl-C.
async fn visit(url: Uri, supervisor: Supervisor, once: bool) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    tell("client:  sends a request");
    let response = client.get(url.clone()).await?;
    tell(format!("client:  has the head, {}", response.status()));
    let body = response.into_body().collect().await?.to_bytes();
    tell(format!(
        "client:  has the whole response, {} bytes",
        body.len()
    ));

    supervisor.idle().await;
    println!("\ntasks: {}", supervisor.stats());
    if !once {
        println!("\nTry it, and stop the server with Ctrl-C:\n\n    curl -i {url}\n");
        signal::ctrl_c().await?;
    }
    Ok(())
}
