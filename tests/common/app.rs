//! Serves an axum application on a real server, and requests a path of it.

use axum::Router;
use http::StatusCode;
use tower_background::{BackgroundLayer, Supervisor};

use super::{Server, Witness, soon};

impl Server {
    /// Serves the router below the layer.
    pub async fn router(supervisor: &Supervisor, router: Router) -> Self {
        let app = router.layer(BackgroundLayer::with_supervisor(supervisor.clone()));
        Self::serve(app, supervisor.clone(), Witness::new()).await
    }

    /// Gets a path, to the end of its body.
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = soon(reqwest::get(format!("http://{}{path}", self.address)))
            .await
            .expect("the server answers");
        let status = response.status();
        (
            status,
            soon(response.text()).await.expect("the body ends well"),
        )
    }
}
