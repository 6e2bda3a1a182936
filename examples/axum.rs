//! A sign-up that answers at once and mails later.
//!
//! `cargo run --example axum --features axum` starts a server, signs up at it once, and tells what happened when. Then it serves
//! until Ctrl-C. Arguments: an address to listen on, and `--once` to stop after the first call.
//!
//! Client and server share a process here, and the client is woken a moment after the server wrote: so the start of the task may
//! be told before the client's line. What counts is that the client has everything long before the task ends.

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
    let (flags, addresses): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|argument| argument == "--once");
    let address = addresses.first().map_or("127.0.0.1:0", String::as_str);

    let supervisor = Supervisor::builder().task_timeout(Duration::from_secs(60)).build();
    let clock = Clock::default();
    let app =
        Router::new().route("/sign-up", post(sign_up)).with_state(clock.clone()).layer(BackgroundLayer::with(supervisor.clone()));

    let listener = TcpListener::bind(address).await?;
    let visit = visit(listener.local_addr()?, clock, supervisor.clone(), !flags.is_empty());
    axum::serve(listener, app).with_graceful_shutdown(visit).await?;

    // The server has stopped; what its last responses left behind may still run.
    let report = supervisor.shutdown(Duration::from_secs(10)).await;
    for task in report.abandoned() {
        eprintln!("{:?} of {} {} was dropped", task.name(), task.method(), task.path());
    }
    Ok(())
}

/// Answers before the mail is sent. The mail is sent only if the answer went out well.
async fn sign_up(State(clock): State<Clock>, tasks: BackgroundTasks, address: String) -> (StatusCode, String) {
    clock.restart();
    let answer = format!("Welcome, {address}! A mail is on its way.\n");

    let mail = Task::with_context(move |cx| async move {
        let end = cx.end();
        clock.tell(format!("task:    starts, the response was {:?} with {} bytes", end.kind(), end.bytes()));
        send_mail(&address).await?;
        clock.tell("task:    ends, the mail is sent");
        Ok::<_, BoxError>(())
    });
    tasks.add(mail.named("welcome-mail").timeout(Duration::from_secs(10)).when(When::Success));

    (StatusCode::ACCEPTED, answer)
}

/// Takes its time, as mail servers do.
async fn send_mail(address: &str) -> Result<(), BoxError> {
    if !address.contains('@') {
        return Err(format!("{address:?} is no address").into());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// Calls the server once, as any client would, then waits for Ctrl-C.
async fn visit(server: SocketAddr, clock: Clock, supervisor: Supervisor, once: bool) {
    let url = format!("http://{server}/sign-up");
    if let Err(error) = call(&url, &clock).await {
        eprintln!("the call failed: {error}");
        process::exit(1);
    }
    supervisor.idle().await;
    println!("\n{:?}", supervisor.stats());

    if !once {
        println!("\nNow it is your turn, until Ctrl-C:\n\n    curl -i {url} -d you@example.org\n");
        signal::ctrl_c().await.expect("Ctrl-C can be listened for");
    }
}

async fn call(url: &str, clock: &Clock) -> Result<(), BoxError> {
    let mut response = reqwest::Client::new().post(url).body("ada@example.org").send().await?.error_for_status()?;
    clock.tell(format!("client:  has the head, {}", response.status()));
    while let Some(chunk) = response.chunk().await? {
        clock.tell(format!("client:  has {} bytes", chunk.len()));
    }
    clock.tell("client:  has the whole response");
    Ok(())
}

/// Tells what happens how long after the handler was called. It is for one request at a time.
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
        self.tell("handler: leaves a task and answers");
    }

    fn tell(&self, what: impl Display) {
        let since = *self.0.lock().expect("no one panics with it");
        println!("{:>9.3} ms  {what}", since.elapsed().as_secs_f64() * 1e3);
    }
}
