//! Dialects: what the bytes of a request or an answer mean to the OpenAI API.
//!
//! In: slices of bodies, cut anywhere. Out: what is asked for ([`peek`]), the few bytes to change
//! ([`splice`]), the bytes to pass on with signals ([`StreamReader`], [`UnaryReader`]), tokens
//! ([`Usage`], [`Units`]), faults and how they are told ([`errors`]). Pure state machines: no I/O,
//! no async, no clock, no HTTP library; it knows no keys, no prices, no upstreams.
//!
//! Open [`peek`](mod@peek) first for requests, [`stream`] for answers. A further dialect is one
//! file beside `openai.rs`, which reads what one frame says.

pub mod endpoint;
pub mod errors;
pub mod peek;
pub mod splice;
pub mod stream;
pub mod unary;
pub mod usage;
pub mod usage_shapes;

mod capture;
mod json;
mod keys;
mod openai;
mod retry_after;
mod said;
mod scrub;
mod twin;

#[cfg(test)]
mod fidelity_tests;
#[cfg(test)]
mod peek_tests;
#[cfg(test)]
mod stream_tests;

pub use endpoint::{Endpoint, Found, find};
pub use errors::{classify, error_body, error_frame, scrub, scrub_error, sentence};
pub use peek::{Asked, Model, StreamOptions, peek, spoken_chars};
pub use retry_after::{reset_ms, retry_after_ms};
pub use said::StreamError;
pub use splice::{Edit, Edits, splice};
pub use stream::{End, Signals, StreamKind, StreamReader};
pub use unary::{UnaryReader, inspect};
pub use usage::{Units, Usage};
pub use usage_shapes::{NoUsage, UsageShape, units};
