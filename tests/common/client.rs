//! A client that is not ours.

use super::Server;

/// A request for a path, over HTTP/1.1.
pub fn get(server: &Server, path: &str) -> reqwest::RequestBuilder {
    let client = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .build()
        .expect("a client needs nothing");
    client.get(format!("http://{}{path}", server.address))
}
