//! Prints the table of the matrix, or serves one of its servers until SIGTERM.

use std::{env, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;
use tower_background_matrix::{App, Event, SERVERS, short_table, table};

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => print!("{}\n{}", short_table(), table().await),
        [serve, name] if serve == "serve" => return serve_until_sigterm(name).await,
        _ => {
            return Err(
                "call it without arguments, or with `serve` and the name of a server".into(),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints where the server listens, and stops it in order at SIGTERM.
async fn serve_until_sigterm(name: &str) -> Result<ExitCode, BoxError> {
    let server = SERVERS.iter().find(|server| server.name == name);
    let server = server.ok_or("no server has this name")?;
    let (app, mut control) = App::new();
    control.let_tasks_end();
    let stop = CancellationToken::new();
    // Before the address is printed, so that no signal comes too early to be caught.
    let mut terminate = signal(SignalKind::terminate())?;
    let running = server.serve(app.clone(), stop.clone()).await?;
    println!("{}", running.target);
    tokio::spawn(async move {
        loop {
            // A server that stops may close a connection whose request it has not read.
            if let (_, Event::Upload) = control.next().await {
                println!("an upload has begun");
            }
        }
    });

    terminate.recv().await;
    app.supervisor().begin_shutdown();
    stop.cancel();
    running.stopped.await??;
    let report = app.supervisor().shutdown(Duration::from_secs(10)).await;
    let stats = app.supervisor().stats();
    println!(
        "clean={} added={} succeeded={} refused={}",
        report.is_clean(),
        stats.added(),
        stats.succeeded,
        stats.refused
    );
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
