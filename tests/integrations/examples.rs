//! Three examples: `spawn_or_layer` prints what a guide shows, `service` works to its end, and
//! `readme` is the program of the README.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::common::{output, start_with};

const MOVING: &str = include_str!("../../docs/guides/moving.md");
const README: &str = include_str!("../../README.md");
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

/// A mail, a mail that fails, and Ctrl-C.
#[tokio::test]
async fn the_program_of_the_readme() {
    let (_about, code) = include_str!("../../examples/readme.rs")
        .split_once("\n\n")
        .expect("an empty line is after the first comment");
    assert!(README.contains(&format!("```rust\n{code}```")));

    let (mut program, url, mut lines) = start_with("readme", "axum", &["127.0.0.1:0"]).await;
    let client = Client::new();
    let test = async {
        let mut sign_up = async |name: &'static str| {
            let response = client.post(&url).body(name).send().await;
            let response = response.expect("the program answers");
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            let line = lines.next_line().await.expect("it prints text");
            line.expect("it prints what the task did")
        };
        assert_eq!(
            sign_up("ada@example.org").await,
            "a mail went to ada@example.org"
        );
        let failed = sign_up("nobody").await;
        for part in [
            "ERROR",
            "a background task failed",
            "this is no address",
            "/sign-up",
            "welcome-mail",
        ] {
            assert!(failed.contains(part), "{part} is missing in {failed}");
        }

        send(&program, "-INT").await;
        let line = lines.next_line().await.expect("it prints text");
        assert!(line.is_some_and(|line| line.starts_with("clean shutdown")));
        assert!(program.wait().await.expect("it has ended").success());
    };
    timeout(PATIENCE, test).await.expect("the program stops");
}

async fn send(program: &Child, signal: &str) {
    let pid = program.id().expect("it runs").to_string();
    let kill = Command::new("kill").args([signal, &pid]).status().await;
    assert!(kill.expect("`kill` is there").success());
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
        send(&service, "-TERM").await;
        assert_eq!(
            lines.next_line().await.expect("it prints text").as_deref(),
            Some("a mail went to bob@example.org")
        );
        let line = lines.next_line().await.expect("it prints text");
        assert!(line.is_some_and(|line| line.starts_with("clean shutdown")));
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
