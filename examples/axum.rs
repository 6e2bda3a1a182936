//! A sign-up that answers at once and sends a mail later.
//!
//! `cargo run --example axum` starts a server, signs up once, and prints what happened and when.
//! Then it serves until Ctrl-C. Arguments: an address to listen on, and `--once` to stop after the
//! first request.
//!
//! Client and server share this process, and the client wakes up shortly after the server wrote. So
//! the start of the task can be printed before the client's lines. The client always has the whole
//! response long before the task ends.

use std::{
    env,
    fmt::Display,
    net::SocketAddr,
    process,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use tokio::{net::TcpListener, signal};
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Supervisor, Task, When};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let (flags, addresses): (Vec<_>, Vec<_>) = env::args()
        .skip(1)
        .partition(|argument| argument == "--once");
    let address = addresses.first().map_or("127.0.0.1:0", String::as_str);

    let supervisor = Supervisor::builder()
        .task_timeout(Duration::from_secs(60))
        .build();
    let clock = Clock::default();
    let app = Router::new()
        .route("/sign-up", post(sign_up))
        .with_state(clock.clone())
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));

    let listener = TcpListener::bind(address).await?;
    let visit = visit(
        listener.local_addr()?,
        clock,
        supervisor.clone(),
        !flags.is_empty(),
    );
    axum::serve(listener, app)
        .with_graceful_shutdown(visit)
        .await?;

    // The server has stopped. Tasks of its last responses may still run.
    let report = supervisor.shutdown(Duration::from_secs(10)).await;
    println!("{report}");
    Ok(())
}

/// Answers before the mail is sent. The mail is sent only if the response tells of a success.
async fn sign_up(
    State(clock): State<Clock>,
    tasks: BackgroundTasks,
    address: String,
) -> (StatusCode, String) {
    clock.restart();
    let answer = format!("Welcome, {address}! A mail is on its way.\n");

    let mail = Task::with_context(move |cx| async move {
        if let Some(end) = cx.end() {
            clock.tell(format!(
                "task:    starts, the response was {:?} with {} bytes",
                end.kind(),
                end.bytes()
            ));
        }
        send_mail(&address).await?;
        clock.tell("task:    ends, the mail is sent");
        Ok::<_, BoxError>(())
    });
    tasks.add(
        mail.named("welcome-mail")
            .timeout(Duration::from_secs(10))
            .when(When::Success),
    );

    (StatusCode::ACCEPTED, answer)
}

/// Takes some time, as mail servers do.
async fn send_mail(address: &str) -> Result<(), BoxError> {
    if !address.contains('@') {
        return Err(format!("{address:?} is not an address").into());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// Makes one request, and then waits for Ctrl-C.
async fn visit(server: SocketAddr, clock: Clock, supervisor: Supervisor, once: bool) {
    let url = format!("http://{server}/sign-up");
    if let Err(error) = call(&url, &clock).await {
        eprintln!("the request failed: {error}");
        process::exit(1);
    }
    supervisor.idle().await;
    println!("\ntasks: {}", supervisor.stats());

    if !once {
        println!(
            "\nTry it, and stop the server with Ctrl-C:\n\n    curl -i {url} -d you@example.org\n"
        );
        signal::ctrl_c().await.expect("Ctrl-C can be listened for");
    }
}

async fn call(url: &str, clock: &Clock) -> Result<(), BoxError> {
    let mut response = reqwest::Client::new()
        .post(url)
        .body("ada@example.org")
        .send()
        .await?
        .error_for_status()?;
    clock.tell(format!("client:  has the head, {}", response.status()));
    while let Some(chunk) = response.chunk().await? {
        clock.tell(format!("client:  has {} bytes", chunk.len()));
    }
    clock.tell("client:  has the whole response");
    Ok(())
}

/// Prints what happens, with the time since the handler was called. It can only follow one request
/// at a time.
#[derive(Clone)]
struct Clock(Arc<Mutex<Instant>>);

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Clock {
    fn restart(&self) {
        *self.0.lock().expect("no one panics with it") = Instant::now();
        self.tell("handler: adds a task and answers");
    }

    fn tell(&self, what: impl Display) {
        let since = *self.0.lock().expect("no one panics with it");
        println!("{:>9.3} ms  {what}", since.elapsed().as_secs_f64() * 1e3);
    }
}
