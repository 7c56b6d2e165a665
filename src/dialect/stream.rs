//! Reads a streamed answer while it passes: which bytes go on, and what they mean.
//!
//! Frames go on whole and verbatim, so that an error can be appended between any two of them. Taken
//! out are only the usage chunk that we asked for ourselves, and an upstream's error frame with
//! all that follows it, which the caller of this code replaces by its own. The bytes passed on
//! and the signals do not depend on how the input is cut.

use super::capture::{Capture, FINISH_REASON, Seeker, USAGE};
use super::endpoint::Endpoint;
use super::openai::{self, Choices, Event, Seen};
use super::said::StreamError;
use super::twin::Twin;
use super::usage::Usage;
use crate::error::Kind;
use crate::framing::sse::{self, Piece, Splitter};

/// Bytes of an incomplete frame that are held back; a longer frame passes in pieces.
pub const HOLD_BYTES_MAX: usize = 16 << 10;
/// Bytes of one frame above which a stream is given up, unless set otherwise. Images and the last
/// event of a response, which repeats the whole output, are large.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Bytes of a usage object that is still read.
pub(super) const USAGE_BYTES_MAX: usize = 16 << 10;
/// Bytes of a model name or tier that are kept.
const NAME_BYTES_MAX: usize = 256;

/// What kind of stream an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StreamKind {
    Chat,
    Completions,
    Responses,
    Image,
    Speech,
    /// Any bytes (raw audio, say): passed on as they come; the transport tells when it was cut.
    Opaque,
}

impl StreamKind {
    /// The kind of an event stream that answers a request to `endpoint`.
    pub fn of(endpoint: Endpoint) -> StreamKind {
        match endpoint {
            Endpoint::ChatCompletions => StreamKind::Chat,
            Endpoint::Completions => StreamKind::Completions,
            Endpoint::Responses => StreamKind::Responses,
            Endpoint::ImageGenerations => StreamKind::Image,
            Endpoint::Speech => StreamKind::Speech,
            _ => StreamKind::Opaque,
        }
    }
}

/// What happened within one [`StreamReader::feed`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Signals(u8);

impl Signals {
    const FIRST_CONTENT: u8 = 1;
    const FINISHED: u8 = 2;
    const DONE_MARKER: u8 = 4;
    const ERROR: u8 = 8;
    const SERVER_TOOL: u8 = 16;

    /// The first content of the stream. Said once.
    pub fn first_content(self) -> bool {
        self.0 & Self::FIRST_CONTENT != 0
    }

    /// The answer is complete: a finish reason for every choice, a terminal event or `[DONE]`.
    /// Said once.
    pub fn finished(self) -> bool {
        self.0 & Self::FINISHED != 0
    }

    /// `[DONE]`.
    pub fn done_marker(self) -> bool {
        self.0 & Self::DONE_MARKER != 0
    }

    /// The upstream reported a fault, or sent what cannot be read: see [`StreamReader::error`].
    /// Nothing is passed on from here. Together with [`Signals::finished`]: the upstream's own
    /// terminal event was passed on (a response that failed after content); append nothing.
    pub fn error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// The provider began to run a tool: asking elsewhere would run it twice.
    pub fn server_tool(self) -> bool {
        self.0 & Self::SERVER_TOOL != 0
    }

    /// Both.
    pub fn and(self, other: Signals) -> Signals {
        Signals(self.0 | other.0)
    }

    fn set(&mut self, signal: u8) {
        self.0 |= signal;
    }
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With its terminal marker.
    Complete,
    /// Without: what was passed on is not the whole answer. Also after an error.
    Truncated,
}

/// Reads one streamed answer.
pub struct StreamReader {
    splitter: Splitter,
    reading: Reading,
}

/// All but the frame splitter, so that a frame can be read while it is borrowed from there.
struct Reading {
    kind: StreamKind,
    strip_usage: bool,
    expected: u32,
    choices: Choices,
    /// All signals so far.
    so_far: Signals,
    error: Option<StreamError>,
    /// Nothing more is passed on.
    stopped: bool,
    /// The last frame was left out.
    dropped: bool,
    usage: Vec<u8>,
    model: String,
    service_tier: String,
    content_bytes: u64,
    web_searches: u64,
    next_sequence: u64,
    scratch: Vec<u8>,
    twin: Twin,
    long: Option<Box<LongFrame>>,
}

