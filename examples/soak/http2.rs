//! HTTP/2 clients with prior knowledge: many streams on a connection, which end by themselves, by
//! resets, or with it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::{
    Reason, RecvStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{Method, Request};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    dice::Dice,
    patience,
    plan::{Client, Plan, Reading},
    shared::{Seen, Shared},
};

const PROTOCOL: &str = "HTTP/2";

/// One connection after the other, until the shared is stopped.
pub async fn attack(shared: Arc<Shared>, mut dice: Dice) {
    while !shared.stop.is_cancelled() {
        if connection(&shared, &mut dice).await.is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn connection(shared: &Shared, dice: &mut Dice) -> Option<()> {
    let stream = TcpStream::connect(shared.address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    if dice.percent(50) {
        // Its close is a reset.
        stream.set_zero_linger().ok()?;
    }
    let window = dice.among(&[(78, 65_535), (20, 4_000), (2, 100)]);
    let (requests, connection) = Builder::new()
        .initial_window_size(window)
        .handshake::<_, Bytes>(stream)
        .await
        .ok()?;
    let connection = tokio::spawn(connection);
    // Side by side, so that a slow stream holds up no other.
    let streams = join_all((0..=dice.below(8)).map(|_| {
        let (requests, count) = (requests.clone(), dice.below(20));
        async move {
            for _ in 0..=count {
                if shared.stop.is_cancelled()
                    || exchange(shared, requests.clone()).await == Seen::Unsent
                {
                    break;
                }
            }
        }
    }));
    // Sometimes the connection ends in the middle of its streams. It always ends before a small
    // window makes it last long.
    let cut = Duration::from_millis(if dice.percent(40) {
        dice.below(60)
    } else {
        1_000
    });
    let _ = timeout(cut, streams).await;
    connection.abort();
    let _ = connection.await;
    Some(())
}

async fn exchange(shared: &Shared, requests: SendRequest<Bytes>) -> Seen {
    let plan = shared.draw();
    let mut noted = Noted {
        shared,
        seen: Seen::Left,
    };
    noted.seen = tokio::select! {
        seen = timeout(patience(&plan), one(plan, requests)) => match seen {
            Ok(seen) => seen,
            Err(_) if plan.hangs() => Seen::Left,
            Err(_) => Seen::Stuck,
        },
        () = shared.stop.cancelled() => Seen::Left,
    };
    noted.seen
}

/// Tells the shared what the client saw, also if the connection is cut meanwhile.
struct Noted<'a> {
    shared: &'a Shared,
    seen: Seen,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.shared.saw(PROTOCOL, self.seen);
    }
}

async fn one(plan: Plan, requests: SendRequest<Bytes>) -> Seen {
    let uri = format!("http://localhost/{:x}", plan.seed);
    let method = if plan.head_only {
        Method::HEAD
    } else {
        Method::GET
    };
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .body(())
        .expect("it is one");
    let Ok(mut requests) = requests.ready().await else {
        return Seen::Unsent;
    };
    let Ok((response, mut stream)) = requests.send_request(request, true) else {
        return Seen::Unsent;
    };
    match plan.client {
        Client::LeavesBeforeHead | Client::HalfCloses => {
            tokio::task::yield_now().await;
            if plan.resets {
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
            Seen::Left
        }
        _ => match read(plan, response).await {
            Some(Seen::Left) => {
                stream.send_reset(Reason::CANCEL);
                Seen::Left
            }
            Some(seen) => seen,
            None => Seen::Cut,
        },
    }
}

/// Nothing if the server ended the exchange before its time.
async fn read(plan: Plan, response: ResponseFuture) -> Option<Seen> {
    let response = response.await.ok()?;
    let status = response.status();
    let mut body = response.into_body();
    match plan.client {
        Client::Stalls => sleep(plan.wait).await,
        Client::StallsAndLeaves => {
            sleep(plan.wait).await;
            return Some(Seen::Left);
        }
        _ => {}
    }
    let reading = data(plan, &mut body).await?;
    if reading.wrong {
        return Some(Seen::Wrong);
    }
    if plan.client == Client::LeavesMidBody && reading.position < plan.bytes {
        return Some(Seen::Left);
    }
    body.trailers().await.ok()?;
    let as_planned = status == plan.status
        && plan
            .whole(true)
            .is_none_or(|bytes| bytes == reading.position);
    Some(if as_planned { Seen::Whole } else { Seen::Wrong })
}

async fn data(plan: Plan, body: &mut RecvStream) -> Option<Reading> {
    let mut reading = Reading::default();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        reading.take(&data);
        body.flow_control().release_capacity(data.len()).ok()?;
        match plan.client {
            Client::LeavesMidBody if reading.position >= plan.bytes / 2 => return Some(reading),
            Client::ReadsSlowly => sleep(Duration::from_millis(1)).await,
            _ => {}
        }
    }
    Some(reading)
}
