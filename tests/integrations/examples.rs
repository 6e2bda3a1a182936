//! Two examples: one prints what a guide shows, and the other is a service that works to its end.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::{process::Command, time::timeout};

use crate::common::{output, start_with};

const MOVING: &str = include_str!("../../docs/guides/moving.md");
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_comparison_with_spawn() {
    let printed = output("spawn_or_layer", "axum").await;
    assert!(
        MOVING.contains(&format!(
            "$ cargo run --example spawn_or_layer\n{printed}```"
        )),
        "the guide shows {printed}"
    );
}

/// A request, the mail after it, the metrics, and a signal while another mail is sent.
#[tokio::test]
async fn the_service_waits_for_a_mail_at_sigterm() {
    let (mut service, address, mut lines) =
        start_with("service", "axum,metrics", &["127.0.0.1:0"]).await;
    let client = Client::new();
    let sign_up = async |name: &'static str| {
        let response = client
            .post(format!("{address}/sign-up"))
            .body(name)
            .send()
            .await
            .expect("the service answers");
        assert_eq!(response.status(), StatusCode::CREATED);
    };
    let metric = r#"background_tasks_total{task="welcome-mail",outcome="succeeded"} 1"#;

    let test = async {
        sign_up("ada@example.org").await;
        assert_eq!(
            lines.next_line().await.expect("it prints text").as_deref(),
            Some("a mail went to ada@example.org")
        );
        // The mail is printed before its task has ended.
        loop {
            let page = client
                .get(format!("{address}/metrics"))
                .send()
                .await
                .expect("the service answers")
                .text()
                .await;
            if page.expect("it is text").lines().any(|line| line == metric) {
                break;
            }
            tokio::task::yield_now().await;
        }

        sign_up("bob@example.org").await;
        let pid = service.id().expect("it runs").to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .await
                .expect("`kill` is there")
                .success()
        );
        assert_eq!(
            lines.next_line().await.expect("it prints text").as_deref(),
            Some("a mail went to bob@example.org")
        );
        assert_eq!(lines.next_line().await.expect("it prints text"), None);
        assert!(
            service
                .wait()
                .await
                .expect("it can be waited for")
                .success()
        );
    };
    timeout(PATIENCE, test).await.expect("the service stops");
}
