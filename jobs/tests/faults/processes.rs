//! Processes that are killed, stopped, and that kill themselves.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::Rng;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tower_background_jobs::JobQueue;

use crate::{
    on_both,
    support::{Database, eventually},
};

/// A process of `tests/support/child.rs`, killed when this value is dropped.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped());
        Self(command.spawn().expect("the program starts"))
    }

    /// The port that a server prints.
    fn port(&mut self) -> Option<u16> {
        let mut line = String::new();
        let output = self.0.stdout.as_mut().expect("it is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).ok()?;
        line.trim().parse().ok()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .arg(signal)
            .arg(self.0.id().to_string())
            .status();
        assert!(sent.expect("kill runs").success());
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cargo builds the examples of a package before it runs the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("it has a path");
    let program = test
        .parent()
        .and_then(Path::parent)
        .expect("target")
        .join("examples/child");
    assert!(
        program.exists(),
        "run `cargo build --example child --all-features` first"
    );
    program
}

/// What the workers noted: runs and ends of each job.
fn notes(file: &Path) -> (HashMap<u64, u32>, HashMap<u64, u32>) {
    let (mut starts, mut ends) = (HashMap::new(), HashMap::new());
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let map = if words[0] == "start" {
            &mut starts
        } else {
            &mut ends
        };
        *map.entry(words[1].parse().expect("an id")).or_default() += 1;
    }
    (starts, ends)
}

/// `true` if the client saw a success.
async fn post(port: u16, path: &str, id: u64) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
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

on_both! {
    /// A server and two workers are killed again and again. Each job that a client saw accepted is
    /// done in the end.
    async fn kills_lose_no_acknowledged_job(database) {
        let kills = std::env::var("TOWER_BACKGROUND_KILLS").ok().and_then(|kills| kills.parse().ok());
        let kills: u32 = kills.unwrap_or(15);
        let queue: JobQueue<Value> = database.queue("child").await;
        let folder = tempfile::tempdir().unwrap();
        let (file, place) = (folder.path().join("notes"), database.location());
        let work = || Process::start(&["work", &place, file.to_str().unwrap()]);
        let mut workers = [work(), work()];
        let mut server = Process::start(&["serve", &place]);
        let port = Arc::new(AtomicU64::new(server.port().expect("it listens").into()));
        let (accepted, stop) = (Arc::new(Mutex::new(HashSet::new())), Arc::new(AtomicBool::new(false)));
        let next = Arc::new(AtomicU64::new(1));
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (port, accepted) = (Arc::clone(&port), Arc::clone(&accepted));
                let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
                tokio::spawn(async move {
                    while !stop.load(SeqCst) {
                        let id = next.fetch_add(1, SeqCst);
                        let path = if client % 2 == 0 { "durable" } else { "held" };
                        let port = u16::try_from(port.load(SeqCst)).unwrap();
                        match timeout(Duration::from_secs(10), post(port, path, id)).await {
                            Ok(Ok(true)) => drop(accepted.lock().unwrap().insert(id)),
                            _ => sleep(Duration::from_millis(5)).await,
                        }
                    }
                })
            })
            .collect();
        for kill in 0..kills {
            sleep(Duration::from_millis(rand::rng().random_range(100..400))).await;
            if kill % 3 == 2 {
                // Dropped first: it is killed before the next one starts.
                let killed = (kill / 3) as usize % 2;
                workers[killed].signal("-KILL");
                workers[killed] = work();
            } else {
                server.signal("-KILL");
                server = Process::start(&["serve", &place]);
                port.store(server.port().expect("it listens").into(), SeqCst);
            }
        }
        stop.store(true, SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        eventually("the queue is empty", async || {
            let depth = queue.depth().await.unwrap();
            depth.ready + depth.invisible == 0
        })
        .await;
        let (_, done) = notes(&file);
        let accepted = accepted.lock().unwrap();
        let lost: Vec<_> = accepted.iter().filter(|id| !done.contains_key(id)).collect();
        let twice = done.values().filter(|runs| **runs > 1).count();
        println!("{kills} kills: {} accepted, {} done, {twice} done twice", accepted.len(), done.len());
        assert!(accepted.len() > 100, "{}", accepted.len());
        assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    }
}

