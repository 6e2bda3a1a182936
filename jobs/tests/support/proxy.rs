//! A TCP proxy that breaks connections in the ways that networks do.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// Connections have numbers. Each fault hits those with numbers below a limit.
#[derive(Clone, Copy, Default)]
struct Faults {
    killed: u64,
    silent: u64,
    replies_lost: u64,
}

pub struct Proxy {
    port: u16,
    next: Arc<AtomicU64>,
    faults: watch::Sender<Faults>,
    lost: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (faults, watch) = watch::channel(Faults::default());
        let (next, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let this = Self {
            port,
            next: Arc::clone(&next),
            faults,
            lost: Arc::clone(&lost),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = next.fetch_add(1, SeqCst);
                let (watch, lost) = (watch.clone(), Arc::clone(&lost));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    // The end of one direction ends the other one.
                    tokio::select! {
                        () = pump(number, from_client, to_server, watch.clone(), None) => {}
                        () = pump(number, from_server, to_client, watch, Some(&lost)) => {}
                    }
                });
            }
        });
        this
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections.
    pub fn kill(&self) {
        self.faults
            .send_modify(|faults| faults.killed = self.next.load(SeqCst));
    }

    /// Forwards nothing more over the present connections, and leaves them open.
    pub fn silence(&self) {
        self.faults
            .send_modify(|faults| faults.silent = self.next.load(SeqCst));
    }

    /// Drops the next reply of each present connection, and closes the connection.
    pub fn lose_replies(&self) {
        self.faults
            .send_modify(|faults| faults.replies_lost = self.next.load(SeqCst));
    }

    /// How many replies were dropped.
    pub fn lost(&self) -> u64 {
        self.lost.load(SeqCst)
    }
}

async fn pump(
    number: u64,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Faults>,
    replies: Option<&AtomicU64>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Faults {
            killed,
            silent,
            replies_lost,
        } = *faults.borrow_and_update();
        if number < killed {
            return;
        }
        if number < silent {
            if faults.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            changed = faults.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return };
                if let Some(lost) = replies.filter(|_| number < replies_lost) {
                    lost.fetch_add(1, SeqCst);
                    return;
                }
                if number >= faults.borrow().silent && to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