/// A frame that is passed on before it is complete.
struct LongFrame {
    usage: Capture,
    finish: Seeker,
    event: Event,
    choices: Choices,
    /// Its length counts as content.
    text: bool,
    /// A failure that is passed on, and reported when its frame is complete.
    error: Option<StreamError>,
}

impl StreamReader {
    /// `strip_usage`: leave out the chunk that carries only the usage, because the one who asked
    /// for it was not the caller.
    pub fn new(kind: StreamKind, strip_usage: bool) -> Self {
        StreamReader {
            splitter: Splitter::new(HOLD_BYTES_MAX, FRAME_BYTES_MAX),
            reading: Reading {
                kind,
                strip_usage,
                expected: 1,
                choices: Choices::default(),
                so_far: Signals::default(),
                error: None,
                stopped: false,
                dropped: false,
                usage: Vec::new(),
                model: String::new(),
                service_tier: String::new(),
                content_bytes: 0,
                web_searches: 0,
                next_sequence: 0,
                scratch: Vec::new(),
                twin: Twin::default(),
                long: None,
            },
        }
    }

    /// How many choices the answer has; one unless said. All must finish.
    pub fn expect_choices(mut self, choices: u32) -> Self {
        self.reading.expected = choices.max(1);
        self
    }

    /// Bytes of one frame above which the stream is given up.
    pub fn max_frame(mut self, frame_bytes_max: usize) -> Self {
        self.splitter.set_frame_max(frame_bytes_max);
        self
    }

