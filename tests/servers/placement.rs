//! The layer works in every place where axum accepts one. Each request that passes it has one
//! registry and one end, and the task of the handler runs after that.

use std::future::{Ready, ready};

use axum::{
    Router,
    body::Body,
    extract::Request,
    handler::Handler,
    middleware::{Next, from_fn},
    response::Response,
    routing::{get, post_service},
};
use http::StatusCode;
use tokio::sync::mpsc;
use tower::ServiceBuilder;
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, EndKind, ServiceBuilderExt as _,
    Supervisor,
};

use crate::common::{Server, Witness, soon};

const ANSWER: &str = "an answer";

/// One place: what serves the path, by this method, with the layer somewhere.
struct Place {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    router: fn(BackgroundLayer, Witness) -> Router,
}

const fn place(
    name: &'static str,
    path: &'static str,
    router: fn(BackgroundLayer, Witness) -> Router,
) -> Place {
    Place {
        name,
        method: "GET",
        path,
        router,
    }
}

/// A handler that leaves a witness.
fn answers(
    witness: Witness,
) -> impl Fn(BackgroundTasks) -> Ready<&'static str> + Clone + Send + Sync + 'static {
    move |tasks| {
        witness.watch(&tasks);
        ready(ANSWER)
    }
}

fn route(witness: Witness) -> Router {
    Router::new().route("/route", get(answers(witness)))
}

async fn pass(request: Request, next: Next) -> Response {
    tokio::task::yield_now().await;
    next.run(request).await
}

const PLACES: &[Place] = &[
    place("`Router::layer`", "/route", |layer, witness| {
        route(witness).layer(layer)
    }),
    place("`Router::route_layer`", "/route", |layer, witness| {
        route(witness).route_layer(layer)
    }),
    place("`MethodRouter::layer`", "/route", |layer, witness| {
        Router::new().route("/route", get(answers(witness)).layer(layer))
    }),
    place("`MethodRouter::route_layer`", "/route", |layer, witness| {
        Router::new().route("/route", get(answers(witness)).route_layer(layer))
    }),
    place("`Handler::layer`", "/route", |layer, witness| {
        Router::new().route("/route", get(answers(witness).layer(layer)))
    }),
    place("a `ServiceBuilder`", "/route", |layer, witness| {
        route(witness).layer(
            ServiceBuilder::new()
                .background_with(layer.supervisor().clone())
                .layer(from_fn(pass)),
        )
    }),
    place("a nested router", "/api/route", |layer, witness| {
        Router::new().nest("/api", route(witness).layer(layer))
    }),
    place("around a nested router", "/api/route", |layer, witness| {
        Router::new().nest("/api", route(witness)).layer(layer)
    }),
    place("a nested service", "/api/route", |layer, witness| {
        Router::new().nest_service("/api", route(witness).layer(layer))
    }),
    place("a merged router", "/route", |layer, witness| {
        Router::new().merge(route(witness).layer(layer))
    }),
    place("a route's service", "/route", |layer, witness| {
        Router::new().route_service(
            "/route",
            ServiceBuilder::new().layer(layer).service(route(witness)),
        )
    }),
    place("a fallback", "/elsewhere", |layer, witness| {
        Router::new().fallback(answers(witness)).layer(layer)
    }),
    place("a fallback of its own", "/elsewhere", |layer, witness| {
        Router::new().fallback(answers(witness).layer(layer))
    }),
    place("a fallback's service", "/route", |layer, witness| {
        Router::new().fallback_service(route(witness).layer(layer))
    }),
    place("a nested fallback", "/api/elsewhere", |layer, witness| {
        Router::new()
            .nest("/api", Router::new().fallback(answers(witness)))
            .layer(layer)
    }),
    Place {
        name: "a method's fallback",
        method: "PUT",
        path: "/route",
        router: |layer, witness| {
            Router::new()
                .route("/route", get(ANSWER))
                .method_not_allowed_fallback(answers(witness))
                .layer(layer)
        },
    },
    Place {
        name: "a method's service",
        method: "POST",
        path: "/route",
        router: |layer, witness| {
            let service = ServiceBuilder::new()
                .layer(layer)
                .service(answers(witness).with_state(()));
            Router::new().route("/route", post_service(service))
        },
    },
    place("outside of `from_fn`", "/route", |layer, witness| {
        route(witness).layer(from_fn(pass)).layer(layer)
    }),
    place("inside of `from_fn`", "/route", |layer, witness| {
        route(witness).layer(layer).layer(from_fn(pass))
    }),
    place("between two of `from_fn`", "/route", |layer, witness| {
        route(witness)
            .layer(from_fn(pass))
            .layer(layer)
            .layer(from_fn(pass))
    }),
];

