//! One request to an upstream and its answer, whichever protocol the connection speaks.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::Error;
use crate::upstream::h1::{H1Conn, H1Exchange};
use crate::upstream::h2::{H2Exchange, H2Slot};
use crate::wire::{Headers, Name, ResponseHead};

/// What is sent. The headers hold neither `host` nor `content-length`.
pub struct Outgoing<'a> {
    /// Path and query.
    pub path: &'a str,
    pub headers: &'a Headers,
    pub authority: &'a str,
    pub tls: bool,
    /// The body, in pieces that are sent one after the other.
    pub body: Vec<Bytes>,
}

impl Outgoing<'_> {
    /// The length of the body.
    pub fn body_len(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

/// What one poll for data has brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataEvent {
    /// Bytes were given to the sink.
    Data,
    /// The answer is complete.
    End,
}

/// Room for one request on a connection.
pub enum Conn {
    H1(Box<H1Conn>),
    H2(H2Slot),
}

impl Conn {
    /// Whether the connection has carried a request before, so that the upstream may have closed
    /// it in the meantime.
    pub fn reused(&self) -> bool {
        match self {
            Conn::H1(conn) => conn.uses > 0,
            Conn::H2(slot) => slot.reused(),
        }
    }
}

/// A request under way. Dropping it cancels: the stream is reset, or the connection closed.
pub enum Exchange {
    H1(Box<H1Exchange>),
    H2(Box<H2Exchange>),
}

impl Exchange {
    /// Puts the request on the connection; bytes leave with the first `poll_head`.
    pub fn begin(conn: Conn, outgoing: Outgoing<'_>) -> Exchange {
        match conn {
            Conn::H1(conn) => Exchange::H1(Box::new(H1Exchange::begin(conn, outgoing))),
            Conn::H2(slot) => Exchange::H2(Box::new(H2Exchange::begin(slot, outgoing))),
        }
    }

    /// Sends what is left of the request and waits for the head of the answer.
    ///
    /// # Errors
    /// `Connect` when not one byte of an answer came, `ServerError` when it made no sense.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Exchange::H1(exchange) => exchange.poll_head(cx),
            Exchange::H2(exchange) => exchange.poll_head(cx),
        }
    }

    /// Whether the whole request has been handed to the kernel or the h2 connection.
    pub fn sent(&self) -> bool {
        match self {
            Exchange::H1(exchange) => exchange.sent(),
            Exchange::H2(exchange) => exchange.sent(),
        }
    }

    /// Whether a byte of an answer has come.
    pub fn answered(&self) -> bool {
        match self {
            Exchange::H1(exchange) => exchange.answered(),
            Exchange::H2(exchange) => exchange.answered(),
        }
    }

    /// The head, once `poll_head` was ready.
    pub fn head(&self) -> &ResponseHead {
        match self {
            Exchange::H1(exchange) => exchange.head(),
            Exchange::H2(exchange) => exchange.head(),
        }
    }

    /// Gives the next bytes of the body to `sink`. Nothing is read ahead beyond one buffer, so not
    /// polling is backpressure.
    ///
    /// # Errors
    /// `Truncated` when the body breaks off.
    pub fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<DataEvent, Error>> {
        match self {
            Exchange::H1(exchange) => exchange.poll_data(cx, sink),
            Exchange::H2(exchange) => exchange.poll_data(cx, sink),
        }
    }

    /// Whether the next `poll_data` is known to say `End`, so that it can be told along with the
    /// last data.
    pub fn ended(&self) -> bool {
        match self {
            Exchange::H1(exchange) => exchange.ended(),
            Exchange::H2(exchange) => exchange.ended(),
        }
    }

    /// To be called while the caller is too slow to take more. HTTP/2 must take frames off the
    /// connection all the same (within the stream's window), or one slow reader would make the
    /// connection's other streams suffer.
    pub fn pump(&mut self, cx: &mut Context<'_>) {
        if let Exchange::H2(exchange) = self {
            exchange.pump(cx);
        }
    }

    /// Gives the connection back once the answer is complete; otherwise it is closed or reset.
    pub fn finish(self) {
        match self {
            Exchange::H1(exchange) => (*exchange).finish(),
            Exchange::H2(_) => {}
        }
    }
}

/// Appends an HTTP/1.1 request head.
pub(super) fn write_request_head(outgoing: &Outgoing<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"POST ");
    out.extend_from_slice(outgoing.path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(outgoing.authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    outgoing.headers.write_h1(out);
    out.extend_from_slice(Name::ContentLength.text().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(itoa::Buffer::new().format(outgoing.body_len()).as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}