    /// Reads `input` and appends to `out` what is to be passed on. Does not allocate once its
    /// buffers have grown.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Signals {
        let mut signals = Signals::default();
        let reading = &mut self.reading;
        if reading.kind == StreamKind::Opaque {
            if !input.is_empty() && !reading.so_far.first_content() {
                signals.set(Signals::FIRST_CONTENT);
            }
            reading.so_far = reading.so_far.and(signals);
            out.extend_from_slice(input);
            return signals;
        }
        let mut input = input;
        while !reading.stopped {
            if self.splitter.at_frame_start() {
                input = reading.twins(input, out);
            }
            let Some(piece) = self.splitter.next(&mut input) else { break };
            reading.piece(piece, &mut signals, out);
        }
        signals
    }

    /// The upstream has closed the stream. A frame that lacks only its blank line but is whole
    /// otherwise (its data is `[DONE]` or one JSON object) is read, passed on and completed, as
    /// some servers end so; any other rest is dropped, because appended errors must not land in it.
    /// The signals of that last frame are in the return value too.
    pub fn end(&mut self, out: &mut Vec<u8>) -> (End, Signals) {
        let mut signals = Signals::default();
        let reading = &mut self.reading;
        if reading.kind == StreamKind::Opaque {
            return (End::Complete, signals);
        }
        let held = self.splitter.held();
        if !held.is_empty() && !reading.stopped {
            reading.last_frame(held, &mut signals, out);
        }
        // Asked again, the answer is the same and nothing is passed on twice.
        reading.stopped = true;
        let finished = reading.so_far.finished() && reading.error.is_none();
        let complete = finished && !self.splitter.mid_frame();
        (if complete { End::Complete } else { End::Truncated }, signals)
    }

    /// What the upstream reported in the stream.
    pub fn error(&self) -> Option<&StreamError> {
        self.reading.error.as_ref()
    }

    /// The last usage that was reported, if it makes sense.
    pub fn usage(&self) -> Option<Usage> {
        Usage::parse(&self.reading.usage)
    }

    /// The model that the upstream says it used.
    pub fn model_served(&self) -> Option<&str> {
        some(&self.reading.model)
    }

    /// The service tier that was used; it decides the price.
    pub fn service_tier(&self) -> Option<&str> {
        some(&self.reading.service_tier)
    }

    /// Bytes of text so far, reasoning and arguments included, as they stand in the JSON: a rough
    /// base for an estimate where no usage is reported.
    pub fn content_bytes(&self) -> u64 {
        self.reading.content_bytes
    }

    /// Searches that the provider made for this answer.
    pub fn web_searches(&self) -> u64 {
        self.reading.web_searches
    }

    /// The number for the next event of a Responses stream.
    pub fn next_sequence(&self) -> u64 {
        self.reading.next_sequence
    }

    /// Whether what was passed on ends inside a frame: then a blank line must come before anything
    /// appended.
    pub fn mid_frame(&self) -> bool {
        self.splitter.mid_frame()
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl Reading {
    fn piece(&mut self, piece: Piece<'_>, signals: &mut Signals, out: &mut Vec<u8>) {
        match piece {
            Piece::Frame(frame) => {
                let pass = self.frame(frame, signals);
                self.dropped = !pass;
                if pass {
                    out.extend_from_slice(frame);
                }
            }
            Piece::Part(part) => {
                if self.long.is_none() {
                    self.begin_long(part, signals);
                }
                if !self.stopped {
                    self.long_part(part);
                    out.extend_from_slice(part);
                }
            }
            Piece::Tail(tail) => {
                self.long_part(tail);
                out.extend_from_slice(tail);
                self.end_long(signals);
                self.dropped = false;
            }
            Piece::LineFeed(line_feed) => {
                if !self.dropped {
                    out.extend_from_slice(line_feed);
                }
            }
            Piece::TooLong => {
                let message = "The upstream sent a frame that is too long.";
                self.fail(StreamError::new(Kind::Truncated, message), signals);
            }
        }
    }

    /// Passes on the frames at the start of `input` that differ from an earlier one in their text
    /// alone; gives the rest.
    fn twins<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> &'i [u8] {
        let mut taken = 0;
        while let Some(found) = self.twin.find(&input[taken..]) {
            taken += found.frame;
            self.content_bytes += found.text as u64;
        }
        if taken > 0 {
            out.extend_from_slice(&input[..taken]);
            self.dropped = false;
        }
        &input[taken..]
    }

    /// Learns a frame that carries one text and says nothing else.
    fn learn(&mut self, frame: &[u8], data: &[u8], seen: &Seen<'_>) {
        let plain = matches!(self.kind, StreamKind::Chat | StreamKind::Completions)
            && self.so_far.first_content()
            && (seen.content && seen.texts == 1 && seen.whole)
            && !(seen.error || seen.other_content || seen.choices.beyond)
            && seen.choices.finished == 0
            && seen.usage.is_none()
            && seen.event == Event::Other
            && seen.sequence_number.is_none();
        // Data of several lines was put together elsewhere.
        if plain && frame.as_ptr_range().contains(&data.as_ptr()) {
            let offset = data.as_ptr() as usize - frame.as_ptr() as usize;
            self.twin.learn(frame, offset + seen.text.start..offset + seen.text.end);
        }
    }

    /// Reads a whole frame; whether it is passed on.
    fn frame(&mut self, frame: &[u8], signals: &mut Signals) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        let event = sse::event(frame, &mut scratch);
        let pass = match event.data {
            None => true,
            Some(data) if data.trim_ascii() == b"[DONE]" => {
                self.signal(Signals::DONE_MARKER, signals);
                self.signal_once(Signals::FINISHED, signals);
                true
            }
            Some(data) => {
                let seen = openai::look(self.kind, event.name, data);
                self.note(&seen, signals);
                self.learn(frame, data, &seen);
                self.judge(&seen, data, signals)
            }
        };
        self.scratch = scratch;
        pass
    }

    /// Keeps what `seen` says apart from its end.
    fn note(&mut self, seen: &Seen<'_>, signals: &mut Signals) {
        if seen.content && !seen.error {
            self.signal_once(Signals::FIRST_CONTENT, signals);
        }
        self.content_bytes += seen.content_bytes;
        if let Some(usage) = seen.usage
            && usage.len() <= USAGE_BYTES_MAX
        {
            self.usage.clear();
            self.usage.extend_from_slice(usage);
        }
        keep(&mut self.model, seen.model, false);
        keep(&mut self.service_tier, seen.service_tier, true);
        if let Some(number) = seen.sequence_number {
            self.next_sequence = number.saturating_add(1);
        }
        self.web_searches += u64::from(seen.event == Event::SearchDone);
        if matches!(seen.event, Event::ServerTool | Event::ServerToolContent | Event::SearchDone) {
            self.signal(Signals::SERVER_TOOL, signals);
        }
    }

    /// Whether the frame ends the stream, and whether it is passed on.
    fn judge(&mut self, seen: &Seen<'_>, data: &[u8], signals: &mut Signals) -> bool {
        match seen.event {
            Event::Error => {
                self.fail(StreamError::from_frame(data), signals);
                return false;
            }
            _ if seen.error => {
                self.fail(StreamError::from_frame(data), signals);
                return false;
            }
            // Before any content another attempt may still hide it. After, it is the dialect's own
            // way to say so, and goes on.
            Event::Failed => {
                let pass = self.so_far.first_content();
                if pass {
                    self.signal_once(Signals::FINISHED, signals);
                }
                self.fail(StreamError::from_frame(data), signals);
                return pass;
            }
            Event::Terminal => self.signal_once(Signals::FINISHED, signals),
            _ => {}
        }
        self.choices.merge(seen.choices);
        self.check_choices(signals);
        !(self.strip_usage && seen.no_choices && seen.usage.is_some())
    }

    fn check_choices(&mut self, signals: &mut Signals) {
        let Choices { seen, finished, beyond } = self.choices;
        if finished != 0 && !beyond && finished.count_ones() >= self.expected && seen == finished {
            self.signal_once(Signals::FINISHED, signals);
        }
    }

    fn fail(&mut self, error: StreamError, signals: &mut Signals) {
        self.error = Some(error);
        self.stopped = true;
        self.signal(Signals::ERROR, signals);
    }

    fn signal(&mut self, signal: u8, signals: &mut Signals) {
        signals.set(signal);
        self.so_far.set(signal);
    }

    fn signal_once(&mut self, signal: u8, signals: &mut Signals) {
        if self.so_far.0 & signal == 0 {
            self.signal(signal, signals);
        }
    }

    /// The first piece of a frame too long to hold: what it says so far decides.
    fn begin_long(&mut self, part: &[u8], signals: &mut Signals) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let event = sse::event(part, &mut scratch);
        let data = event.data.unwrap_or_default();
        let mut seen = openai::look(self.kind, event.name, data);
        let chatty = matches!(self.kind, StreamKind::Chat | StreamKind::Completions);
        let text = seen.content && chatty;
        if text {
            // The pieces are counted instead.
            seen.content_bytes = 0;
        }
        self.note(&seen, signals);
        let error = seen.error || matches!(seen.event, Event::Error | Event::Failed);
        let error = error.then(|| StreamError::from_frame(data));
        let failed = seen.event == Event::Failed && self.so_far.first_content();
        match error {
            Some(error) if !failed => self.fail(error, signals),
            error => {
                self.long = Some(Box::new(LongFrame {
                    usage: Capture::new(&USAGE, USAGE_BYTES_MAX),
                    finish: Seeker::new(&FINISH_REASON),
                    event: seen.event,
                    choices: seen.choices,
                    text,
                    error,
                }));
            }
        }
        self.scratch = scratch;
    }

    fn long_part(&mut self, part: &[u8]) {
        let Some(long) = &mut self.long else { return };
        let usage = &mut self.usage;
        long.usage.feed(part, |raw| {
            if Usage::parse(raw).is_some() {
                usage.clear();
                usage.extend_from_slice(raw);
            }
        });
        let mut at = 0;
        while let Some(value) = long.finish.next(part, at) {
            if part[value] == b'"' {
                // The choice at hand is the last of which anything was seen.
                let last = 127 - (long.choices.seen | 1).leading_zeros();
                long.choices.seen |= 1 << last;
                long.choices.finished |= 1 << last;
            }
            at = value;
        }
        if long.text {
            self.content_bytes += part.len() as u64;
        }
    }

    fn end_long(&mut self, signals: &mut Signals) {
        let Some(long) = self.long.take() else { return };
        if matches!(long.event, Event::Terminal | Event::Failed) {
            self.signal_once(Signals::FINISHED, signals);
        }
        self.choices.merge(long.choices);
        self.check_choices(signals);
        if let Some(error) = long.error {
            self.fail(error, signals);
        }
    }

    /// What is left over at the end of the stream.
    fn last_frame(&mut self, held: &[u8], signals: &mut Signals, out: &mut Vec<u8>) {
        let mut scratch = Vec::new();
        let event = sse::event(held, &mut scratch);
        let whole = match event.data {
            None => false,
            Some(data) if data.trim_ascii() == b"[DONE]" => true,
            Some(data) => openai::look(self.kind, event.name, data).whole,
        };
        if whole && self.frame(held, signals) {
            out.extend_from_slice(held);
            let at_line_start = matches!(held.last(), Some(b'\n' | b'\r'));
            out.extend_from_slice(if at_line_start { b"\n" } else { b"\n\n" });
        }
    }
}

/// Keeps a short name: the first one, or with `last` the last one. A name that is the same again
/// costs no copy.
fn keep(slot: &mut String, name: Option<&[u8]>, last: bool) {
    let Some(name) = name.filter(|name| name.len() <= NAME_BYTES_MAX) else { return };
    if (last || slot.is_empty())
        && slot.as_bytes() != name
        && let Ok(name) = std::str::from_utf8(name)
    {
        slot.clear();
        slot.push_str(name);
    }
}
