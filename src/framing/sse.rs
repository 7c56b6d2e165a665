//! Server-sent events (WHATWG HTML, "Server-sent events"): finds frames, resumable at any byte.
//!
//! Lines end in LF, CRLF or CR, also mixed; a blank line ends a frame. Frames are handed out
//! verbatim with their line ends, so that what is passed on is what came.

use memchr::memchr2;

/// What [`Splitter::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole frame with the blank line that ends it.
    Frame(&'a [u8]),
    /// A piece of a frame that is too long to hold: not its last.
    Part(&'a [u8]),
    /// The last piece of such a frame.
    Tail(&'a [u8]),
    /// The LF of a CRLF whose CR had ended the frame handed out before: it shares its fate.
    LineFeed(&'a [u8]),
    /// The frame is longer than the limit. Nothing more comes.
    TooLong,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    /// At the start of a line: a line end here ends the frame.
    Start,
    /// As `Start`, but after a CR: an LF would belong to it.
    StartAfterCr,
    /// In the midst of a line.
    Within,
    /// The last frame ended with a CR: an LF would belong to it.
    FrameAfterCr,
}

/// Splits a stream into frames. Holds an incomplete frame back up to `hold_max`; a longer one
/// comes out in pieces. In the steady state, when frames arrive whole, it copies nothing.
#[derive(Debug)]
pub struct Splitter {
    carry: Vec<u8>,
    /// The carry was handed out and is emptied by the next call.
    spent: bool,
    /// The frame at hand comes out in pieces.
    passing: bool,
    line: Line,
    frame_bytes: usize,
    hold_max: usize,
    frame_max: usize,
}

impl Splitter {
    /// `hold_max`: bytes of an incomplete frame that are held back. `frame_max`: bytes of a frame
    /// above which the stream is given up.
    pub fn new(hold_max: usize, frame_max: usize) -> Self {
        Splitter {
            carry: Vec::new(),
            spent: false,
            passing: false,
            line: Line::Start,
            frame_bytes: 0,
            hold_max,
            frame_max,
        }
    }

    /// Changes the limit of a frame's bytes.
    pub fn set_frame_max(&mut self, frame_max: usize) {
        self.frame_max = frame_max;
    }

    /// The next piece of `input`, which is advanced past it. `None`: all of `input` was taken.
    /// Memory: at most `hold_max` plus the length of one input.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Option<Piece<'s>> {
        if self.spent {
            self.carry.clear();
            self.carry.shrink_to(self.hold_max);
            self.spent = false;
        }
        let first = *input.first()?;
        if self.frame_bytes > self.frame_max {
            return Some(Piece::TooLong);
        }
        if self.line == Line::FrameAfterCr {
            self.line = Line::Start;
            if first == b'\n' {
                return Some(Piece::LineFeed(take(input, 1)));
            }
        }
        let (length, ended) = self.advance(input);
        let head = take(input, length);
        self.frame_bytes += length;
        if self.frame_bytes > self.frame_max {
            return Some(Piece::TooLong);
        }
        if ended {
            self.frame_bytes = 0;
        }
        self.hand_out(head, ended)
    }

    /// Whether the next byte begins a frame, whatever it is.
    pub fn at_frame_start(&self) -> bool {
        self.line == Line::Start
            && self.frame_bytes == 0
            && !self.passing
            && (self.spent || self.carry.is_empty())
    }

    /// Whether the frame at hand has been handed out in part: what is appended now would land
    /// inside it unless a blank line comes first.
    pub fn mid_frame(&self) -> bool {
        self.passing
    }

    /// The incomplete frame that is held back: what a stream leaves over at its end.
    pub fn held(&self) -> &[u8] {
        if self.spent { &[] } else { &self.carry }
    }

    fn hand_out<'s>(&'s mut self, head: &'s [u8], ended: bool) -> Option<Piece<'s>> {
        if self.passing {
            self.passing = !ended;
            return Some(if ended { Piece::Tail(head) } else { Piece::Part(head) });
        }
        if ended && self.carry.is_empty() {
            return Some(Piece::Frame(head));
        }
        self.carry.extend_from_slice(head);
        if ended {
            self.spent = true;
            return Some(Piece::Frame(&self.carry));
        }
        if self.carry.len() <= self.hold_max {
            return None;
        }
        self.passing = true;
        self.spent = true;
        Some(Piece::Part(&self.carry))
    }

    /// How much of `input` belongs to the frame at hand, and whether the frame ends there.
    fn advance(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            if self.line == Line::Within {
                match memchr2(b'\n', b'\r', &input[at..]) {
                    None => break,
                    Some(distance) => at += distance + 1,
                }
                self.line = if input[at - 1] == b'\r' { Line::StartAfterCr } else { Line::Start };
                continue;
            }
            match input[at] {
                b'\n' if self.line == Line::StartAfterCr => self.line = Line::Start,
                b'\n' => {
                    self.line = Line::Start;
                    return (at + 1, true);
                }
                // A lone CR ends the frame at once: waiting for an LF that may never come would
                // hold every frame of a CR-only stream until the next one.
                b'\r' if input.get(at + 1) == Some(&b'\n') => {
                    self.line = Line::Start;
                    return (at + 2, true);
                }
                b'\r' => {
                    let last = at + 1 == input.len();
                    self.line = if last { Line::FrameAfterCr } else { Line::Start };
                    return (at + 1, true);
                }
                _ => self.line = Line::Within,
            }
            at += 1;
        }
        (input.len(), false)
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (head, rest) = input.split_at(length);
    *input = rest;
    head
}

/// The fields of one frame in order, `(name, value)`; comments and blank lines are left out. A
/// field without a colon has an empty value. A byte order mark at the start is skipped.
pub fn fields(frame: &[u8]) -> Fields<'_> {
    Fields { rest: frame.strip_prefix(b"\xef\xbb\xbf").unwrap_or(frame) }
}

/// See [`fields`].
#[derive(Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = memchr2(b'\n', b'\r', self.rest).unwrap_or(self.rest.len());
            let line = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            let Some(colon) = memchr::memchr(b':', line) else {
                if line.is_empty() {
                    continue;
                }
                return Some((line, &[]));
            };
            if colon > 0 {
                let value = &line[colon + 1..];
                return Some((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)));
            }
        }
        None
    }
}

