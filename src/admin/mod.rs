//! The operator's side: health, metrics and the admin API, on a listener of their own.
//!
//! HTTP comes in, calls of [`Control`] go out; what they do is the affair of the rooms above. Nothing here
//! is reachable through the data port. Every call under `/admin` needs the token; health and metrics
//! do not, so that probes and scrapers need no secret.
//!
//! Open `api.rs` first: the list of calls, from which the router and the OpenAPI document are made. `server.rs`
//! accepts connections and guards them, `token.rs` makes and keeps the token, `client.rs` is the other end,
//! as the command line uses it.

mod api;
pub mod client;
mod openapi;
mod server;
#[cfg(test)]
mod tests;
pub mod token;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::Serialize;
use serde_json::Value;

pub use client::{ClientError, request};
pub use server::serve;
pub use token::{Token, token_file};

/// A future in a box, as a trait object must return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What the admin API shows and steers. The calls run on the slow thread; none may block for long.
pub trait Control: Send + Sync + 'static {
    /// Whether callers are served: the data listener is open and no drain has begun.
    fn ready(&self) -> bool;
    /// Whether the process is in order; `false` asks the supervisor for a restart.
    fn live(&self) -> bool;
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;
    /// Version, uptime, generation, the last reload and what went wrong with it.
    fn status(&self) -> Value;
    /// The running configuration with secrets masked.
    fn config(&self) -> Value;
    /// Per alias and target: share, times, in-flight requests, health.
    fn routes(&self) -> Value;
    /// Loads the configuration again. The answer holds the generation and what changed; a faulty file
    /// changes nothing, and all its faults come back. The future is dropped when the caller hangs up, so
    /// the work must not be left half done by that.
    fn reload(&self) -> BoxFuture<Result<Value, Vec<Problem>>>;
}

/// One fault of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Problem {
    /// The path of the field (`model[0].targets[1].provider`), if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong, and the cure.
    pub message: String,
    /// Where, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Where in the line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "{line}:{column}: {}", self.message),
            (Some(line), None) => write!(f, "{line}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}
