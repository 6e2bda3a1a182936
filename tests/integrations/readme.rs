//! What the README shows is true: an example prints what the README says, and the service works as it says.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::{process::Command, time::timeout};

use crate::common::{output, start_with};

const README: &str = include_str!("../../README.md");
const PATIENCE: Duration = Duration::from_secs(60);

/// The block of the README that begins with this.
fn block(begin: &str) -> &'static str {
    let (_, rest) = README.split_once(begin).unwrap_or_else(|| panic!("the README has no block that begins with {begin}"));
    rest.split("```").next().expect("the block has an end")
}

#[tokio::test]
async fn the_comparison_with_spawn() {
    let printed = output("spawn_or_layer", "axum").await;
    assert_eq!(printed, block("```console\n$ cargo run --example spawn_or_layer\n"));
}

#[test]
fn the_service_is_an_example() {
    let example = include_str!("../../examples/service.rs");
    let code: String = example.split_inclusive('\n').skip_while(|line| line.starts_with("//!") || *line == "\n").collect();
    assert_eq!(code, block("```rust,no_run\n"));
}

/// As the README shows it: a request, the mail after it, the figures, and a signal while another mail is on its way.
#[tokio::test]
async fn the_service_does_what_it_says() {
    let (mut service, address, mut lines) = start_with("service", "axum,metrics", &["127.0.0.1:0"]).await;
    let client = Client::new();
    let sign_up = async |name: &'static str| {
        let response = client.post(format!("{address}/sign-up")).body(name).send().await.expect("the service answers");
        assert_eq!(response.status(), StatusCode::CREATED);
    };
    let figure = r#"background_tasks_total{task="welcome-mail",outcome="succeeded"} 1"#;
    assert!(README.contains(figure) && README.contains("\na mail went to ada@example.org\n"));

    let test = async {
        sign_up("ada@example.org").await;
        assert_eq!(lines.next_line().await.expect("it prints text").as_deref(), Some("a mail went to ada@example.org"));
        // The mail is told before its task has ended.
        loop {
            let page = client.get(format!("{address}/metrics")).send().await.expect("the service answers").text().await;
            if page.expect("it is text").lines().any(|line| line == figure) {
                break;
            }
            tokio::task::yield_now().await;
        }

        sign_up("bob@example.org").await;
        let pid = service.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("`kill` is there").success());
        assert_eq!(lines.next_line().await.expect("it prints text").as_deref(), Some("a mail went to bob@example.org"));
        assert_eq!(lines.next_line().await.expect("it prints text"), None);
        assert!(service.wait().await.expect("it can be waited for").success());
    };
    timeout(PATIENCE, test).await.expect("the service comes to its end");
}