/// The `event` and the `data` of one frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// The last `event` field.
    pub name: Option<&'a [u8]>,
    /// All `data` fields, joined by LF. `None` if there is none (a comment, an id).
    pub data: Option<&'a [u8]>,
}

/// Reads a frame. `scratch` is used only where the data lies on several lines.
pub fn event<'a>(frame: &'a [u8], scratch: &'a mut Vec<u8>) -> Event<'a> {
    // By far the most frequent shape: one line of data and nothing else.
    if let Some(data) = frame.strip_prefix(b"data:") {
        let end = memchr2(b'\n', b'\r', data).unwrap_or(data.len());
        if data[end..].iter().all(|&b| b == b'\n' || b == b'\r') {
            let data = data[..end].strip_prefix(b" ").unwrap_or(&data[..end]);
            return Event { name: None, data: Some(data) };
        }
    }
    let mut found = Event::default();
    let mut lines = 0;
    for (name, value) in fields(frame) {
        match name {
            b"event" => found.name = Some(value),
            b"data" => {
                if lines == 0 {
                    found.data = Some(value);
                }
                lines += 1;
            }
            _ => {}
        }
    }
    if lines > 1 {
        scratch.clear();
        for (_, value) in fields(frame).filter(|(name, _)| *name == b"data") {
            scratch.extend_from_slice(value);
            scratch.push(b'\n');
        }
        scratch.pop();
        found.data = Some(scratch);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: &[u8] = include_bytes!("../../tests/samples/sse-edge-cases.sse");
    const EXPECTED: &str = include_str!("../../tests/samples/sse-edge-cases.expected.json");

    /// All frames of `pieces`, each as (bytes as they came, event name, data).
    fn frames(pieces: &[&[u8]]) -> Vec<(Vec<u8>, Option<String>, Option<String>)> {
        let mut splitter = Splitter::new(1 << 14, 1 << 20);
        let mut scratch = Vec::new();
        let mut found: Vec<(Vec<u8>, Option<String>, Option<String>)> = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for &piece in pieces {
            let mut input = piece;
            while let Some(piece) = splitter.next(&mut input) {
                match piece {
                    Piece::Frame(frame) => {
                        let event = event(frame, &mut scratch);
                        found.push((frame.to_vec(), event.name.map(text), event.data.map(text)));
                    }
                    Piece::LineFeed(lf) => {
                        found.last_mut().expect("after a frame").0.extend_from_slice(lf)
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(splitter.held().is_empty());
        found
    }

    #[test]
    fn the_edge_cases_come_out_as_the_standard_says_however_they_are_cut() {
        let want: Vec<serde_json::Value> = serde_json::from_str(EXPECTED).expect("json");
        for cut in 0..=EDGES.len() {
            let (head, tail) = EDGES.split_at(cut);
            let found = frames(&[head, tail]);
            let whole: Vec<u8> = found.iter().flat_map(|f| f.0.clone()).collect();
            assert_eq!(whole, EDGES);
            let events: Vec<_> = found.iter().filter(|f| f.2.is_some()).collect();
            assert_eq!(events.len(), want.len(), "cut {cut}");
            for (event, want) in events.iter().zip(&want) {
                assert_eq!(event.1.as_deref(), want["event"].as_str(), "cut {cut}");
                assert_eq!(event.2.as_deref(), want["data"].as_str(), "cut {cut}");
            }
        }
    }

    #[test]
    fn every_kind_of_line_end_ends_a_frame() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("data: a{end}{end}event: e{end}data: b{end}data: c{end}{end}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            for pieces in [vec![text.as_bytes()], bytes] {
                let found = frames(&pieces);
                assert_eq!(found.len(), 2, "{end:?}");
                assert_eq!(found[0].2.as_deref(), Some("a"));
                assert_eq!(found[1].1.as_deref(), Some("e"));
                assert_eq!(found[1].2.as_deref(), Some("b\nc"));
            }
        }
    }

    #[test]
    fn a_frame_that_ends_in_a_bare_cr_is_not_held_back() {
        let mut splitter = Splitter::new(100, 1000);
        let mut input: &[u8] = b"data: a\r\r";
        assert_eq!(splitter.next(&mut input), Some(Piece::Frame(b"data: a\r\r")));
    }

    #[test]
    fn a_long_frame_comes_in_pieces_and_an_endless_one_is_given_up() {
        let mut splitter = Splitter::new(8, 20);
        let mut input: &[u8] = b"data:";
        assert_eq!(splitter.next(&mut input), None);
        input = b"123456";
        assert_eq!(splitter.next(&mut input), Some(Piece::Part(b"data:123456")));
        assert!(splitter.mid_frame());
        input = b"78\n\ndata:x\n\n";
        assert_eq!(splitter.next(&mut input), Some(Piece::Tail(b"78\n\n")));
        assert!(!splitter.mid_frame());
        assert_eq!(splitter.next(&mut input), Some(Piece::Frame(b"data:x\n\n")));
        input = b"data:1234567890123456";
        assert_eq!(splitter.next(&mut input), Some(Piece::TooLong));
        input = b"\n\n";
        assert_eq!(splitter.next(&mut input), Some(Piece::TooLong));
    }
}
