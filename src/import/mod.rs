//! Imports: a file of another gateway comes in, the text of a configuration and a report of what
//! became of each line go out. Nothing is served, asked or printed here, and nothing is written to a
//! disk: `cli` does that. This room knows no other but `money`; it writes the configuration as text,
//! and `config` is the judge of it.
//!
//! Secrets of callers come out as SHA-256 only, secrets of upstreams as names of variables unless
//! they are asked for. A report never holds one.
//!
//! Open `litellm/mod.rs` or `one_api/mod.rs` first: each reads its source (`yaml`, `tables`, `sql`)
//! into a `plan`, which `write` turns into text.

mod address;
mod decimal;
mod litellm;
mod names;
mod one_api;
mod plan;
mod report;
mod sql;
mod sqlite;
mod tables;
mod write;
mod yaml;

use std::fmt;

use plan::Plan;

pub use report::{At, Fate, Line, Report, Variable};

/// What an import is told beside the file.
pub struct Options<'o> {
    /// Write the upstreams' secrets into the result instead of names of variables.
    pub with_secrets: bool,
    /// Looks up a variable of the environment, for addresses that the source keeps there.
    pub variable: &'o dyn Fn(&str) -> Option<String>,
    /// Milliseconds since 1970: what has expired is left out.
    pub now_unix_ms: u64,
}

/// A file of the source.
pub struct Source<'s> {
    /// For messages.
    pub name: &'s str,
    pub bytes: &'s [u8],
}

/// What comes out of an import.
pub struct Imported {
    /// The configuration as TOML.
    pub config: String,
    pub report: Report,
}

/// Why a file could not be read at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// From 1; 0 where there are no lines.
    pub line: usize,
    pub message: String,
}

impl Fault {
    fn new(message: impl Into<String>) -> Fault {
        Fault::at(0, message)
    }

    fn at(line: usize, message: impl Into<String>) -> Fault {
        Fault { file: String::new(), line, message: report::printable(&message.into()) }
    }

    fn of(self, file: &str) -> Fault {
        Fault { file: file.to_owned(), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

impl std::error::Error for Fault {}

pub use litellm::litellm;
pub use one_api::{Database, is_sqlite, one_api};

/// The largest configuration that foretoken reads.
const RESULT_MOST_BYTES: usize = 8 << 20;

/// The text of the plan, once all of it is known.
fn finish(mut plan: Plan, mut report: Report, options: &Options<'_>) -> Result<Imported, Fault> {
    plan.settle_secrets(options.with_secrets, &mut report);
    let config = write::toml(&plan);
    if config.len() > RESULT_MOST_BYTES {
        let keys = plan.keys.len();
        return Err(Fault::new(format!(
            "with {keys} keys the configuration would be larger than 8 MiB, which is the most that is read: make the keys by the admin API"
        )));
    }
    Ok(Imported { config, report })
}

/// The text of a file.
fn text<'s>(source: &Source<'s>, most_bytes: usize) -> Result<&'s str, Fault> {
    if source.bytes.len() > most_bytes {
        let message = format!("it is larger than {} MiB", most_bytes >> 20);
        return Err(Fault::new(message).of(source.name));
    }
    std::str::from_utf8(source.bytes).map_err(|error| {
        let good = &source.bytes[..error.valid_up_to()];
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        Fault::at(line, "it is no text in UTF-8 from here on").of(source.name)
    })
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
