//! Compares a mail that a handler sends by `tokio::spawn` with one that it sends by a task of this
//! crate.
//!
//! `cargo run --example spawn_or_layer` runs real servers and real requests, and prints what
//! happened.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use tokio::{net::TcpListener, sync::oneshot};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BoxError, Observer, Supervisor, Task, When,
    report::TaskReport,
};

#[derive(Clone, Copy)]
enum Case {
    /// The handler takes a moment to store the user.
    Slow,
    /// The user cannot be stored.
    Fails,
    /// The mail server hangs up.
    Refused,
    /// The process should stop while the mail is being sent.
    Stops,
}

#[derive(Clone, Copy)]
enum Way {
    Spawn,
    Layer,
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn note(&self, what: impl Into<String>) {
        self.0
            .lock()
            .expect("nobody panics with it")
            .push(what.into());
    }

    /// Returns the place of an event, if it happened.
    fn at(&self, what: &str) -> Option<usize> {
        self.0
            .lock()
            .expect("nobody panics with it")
            .iter()
            .position(|event| event.contains(what))
    }
}

impl Observer for Events {
    fn on_task_end(&self, report: &TaskReport) {
        self.note(format!(
            "{} {}",
            report.name().unwrap_or_default(),
            report.outcome()
        ));
    }
}

async fn sign_up(
    State((case, way, events)): State<(Case, Way, Events)>,
    tasks: BackgroundTasks,
) -> StatusCode {
    let mail = send_mail(case, events.clone());
    match way {
        Way::Spawn => drop(tokio::spawn(mail)),
        Way::Layer => tasks.add(Task::new(mail).named("welcome-mail").when(When::Success)),
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    events.note("answer");
    if matches!(case, Case::Fails) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::CREATED
    }
}

async fn send_mail(case: Case, events: Events) -> Result<(), BoxError> {
    events.note("start");
    match case {
        Case::Refused => return Err("the mail server hung up".into()),
        Case::Stops => tokio::time::sleep(Duration::from_millis(300)).await,
        Case::Slow | Case::Fails => {}
    }
    events.note("sent");
    Ok(())
}

/// Serves one request, and shuts down gracefully.
async fn serve(case: Case, way: Way, events: Events) -> Result<(), BoxError> {
    let supervisor = Supervisor::builder().observer(events.clone()).build();
    let app = Router::new()
        .route("/sign-up", post(sign_up))
        .with_state((case, way, events))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/sign-up", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel();
    let server = axum::serve(listener, app)
        .with_graceful_shutdown(async { stopped.await.unwrap_or_default() });
    let client = async {
        reqwest::Client::new()
            .post(url)
            .send()
            .await?
            .bytes()
            .await?;
        let _ = stop.send(());
        Ok::<_, BoxError>(())
    };
    let (end, called) = tokio::join!(server, client);
    end?;
    called?;
    supervisor.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

/// Says in a few words what happened.
fn told(case: Case, way: Way) -> Result<String, BoxError> {
    let events = Events::default();
    // Its own runtime, which ends as the runtime of a process does.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(case, way, events.clone()))?;
    let sent = events.at("sent").is_some();
    Ok(match case {
        Case::Slow if events.at("start") < events.at("answer") => "before the answer".into(),
        Case::Slow => "after the answer".into(),
        Case::Fails if sent => "sent".into(),
        Case::Fails => events.at("skipped").map_or("lost", |_| "skipped").into(),
        Case::Refused => events
            .at("failed: ")
            .map_or("not reported", |_| "reported and counted")
            .into(),
        Case::Stops if sent => "sent before the exit".into(),
        Case::Stops => "lost".into(),
    })
}

fn main() -> Result<(), BoxError> {
    println!(
        "{:<28}{:<20}tower-background",
        "a welcome mail", "tokio::spawn"
    );
    let cases = [
        ("starts", Case::Slow),
        ("the sign-up fails", Case::Fails),
        ("the mail server refuses", Case::Refused),
        ("the process stops", Case::Stops),
    ];
    for (what, case) in cases {
        println!(
            "{what:<28}{:<20}{}",
            told(case, Way::Spawn)?,
            told(case, Way::Layer)?
        );
    }
    Ok(())
}
