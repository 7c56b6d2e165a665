//! A whole answer, written before it is played: one buffer, cut into steps. Faults of the body are
//! edits of the script, so the endpoints know nothing of them.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::sim::behaviour::Fault;
use crate::sim::plan::Usage;
use crate::sim::text::TOKEN_BYTES;

/// How many content chunks come before a fault in mid-stream.
const CHUNKS_BEFORE_FAULT: usize = 3;

/// What a step is, as far as faults care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Before the first content: role, `response.created`.
    Opening,
    /// Text, reasoning, arguments, audio.
    Content,
    /// A finish reason, a usage chunk, a terminal event: without it the answer is not complete.
    Closing,
    /// `[DONE]`.
    Done,
}

/// What is waited for before a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// Nothing.
    None,
    /// The time to the first token.
    First,
    /// The time between two tokens.
    Gap,
}

/// One piece of the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Bytes of the buffer.
    pub(super) len: usize,
    /// Output tokens in it.
    pub(super) tokens: u32,
    pub(super) kind: Kind,
    pub(super) wait: Wait,
}

/// What comes after the last step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The answer is over.
    Clean,
    /// The connection (h2: the stream) breaks.
    Cut,
    /// Nothing, for ever.
    Stall,
    /// The letter `a`, for ever.
    Endless,
}

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) bytes: Vec<u8>,
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
    pub(super) content_type: &'static str,
    /// A stream of frames, as against one document.
    pub(super) streamed: bool,
    pub(super) gzip: bool,
    /// The length can be told in the head. Not so for streams and for broken documents.
    pub(super) sized: bool,
    /// Tokens whose time is waited for before a document is sent.
    pub(super) tokens: u64,
    /// The usage that is told in it; `None` if none is, or if it breaks off before that.
    pub(super) usage: Option<Usage>,
}

impl Script {
    /// One JSON document of `tokens` output tokens.
    pub(super) fn document(bytes: Vec<u8>, tokens: u64) -> Self {
        let mut script = Script::empty("application/json", false);
        script.tokens = tokens;
        script.bytes = bytes;
        script.push_step(0, Kind::Content, tokens as u32);
        script
    }

    /// An event stream without an event yet.
    pub(super) fn events() -> Self {
        Script::empty("text/event-stream; charset=utf-8", true)
    }

    /// A body of `content_type` that comes in pieces.
    pub(super) fn pieces(content_type: &'static str) -> Self {
        Script::empty(content_type, true)
    }

    fn empty(content_type: &'static str, streamed: bool) -> Self {
        Script {
            bytes: Vec::new(),
            steps: Vec::new(),
            end: End::Clean,
            content_type,
            streamed,
            gzip: false,
            sized: !streamed,
            tokens: 0,
            usage: None,
        }
    }

    /// Notes the usage that is told in it.
    pub(super) fn telling(mut self, usage: Option<Usage>) -> Self {
        self.usage = usage;
        self
    }

    /// Appends what `write` writes as one step.
    pub(super) fn step(&mut self, kind: Kind, tokens: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.push_step(before, kind, tokens);
    }

    /// Appends one `data:` frame around the JSON that `write` writes.
    pub(super) fn frame(&mut self, kind: Kind, tokens: u32, write: impl FnOnce(&mut Vec<u8>)) {
        self.step(kind, tokens, |out| {
            out.extend_from_slice(b"data: ");
            write(out);
            out.extend_from_slice(b"\n\n");
        });
    }

    /// Appends `data: [DONE]`.
    pub(super) fn done(&mut self) {
        self.frame(Kind::Done, 0, |out| out.extend_from_slice(b"[DONE]"));
    }

    fn push_step(&mut self, before: usize, kind: Kind, tokens: u32) {
        let wait = match kind {
            _ if self.steps.is_empty() => Wait::First,
            // The first content comes together with the opening frames.
            Kind::Content if self.steps.iter().rev().any(|step| step.kind == Kind::Content) => {
                Wait::Gap
            }
            _ => Wait::None,
        };
        self.steps.push(Step { len: self.bytes.len() - before, tokens, kind, wait });
    }

