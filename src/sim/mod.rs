//! The simulated provider: an OpenAI-compatible server for `foretoken sim`, `foretoken demo`, the
//! tests and the load test. It needs no account, answers the same question the same way for the
//! same seed, is strict about what it receives, and misbehaves on request.
//!
//! * In: HTTP/1.1 and HTTP/2 on one port (cleartext by prior knowledge, or TLS), [`Settings`].
//! * Out: answers shaped and paced like a hosted model's; [`Stats`], the received requests and the
//!   books ([`Page`]: usage told by model, user and key), over `/sim/…` and through [`Sim`], so that
//!   a test can assert what the provider really saw and said.
//! * Must not know: anything of the gateway. It would serve any other client alike; that is what
//!   makes it a fair judge of what the gateway forwards.
//!
//! Read `service.rs` first: it is the path of one request. `server.rs` is the sockets, `wire.rs`
//! the byte stream under them, `behaviour.rs` the list of faults and switches, `books.rs` who was told what usage, `chat.rs`,
//! `completions.rs`, `responses.rs`, `other.rs` and `media.rs` the endpoints, `plan.rs` what the
//! "model" decides to say, `script.rs` an answer before it is played and `play.rs` its playing.

mod ask;
mod ask_tools;
mod behaviour;
mod books;
mod chat;
mod completions;
mod control;
mod json;
mod media;
mod other;
mod plan;
mod play;
mod refusal;
mod responses;
mod responses_ask;
mod schema;
mod script;
mod server;
mod service;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod validate;
mod wire;

pub use behaviour::{Change, HELP, Mode};
pub use books::{Cut, Page, Told};
pub use server::{Sim, start};
pub use settings::{Distribution, Lengths, Settings};
pub use state::{Cancel, Received, Stats};
