//! The reading side of an upstream's answer: bytes in, bytes to pass on and signals out.

use std::task::{Context, Poll, ready};

use crate::dialect::{End, Signals, StreamError, StreamReader, UnaryReader, Usage};
use crate::error::{Error, Kind};
use crate::proxy::inflate::{Coding, Inflate};
use crate::proxy::plan::Plan;
use crate::upstream::{DataEvent, Exchange};
use crate::wire::Name;

/// A compressed answer may inflate to this much.
const INFLATED_BYTES_MAX: u64 = 256 << 20;

/// How the bytes are read.
pub(super) enum Reader {
    Stream(Box<StreamReader>),
    Unary(Box<UnaryReader>),
    /// Bytes without a meaning to us: audio.
    Opaque,
}

/// An answer with a success status.
pub(super) struct Answer {
    exchange: Exchange,
    pub reader: Reader,
    inflate: Option<Box<Inflate>>,
    /// Everything that has been signalled so far.
    pub seen: Signals,
}

/// What one read has brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub signals: Signals,
    /// Set at the end of the answer.
    pub end: Option<End>,
}

impl Answer {
    /// Chooses how to read by what the head says.
    ///
    /// # Errors
    /// A coding that cannot be taken apart.
    pub(super) fn new(exchange: Exchange, plan: &Plan, strip_usage: bool) -> Result<Self, Error> {
        let headers = &exchange.head().headers;
        let coding = Coding::of(headers.get(Name::ContentEncoding)).map_err(|()| {
            Error::upstream(Kind::ServerError, "the upstream's answer could not be read")
                .because("it is compressed in a way that was not asked for")
        })?;
        let content_type = headers.get(Name::ContentType).unwrap_or(b"");
        if starts_with(content_type, b"text/html") {
            // The page of a proxy on the way, or a base_url that leads to a web site.
            return Err(Error::upstream(
                Kind::ServerError,
                "the upstream's answer could not be read",
            )
            .because("it is a web page; check the provider's base_url"));
        }
        let reader = if starts_with(content_type, b"text/event-stream") {
            let reader = StreamReader::new(plan.stream_kind(), strip_usage);
            Reader::Stream(Box::new(reader.expect_choices(plan.choices)))
        } else if contains(content_type, b"json") || content_type.is_empty() {
            Reader::Unary(Box::new(UnaryReader::new(plan.endpoint)))
        } else {
            Reader::Opaque
        };
        let inflate = coding.map(|coding| Box::new(Inflate::new(coding, INFLATED_BYTES_MAX)));
        Ok(Answer { exchange, reader, inflate, seen: Signals::default() })
    }

    /// The exchange below.
    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Takes frames off a connection while the caller is too slow.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) {
        self.exchange.pump(cx);
    }

    /// The length of the body, if what is passed on is just what was announced.
    pub(super) fn plain_length(&self) -> Option<u64> {
        let text = self.exchange.head().headers.text(Name::ContentLength)?;
        let plain = self.inflate.is_none() && !matches!(self.reader, Reader::Stream(_));
        plain.then(|| text.parse().ok())?
    }

    /// Whether only the end of the connection says where the body ends, so that half of it looks
    /// like all of it.
    pub(super) fn ends_by_close(&self) -> bool {
        let headers = &self.exchange.head().headers;
        matches!(self.exchange, Exchange::H1(_))
            && headers.get(Name::ContentLength).is_none()
            && headers.get(Name::TransferEncoding).is_none()
    }

    /// Reads once and appends to `out` what is to be passed on.
    ///
    /// # Errors
    /// `Truncated` when the answer broke off, or what a broken coding or a bomb says.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Progress, Error>> {
        let Answer { exchange, reader, inflate, seen } = self;
        let mut signals = Signals::default();
        let mut fault = None;
        let mut take = |data: &[u8]| match reader {
            Reader::Stream(reader) => signals = signals.and(reader.feed(data, out)),
            Reader::Unary(reader) => {
                reader.feed(data);
                out.extend_from_slice(data);
            }
            Reader::Opaque => out.extend_from_slice(data),
        };
        let event = ready!(match inflate {
            None => exchange.poll_data(cx, &mut take),
            Some(inflate) => exchange.poll_data(cx, &mut |data| {
                if fault.is_none() {
                    fault = inflate.feed(data, &mut take).err();
                }
            }),
        })?;
        if let Some(fault) = fault {
            let error = Error::upstream(Kind::Truncated, "the upstream's answer broke off");
            return Poll::Ready(Err(error.because(fault.message)));
        }
        let mut end = None;
        if event == DataEvent::End || exchange.ended() {
            end = Some(match reader {
                Reader::Stream(reader) => {
                    let (end, last) = reader.end(out);
                    signals = signals.and(last);
                    end
                }
                _ if inflate.as_ref().is_some_and(|inflate| !inflate.ended()) => End::Truncated,
                _ => End::Complete,
            });
        }
        *seen = seen.and(signals);
        Poll::Ready(Ok(Progress { signals, end }))
    }

    /// The fault that the upstream reported inside of the stream.
    pub(super) fn said(&self) -> Option<&StreamError> {
        match &self.reader {
            Reader::Stream(reader) => reader.error(),
            _ => None,
        }
    }

    /// The usage that the upstream reported.
    pub(super) fn usage(&self) -> Option<Usage> {
        match &self.reader {
            Reader::Stream(reader) => reader.usage(),
            Reader::Unary(reader) => reader.usage(),
            Reader::Opaque => None,
        }
    }

    /// The model that the upstream says it used.
    pub(super) fn model_served(&self) -> Option<&str> {
        match &self.reader {
            Reader::Stream(reader) => reader.model_served(),
            Reader::Unary(reader) => reader.model_served(),
            Reader::Opaque => None,
        }
    }

    /// Searches that the provider made for this answer: they cost apart from tokens.
    pub(super) fn web_searches(&self) -> u64 {
        match &self.reader {
            Reader::Stream(reader) => reader.web_searches(),
            Reader::Unary(reader) => reader.web_searches(),
            Reader::Opaque => 0,
        }
    }

    /// The tier of service that the upstream says it gave: prices may depend on it.
    pub(super) fn service_tier(&self) -> Option<&str> {
        match &self.reader {
            Reader::Stream(reader) => reader.service_tier(),
            Reader::Unary(reader) => reader.service_tier(),
            Reader::Opaque => None,
        }
    }

    /// The connection goes back to its pool if the answer was read to its end; else it is cut.
    pub(super) fn into_exchange(self) -> Exchange {
        self.exchange
    }
}

fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}