    /// Edits the script as `fault` demands. `error` gives the frame of an error in mid-stream that
    /// comes after so many steps.
    pub(super) fn spoil(&mut self, fault: Fault, error: impl FnOnce(usize) -> Vec<u8>) {
        match fault {
            Fault::Stall => {
                self.keep(0);
                self.end = End::Stall;
            }
            Fault::StallMid => {
                self.break_off();
                self.end = End::Stall;
            }
            Fault::Cut => {
                self.break_off();
                self.end = End::Cut;
            }
            Fault::Truncate if self.streamed => {
                let last = |step: &Step| matches!(step.kind, Kind::Closing | Kind::Done);
                self.keep(self.steps.iter().position(last).unwrap_or(self.steps.len()));
            }
            Fault::Truncate => self.break_off(),
            Fault::InbandError if self.streamed => {
                self.break_off();
                let frame = error(self.steps.len());
                self.error(&frame);
            }
            Fault::InbandFirst if self.streamed => {
                self.keep(0);
                self.error(&error(0));
            }
            Fault::NoDone => {
                if let Some(at) = self.steps.iter().position(|step| step.kind == Kind::Done) {
                    self.keep(at);
                }
            }
            Fault::Comments if self.streamed => self.prepend_comments(),
            Fault::Endless => {
                self.break_off();
                self.trim_line_end();
                self.end = End::Endless;
            }
            Fault::Gzip => self.compress(),
            _ => {}
        }
    }

    /// Keeps the first `count` steps.
    fn keep(&mut self, count: usize) {
        // Usage is told before `[DONE]` and nowhere else.
        if self.steps.iter().skip(count).any(|step| step.kind != Kind::Done) {
            self.usage = None;
        }
        self.steps.truncate(count);
        self.bytes.truncate(self.steps.iter().map(|step| step.len).sum());
        self.sized = false;
    }

    /// Keeps three content chunks of a stream, or half of a document.
    fn break_off(&mut self) {
        self.sized = false;
        if self.streamed {
            let content = self.steps.iter().enumerate().filter(|(_, s)| s.kind == Kind::Content);
            let last = content.map(|(at, _)| at).nth(CHUNKS_BEFORE_FAULT - 1);
            let closing = self.steps.iter().position(|step| step.kind == Kind::Closing);
            let count = last.map(|at| at + 1).or(closing).unwrap_or(self.steps.len());
            self.keep(count.min(closing.unwrap_or(count)));
        } else if let Some(step) = self.steps.first_mut() {
            self.usage = None;
            step.len /= 2;
            self.bytes.truncate(step.len);
        }
    }

    fn error(&mut self, frame: &[u8]) {
        self.step(Kind::Closing, 0, |out| out.extend_from_slice(frame));
    }

    fn prepend_comments(&mut self) {
        const COMMENT: &[u8] = b": OPENROUTER PROCESSING\n\n";
        self.bytes.splice(0..0, [COMMENT, COMMENT].concat());
        let step = Step { len: COMMENT.len(), tokens: 0, kind: Kind::Opening, wait: Wait::None };
        self.steps.splice(0..0, [step, step]);
    }

    /// Opens the last line again, inside a JSON text.
    fn trim_line_end(&mut self) {
        if self.streamed {
            self.frame(Kind::Content, 0, |out| {
                out.extend_from_slice(br#"{"choices":[{"index":0,"delta":{"content":""#);
            });
            self.bytes.truncate(self.bytes.len() - 2);
            if let Some(step) = self.steps.last_mut() {
                step.len -= 2;
            }
        }
    }

    /// Compresses step by step, so that every step can still be read when it arrives.
    fn compress(&mut self) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let (mut from, mut before) = (0, 0);
        let last = self.steps.len().saturating_sub(1);
        for (at, step) in self.steps.iter_mut().enumerate() {
            let sunk = encoder.write_all(&self.bytes[from..from + step.len]).is_ok()
                && if at == last { encoder.try_finish().is_ok() } else { encoder.flush().is_ok() };
            debug_assert!(sunk, "a Vec takes every byte");
            from += step.len;
            step.len = encoder.get_ref().len() - before;
            before = encoder.get_ref().len();
        }
        self.bytes = encoder.get_ref().clone();
        self.gzip = true;
    }
}

