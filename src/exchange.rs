//! One request and its answer, as the listener hands them over: no protocol version, no model.
//!
//! Everything is poll-based, so that one task drives both sides of a relay: waiting for the
//! upstream, noticing a caller who hangs up and writing the rest of a slow reader's bytes.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use crate::error::Error;
use crate::wire::Headers;

/// The caller is not there any more: closed, reset, or too slow to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// How long an answer's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerBody {
    /// This many bytes follow.
    Length(u64),
    /// As much as comes until `end`.
    Stream,
}

/// The caller's side of one request.
pub trait Downstream {
    /// The address at the other end of the connection.
    fn peer(&self) -> SocketAddr;

    /// The announced length of the request body; `None` if the caller did not say.
    fn body_length(&self) -> Option<u64>;

    /// Appends some of the request body to `into`, at most `max` bytes more; `true` at its end.
    ///
    /// # Errors
    /// `BadFraming`, or `ClientGone`.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
        max: usize,
    ) -> Poll<Result<bool, Error>>;

    /// Begins the answer. Nothing needs to leave before the first `send` or `end`.
    fn start(&mut self, status: u16, headers: &Headers, body: AnswerBody);

    /// Whether `start` was called.
    fn started(&self) -> bool;

    /// Takes all of `data`, writes what can be written at once and keeps the rest; `last` ends the
    /// answer well. To be called only when `poll_drained` is ready: that is the backpressure.
    ///
    /// # Errors
    /// [`Gone`] when the caller has left.
    fn send(&mut self, cx: &mut Context<'_>, data: &[u8], last: bool) -> Result<(), Gone>;

    /// Ready once everything sent so far has been handed to the kernel (or to the h2 connection).
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>>;

    /// Ready once the caller has hung up.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ends the answer in a way that no caller can take for complete.
    fn abort(&mut self);
}
