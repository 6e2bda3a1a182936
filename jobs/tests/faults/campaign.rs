//! Servers and workers end again and again while clients push. No acknowledged job is lost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::Rng;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower_background_jobs::JobQueue;

use crate::{
    on_both,
    process::{Notes, Process},
    support::{Database, eventually},
};

/// Two of three ends hit the server, the others hit a worker.
fn ends() -> u32 {
    let ends = std::env::var("TOWER_BACKGROUND_KILLS").ok();
    ends.and_then(|ends| ends.parse().ok()).unwrap_or(15)
}

on_both! {
    /// The server and the workers are killed: at any point of a push, an answer, a release, a run
    /// and a delete.
    async fn kills_lose_no_acknowledged_job(database) {
        campaign(&database, "-KILL", &["durable", "held"]).await;
    }
}

on_both! {
    /// The server is stopped in order, and tasks that do not end in time push their work. The
    /// workers are killed.
    async fn stops_lose_no_acknowledged_job(database) {
        let done = campaign(&database, "-TERM", &["durable", "held", "fallback"]).await;
        let by_task = done.accepted_as("fallback").filter(|id| done.notes.done_by_task.contains_key(id));
        let (all, by_task) = (done.accepted_as("fallback").count(), by_task.count());
        println!("fallback: {by_task} of {all} were done by their tasks, and the others by workers");
        assert!(0 < by_task && by_task < all, "{by_task} of {all}");
    }
}

struct Done {
    /// The jobs that a client saw accepted, and the path of each.
    accepted: HashMap<u64, &'static str>,
    notes: Notes,
}

impl Done {
    fn accepted_as(&self, path: &str) -> impl Iterator<Item = &u64> {
        let accepted = self
            .accepted
            .iter()
            .filter(move |(_, accepted)| **accepted == path);
        accepted.map(|(id, _)| id)
    }
}

/// Ends a server with `signal`, and workers with SIGKILL. Each job that a client saw accepted must
/// be done in the end.
async fn campaign(database: &Database, signal: &str, paths: &'static [&'static str]) -> Done {
    let ends = ends();
    let queue: JobQueue<Value> = database.queue("child").await;
    let folder = tempfile::tempdir().unwrap();
    let (file, place) = (folder.path().join("notes"), database.location());
    let work = || Process::start(&["work", &place, file.to_str().unwrap()]);
    let serve = || Process::start(&["serve", &place, file.to_str().unwrap()]);
    let mut workers = [work(), work()];
    let mut server = serve();
    let clients = Clients::start(server.port(), paths);
    for end in 0..ends {
        sleep(Duration::from_millis(rand::rng().random_range(100..400))).await;
        if end % 3 == 2 {
            let killed = (end / 3) as usize % 2;
            workers[killed].signal("-KILL");
            workers[killed] = work();
        } else {
            server.signal(signal);
            server.ended().await;
            server = serve();
            clients.port.store(server.port(), SeqCst);
        }
    }
    let accepted = clients.stop().await;
    // The tasks of the last server.
    server.signal("-TERM");
    server.ended().await;
    // On a fast machine the clients have pushed more than workers run in a fixed time.
    let mut left = u64::MAX;
    while left > 0 {
        let before = left;
        eventually("the queue gets shorter", async || {
            let depth = queue.depth().await.unwrap();
            left = depth.ready + depth.invisible;
            left < before
        })
        .await;
    }
    let done = Done {
        accepted,
        notes: Notes::read(&file),
    };
    let runs = &done.notes.done;
    let engine = if database.is_postgres() {
        "PostgreSQL"
    } else {
        "SQLite"
    };
    let twice = runs.values().filter(|runs| **runs > 1).count();
    println!(
        "{engine}, {ends} ends, {signal} for servers: {} done, {twice} done twice",
        runs.len()
    );
    for path in paths {
        let accepted: Vec<&u64> = done.accepted_as(path).collect();
        let lost: Vec<_> = accepted
            .iter()
            .filter(|id| !runs.contains_key(id))
            .collect();
        println!("{path}: {} accepted, {} lost", accepted.len(), lost.len());
        assert!(accepted.len() > 30, "{path}: {}", accepted.len());
        assert!(lost.is_empty(), "{path}: {lost:?}");
    }
    done
}

/// Clients that post jobs, one after another.
struct Clients {
    port: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<HashMap<u64, &'static str>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(port: u64, paths: &'static [&'static str]) -> Self {
        let port = Arc::new(AtomicU64::new(port));
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(Mutex::new(HashMap::new()));
        let next = Arc::new(AtomicU64::new(1));
        let client = |client: usize| {
            let (port, stop) = (Arc::clone(&port), Arc::clone(&stop));
            let (accepted, next) = (Arc::clone(&accepted), Arc::clone(&next));
            let path = paths[client % paths.len()];
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let id = next.fetch_add(1, SeqCst);
                    let post = post(port.load(SeqCst), path, id);
                    match timeout(Duration::from_secs(10), post).await {
                        Ok(Ok(true)) => drop(accepted.lock().unwrap().insert(id, path)),
                        _ => sleep(Duration::from_millis(5)).await,
                    }
                }
            })
        };
        let tasks = (0..9).map(client).collect();
        Self {
            port,
            stop,
            accepted,
            tasks,
        }
    }

    async fn stop(self) -> HashMap<u64, &'static str> {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let accepted = self.accepted.lock().unwrap();
        accepted.clone()
    }
}

/// `true` if the client saw a success.
async fn post(port: u64, path: &str, id: u64) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    let body = id.to_string();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response.starts_with("HTTP/1.1 202") && response.contains("\r\n\r\n"))
}
