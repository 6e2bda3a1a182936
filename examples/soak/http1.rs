//! HTTP/1.1 clients: sockets that send and read bytes, and leave at any of them.

use std::{
    io,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    dice::Dice,
    patience,
    plan::{Client, Plan, Reading},
    shared::{Seen, Shared},
};

const PROTOCOL: &str = "HTTP/1.1";

/// One connection after the other, until the shared is stopped.
pub async fn attack(shared: Arc<Shared>, mut dice: Dice) {
    while !shared.stop.is_cancelled() {
        let Ok(mut connection) = Connection::open(&shared, &mut dice).await else {
            // The system has no port or no file left for the moment.
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        for _ in 0..=dice.below(50) {
            if dice.percent(1) {
                // Not a request yet.
                let _ = connection.send("GET /0 HTTP/1.1\r\nho").await;
                break;
            }
            if shared.stop.is_cancelled() || !exchange(&shared, &mut connection, &mut dice).await {
                break;
            }
        }
    }
}

/// Makes a request, at times two at once. Returns whether the connection can take another.
async fn exchange(shared: &Shared, connection: &mut Connection, dice: &mut Dice) -> bool {
    let mut plans = vec![shared.draw()];
    if dice.percent(4) {
        plans.push(shared.draw());
    }
    let requests: String = plans.iter().map(request).collect();
    let mut sent = connection.send(&requests).await.is_ok();
    for (index, plan) in plans.into_iter().enumerate() {
        if !sent {
            shared.saw(PROTOCOL, if index == 0 { Seen::Unsent } else { Seen::Left });
            continue;
        }
        let seen = tokio::select! {
            seen = timeout(patience(&plan), connection.one(plan)) => match seen {
                Ok(Ok(seen)) => seen,
                Ok(Err(_closed)) if connection.fresh && index == 0 && must_come(shared, &plan) => Seen::Wrong,
                Ok(Err(_closed)) => Seen::Cut,
                Err(_) if plan.hangs() => connection.leave(plan),
                Err(_) => Seen::Stuck,
            },
            () = shared.stop.cancelled() => connection.leave(plan),
        };
        shared.saw(PROTOCOL, seen);
        sent = seen == Seen::Whole;
    }
    connection.fresh = false;
    sent && connection.keeps
}

/// Whether a client that reads must get a whole response, because no other request can have broken
/// the connection.
fn must_come(shared: &Shared, plan: &Plan) -> bool {
    let reads = matches!(
        plan.client,
        Client::Reads | Client::ReadsSlowly | Client::Stalls | Client::LeavesAfter
    );
    reads && plan.whole(false).is_some() && !shared.stopping.load(SeqCst)
}

fn request(plan: &Plan) -> String {
    let method = if plan.head_only { "HEAD" } else { "GET" };
    format!(
        "{method} /{:x} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        plan.seed
    )
}

struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    /// Whether no request was answered on it.
    fresh: bool,
    /// Whether there may be another request on it.
    keeps: bool,
}

impl Connection {
    async fn open(shared: &Shared, dice: &mut Dice) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if dice.percent(20) {
            // With less space in the system, the server sooner waits for a client that does not
            // read.
            socket.set_recv_buffer_size(8 * 1024)?;
        }
        let stream = socket.connect(shared.address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
            fresh: true,
            keeps: true,
        })
    }

    async fn send(&mut self, request: &str) -> io::Result<()> {
        self.stream.write_all(request.as_bytes()).await
    }

    fn leave(&mut self, plan: Plan) -> Seen {
        if plan.resets {
            let _ = self.stream.set_zero_linger();
        }
        self.keeps = false;
        Seen::Left
    }

    async fn one(&mut self, plan: Plan) -> io::Result<Seen> {
        match plan.client {
            Client::LeavesBeforeHead => {
                tokio::task::yield_now().await;
                return Ok(self.leave(plan));
            }
            Client::StallsAndLeaves => {
                sleep(plan.wait).await;
                return Ok(self.leave(plan));
            }
            Client::Stalls => sleep(plan.wait).await,
            Client::HalfCloses => {
                self.keeps = false;
                self.stream.shutdown().await?;
            }
            _ => {}
        }
        let head = self.head().await?;
        let limit = match plan.client {
            Client::LeavesMidBody => Some(plan.bytes / 2),
            _ => None,
        };
        let slowly = plan.client == Client::ReadsSlowly;
        let mut reading = Reading::default();
        let ended = if plan.head_only || matches!(head.status, 204 | 304) {
            true
        } else if let Some(length) = head.length {
            self.data(length, &mut reading, limit, slowly).await?
        } else {
            self.chunks(&mut reading, limit, slowly).await?
        };
        if reading.wrong {
            return Ok(Seen::Wrong);
        }
        if !ended {
            return Ok(self.leave(plan));
        }
        self.keeps &= !head.closes;
        if plan.client == Client::LeavesAfter {
            self.leave(plan);
        }
        let as_planned = head.status == plan.status.as_u16() && plan.fits(reading.position);
        Ok(if as_planned { Seen::Whole } else { Seen::Wrong })
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn head(&mut self) -> io::Result<HeadLines> {
        let status = self
            .line()
            .await?
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let mut head = HeadLines {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            length: None,
            closes: false,
        };
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(": ") else {
                return Ok(head);
            };
            match name {
                "content-length" => head.length = value.parse().ok(),
                "connection" => head.closes = value == "close",
                _ => {}
            }
        }
    }

    /// Reads this much, or up to where the client leaves. Returns whether it read all.
    async fn data(
        &mut self,
        mut left: usize,
        reading: &mut Reading,
        limit: Option<usize>,
        slowly: bool,
    ) -> io::Result<bool> {
        while left > 0 {
            if limit.is_some_and(|limit| reading.position >= limit) {
                return Ok(false);
            }
            if self.buffer.is_empty() {
                if slowly {
                    sleep(Duration::from_millis(1)).await;
                }
                self.fill().await?;
            }
            let data = self.buffer.split_to(left.min(self.buffer.len()));
            left -= data.len();
            reading.take(&data);
        }
        Ok(true)
    }

    async fn chunks(
        &mut self,
        reading: &mut Reading,
        limit: Option<usize>,
        slowly: bool,
    ) -> io::Result<bool> {
        loop {
            let size = usize::from_str_radix(&self.line().await?, 16)
                .map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                // Trailers, and the empty line.
                while !self.line().await?.is_empty() {}
                return Ok(true);
            }
            if !self.data(size, reading, limit, slowly).await? {
                return Ok(false);
            }
            self.line().await?;
        }
    }
}

struct HeadLines {
    status: u16,
    length: Option<usize>,
    closes: bool,
}