/// Tokens in a piece of text, as a step counts them.
pub(super) fn step_tokens(text: &str) -> u32 {
    text.len().div_ceil(TOKEN_BYTES) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn stream() -> Script {
        let mut script = Script::events();
        script.frame(Kind::Opening, 0, |out| out.extend_from_slice(b"role"));
        for text in ["c1", "c2", "c3", "c4"] {
            script.frame(Kind::Content, 1, |out| out.extend_from_slice(text.as_bytes()));
        }
        script.frame(Kind::Closing, 0, |out| out.extend_from_slice(b"finish"));
        script.done();
        script
    }

    fn spoilt(fault: Fault) -> (String, End) {
        let mut script = stream();
        script.spoil(fault, |_| b"data: error\n\n".to_vec());
        let total: usize = script.steps.iter().map(|step| step.len).sum();
        assert_eq!(total, script.bytes.len(), "{fault:?}");
        let text = String::from_utf8(script.bytes).expect("text");
        (text.replace("data: ", "").replace("\n\n", " ").trim_end().to_owned(), script.end)
    }

    #[test]
    fn faults_edit_a_stream() {
        for (fault, text, end) in [
            (Fault::None, "role c1 c2 c3 c4 finish [DONE]", End::Clean),
            (Fault::Stall, "", End::Stall),
            (Fault::StallMid, "role c1 c2 c3", End::Stall),
            (Fault::Cut, "role c1 c2 c3", End::Cut),
            (Fault::Truncate, "role c1 c2 c3 c4", End::Clean),
            (Fault::InbandError, "role c1 c2 c3 error", End::Clean),
            (Fault::InbandFirst, "error", End::Clean),
            (Fault::NoDone, "role c1 c2 c3 c4 finish", End::Clean),
        ] {
            assert_eq!(spoilt(fault), (text.to_owned(), end), "{fault:?}");
        }
        assert!(spoilt(Fault::Comments).0.starts_with(": OPENROUTER PROCESSING : OPENROUTER"));
        let (endless, end) = spoilt(Fault::Endless);
        assert!(endless.ends_with(r#"{"content":""#) && end == End::Endless);
    }

    #[test]
    fn waits_are_for_the_first_token_and_between_tokens() {
        let waits: Vec<_> = stream().steps.iter().map(|step| step.wait).collect();
        use Wait::{First, Gap, None};
        assert_eq!(waits, [First, None, Gap, Gap, Gap, None, None]);
    }

    #[test]
    fn documents_break_in_half_and_lose_their_length() {
        let mut script = Script::document(b"0123456789".to_vec(), 2);
        assert!(script.sized);
        script.spoil(Fault::Cut, |_| Vec::new());
        assert_eq!((script.bytes.as_slice(), script.end), (&b"01234"[..], End::Cut));
        assert!(!script.sized);
    }

    #[test]
    fn gzip_can_be_read_step_by_step() {
        let mut script = stream();
        let plain = script.bytes.clone();
        script.spoil(Fault::Gzip, |_| Vec::new());
        let first = script.steps[0].len;
        let mut start = vec![0; 6];
        let mut decoder = flate2::read::GzDecoder::new(&script.bytes[..first]);
        decoder.read_exact(&mut start).expect("the first step decodes alone");
        assert_eq!(start, plain[..6]);
        let mut all = Vec::new();
        flate2::read::GzDecoder::new(&script.bytes[..]).read_to_end(&mut all).expect("decodes");
        assert_eq!(all, plain);
    }
}
