//! A PostgreSQL server for tests: in its own folder, on a free port, gone when the test process is.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;

use super::eventually;

/// The line that tells the shell of a server to leave its folder: see [`serve`].
const KEEP: &str = "keep the folder";

static SERVERS: AtomicUsize = AtomicUsize::new(0);
static DATABASES: AtomicUsize = AtomicUsize::new(0);
static SHARED: OnceCell<Option<Postgres>> = OnceCell::const_new();

pub struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    server: Child,
}

impl Postgres {
    /// The server that the tests of one process share. `None` if PostgreSQL is not installed.
    pub async fn shared() -> Option<&'static Self> {
        SHARED.get_or_init(Self::start).await.as_ref()
    }

    /// Starts a server. `None` if PostgreSQL is not installed, which is a failure if nothing may
    /// be skipped.
    pub async fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let no_skip = std::env::var_os("TOWER_BACKGROUND_NO_SKIP").is_some();
            assert!(!no_skip, "PostgreSQL is not installed");
            eprintln!("SKIPPED: PostgreSQL is not installed");
            return None;
        };
        let number = SERVERS.fetch_add(1, Relaxed);
        let name = format!("background-jobs-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("the folder can be created");
        if is_root() {
            let owned = Command::new("chown").arg("nobody").arg(&folder).status();
            assert!(owned.expect("chown runs").success());
        }
        let initdb = format!(
            "exec {}/initdb --auth=trust --no-sync --username=test --encoding=UTF8 --locale=C -D {}",
            programs.display(),
            folder.join("data").display()
        );
        let made = shell(&folder, &initdb).stdout(Stdio::null()).status();
        assert!(
            made.expect("initdb runs").success(),
            "a cluster can be created"
        );
        let port = free_port();
        let server = serve(&folder, &programs, port);
        let this = Self {
            folder,
            programs,
            port,
            server,
        };
        this.ready().await;
        Some(this)
    }

    /// Stops the server at once, as a crash would, and starts it again.
    pub async fn crash(&mut self) {
        self.stop(KEEP);
        self.server = serve(&self.folder, &self.programs, self.port);
        self.ready().await;
    }

    /// Stops the server, and gives the shell a last line.
    fn stop(&mut self, line: &str) {
        if let Some(mut input) = self.server.stdin.take() {
            // The shell may be gone.
            let _ = writeln!(input, "{line}");
        }
        let _ = self.server.wait();
    }

    async fn ready(&self) {
        let url = self.url("postgres");
        eventually("the server is ready", async || {
            PgConnection::connect(&url).await.is_ok()
        })
        .await;
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }

    /// Creates a database. Returns its name.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Relaxed));
        self.execute("postgres", &format!("CREATE DATABASE {name}"))
            .await;
        name
    }

    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = PgConnection::connect(&self.url(database))
            .await
            .expect("it connects");
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql)
            .execute(&mut connection)
            .await
            .expect("the statement works");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop("");
    }
}

pub fn url(port: u16, database: &str) -> String {
    format!("postgres://test@127.0.0.1:{port}/{database}")
}

/// The shell waits for a line or for the end of its input, which comes at the latest when this process
/// ends. Then it stops the server, and removes the folder unless the line is [`KEEP`]. Ctrl-C does not
/// stop the shell, so it can do that.
fn serve(folder: &Path, programs: &Path, port: u16) -> Child {
    let script = format!(
        "trap '' INT; {programs}/postgres -D {folder}/data -k {folder} -p {port} -h 127.0.0.1 \
            -c max_connections=200 -c synchronous_commit=on 2>>{folder}/log & \
         read -r line; kill -QUIT $!; wait; [ \"$line\" = '{KEEP}' ] || rm -rf {folder}",
        programs = programs.display(),
        folder = folder.display()
    );
    let mut command = shell(folder, &script);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the server starts")
}

/// A shell that does not run as root, as PostgreSQL refuses that.
fn shell(folder: &Path, script: &str) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=nobody",
            "--regid=nogroup",
            "--clear-groups",
            "--",
            "sh",
        ]);
        command
    } else {
        Command::new("sh")
    };
    command.arg("-c").arg(script).current_dir(folder);
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.trim_ascii() == b"0"
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// The folder with the programs of the newest PostgreSQL.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let is_complete =
        |folder: &PathBuf| folder.join("initdb").exists() && folder.join("postgres").exists();
    folders.into_iter().find(is_complete)
}
