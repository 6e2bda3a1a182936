//! A NATS server for one test: in its own folder, on a free port, gone when the test ends.

use std::{
    env,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use async_nats::{connection::State, jetstream::Context};
use queues::jetstream;
use tempfile::TempDir;

use super::{eventually, postgres::free_port};

pub struct Nats {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    /// More arguments of the server.
    cluster: String,
    server: Child,
}

impl Nats {
    /// Starts a server. `None` if NATS is not installed, which is a failure if nothing may be
    /// skipped.
    pub fn start() -> Option<Self> {
        Self::start_with(String::new())
    }

    /// Starts three servers that know each other. They are named `server-0` to `server-2`.
    pub fn cluster() -> Option<[Self; 3]> {
        let routes = [(); 3].map(|()| format!("nats://127.0.0.1:{}", free_port()));
        let start = |number: usize| {
            Self::start_with(format!(
                "--server_name server-{number} --cluster_name test --cluster {} --routes {}",
                routes[number],
                routes.join(",")
            ))
        };
        Some([start(0)?, start(1)?, start(2)?])
    }

    fn start_with(cluster: String) -> Option<Self> {
        let Some(program) = program() else {
            let no_skip = env::var_os("TOWER_BACKGROUND_NO_SKIP").is_some();
            assert!(!no_skip, "nats-server is not installed");
            eprintln!("SKIPPED: nats-server is not installed");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder can be created");
        let port = free_port();
        let server = serve(&program, &folder, port, &cluster);
        Some(Self {
            program,
            folder,
            port,
            cluster,
            server,
        })
    }

    /// Stops the server with SIGKILL.
    pub fn kill(&mut self) {
        // The shell kills the server when its input ends.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }

    /// Starts the server again.
    pub fn restart(&mut self) {
        self.kill();
        self.server = serve(&self.program, &self.folder, self.port, &self.cluster);
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Connects, and creates the streams.
    pub async fn connect(&self, max_messages: i64) -> Context {
        let nats = jetstream::connect(&self.url()).await.expect("it is a URL");
        // The server takes connections before it has JetStream.
        eventually("the streams can be created", async || {
            connected(&nats) && jetstream::setup(&nats, 1, max_messages).await.is_ok()
        })
        .await;
        nats
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the client is connected.
pub fn connected(nats: &Context) -> bool {
    nats.client().connection_state() == State::Connected
}

/// The number of messages in a stream, if the server answers.
pub async fn messages(nats: &Context, stream: &str) -> Option<u64> {
    let stream = nats.get_stream(stream).await.ok()?;
    Some(stream.cached_info().state.messages)
}

/// The shell kills the server when its input ends, at the latest when this process ends.
fn serve(program: &std::path::Path, folder: &TempDir, port: u16, cluster: &str) -> Child {
    let script = format!(
        "{} --jetstream --addr 127.0.0.1 --port {port} --store_dir {} {cluster} 2>/dev/null & \
         cat >/dev/null; kill -KILL $!; wait",
        program.display(),
        folder.path().display()
    );
    let mut shell = Command::new("sh");
    let shell = shell.arg("-c").arg(script).stdin(Stdio::piped());
    shell.spawn().expect("the shell runs")
}

/// Debian installs the program into a folder that is only in the path of root.
fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut programs = folders.map(|folder| folder.join("nats-server"));
    programs.find(|program| program.exists())
}
