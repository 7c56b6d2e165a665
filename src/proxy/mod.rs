//! The path of one request: head → auth → resolve → admit → pick → attempt → relay → settle.
//!
//! In: a request from a listener. Out: its answer, and a record of it. Knows no sockets on the
//! caller's side, no store and no configuration file. Open `serve.rs` first: it lists the verbs.

mod admission;
mod answer;
mod attempt;
mod attempts;
mod body;
mod ending;
mod head;
mod inflate;
mod labels;
mod own;
mod plan;
mod pricing;
mod rates;
mod record;
mod relay;
mod reply;
mod serve;
mod snapshot;
mod worker;

pub use pricing::{CandidateTerms, Pricing, RouteTerms, Unpriced};
pub use serve::{refuse, serve};
pub use snapshot::{CandidateSeries, KeyedCredential, Provider, Settings, Snapshot, Timeouts};
pub use worker::{BoxFuture, FaultHook, Reports, Shared, Worker};
