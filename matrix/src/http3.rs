//! The client of HTTP/3.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, TryStreamExt, future::poll_fn, stream};
use h3_quinn::OpenStreams;
use http::{Method, Request};
use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use tokio::sync::mpsc;
use tower_background::BoxError;

use crate::{client::Messages, target::Target, tls};

type Sender = h3::client::SendRequest<OpenStreams, Bytes>;
type RequestStream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// Connects. The connection closes when all of its senders are dropped.
///
/// # Errors
///
/// If there is no connection.
pub async fn connect(target: &Target) -> Result<Sender, BoxError> {
    let Target::Tls(address, certificate) = target else {
        return Err("HTTP/3 needs TLS".into());
    };
    let config = QuicClientConfig::try_from(tls::client(certificate, "h3")?)?;
    let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let config = quinn::ClientConfig::new(std::sync::Arc::new(config));
    let connection = endpoint
        .connect_with(config, *address, "localhost")?
        .await?;
    let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
    Ok(sender)
}

/// Sends the head of a request.
///
/// # Errors
///
/// If the connection is broken.
pub async fn request(
    sender: &mut Sender,
    method: Method,
    name: &str,
) -> Result<RequestStream, BoxError> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://localhost/{name}"));
    Ok(sender.send_request(request.body(())?).await?)
}

/// Waits for the head of the answer, and returns its body as it comes.
///
/// # Errors
///
/// If there is no answer, or one that is no success.
pub async fn answer(sender: Sender, mut stream: RequestStream) -> Result<Messages, BoxError> {
    let status = stream.recv_response().await?.status();
    if !status.is_success() {
        return Err(format!("the server answered {status}").into());
    }
    // The sender keeps the connection open for as long as the body is read.
    let body = stream::try_unfold((sender, stream), async |(sender, mut stream)| {
        let data = stream.recv_data().await?;
        Ok(data.map(|mut data| (data.copy_to_bytes(data.remaining()), (sender, stream))))
    });
    Ok(body.boxed())
}

pub(crate) async fn open(target: &Target, name: &str) -> Result<Messages, BoxError> {
    let mut sender = connect(target).await?;
    let mut stream = request(&mut sender, Method::GET, name).await?;
    // This fails if the server has answered and wants no body. The answer counts.
    let _ = stream.finish().await;
    answer(sender, stream).await
}

pub(crate) async fn upload(
    target: &Target,
    mut parts: mpsc::Receiver<&'static str>,
) -> Result<Bytes, BoxError> {
    let mut sender = connect(target).await?;
    let mut stream = request(&mut sender, Method::POST, "upload").await?;
    while let Some(part) = parts.recv().await {
        stream.send_data(part.into()).await?;
    }
    stream.finish().await?;
    let messages: Vec<Bytes> = answer(sender, stream).await?.try_collect().await?;
    Ok(messages.concat().into())
}
