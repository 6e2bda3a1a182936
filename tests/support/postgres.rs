//! A server of PostgreSQL's for one test: with its own folder, on a socket in that, and gone when the test is over.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::PATIENCE;

static SERVERS: AtomicUsize = AtomicUsize::new(0);

pub struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    server: Option<Child>,
}

impl Postgres {
    /// `None` where there is no PostgreSQL, which is told, and is a failure if nothing may be skipped.
    pub async fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os("TOWER_BACKGROUND_NO_SKIP").is_none(), "there is no PostgreSQL");
            eprintln!("skipped: no PostgreSQL");
            return None;
        };
        // A path to a socket may have about a hundred characters, and the server's user must reach it.
        let name = format!("tower-background-{}-{}", std::process::id(), SERVERS.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("the folder can be made");
        let mut this = Self { folder, programs, server: None };
        if is_root() {
            let owned = Command::new("chown").arg("nobody").arg(&this.folder).status();
            assert!(owned.expect("there is chown").success());
        }
        let made = this
            .program("initdb")
            .args(["--auth=trust", "--no-sync", "--username=test", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(this.folder.join("data"))
            .stdout(Stdio::null())
            .status();
        assert!(made.expect("initdb runs").success(), "a cluster can be made");
        this.up().await;
        Some(this)
    }

    /// Starts the server, at first or again.
    pub async fn up(&mut self) {
        let log =
            fs::File::create(self.folder.join(format!("log-{}", Path::new(&self.folder).read_dir().map_or(0, Iterator::count))));
        let server = self
            .program("postgres")
            .arg("-D")
            .arg(self.folder.join("data"))
            .arg("-k")
            .arg(&self.folder)
            .args(["-c", "listen_addresses=", "-c", "max_connections=60"])
            .stderr(log.expect("the folder can be written"))
            .spawn();
        self.server = Some(server.expect("postgres runs"));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(error) = PgConnection::connect_with(&self.options()).await {
            assert!(tokio::time::Instant::now() < deadline, "the server should be ready: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the server at once, as a crash would. What was committed is there when it is up again.
    pub fn down(&mut self) {
        if let Some(mut server) = self.server.take() {
            // SIGQUIT: without a word to its clients, but not without its children.
            let _ = Command::new("kill").arg("-QUIT").arg(server.id().to_string()).status();
            let _ = server.wait();
        }
    }

    /// Stops all of it where it is, until the guard is dropped: nobody is refused, and nobody is answered.
    pub async fn freeze(&self) -> Frozen {
        let mut connection = PgConnection::connect_with(&self.options()).await.expect("the server is up");
        let pids = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
        let pids: Vec<i32> = sqlx::query_scalar(pids).fetch_all(&mut connection).await.expect("it tells");
        // First the one that would start others.
        let server = self.server.as_ref().map(|server| server.id().to_string());
        let frozen = Frozen(server.into_iter().chain(pids.iter().map(ToString::to_string)).collect());
        frozen.tell("-STOP");
        frozen
    }

    /// What a process of its own is given to connect.
    pub fn url(&self) -> String {
        format!("postgres://test@localhost/postgres?host={}", self.folder.display())
    }

    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.folder).username("test").database("postgres")
    }

    /// Connections that give up soon where the server is away.
    pub async fn pool(&self) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(5).acquire_timeout(Duration::from_secs(1));
        pool.connect_with(self.options()).await.expect("the server is up")
    }

    /// A program of PostgreSQL's, which must not run as root.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(&self.folder).env("TZ", "UTC").env("PGTZ", "UTC");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.down();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The processes of a server that is stopped.
pub struct Frozen(Vec<String>);

impl Frozen {
    fn tell(&self, signal: &str) {
        let _ = Command::new("kill").arg(signal).args(&self.0).status();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.tell("-CONT");
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("there is id");
    id.stdout.trim_ascii() == b"0"
}

/// The folder with the programs of the newest PostgreSQL.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|version| version.path().join("bin"));
    let mut folders: Vec<_> = debian.collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}
