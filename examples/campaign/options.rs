//! What the command line says.

use std::{path::PathBuf, time::Duration};

use crate::{engine::Place, plan::Engine};

/// Which of the processes this is.
pub enum Role {
    Conductor(Options),
    Web { place: Place, folder: PathBuf, pause: Duration },
    Worker { place: Place, folder: PathBuf },
}

pub struct Options {
    /// For each engine, mode and stage.
    pub kills: usize,
    pub engine: Option<Engine>,
    pub latency: bool,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Role, String> {
        let arguments: Vec<_> = arguments.collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        match arguments[..] {
            ["web", engine, place, folder, pause] => Ok(Role::Web {
                place: Place::parse(engine, place).ok_or(USAGE)?,
                folder: folder.into(),
                pause: Duration::from_millis(pause.parse().map_err(|_| USAGE)?),
            }),
            ["worker", engine, place, folder] => {
                Ok(Role::Worker { place: Place::parse(engine, place).ok_or(USAGE)?, folder: folder.into() })
            }
            _ => Self::of_conductor(&arguments).map(Role::Conductor),
        }
    }

    fn of_conductor(mut arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self { kills: 1, engine: None, latency: false };
        loop {
            arguments = match arguments {
                [] => return Ok(options),
                ["--latency", rest @ ..] => {
                    options.latency = true;
                    rest
                }
                ["--kills", number, rest @ ..] => {
                    options.kills = number.parse().map_err(|_| USAGE)?;
                    rest
                }
                ["--engine", "both", rest @ ..] => rest,
                ["--engine", name, rest @ ..] => {
                    options.engine = Some(Engine::named(name).ok_or(USAGE)?);
                    rest
                }
                [what, ..] => return Err(format!("what is {what}?\n{USAGE}")),
            }
        }
    }

    pub fn engines(&self) -> impl Iterator<Item = Engine> {
        let chosen = self.engine;
        [Engine::Sqlite, Engine::Postgres].into_iter().filter(move |engine| chosen.is_none_or(|chosen| chosen == *engine))
    }
}

const USAGE: &str = "campaign [--kills N] [--engine sqlite|postgres|both] [--latency]";
