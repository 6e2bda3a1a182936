//! Runs the examples of the crate as processes.

use std::{
    env,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::soon;

/// The built example. Cargo builds them for `cargo test`, but not for a single test.
async fn example(name: &str, features: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its file");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("it is in `deps` of its profile's folder");
    let file = profile.join("examples").join(name);
    if !file.exists() {
        let target = profile.parent().expect("a profile is in the target folder");
        let profile = match profile.file_name().and_then(|profile| profile.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--features",
                features,
                "--example",
                name,
                "--profile",
                profile,
                "--target-dir",
            ])
            .arg(target)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .status()
            .await
            .expect("cargo is there");
        assert!(
            built.success() && file.exists(),
            "cargo should build the example {name}"
        );
    }
    file
}

/// A running example, the address that it has printed, and the rest of what it prints.
pub async fn start(name: &str, features: &str) -> (Child, String, Lines<BufReader<ChildStdout>>) {
    start_with(name, features, &[]).await
}

/// The same, with arguments. What it prints first may be something else than an address.
pub async fn start_with(
    name: &str,
    features: &str,
    arguments: &[&str],
) -> (Child, String, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(example(name, features).await)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the example can be run");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let address = lines
        .next_line()
        .await
        .expect("it prints text")
        .expect("it prints its address first");
    (child, address, lines)
}

/// What an example prints that comes to its end by itself.
pub async fn output(name: &str, features: &str) -> String {
    output_with(name, features, &[]).await
}

/// The same, with arguments.
pub async fn output_with(name: &str, features: &str, arguments: &[&str]) -> String {
    let output = Command::new(example(name, features).await)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = soon(output).await.expect("the example can be run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Sends SIGTERM to a running example.
pub async fn terminate(child: &Child) {
    let pid = child.id().expect("it runs").to_string();
    let killed = Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .await
        .expect("`kill` is there");
    assert!(killed.success());
}

/// Waits for the end of an example, and returns what it printed until then.
pub async fn ended(
    mut child: Child,
    mut lines: Lines<BufReader<ChildStdout>>,
) -> (ExitStatus, Vec<String>) {
    let mut printed = Vec::new();
    while let Some(line) = soon(lines.next_line()).await.expect("it prints text") {
        printed.push(line);
    }
    let status = soon(child.wait()).await.expect("it can be waited for");
    (status, printed)
}
