//! The operator's side: health, metrics and the admin API, on a listener of their own.
//!
//! HTTP comes in, calls of [`Control`] go out; what they do is the affair of the rooms above. Nothing here
//! is reachable through the data port. Every call under `/admin` needs a token, the owner's or that of a
//! principal; health and metrics do not, so that probes and scrapers need no secret. What a principal may
//! do to an object is decided, and audited, by the directory.
//!
//! Open `calls.rs` first: the list of calls, from which router, guard and OpenAPI document are made, with
//! the kinds of objects in `resources.rs`. `api.rs` answers them, `query.rs` reads their parameters,
//! `openapi/` describes them. `server.rs` accepts connections and guards them, `token.rs` makes and keeps
//! the owner's token, `client.rs` is the other end, as the command line uses it.

mod api;
mod calls;
pub mod client;
mod openapi;
pub mod query;
mod resources;
mod server;
#[cfg(test)]
mod tests;
pub mod token;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use serde::Serialize;
use serde_json::Value;

use crate::directory::{Call, Caller, Refusal, Reply};

pub use client::{Ask, ClientError, request, send};
pub use server::serve;
pub use token::{Token, token_file};

/// A future in a box, as a trait object must return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Query parameters, decoded.
pub type Parameters = Vec<(String, String)>;

/// What an operation ends with.
pub type Outcome = Result<Reply, Refusal>;

/// What the admin API shows and steers. The calls run on the slow thread; none may block for long.
///
/// A future is dropped when the caller hangs up, so the work must not be left half done by that. Queries
/// arrive checked: known names, once each, values of the right form (times as RFC 3339 in UTC, which
/// [`query::unix_ms`] reads; `limit` 1 to 1000). What a [`Caller`] may see is for the rooms above to say.
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
    /// changes nothing, and all its faults come back.
    fn reload(&self) -> BoxFuture<Result<Value, Vec<Problem>>>;
    /// The principal with this token; `None` if there is none, or it has expired. The owner's token is
    /// known to the guard and never comes here.
    fn caller(&self, token: &[u8], from: IpAddr) -> Option<Caller>;
    /// A call was refused to this principal for want of rights, before it came here: `POST
    /// /admin/v1/reload`, and why. Kept for whoever reads the audit log.
    fn denied(&self, caller: Caller, attempt: String, reason: String) -> BoxFuture<()>;
    /// One operation on objects.
    fn perform(&self, caller: Caller, call: Call) -> BoxFuture<Outcome>;
    /// Sums of usage. Parameters: `from`, `to`, `group_by`, and filters.
    fn usage(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome>;
    /// Usage records, newest first. Parameters: filters, `since`, `until`, `cursor`, `limit`.
    fn requests(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome>;
    /// One usage record with its attempts.
    fn request(&self, caller: Caller, id: String) -> BoxFuture<Outcome>;
    /// Entries of the audit log, oldest first; the caller may see all of them. Parameters: `since` (the
    /// number of an entry, exclusive), `cursor`, `limit`.
    fn audit(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome>;
    /// Verifies the audit log. The body, checked: `{}`, or `{"head": {"count", "hash"}}`.
    fn audit_verify(&self, caller: Caller, body: Value) -> BoxFuture<Outcome>;
}

/// One fault of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Problem {
    /// The path of the field (`model[0].targets[1].provider`), if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The file, if it is not the configuration file itself but one that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
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
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "{line}:{column}: {}", self.message),
            (Some(line), None) => write!(f, "{line}: {}", self.message),
            _ if self.file.is_some() => write!(f, " {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}
