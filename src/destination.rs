//! Where jobs go: a `tower::Service`, with its type erased, so that a handler need not name it.

use std::{future::poll_fn, pin::Pin};

use tower_service::Service;

use crate::{error::BoxError, receipt::Receipt, task::Task};

/// A job that is being written. It yields the task that releases the job, if the destination holds it.
pub(crate) type Push = Pin<Box<dyn Future<Output = Result<Option<Task>, BoxError>> + Send>>;

pub(crate) trait Destination<J>: Send + Sync {
    fn push(&self, job: J) -> Push;
}

/// A service that takes jobs, whatever it answers.
pub(crate) struct Plain<S>(pub(crate) S);

/// A service that holds jobs, and answers how they are released.
pub(crate) struct Holding<S>(pub(crate) S);

impl<J, S> Destination<J> for Plain<S>
where
    J: Send + 'static,
    S: Service<J, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
{
    fn push(&self, job: J) -> Push {
        let service = self.0.clone();
        Box::pin(async move {
            let _whatever_it_answers = call(service, job).await?;
            Ok(None)
        })
    }
}

impl<J, S> Destination<J> for Holding<S>
where
    J: Send + 'static,
    S: Service<J, Response: Receipt, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
{
    fn push(&self, job: J) -> Push {
        let service = self.0.clone();
        Box::pin(async move { Ok(Some(Task::release(call(service, job).await?))) })
    }
}

async fn call<J, S>(mut service: S, job: J) -> Result<S::Response, BoxError>
where
    S: Service<J, Error: Into<BoxError>>,
{
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    service.call(job).await.map_err(Into::into)
}
