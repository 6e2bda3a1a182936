//! Requests by `reqwest`.

use bytes::Bytes;
use http::StatusCode;

use super::{Server, soon};

/// A request for a path, over HTTP/1.1.
pub fn get(server: &Server, path: &str) -> reqwest::RequestBuilder {
    let client = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .build()
        .expect("a client needs nothing");
    client.get(format!("http://{}{path}", server.address))
}

/// Requests a path, and returns the head of the response, with the body to be read.
pub async fn open(server: &Server, path: &str) -> reqwest::Response {
    soon(get(server, path).send())
        .await
        .expect("the server answers")
}

/// Returns the next part of a body, which must come.
pub async fn chunk(response: &mut reqwest::Response) -> Bytes {
    let chunk = soon(response.chunk()).await.expect("the body goes on");
    chunk.expect("there is more")
}

/// Requests a path, and returns the text of a response that succeeded.
pub async fn text(server: &Server, path: &str) -> String {
    let response = open(server, path).await;
    assert_eq!(response.status(), StatusCode::OK);
    soon(response.text()).await.expect("a whole body")
}
