//! What the command entry says.

use std::time::UNIX_EPOCH;

pub struct Options {
    pub requests: u64,
    /// Ends the attack after this time, though there were fewer requests.
    pub seconds: Option<u64>,
    pub seed: u64,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            requests: 0,
            seconds: None,
            seed: 0,
        };
        let (mut requests, mut seed) = (None, None);
        while let Some(name) = arguments.next() {
            let value = arguments.next().and_then(|value| value.parse().ok());
            let value: u64 = value.ok_or_else(|| format!("{name} needs a number\n{USAGE}"))?;
            match name.as_str() {
                "--requests" => requests = Some(value),
                "--seconds" => options.seconds = Some(value),
                "--seed" => seed = Some(value),
                _ => return Err(format!("what is {name}?\n{USAGE}")),
            }
        }
        // With a time alone, the time ends it.
        options.requests = requests.unwrap_or(if options.seconds.is_some() {
            1_000_000_000
        } else {
            20_000
        });
        options.seed =
            seed.unwrap_or_else(|| UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()));
        Ok(options)
    }
}

const USAGE: &str = "soak [--requests N] [--seconds S] [--seed X]";
