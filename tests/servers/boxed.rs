//! The layer works around boxed, buffered and steered services of tower, and inside them, over real
//! connections.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tower::{
    Layer, Service, ServiceExt,
    buffer::Buffer,
    service_fn,
    steer::Steer,
    util::{BoxCloneService, BoxCloneSyncService, BoxService, UnsyncBoxService},
};
use tower_background::{BackgroundLayer, BackgroundTasksExt, EndKind, Supervisor};

use crate::common::{Servable, Server, Witness, soon};

type Answer = Response<Full<Bytes>>;

/// A service that answers with a word and leaves a witness.
fn answers(
    word: &'static str,
    witness: &Witness,
) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ use<> {
    let witness = witness.clone();
    service_fn(move |request: Request<Incoming>| {
        witness.watch(&request.background_tasks().expect("the layer is there"));
        std::future::ready(Ok(Response::new(Full::from(word))))
    })
}

/// Where a test puts together what it serves.
struct Bench {
    name: &'static str,
    supervisor: Supervisor,
    witness: Witness,
}

impl Bench {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            supervisor: Supervisor::new(),
            witness: Witness::new(),
        }
    }

    fn layer(&self) -> BackgroundLayer {
        BackgroundLayer::with_supervisor(self.supervisor.clone())
    }

    fn answers(
        &self,
    ) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + use<> {
        answers("word", &self.witness)
    }

    /// Serves it, and checks the ends of requests for these paths, each with its answer.
    async fn holds_for(self, service: impl Servable, expected: &[(&str, &str)]) {
        let Self {
            name,
            supervisor,
            witness,
        } = self;
        let server = Server::serve(service, supervisor.clone(), witness.clone()).await;
        let client = || reqwest::Client::builder().no_proxy();
        for client in [client().http1_only(), client().http2_prior_knowledge()] {
            let client = client.build().expect("a client needs nothing");
            for (path, word) in expected {
                let response = soon(
                    client
                        .get(format!("http://{}{path}", server.address))
                        .send(),
                )
                .await
                .expect("it answers");
                assert_eq!(
                    soon(response.text()).await.expect("a whole body"),
                    *word,
                    "{name}"
                );
                let end = witness.next().await.end;
                assert_eq!(
                    (end.kind(), end.bytes(), end.path()),
                    (EndKind::Complete, word.len() as u64, *path),
                    "{name}"
                );
            }
        }
        witness.nothing_else().await;
        soon(supervisor.idle()).await;
        let ran = 2 * expected.len() as u64;
        assert_eq!(
            (supervisor.stats().succeeded, supervisor.stats().added()),
            (ran, ran),
            "{name}"
        );
    }

    async fn holds(self, service: impl Servable) {
        self.holds_for(service, &[("/", "word")]).await;
    }
}

#[tokio::test]
async fn boxed_services_that_can_be_cloned() {
    let bench = Bench::new("in a `BoxCloneService`");
    let service = bench.layer().layer(bench.answers());
    bench.holds(BoxCloneService::new(service)).await;

    let bench = Bench::new("around a `BoxCloneService`");
    let service = bench.layer().layer(BoxCloneService::new(bench.answers()));
    bench.holds(service).await;

    let bench = Bench::new("in a `BoxCloneSyncService`");
    let service = bench.layer().layer(bench.answers());
    bench.holds(BoxCloneSyncService::new(service)).await;

    let bench = Bench::new("around a `BoxCloneSyncService`");
    let service = bench
        .layer()
        .layer(BoxCloneSyncService::new(bench.answers()));
    bench.holds(service).await;
}

/// A boxed service that can't be cloned is shared by a buffer, whose worker calls it.
#[tokio::test]
async fn boxed_services_behind_a_buffer() {
    let bench = Bench::new("a `BoxService` around the layer");
    let service = BoxService::new(bench.layer().layer(bench.answers()));
    bench.holds(Buffer::new(service, 4)).await;

    let bench = Bench::new("the layer around a `BoxService`");
    let service = bench.layer().layer(BoxService::new(bench.answers()));
    bench.holds(Buffer::new(service, 4)).await;

    let bench = Bench::new("the layer around a buffer");
    let service = Buffer::new(BoxService::new(bench.answers()), 4);
    let service = bench.layer().layer(service);
    bench.holds(service).await;

    // This one is not even `Send`: it stays with its caller, who is on one thread.
    let bench = Bench::new("an `UnsyncBoxService`");
    let mut service = UnsyncBoxService::new(bench.layer().layer(service_fn(
        async |request: Request<()>| {
            request
                .background_tasks()
                .expect("the layer is there")
                .add(async {});
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("word")))
        },
    )));
    let response = service
        .ready()
        .await
        .expect("it is ready")
        .call(Request::new(()))
        .await
        .expect("it answers");
    drop(response);
    soon(bench.supervisor.idle()).await;
    assert_eq!(bench.supervisor.stats().succeeded, 1);
}

/// Picks a service by the path.
fn pick<S>(request: &Request<Incoming>, _services: &[S]) -> usize {
    usize::from(request.uri().path() == "/other")
}

#[tokio::test]
async fn steered_services() {
    let expected = [("/", "one"), ("/other", "other")];

    let bench = Bench::new("around `Steer`");
    let services = ["one", "other"].map(|word| BoxCloneService::new(answers(word, &bench.witness)));
    let service = bench.layer().layer(Steer::new(services, pick));
    bench.holds_for(service, &expected).await;

    let bench = Bench::new("in each service of `Steer`");
    let services = ["one", "other"]
        .map(|word| BoxCloneService::new(bench.layer().layer(answers(word, &bench.witness))));
    bench.holds_for(Steer::new(services, pick), &expected).await;

    let bench = Bench::new("around `Steer`, and in each service of it");
    let services = ["one", "other"]
        .map(|word| BoxCloneService::new(bench.layer().layer(answers(word, &bench.witness))));
    let service = bench.layer().layer(Steer::new(services, pick));
    bench.holds_for(service, &expected).await;
}
