//! What is attacked: engines, modes, and the stages of a request.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// How a job is handed off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Held,
    Durable,
    Lossy,
    /// None is: what a head costs without.
    Bare,
}

/// Where a request stays for good, in the order of a held one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The handler has returned, and nothing is written.
    Handler,
    /// The job is written, and no more was done.
    Write,
    /// The client has the head.
    Head,
    /// The client has some of the body.
    Body,
    /// The client has all of it, and nothing was done after that.
    End,
}

/// What is special about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Nothing,
    /// It stays there for good.
    Stays(Stage),
    /// Its job stays with the worker, in the first attempt.
    Stuck,
}

/// Held jobs come first: those that wait for their grace have it while the rest is under attack.
const MODES: [Mode; 3] = [Mode::Held, Mode::Durable, Mode::Lossy];
const STAGES: [Stage; 5] = [Stage::Handler, Stage::Write, Stage::Head, Stage::Body, Stage::End];

#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub mode: Mode,
    pub stage: Stage,
}

pub fn cells() -> impl Iterator<Item = Cell> {
    MODES.into_iter().flat_map(|mode| STAGES.into_iter().map(move |stage| Cell { mode, stage }))
}

impl Engine {
    pub fn named(name: &str) -> Option<Self> {
        [Self::Sqlite, Self::Postgres].into_iter().find(|engine| engine.to_string() == name)
    }
}

impl Mode {
    /// As it stands in a path.
    pub fn named(name: &str) -> Option<Self> {
        MODES.into_iter().chain([Self::Bare]).find(|mode| mode.to_string() == name)
    }

    /// Whether a job must not be lost.
    pub const fn is_durable(self) -> bool {
        matches!(self, Self::Held | Self::Durable)
    }
}

impl Stage {
    /// As it stands in a path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Write => "write",
            Self::Head => "head",
            Self::Body => "body",
            Self::End => "end",
        }
    }
}

impl Special {
    /// As it stands in a path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Stuck => "stuck",
            Self::Stays(stage) => stage.path(),
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        let stages = STAGES.into_iter().map(Self::Stays);
        stages.chain([Self::Nothing, Self::Stuck]).find(|special| special.path() == name)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "held",
            Self::Durable => "durable",
            Self::Lossy => "lossy",
            Self::Bare => "bare",
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handler => "after the handler",
            Self::Write => "after the write",
            Self::Head => "after the head",
            Self::Body => "mid-body",
            Self::End => "after the end",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.mode, self.stage)
    }
}
