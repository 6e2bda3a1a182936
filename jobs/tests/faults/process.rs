//! Processes of the program `child`, and what they note.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::eventually;

/// A process of `tests/support/child.rs`, killed when this value is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped());
        Self(command.spawn().expect("the program starts"))
    }

    /// The port that a server prints.
    pub(crate) fn port(&mut self) -> u64 {
        let mut line = String::new();
        let output = self.0.stdout.as_mut().expect("it is piped");
        let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line);
        read.expect("it prints a line");
        line.trim().parse().expect("it listens")
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .arg(signal)
            .arg(self.0.id().to_string())
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) {
        eventually("the process has ended", async || self.has_ended()).await;
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cargo builds the examples of a package before it runs the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("it has a path");
    let program = test
        .parent()
        .and_then(Path::parent)
        .expect("target")
        .join("examples/child");
    assert!(
        program.exists(),
        "run `cargo build --example child --all-features` first"
    );
    program
}

/// What the processes noted, for each job.
#[derive(Default)]
pub(crate) struct Notes {
    /// How many times it was started.
    pub(crate) starts: HashMap<u64, u32>,
    /// How many times it was done, by workers and by the task of a server.
    pub(crate) done: HashMap<u64, u32>,
    /// How many times it was done by the task of a server.
    pub(crate) done_by_task: HashMap<u64, u32>,
}

impl Notes {
    pub(crate) fn read(file: &Path) -> Self {
        let mut notes = Self::default();
        for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let id = words[1].parse().expect("an id");
            let add = |map: &mut HashMap<u64, u32>| *map.entry(id).or_default() += 1;
            match words[0] {
                "start" => add(&mut notes.starts),
                "done" => add(&mut notes.done),
                _ => {
                    add(&mut notes.done);
                    add(&mut notes.done_by_task);
                }
            }
        }
        notes
    }
}
