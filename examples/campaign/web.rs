//! The web process: hands a job off with each request.

use std::{convert::Infallible, future::pending, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tower::service_fn;
use tower_background::{
    BackgroundLayer, BackgroundTasks, BoxError, HandOff, HandOffError, JobQueue, JobStore, Receipt, Supervisor,
};

use crate::{
    engine::{Place, Store},
    plan::{Mode, Special, Stage},
    process::end_with_parent,
    worker::{Payload, QUEUE, has_begun},
};

/// Long enough for any answer, and short enough to wait for it.
pub const GRACE: Duration = Duration::from_secs(10);

const CHUNKS: u32 = 4;

/// What the handler has to hand off.
#[derive(Debug, Clone, Copy)]
struct Order {
    id: usize,
    special: Special,
}

impl Order {
    /// Tells that the request is at this stage, and stays there, if it is to.
    async fn at(self, stage: Stage) {
        if self.special == Special::Stays(stage) {
            println!("{} {}", stage.path(), self.id);
            pending::<()>().await;
        }
    }

    const fn payload(self) -> Payload {
        (self.id, matches!(self.special, Special::Stuck))
    }
}

#[derive(Clone)]
struct App {
    lossy: HandOff<Order>,
    durable: HandOff<Order>,
    held: HandOff<Order>,
    folder: Arc<PathBuf>,
    pause: Duration,
}

pub async fn run(place: &Place, folder: PathBuf, pause: Duration) -> Result<(), BoxError> {
    end_with_parent();
    match Store::open(place).await? {
        Store::Sqlite(store) => serve(store.queue(QUEUE), folder, pause).await,
        Store::Postgres(store) => serve(store.queue(QUEUE), folder, pause).await,
    }
}

async fn serve<S: JobStore>(queue: JobQueue<S, Payload>, folder: PathBuf, pause: Duration) -> Result<(), BoxError> {
    let held = queue.held(GRACE);
    let durable = queue.clone();
    let app = App {
        lossy: HandOff::lossy(service_fn(move |order: Order| {
            let queue = queue.clone();
            async move {
                order.at(Stage::End).await;
                queue.push(order.payload()).await?;
                order.at(Stage::Write).await;
                Ok::<_, BoxError>(())
            }
        })),
        durable: HandOff::durable(service_fn(move |order: Order| {
            let queue = durable.clone();
            async move {
                queue.push(order.payload()).await?;
                order.at(Stage::Write).await;
                Ok::<_, BoxError>(())
            }
        })),
        held: HandOff::held(service_fn(move |order: Order| {
            let queue = held.clone();
            async move {
                let held = queue.push(order.payload()).await?;
                order.at(Stage::Write).await;
                Ok::<_, BoxError>(Ordered { order, held })
            }
        })),
        folder: Arc::new(folder),
        pause,
    };
    // Lossy jobs hold up nobody: without a bound, those that wait for a slow disk would be ever more.
    let supervisor = Supervisor::builder().max_pending(64).build();
    let idle = supervisor.clone();
    let layer = BackgroundLayer::with(supervisor).hand_off(|error: HandOffError| {
        eprintln!("{error}: {:?}", std::error::Error::source(&error));
        (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
    });
    let router = Router::new().route("/{mode}/{special}/{id}", get(handle)).with_state(app).layer(from_fn(handled)).layer(layer);
    let router = router.route(
        "/idle",
        get(async move || {
            idle.idle().await;
            Body::from_stream(stream::iter([Ok::<_, Infallible>("idle")]))
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    Ok(axum::serve(listener, router).await?)
}

/// The receipt of an order, which may stay before it is released.
struct Ordered<R> {
    order: Order,
    held: R,
}

impl<R: Receipt> Receipt for Ordered<R> {
    async fn release(self) -> Result<(), BoxError> {
        self.order.at(Stage::End).await;
        self.held.release().await
    }
}

async fn handle(
    State(app): State<App>,
    Path((mode, special, id)): Path<(String, String, usize)>,
    tasks: BackgroundTasks,
) -> Result<Response, StatusCode> {
    let mode = Mode::named(&mode).ok_or(StatusCode::NOT_FOUND)?;
    let order = Order { id, special: Special::named(&special).ok_or(StatusCode::NOT_FOUND)? };
    match mode {
        Mode::Held => drop(tasks.add(app.held.job(order))),
        Mode::Durable => drop(tasks.add(app.durable.job(order))),
        Mode::Lossy => drop(tasks.add(app.lossy.job(order))),
        Mode::Bare => {}
    }
    let mut response = Response::new(body(app, mode, order));
    response.extensions_mut().insert(order);
    Ok(response)
}

/// Between the handler and what the head waits for.
async fn handled(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(order) = response.extensions().get::<Order>().copied() {
        order.at(Stage::Handler).await;
    }
    response
}

/// Some chunks with pauses in between. Before it is over, no held job may have begun.
fn body(app: App, mode: Mode, order: Order) -> Body {
    let begun = Instant::now();
    let next = move |chunk| {
        let app = app.clone();
        async move {
            match chunk {
                0 => order.at(Stage::Head).await,
                2 => order.at(Stage::Body).await,
                CHUNKS => {
                    if mode == Mode::Held && begun.elapsed() < GRACE && has_begun(&app.folder, order.id) {
                        println!("early {}", order.id);
                    }
                    return None;
                }
                _ => {}
            }
            if !app.pause.is_zero() {
                sleep(app.pause).await;
            }
            Some((Ok::<_, Infallible>(Bytes::from_static(b"a part of an answer ")), chunk + 1))
        }
    };
    Body::from_stream(stream::unfold(0, next))
}
