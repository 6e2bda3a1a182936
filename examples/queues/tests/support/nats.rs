//! A server of NATS for one test: with its own folder and port, and gone when the test is over.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use async_nats::{connection::State, jetstream::Context};
use queues::jetstream;

use super::soon;

static SERVERS: AtomicUsize = AtomicUsize::new(0);

pub struct Nats {
    folder: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Nats {
    /// `None` where there is no NATS, which is told, and is a failure if nothing may be skipped.
    pub fn start() -> Option<Self> {
        let Some(program) = program() else {
            assert!(env::var_os("TOWER_BACKGROUND_NO_SKIP").is_none(), "there is no nats-server");
            eprintln!("skipped: no nats-server");
            return None;
        };
        let folder = env::temp_dir().join(format!("queues-nats-{}-{}", process::id(), SERVERS.fetch_add(1, Relaxed)));
        fs::create_dir_all(&folder).expect("the folder can be made");
        // It can be told to take any port, but it has to have the same one when it is up again.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut this = Self { folder, port: free.expect("a free port").port(), server: None };
        this.up_with(program);
        Some(this)
    }

    /// Starts the server again.
    pub fn up(&mut self) {
        self.up_with(program().expect("it was there before"));
    }

    fn up_with(&mut self, program: PathBuf) {
        let server = Command::new(program)
            .args(["--jetstream", "--addr", "127.0.0.1", "--port", &self.port.to_string(), "--store_dir"])
            .arg(&self.folder)
            .stderr(Stdio::null())
            .spawn();
        self.server = Some(server.expect("nats-server runs"));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Stops it where it is: nobody is refused, and nobody is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let server = self.server.as_ref().expect("it runs").id().to_string();
        let told = Command::new("kill").args([signal, &server]).status();
        assert!(told.expect("there is kill").success());
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A connection, when the server is up and has its streams.
    pub async fn connect(&self, max_messages: i64) -> Context {
        let context = jetstream::connect(&self.url()).await.expect("it is an address");
        connection(&context, State::Connected).await;
        soon(async {
            // It takes connections a moment before it has JetStream.
            while jetstream::setup(&context, max_messages).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        context
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits until the client knows that its connection is in this state.
pub async fn connection(context: &Context, state: State) {
    soon(async {
        while context.client().connection_state() != state {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Debian has it in a folder that is in the path of root alone.
fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("nats-server")).find(|program| program.exists())
}
