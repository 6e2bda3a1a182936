//! A sign-up whose mail outlives the process: a web server and its worker, over one file of SQLite's. Nothing is to be installed.
//!
//! `cargo run --example queue_sqlite --features axum,sqlite` starts both, signs up once, and tells what happened. Then it serves
//! until Ctrl-C. Arguments: a file (without one, it is made anew in a folder for temporary files), `--once` to stop after the
//! first call, and `--web` to run no worker: then `queue_worker_sqlite` with the same file is one, in a process of its own.
//!
//! The user and the job are written in one transaction before the answer goes out: there is no user without a mail, and no mail
//! without a user. The job is held until the answer is out. Should the process die in between, it runs when its grace is over.

use std::{
    env,
    net::SocketAddr,
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use tokio::{net::TcpListener, signal, sync::watch};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BoxError, HeldQueue, Job, JobQueue, Receipt, SqliteStore, Supervisor, Task,
};

/// What a job has to know. Any type that serde can write and read does.
type Address = String;

#[derive(Clone)]
struct App {
    store: SqliteStore,
    mails: HeldQueue<SqliteStore, Address>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (flags, files): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    let file = files.first().map_or_else(|| env::temp_dir().join(format!("mails-{}.db", process::id())), PathBuf::from);
    println!("jobs are in {}", file.display());

    let store = SqliteStore::open(file).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS users (address TEXT NOT NULL)").execute(store.pool()).await?;
    let mails: JobQueue<_, Address> = store.queue("mails");
    // Longer than any answer takes.
    let app = App { store, mails: mails.held(Duration::from_secs(60)) };

    let supervisor = Supervisor::new();
    let router = Router::new().route("/sign-up", post(sign_up)).with_state(app).layer(BackgroundLayer::with(supervisor.clone()));

    let (stop, stopped) = watch::channel(());
    let worker = (!has("--web")).then(|| {
        let mut stopped = stopped.clone();
        tokio::spawn(mails.worker("mailer").run(send_mail, async move { drop(stopped.changed().await) }))
    });

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let visit = visit(listener.local_addr()?, supervisor.clone(), has("--once"));
    axum::serve(listener, router).with_graceful_shutdown(visit).await?;

    // First the tasks, which release what is held; then the worker, which ends what it has begun.
    supervisor.shutdown(Duration::from_secs(10)).await;
    drop(stop);
    if let Some(worker) = worker {
        worker.await?;
    }
    Ok(())
}

async fn sign_up(State(app): State<App>, tasks: BackgroundTasks, address: Address) -> Result<impl IntoResponse, Failure> {
    let begun = Instant::now();
    let mut transaction = app.store.pool().begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("INSERT INTO users VALUES (?1)").bind(&address).execute(&mut *transaction).await?;
    let held = app.mails.push_in(&mut transaction, address.clone()).await?;
    transaction.commit().await?;
    println!("handler: user and job are on disk, after {:?}", begun.elapsed());
    tasks.add(Task::new(held.release()).named("release-mail"));
    Ok((StatusCode::ACCEPTED, format!("Welcome, {address}! A mail is on its way.\n")))
}

/// May be run again for a job that it has run: if the process dies after the mail went out, and before that is written.
async fn send_mail(job: Job<Address>) -> Result<(), BoxError> {
    println!("worker:  attempt {} of job {}", job.attempt(), job.id());
    let address = job.args();
    if !address.contains('@') {
        return Err(format!("{address:?} is no address").into());
    }
    println!("worker:  the mail to {address} is sent");
    Ok(())
}

/// Calls the server once, as any client would, then waits for Ctrl-C.
async fn visit(server: SocketAddr, supervisor: Supervisor, once: bool) {
    let url = format!("http://{server}/sign-up");
    if let Err(error) = call(&url).await {
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

async fn call(url: &str) -> Result<(), BoxError> {
    let response = reqwest::Client::new().post(url).body("ada@example.org").send().await?.error_for_status()?;
    println!("client:  has the response: {}", response.text().await?.trim_end());
    Ok(())
}

/// Nothing was written, and the client is told so.
struct Failure(BoxError);

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        eprintln!("a sign-up failed: {}", self.0);
        (StatusCode::SERVICE_UNAVAILABLE, "please try again\n").into_response()
    }
}
