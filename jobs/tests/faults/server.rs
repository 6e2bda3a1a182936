//! What a PostgreSQL server does to its clients.

use std::time::Duration;

use tower_background_jobs::{JobQueue, PgmqEngine};

use crate::support::{Database, eventually, postgres::Postgres};

async fn is_empty<J>(queue: &JobQueue<J>) -> bool {
    let depth = queue.depth().await;
    depth.is_ok_and(|depth| depth.ready + depth.invisible == 0)
}

/// Each run of the tests would leave several hundred megabytes otherwise.
#[tokio::test]
async fn a_server_of_the_tests_leaves_no_folder() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let folder = server.folder().to_owned();
    server.execute("postgres", "CREATE TABLE kept ()").await;
    server.crash().await;
    server.execute("postgres", "SELECT FROM kept").await;
    drop(server);
    assert!(!folder.exists());
}

/// Restarted as after a crash, three times, and all backends terminated six times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_lose_nothing() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let url = server.url("postgres");
    let engine = PgmqEngine::connect(&url).unwrap();
    engine.install().await.unwrap();
    let queue: JobQueue<u32> = JobQueue::open(engine, "restarts").await.unwrap();
    let runs = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let note = std::sync::Arc::clone(&runs);
    let worker = queue
        .worker(move |number, _| {
            note.lock().unwrap().insert(number);
            async { Ok(()) }
        })
        .invisible(Duration::from_secs(2))
        .start();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8_u32)
        .map(|client| {
            let (queue, stopped) = (queue.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut pushed = Vec::new();
                for number in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let number = client * 1_000_000 + number;
                    match queue.push(&number).await {
                        Ok(_) => pushed.push(number),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
                pushed
            })
        })
        .collect();
    for round in 0..9 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if round % 3 == 2 {
            server.crash().await;
        } else {
            let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
            server.execute("postgres", terminate).await;
        }
    }
    stop.send(true).unwrap();
    let mut pushed = Vec::new();
    for client in clients {
        pushed.extend(client.await.unwrap());
    }
    eventually("all are done", async || is_empty(&queue).await).await;
    worker.stop(Duration::from_secs(5)).await;
    let runs = runs.lock().unwrap();
    assert!(pushed.len() > 500, "{}", pushed.len());
    for number in &pushed {
        assert!(runs.contains(number), "{number} is lost");
    }
}

/// A stricter default of the database must not make releases and reads fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serializable_database_is_no_matter() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let Database::Postgres(server, name) = &database else {
        unreachable!()
    };
    let setting = format!("ALTER DATABASE {name} SET default_transaction_isolation = serializable");
    server.execute(name, &setting).await;
    let queue: JobQueue<u32> = database.queue("strict").await;
    let workers = [(); 2].map(|()| queue.worker(|_, _| async { Ok(()) }).start());
    let held: Vec<_> = (0..16_u32)
        .map(|client| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for number in 0..40 {
                    let hold = queue.hold(Duration::from_secs(3_600));
                    let held = hold.push(&(client * 1_000 + number)).await.unwrap();
                    assert!(held.release().await.unwrap());
                }
            })
        })
        .collect();
    for held in held {
        held.await.unwrap();
    }
    eventually("all are done", async || is_empty(&queue).await).await;
    assert_eq!(
        workers
            .iter()
            .map(|worker| worker.counts().done)
            .sum::<u64>(),
        640
    );
}

/// A primary that became a standby: its sessions stay read-only for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_sessions_are_given_up() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let Database::Postgres(server, name) = &database else {
        unreachable!()
    };
    let queue: JobQueue<u32> = database.queue("standby").await;
    let worker = queue.worker(|_, _| async { Ok(()) }).start();
    let set =
        |value: &str| format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND datname = current_database()";
    server.execute("postgres", &set("on")).await;
    server.execute(name, terminate).await;
    eventually("a push is refused as read-only", async || {
        queue
            .push(&1)
            .await
            .is_err_and(|error| error.to_string().contains("read-only"))
    })
    .await;
    server.execute("postgres", &set("off")).await;
    eventually("a push works", async || queue.push(&2).await.is_ok()).await;
    eventually("the worker works", async || worker.counts().done >= 1).await;
}

/// A table that somebody locks: pushes end in their time, and all is well afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_is_waited_for_in_bounds() {
    use sqlx::Connection;

    let Some(database) = Database::postgres().await else {
        return;
    };
    let bound = Duration::from_millis(700);
    let queue: JobQueue<u32> = database.queue("locked").await.bound(bound);
    let mut connection = sqlx::PgConnection::connect(&database.url()).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let lock = "LOCK TABLE pgmq.q_locked IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *transaction).await.unwrap();
    let begun = std::time::Instant::now();
    queue.push(&1).await.unwrap_err();
    assert!(
        begun.elapsed() < bound + Duration::from_millis(300),
        "{:?}",
        begun.elapsed()
    );
    transaction.rollback().await.unwrap();
    eventually("a push works", async || queue.push(&2).await.is_ok()).await;
}

/// The role may not create tables. The queue exists, so it need not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_install_at_once() {
    let Some(server) = Postgres::shared().await else {
        return;
    };
    let name = server.database().await;
    let url = server.url(&name);
    let installs: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let engine = PgmqEngine::connect(&url).unwrap();
                engine.install().await.unwrap();
                let queue: JobQueue<u8> = JobQueue::open(engine, "installed").await.unwrap();
                queue.push(&1).await.unwrap();
            })
        })
        .collect();
    for install in installs {
        install.await.unwrap();
    }
}
