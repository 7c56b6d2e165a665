//! Finds `"key": value` in JSON that comes in pieces cut anywhere, without reading the rest.
//!
//! Only the exact bytes `"key"` followed by blanks and a colon count. Inside a string such a quote
//! would be escaped, `\"key\":`, whose bytes differ, so that text written by a model never matches.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// A key to look for; the searcher is built once per process.
pub(super) struct Needle(LazyLock<Finder<'static>>);

macro_rules! needles {
    ($($(#[$doc:meta])* $name:ident $text:literal)*) => { $(
        $(#[$doc])*
        pub(super) static $name: Needle = Needle(LazyLock::new(|| Finder::new($text.as_bytes())));
    )* };
}

needles! {
    USAGE "\"usage\""
    BILLED_UNITS "\"billed_units\""
    FINISH_REASON "\"finish_reason\""
    SERVICE_TIER "\"service_tier\""
    MODEL "\"model\""
    B64_JSON "\"b64_json\""
    URL "\"url\""
    TYPE "\"type\""
    CONTENT "\"content\""
    TEXT "\"text\""
    REASONING "\"reasoning_content\""
    ARGUMENTS "\"arguments\""
}

/// The state of one search for one key.
pub(super) struct Seeker {
    needle: &'static Needle,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// So many bytes of the needle ended the last piece.
    Search(usize),
    /// Behind the key, before the colon.
    Colon,
    /// Behind the colon, before the value.
    Value,
}

impl Seeker {
    pub fn new(needle: &'static Needle) -> Self {
        Seeker { needle, state: State::Search(0) }
    }

    /// The place in `piece`, from `at` on, where the value of the next such key begins.
    pub fn next(&mut self, piece: &[u8], mut at: usize) -> Option<usize> {
        let needle = self.needle.0.needle();
        loop {
            match self.state {
                State::Search(0) => match self.needle.0.find(&piece[at.min(piece.len())..]) {
                    Some(distance) => {
                        at += distance + needle.len();
                        self.state = State::Colon;
                    }
                    None => {
                        self.state = State::Search(overlap(piece, at, needle));
                        return None;
                    }
                },
                State::Search(matched) => {
                    let byte = *piece.get(at)?;
                    // A quote stands only at the needle's ends, so that a failed match can at best
                    // begin anew with the quote that broke it.
                    if byte == needle[matched] {
                        at += 1;
                        let whole = matched + 1 == needle.len();
                        self.state = if whole { State::Colon } else { State::Search(matched + 1) };
                    } else {
                        self.state = State::Search(0);
                    }
                }
                State::Colon | State::Value => match *piece.get(at)? {
                    b' ' | b'\t' | b'\r' | b'\n' => at += 1,
                    b':' if matches!(self.state, State::Colon) => {
                        self.state = State::Value;
                        at += 1;
                    }
                    _ => {
                        let found = matches!(self.state, State::Value);
                        self.state = State::Search(0);
                        if found {
                            return Some(at);
                        }
                    }
                },
            }
        }
    }
}

/// How many bytes at the end of `piece[at..]` the needle begins with.
fn overlap(piece: &[u8], at: usize, needle: &[u8]) -> usize {
    let tail = &piece[at.max(piece.len().saturating_sub(needle.len() - 1)).min(piece.len())..];
    match memchr::memrchr(b'"', tail) {
        Some(quote) if needle.starts_with(&tail[quote..]) => tail.len() - quote,
        _ => 0,
    }
}

/// Captures the values of one key: objects and strings of up to `max` bytes.
pub(super) struct Capture {
    seeker: Seeker,
    max: usize,
    value: Vec<u8>,
    nesting: Option<Nesting>,
}

#[derive(Clone, Copy, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    after_backslash: bool,
}

impl Capture {
    pub fn new(needle: &'static Needle, max: usize) -> Self {
        Capture { seeker: Seeker::new(needle), max, value: Vec::new(), nesting: None }
    }

    /// Reads on; `found` is given each value as it stands in the text once it is complete.
    pub fn feed(&mut self, piece: &[u8], mut found: impl FnMut(&[u8])) {
        let mut at = 0;
        loop {
            if self.nesting.is_none() {
                let Some(start) = self.seeker.next(piece, at) else { return };
                at = start;
                if !matches!(piece[at], b'{' | b'"') {
                    continue;
                }
                self.value.clear();
                self.nesting = Some(Nesting::default());
            }
            let Some(end) = self.take(piece, at) else { return };
            at = end;
            if self.value.len() <= self.max {
                found(&self.value);
            }
        }
    }

    /// Takes over bytes of the value; the place where it (or the patience) ended.
    fn take(&mut self, piece: &[u8], from: usize) -> Option<usize> {
        let mut nesting = self.nesting.take().unwrap_or_default();
        for (at, &byte) in piece.iter().enumerate().skip(from) {
            self.value.push(byte);
            if nesting.ends(byte) || self.value.len() > self.max {
                return Some(at + 1);
            }
        }
        self.nesting = Some(nesting);
        None
    }
}

/// Sums up the lengths of the strings that one key has, as they stand in the text.
pub(super) struct Lengths {
    seeker: Seeker,
    nesting: Option<Nesting>,
    pub bytes: u64,
}

impl Lengths {
    pub fn new(needle: &'static Needle) -> Self {
        Lengths { seeker: Seeker::new(needle), nesting: None, bytes: 0 }
    }

    /// Reads on. Holds nothing.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut at = 0;
        loop {
            if self.nesting.is_none() {
                let Some(start) = self.seeker.next(piece, at) else { return };
                at = start;
                if piece[at] != b'"' {
                    continue;
                }
                // Behind the quote that begins it.
                at += 1;
                self.nesting = Some(Nesting { in_string: true, ..Nesting::default() });
            }
            let Some(nesting) = &mut self.nesting else { return };
            match piece[at..].iter().position(|&byte| nesting.ends(byte)) {
                Some(length) => {
                    self.bytes += length as u64;
                    at += length + 1;
                    self.nesting = None;
                }
                None => {
                    self.bytes += (piece.len() - at) as u64;
                    return;
                }
            }
        }
    }
}

impl Nesting {
    /// Whether the value ends with this byte.
    fn ends(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.after_backslash => self.after_backslash = false,
                b'\\' => self.after_backslash = true,
                b'"' => {
                    self.in_string = false;
                    return self.depth == 0;
                }
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pieces: &[&[u8]]) -> Vec<String> {
        let mut capture = Capture::new(&USAGE, 40);
        let mut found = Vec::new();
        for piece in pieces {
            capture.feed(piece, |value| found.push(String::from_utf8_lossy(value).into_owned()));
        }
        found
    }

    #[test]
    fn values_are_found_however_the_text_is_cut() {
        let text = br#"{"a":"\"usage\":{\"x\":1}","b":"usage","usage" : null,""usage":"s\"t",
            "usage":{"x":{"y":"}\\"}},"usage":{"too":"long, far more than forty bytes of it"},
            "usage"
            :{"z":1}}"#;
        let want = ["\"s\\\"t\"", "{\"x\":{\"y\":\"}\\\\\"}}", "{\"z\":1}"];
        assert_eq!(values(&[text]), want);
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(values(&[head, tail]), want, "cut {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(values(&bytes), want);
    }

    #[test]
    fn lengths_are_summed_however_the_text_is_cut() {
        let text =
            br#"{"content":"a\"b","x":"\"content\":\"no\"","content":null,"content":[{"text":"t"}],
            "content" : "","content":"12345"}"#;
        for cut in 0..text.len() {
            let mut lengths = Lengths::new(&CONTENT);
            lengths.feed(&text[..cut]);
            lengths.feed(&text[cut..]);
            assert_eq!(lengths.bytes, 4 + 5, "cut {cut}");
        }
    }
}
