//! Tasks also start after the last byte over TLS by rustls, with the tracked stream above TLS or
//! below it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        self,
        pki_types::{PrivateKeyDer, ServerName},
    },
};
use tokio_util::io::InspectWriter;
use tower::{Layer, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, EndKind,
    sent::{SentConnection, SentStream},
};

use super::tracked::{assert_ends, assert_waits, last_byte};
use crate::common::{
    Multiplexed, Script, Servable, Server, Step, Witness, next_data, rest, settle, soon,
    unreleased_data,
};

const LARGE: usize = 16 << 20;

/// A server with TLS.
struct Secured {
    server: Server,
    connector: TlsConnector,
    /// How many encrypted bytes the sockets took.
    taken: Arc<AtomicUsize>,
}

async fn serve(above: bool) -> Secured {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("the key is valid");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("the key fits the certificate")));
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(cert.der().clone())
        .expect("the certificate is valid");
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));

    let (supervisor, witness) = (last_byte(), Witness::new());
    let watching = witness.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            let large = Step::data(vec![b'.'; LARGE]);
            let body = match request.uri().path() {
                "/full" => Script::new([large]).sized(LARGE as u64).tells_end(),
                "/stream" => Script::new([large]),
                "/short" => Script::new([Step::data("hello")]).tells_end(),
                _ => unreachable!("the tests request no other path"),
            };
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        },
    ));
    let taken = Arc::<AtomicUsize>::default();
    let counted = taken.clone();
    let server = Server::each(supervisor, witness, move |stream| {
        let (acceptor, service, counted) = (acceptor.clone(), service.clone(), counted.clone());
        let stream = InspectWriter::new(stream, move |bytes: &[u8]| {
            counted.fetch_add(bytes.len(), SeqCst);
        });
        async move {
            if above {
                let stream = SentStream::new(
                    acceptor
                        .accept(stream)
                        .await
                        .expect("the client speaks TLS"),
                );
                let connection = stream.connection();
                answer(stream, &connection, service).await;
            } else {
                let stream = SentStream::new(stream);
                let connection = stream.connection();
                answer(
                    acceptor
                        .accept(stream)
                        .await
                        .expect("the client speaks TLS"),
                    &connection,
                    service,
                )
                .await;
            }
        }
    })
    .await;
    Secured {
        server,
        connector,
        taken,
    }
}

async fn answer<T>(stream: T, connection: &SentConnection, service: impl Servable)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(connection.layer(service));
    // The client of the test checks how a connection ends.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Secured {
    /// Connects a client whose receive buffer is small.
    async fn connect(&self) -> TlsStream<TcpStream> {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket
            .set_recv_buffer_size(16 * 1024)
            .expect("the system lets it be small");
        let stream = socket
            .connect(self.server.address)
            .await
            .expect("the server listens");
        let name = ServerName::try_from("localhost").expect("a name");
        soon(self.connector.connect(name, stream))
            .await
            .expect("the certificate is trusted")
    }

    /// Connects a client that requests a path, reads one byte and stalls.
    async fn stalled(&self, path: &str) -> TlsStream<TcpStream> {
        let mut client = self.connect().await;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        client
            .write_all(request.as_bytes())
            .await
            .expect("the server reads");
        soon(client.read_u8()).await.expect("there is a head");
        settle().await;
        assert_eq!(self.server.supervisor.stats().deferred, 1);
        client
    }

    async fn ends(&self, end: EndKind) {
        assert_ends(&self.server, end).await;
    }
}

/// Closes the socket with a reset.
fn reset(client: TlsStream<TcpStream>) {
    let (socket, _) = client.get_ref();
    socket.set_zero_linger().expect("the socket is open");
    drop(client);
}

#[tokio::test]
async fn http1_clients_that_stall() {
    for above in [true, false] {
        let secured = serve(above).await;
        for path in ["/full", "/stream"] {
            let mut client = secured.stalled(path).await;
            for _ in 0..100 {
                soon(client.read_u8()).await.expect("there is more");
                assert_eq!(secured.server.supervisor.stats().deferred, 1);
            }
            let mut read = Vec::new();
            soon(client.read_to_end(&mut read))
                .await
                .expect("the server closes well");
            assert!(101 + read.len() > LARGE);
            secured.ends(EndKind::Complete).await;
        }
    }
}

#[tokio::test]
async fn http1_clients_that_leave_with_and_without_an_alert() {
    for above in [true, false] {
        let secured = serve(above).await;
        for path in ["/full", "/stream"] {
            let mut client = secured.stalled(path).await;
            // TLS sends a `close_notify` alert first.
            client.shutdown().await.expect("the server is there");
            drop(client);
            secured.ends(EndKind::Interrupted).await;

            reset(secured.stalled(path).await);
            secured.ends(EndKind::Interrupted).await;
        }
    }
}

/// TLS accepts more bytes than the socket takes. Below TLS the encrypted bytes count.
#[tokio::test]
async fn no_more_bytes_are_reported_than_the_socket_took() {
    for above in [true, false] {
        let secured = serve(above).await;
        for path in ["/full", "/stream"] {
            let before = secured.taken.load(SeqCst);
            reset(secured.stalled(path).await);
            let end = secured.server.witness.next().await.end;
            let (sent, taken) = (
                end.bytes_sent().expect("it is tracked"),
                (secured.taken.load(SeqCst) - before) as u64,
            );
            assert_eq!(end.kind(), EndKind::Interrupted);
            assert!(
                sent > 0 && sent < taken,
                "{path}, above: {above}: {sent} bytes are reported of {taken} encrypted ones"
            );
            soon(secured.server.supervisor.idle()).await;
        }
    }
}

#[tokio::test]
async fn http2_above() {
    let secured = serve(true).await;
    for path in ["/full", "/stream", "/short"] {
        for leave in [None, Some(false), Some(true)] {
            let mut client = Multiplexed::over(secured.connect().await, 1).await;
            let (response, mut stream) = client.send(Method::GET, path).await;
            let mut response = soon(response).await.expect("there is a head");
            for _ in 0..3 {
                next_data(response.body_mut()).await;
                assert_waits(&secured.server, path).await;
            }
            match leave {
                None if path == "/short" => {
                    rest(response.body_mut())
                        .await
                        .expect("the response is whole");
                    secured.ends(EndKind::Complete).await;
                    continue;
                }
                // This client would have to open a window of one byte sixteen million times.
                None | Some(true) => client.leave().await,
                Some(false) => stream.send_reset(h2::Reason::CANCEL),
            }
            secured.ends(EndKind::Interrupted).await;
        }
    }
}

#[tokio::test]
async fn http2_below() {
    let secured = serve(false).await;
    let mut client = Multiplexed::over(secured.connect().await, 4).await;
    let mut response = client.get("/short").await;
    assert_eq!(unreleased_data(response.body_mut()).await.len(), 4);
    assert_waits(&secured.server, "the window is closed").await;
    response
        .body_mut()
        .flow_control()
        .release_capacity(4)
        .expect("it was received");
    unreleased_data(response.body_mut()).await;
    secured.ends(EndKind::Complete).await;

    let (response, mut stream) = client.send(Method::GET, "/short").await;
    let _stalled = soon(response).await.expect("there is a head");
    settle().await;
    stream.send_reset(h2::Reason::CANCEL);
    secured.ends(EndKind::Interrupted).await;

    let _stalled = client.get("/short").await;
    settle().await;
    client.leave().await;
    secured.ends(EndKind::Interrupted).await;
}
