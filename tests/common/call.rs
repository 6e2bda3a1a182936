//! Calls the service without a server. The test decides when the handler answers and when the
//! response ends.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Supervisor, middleware::ResponseBody,
};

/// A response that is over when this is dropped.
pub type Answer = Response<ResponseBody<Full<Bytes>>>;

/// A call whose handler waits until the test lets it answer.
pub struct Call {
    pub tasks: BackgroundTasks,
    handler: oneshot::Sender<()>,
    response: JoinHandle<Answer>,
}

impl Call {
    /// Calls `path`.
    pub fn new(supervisor: &Supervisor, path: &str) -> Self {
        let (handler, answers) = oneshot::channel();
        let mut answers = Some(answers);
        let mut tasks = None;
        let mut service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
            |request: Request<()>| {
                tasks = Some(request.background_tasks().expect("the layer is there"));
                let answers = answers.take().expect("there is one request");
                async move {
                    // A test that has dropped the other half wants an answer, too.
                    let _ = answers.await;
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("answer")))
                }
            },
        ));
        let future = service.call(Request::get(path).body(()).expect("the path is valid"));
        drop(service);
        let response =
            tokio::spawn(async move { future.await.unwrap_or_else(|never| match never {}) });
        Self {
            tasks: tasks.expect("the handler was called"),
            handler,
            response,
        }
    }

    /// Lets the handler answer.
    pub async fn answer(self) -> Answer {
        drop(self.handler);
        self.response.await.expect("the handler does not panic")
    }

    /// Lets the handler answer, and reads the answer to its end.
    pub async fn finish(self) {
        let answer = self
            .answer()
            .await
            .into_body()
            .collect()
            .await
            .expect("the body does not fail");
        assert_eq!(answer.to_bytes(), "answer");
    }

    /// Drops the call before it has an answer.
    pub async fn cancel(self) {
        self.response.abort();
        assert!(
            self.response
                .await
                .expect_err("it had no answer")
                .is_cancelled()
        );
    }
}

/// The registry of a call whose response is over.
pub async fn answered(supervisor: &Supervisor, path: &str) -> BackgroundTasks {
    let call = Call::new(supervisor, path);
    let tasks = call.tasks.clone();
    call.finish().await;
    tasks
}