/// Serves the router by axum's own server, and asks it over HTTP/1.1 and HTTP/2.
async fn ask(
    router: Router,
    supervisor: &Supervisor,
    witness: &Witness,
    method: &str,
    path: &str,
) -> [(StatusCode, String); 2] {
    let server = Server::axum(router, supervisor.clone(), witness.clone()).await;
    let method: http::Method = method.parse().expect("it is a method");
    let client = || reqwest::Client::builder().no_proxy();
    let ask = async |client: reqwest::ClientBuilder| {
        let client = client.build().expect("a client needs nothing");
        let request = client.request(method.clone(), format!("http://{}{path}", server.address));
        let response = soon(request.send()).await.expect("it answers");
        (
            response.status(),
            soon(response.text()).await.expect("a whole body"),
        )
    };
    let answers = [
        ask(client().http1_only()).await,
        ask(client().http2_prior_knowledge()).await,
    ];
    soon(supervisor.idle()).await;
    answers
}

#[tokio::test]
async fn wherever_the_layer_stands_there_is_one_registry_and_one_end() {
    for Place {
        name,
        method,
        path,
        router,
    } in PLACES
    {
        let (supervisor, witness) = (Supervisor::new(), Witness::new());
        let router = router(
            BackgroundLayer::with_supervisor(supervisor.clone()),
            witness.clone(),
        );
        for (status, text) in ask(router, &supervisor, &witness, method, path).await {
            assert_eq!((status, text.as_str()), (StatusCode::OK, ANSWER), "{name}");
            let end = witness.next().await.end;
            assert_eq!(
                (end.kind(), end.bytes()),
                (EndKind::Complete, ANSWER.len() as u64),
                "{name}"
            );
            assert_eq!(
                (end.method().as_str(), end.status()),
                (*method, Some(StatusCode::OK)),
                "{name}"
            );
        }
        witness.nothing_else().await;
        assert_eq!(
            (supervisor.stats().succeeded, supervisor.stats().added()),
            (2, 2),
            "{name}"
        );
    }
}

/// `route_layer` is around routes only, so a request that no route takes has no layer.
#[tokio::test]
async fn a_layer_of_routes_is_not_around_the_fallback() {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let router = route(witness.clone())
        .route_layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .fallback(answers(witness.clone()));
    for (status, text) in ask(router, &supervisor, &witness, "GET", "/elsewhere").await {
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(text, "the server is misconfigured");
    }
    assert_eq!(supervisor.stats().added(), 0);
}

/// A middleware is as good a place to add tasks as a handler, before and after that.
#[tokio::test]
async fn a_function_as_middleware_adds_tasks_too() {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let watching = witness.clone();
    let adds = move |tasks: BackgroundTasks, request: Request, next: Next| {
        let watching = watching.clone();
        async move {
            watching.watch(&tasks);
            let response = next.run(request).await;
            watching.watch(&tasks);
            response
        }
    };
    let router = route(witness.clone())
        .layer(from_fn(adds))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    for (status, text) in ask(router, &supervisor, &witness, "GET", "/route").await {
        assert_eq!((status, text.as_str()), (StatusCode::OK, ANSWER));
        for _ in 0..3 {
            assert_eq!(witness.next().await.end.kind(), EndKind::Complete);
        }
    }
    assert_eq!(
        (supervisor.stats().succeeded, supervisor.stats().added()),
        (6, 6)
    );
}

/// Put a layer that replaces responses inside this layer. Outside of it, the tasks see that the
/// response of the handler was dropped. Inside of it, they see the response that the client got.
#[tokio::test]
async fn a_response_that_is_replaced_is_aborted_for_a_layer_within() {
    async fn replace(request: Request, next: Next) -> Response {
        drop(next.run(request).await);
        Response::builder()
            .status(StatusCode::IM_A_TEAPOT)
            .body(Body::from("another"))
            .expect("it is a response")
    }
    for (outside, end, status) in [
        (true, EndKind::Interrupted, StatusCode::OK),
        (false, EndKind::Complete, StatusCode::IM_A_TEAPOT),
    ] {
        let (supervisor, witness) = (Supervisor::new(), Witness::new());
        let layer = BackgroundLayer::with_supervisor(supervisor.clone());
        let router = route(witness.clone());
        let router = if outside {
            router.layer(layer).layer(from_fn(replace))
        } else {
            router.layer(from_fn(replace)).layer(layer)
        };
        for (got, text) in ask(router, &supervisor, &witness, "GET", "/route").await {
            assert_eq!((got, text.as_str()), (StatusCode::IM_A_TEAPOT, "another"));
            let seen = witness.next().await.end;
            assert_eq!((seen.kind(), seen.status()), (end, Some(status)));
        }
    }
}

/// The registry is in the extensions of the request. A middleware may move them to another request.
#[tokio::test]
async fn a_request_that_is_made_anew_keeps_its_registry_by_its_extensions() {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let (sender, mut found) = mpsc::unbounded_channel();
    let anew = move |request: Request, next: Next| {
        let (parts, body) = request.into_parts();
        let mut request = Request::new(body);
        *request.uri_mut() = parts.uri;
        sender
            .send(request.background_tasks().is_ok())
            .expect("the test listens");
        *request.extensions_mut() = parts.extensions;
        next.run(request)
    };
    let router = route(witness.clone())
        .layer(from_fn(anew))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    for (status, _) in ask(router, &supervisor, &witness, "GET", "/route").await {
        assert_eq!(status, StatusCode::OK);
        assert_eq!(found.recv().await, Some(false), "a new request has none");
        assert_eq!(witness.next().await.end.kind(), EndKind::Complete);
    }
}
