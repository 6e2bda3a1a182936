//! The other processes: this program, started anew.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tower_background::BoxError;

use crate::{PATIENCE, engine::Place};

pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it has told beside what was waited for.
    others: Vec<String>,
}

impl Process {
    pub async fn start(role: &str, place: &Place, folder: &Path, more: &[&str]) -> Result<(Self, String), BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            .args(place.arguments())
            .arg(folder)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("its output is piped")?).lines();
        let mut this = Self { child, lines, others: Vec::new() };
        let first = this.next().await?.ok_or_else(|| format!("the {role} ended at once"))?;
        Ok((this, first))
    }

    /// Waits until it tells this.
    pub async fn until(&mut self, line: &str) -> Result<(), BoxError> {
        loop {
            match self.next().await.map_err(|error| format!("{line:?} is not told: {error}"))? {
                Some(told) if told == line => return Ok(()),
                Some(told) => self.others.push(told),
                None => return Err(format!("a process ended before it told {line:?}").into()),
            }
        }
    }

    async fn next(&mut self) -> Result<Option<String>, BoxError> {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        Ok(line.map_err(|_| "a process hangs")??)
    }

    /// Kills it by SIGKILL, and returns what else it has told.
    pub async fn kill(&mut self) -> Result<Vec<String>, BoxError> {
        self.child.kill().await?;
        while let Some(told) = self.next().await? {
            self.others.push(told);
        }
        Ok(std::mem::take(&mut self.others))
    }
}

/// Ends this process when the one that has started it is gone.
pub fn end_with_parent() {
    tokio::spawn(async {
        let _ = tokio::io::stdin().read(&mut [0]).await;
        std::process::exit(1);
    });
}