on_both! {
    /// One job aborts its process, and 15 others run beside it. All others are done.
    async fn a_poison_job_takes_no_neighbours_along(database) {
        let queue: JobQueue<Value> = database.queue("child").await;
        for id in 0..16 {
            let job = json!({ "id": id, "milliseconds": 300, "abort": id == 7 });
            queue.push(&job).await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let (file, place) = (folder.path().join("notes"), database.location());
        let work = || Process::start(&["work", &place, file.to_str().unwrap()]);
        let mut worker = work();
        let mut deaths = 0;
        eventually("one is archived, and all others are done", async || {
            if worker.has_ended() {
                deaths += 1;
                worker = work();
            }
            let depth = queue.depth().await.unwrap();
            (depth.ready + depth.invisible, depth.archived) == (0, 1)
        })
        .await;
        let (_, done) = notes(&file);
        assert_eq!(done.len(), 15);
        assert!(!done.contains_key(&7));
        let archived = queue.list_archived(0, 10).await.unwrap();
        assert_eq!(archived[0].error(), Some("the process died 6 times while this job ran"));
        println!("{deaths} deaths");
    }
}

on_both! {
    /// What fails for all is no poison: the retries run beside each other.
    async fn ordinary_retries_do_not_run_alone(database) {
        let queue: JobQueue<u32> = database.queue("down").await;
        for number in 0..16 {
            queue.push(&number).await.unwrap();
        }
        let (down, most) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (is_down, highest) = (Arc::clone(&down), Arc::clone(&most));
        let now = Arc::new(AtomicU64::new(0));
        let worker = queue
            .worker(move |_, cx| {
                let (is_down, highest) = (Arc::clone(&is_down), Arc::clone(&highest));
                let now = Arc::clone(&now);
                async move {
                    let running = now.fetch_add(1, SeqCst) + 1;
                    if cx.attempt() > 4 {
                        highest.fetch_max(running, SeqCst);
                    }
                    sleep(Duration::from_millis(50)).await;
                    now.fetch_sub(1, SeqCst);
                    if is_down.load(SeqCst) { Err("the mail server is down".into()) } else { Ok(()) }
                }
            })
            .backoff(tower_background_jobs::Backoff::new(
                Duration::from_millis(20),
                Duration::from_millis(20),
            ))
            .start();
        eventually("late attempts run together", async || most.load(SeqCst) >= 8).await;
        down.store(false, SeqCst);
        eventually("all are done", async || worker.counts().done == 16).await;
    }
}

on_both! {
    /// A worker that is stopped by SIGSTOP loses its jobs, and its late ends are refused.
    async fn a_stopped_process_loses_its_jobs(database) {
        let queue: JobQueue<Value> = database.queue("child").await;
        let folder = tempfile::tempdir().unwrap();
        let (file, place) = (folder.path().join("notes"), database.location());
        let first = Process::start(&["work", &place, file.to_str().unwrap()]);
        for id in 0..4 {
            let job = json!({ "id": id, "milliseconds": 700, "abort": false });
            queue.push(&job).await.unwrap();
        }
        eventually("all run", async || notes(&file).0.len() == 4).await;
        first.signal("-STOP");
        let _second = Process::start(&["work", &place, file.to_str().unwrap()]);
        eventually("the second worker does them", async || {
            let depth = queue.depth().await.unwrap();
            depth.ready + depth.invisible == 0
        })
        .await;
        first.signal("-CONT");
        queue.push(&json!({ "id": 9, "milliseconds": 0, "abort": false })).await.unwrap();
        eventually("work goes on", async || notes(&file).1.contains_key(&9)).await;
        let (starts, _) = notes(&file);
        assert!((0..4).all(|id| starts[&id] == 2), "{starts:?}");
        eventually("nothing is left", async || {
            queue.depth().await.unwrap() == tower_background_jobs::Depth::default()
        })
        .await;
    }
}

/// The clock of the machine jumps by 10 minutes while two workers live. What runs may run once more,
/// and the end of the first run is refused. (PostgreSQL's times are those of its server.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_costs_at_most_one_more_run() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !Path::new(library).exists() {
        let no_skip = std::env::var_os("TOWER_BACKGROUND_NO_SKIP").is_some();
        assert!(!no_skip, "faketime is not installed");
        return eprintln!("SKIPPED: faketime is not installed");
    }
    let database = Database::sqlite();
    let queue: JobQueue<Value> = database.queue("child").await;
    let folder = tempfile::tempdir().unwrap();
    let (file, place) = (folder.path().join("notes"), database.location());
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let variables = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let work = || Process::start_with(&["work", &place, file.to_str().unwrap()], &variables);
    let _workers = [work(), work()];
    for id in 0..8 {
        queue
            .push(&json!({ "id": id, "milliseconds": 3_000, "abort": false }))
            .await
            .unwrap();
    }
    eventually("all run", async || notes(&file).0.len() == 8).await;
    std::fs::write(&clock, "+600\n").unwrap();
    eventually("nothing is left", async || {
        queue.depth().await.unwrap() == tower_background_jobs::Depth::default()
    })
    .await;
    let (starts, done) = notes(&file);
    println!("runs of each job: {starts:?}");
    assert_eq!(done.len(), 8);
    assert!(starts.values().all(|runs| *runs <= 2), "{starts:?}");
}
