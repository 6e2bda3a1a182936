//! What a destination of one's own looks like, for two queues that the crate has no feature for: [`graphile`] and [`jetstream`].
//!
//! Each module is short, stands alone, and is there to be copied. Its comments name the settings that are needed, and the trap
//! that each is for. The rest of this package is what both need to be tried: a service that leaves mails to a queue, and a mail
//! to send.

pub mod graphile;
pub mod jetstream;

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, HandOff, HandOffError, Supervisor};

/// How often a job is tried.
pub const ATTEMPTS: i16 = 3;

/// A job: a mail to this address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// Also what the mail is known by: a sign-up that is sent again while its mail waits asks for no second one.
    pub address: String,
}

/// A service whose sign-ups leave a mail to a queue. The handler is the same for each queue, and for each mode.
pub fn app(mails: HandOff<Mail>, supervisor: Supervisor) -> Router {
    let sign_up = async move |tasks: BackgroundTasks, address: String| {
        tasks.add(mails.job(Mail { address }).named("welcome-mail"));
        StatusCode::ACCEPTED
    };
    Router::new().route("/sign-up", post(sign_up)).layer(BackgroundLayer::with(supervisor).hand_off(unavailable))
}

/// What a client is told whose mail was not written.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the layer gives it away")]
pub fn unavailable(error: HandOffError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
}

/// Where mails go: a server that answers each line with `ok`, or not.
#[derive(Debug, Clone, Copy)]
pub struct MailServer(pub SocketAddr);

impl MailServer {
    /// Sends a mail. That may be the second time, as any job may be done again: only the mail's own server could tell.
    ///
    /// Its end is bounded, since a worker that lives is never taken for dead: a job that hangs would hang for ever.
    pub async fn send(self, mail: Mail, attempt: i64) -> Result<(), BoxError> {
        let conversation = async {
            let mut server = TcpStream::connect(self.0).await?;
            server.write_all(format!("{attempt} {}\n", mail.address).as_bytes()).await?;
            let mut answer = [0; 2];
            server.read_exact(&mut answer).await?;
            Ok::<_, io::Error>(answer)
        };
        match tokio::time::timeout(Duration::from_mins(1), conversation).await?? {
            [b'o', b'k'] => Ok(()),
            _ => Err("the mail server refused it".into()),
        }
    }
}
