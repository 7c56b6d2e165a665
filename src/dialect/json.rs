//! A strict walk over JSON text that builds nothing: where a member begins, where a value ends.
//!
//! It accepts only text whose structure no two parsers can read differently: brackets must match,
//! strings hold no control characters and only the escapes of RFC 8259, and outside of strings only
//! the bytes occur that JSON knows (so no comments and no single quotes). What lies inside nested
//! values that nobody looks at is not checked any further.

use std::ops::Range;

/// Arrays and objects within one another, the outermost counted. Deeper text is refused.
pub(super) const MAX_DEPTH: usize = 1000;

/// Why and where the walk ended. Small, because results of the walk must travel in registers: a
/// round trip through memory costs more than the step itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// Byte offset from the start of the text.
    pub at: usize,
    pub what: What,
}

/// What was wrong with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Early,
    TooDeep,
    Object,
    Key,
    Colon,
    Comma,
    LastComma,
    Value,
    Control,
    Escape,
    Bracket,
    Foreign,
    Trailing,
}

impl What {
    /// The end of a sentence for the one who sent the text.
    pub fn text(self) -> &'static str {
        match self {
            What::Early => "the text ends early",
            What::TooDeep => "nested too deep",
            What::Object => "a JSON object belongs here",
            What::Key => "a key in double quotes belongs here",
            What::Colon => "a colon belongs here",
            What::Comma => "a comma or a closing bracket belongs here",
            What::LastComma => "a comma before a closing bracket",
            What::Value => "a value belongs here",
            What::Control => "a control character in a string",
            What::Escape => "an escape that JSON does not know",
            What::Bracket => "a closing bracket of the wrong kind",
            What::Foreign => "a character that JSON does not know",
            What::Trailing => "text after the JSON object",
        }
    }
}

/// A string as it stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    /// What stands between the quotes.
    pub span: Range<usize>,
    /// Whether it holds a backslash.
    pub escaped: bool,
}

impl Text {
    /// The span with the quotes.
    pub fn quoted(&self) -> Range<usize> {
        self.span.start - 1..self.span.end + 1
    }
}

/// A place in the text. After a fault it stands somewhere and must not be used on.
pub(super) struct Cursor<'a> {
    pub text: &'a [u8],
    pub at: usize,
    level: usize,
    /// The string stepped over last: kept here, not returned, for the reason given at [`Fault`].
    last: Text,
}

const PLAIN: u8 = 0;
const OPEN: u8 = 1;
const CLOSE: u8 = 2;
const QUOTE: u8 = 3;
const FOREIGN: u8 = 4;

/// What a byte outside of a string means. `FOREIGN`: JSON does not know it.
const CLASS: [u8; 256] = {
    let mut class = [FOREIGN; 256];
    let plain = b" \t\n\r,:+-.";
    let mut at = 0;
    while at < plain.len() {
        class[plain[at] as usize] = PLAIN;
        at += 1;
    }
    let mut byte = 0;
    while byte < 128u8 {
        if byte.is_ascii_alphanumeric() {
            class[byte as usize] = PLAIN;
        }
        byte += 1;
    }
    class[b'{' as usize] = OPEN;
    class[b'[' as usize] = OPEN;
    class[b'}' as usize] = CLOSE;
    class[b']' as usize] = CLOSE;
    class[b'"' as usize] = QUOTE;
    class
};

impl<'a> Cursor<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Cursor { text, at: 0, level: 0, last: Text { span: 0..0, escaped: false } }
    }

    /// The byte at the cursor.
    #[inline(always)]
    pub fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[cold]
    fn fault<T>(&self, what: What) -> Result<T, Fault> {
        let what = if self.at >= self.text.len() { What::Early } else { what };
        Err(Fault { at: self.at.min(self.text.len()), what })
    }

    /// Skips blanks.
    #[inline(always)]
    pub fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    /// Steps into the object or array at the cursor.
    pub fn enter(&mut self) -> Result<(), Fault> {
        if self.level == MAX_DEPTH {
            return self.fault(What::TooDeep);
        }
        self.level += 1;
        self.at += 1;
        Ok(())
    }

    /// The next key of the object that was entered; the cursor then stands on its value. `None`:
    /// the object ended, and the cursor stands behind it. `first` is true on the first call.
    #[inline(always)]
    pub fn next_key(&mut self, first: &mut bool) -> Result<Option<Text>, Fault> {
        let another = self.key(*first)?;
        *first &= !another;
        Ok(another.then(|| self.last.clone()))
    }

    fn key(&mut self, first: bool) -> Result<bool, Fault> {
        if !self.next_part(first, b'}')? {
            return Ok(false);
        }
        if self.byte() != Some(b'"') {
            return self.fault(What::Key);
        }
        self.text()?;
        self.blanks();
        if self.byte() != Some(b':') {
            return self.fault(What::Colon);
        }
        self.at += 1;
        self.blanks();
        Ok(true)
    }

    /// As [`Cursor::next_key`] for the elements of an array: whether there is another.
    #[inline]
    pub fn next_item(&mut self, first: &mut bool) -> Result<bool, Fault> {
        let another = self.next_part(*first, b']')?;
        *first &= !another;
        Ok(another)
    }

    #[inline(always)]
    fn next_part(&mut self, first: bool, close: u8) -> Result<bool, Fault> {
        self.blanks();
        let byte = self.byte();
        if byte == Some(close) {
            self.at += 1;
            self.level -= 1;
            return Ok(false);
        }
        if first {
            return Ok(true);
        }
        if byte != Some(b',') {
            return self.fault(What::Comma);
        }
        self.at += 1;
        self.blanks();
        if self.byte() == Some(close) {
            return self.fault(What::LastComma);
        }
        Ok(true)
    }

    /// Steps over the string at the cursor, which stands on its opening quote.
    #[inline(always)]
    pub fn string(&mut self) -> Result<Text, Fault> {
        self.text()?;
        Ok(self.last.clone())
    }

    fn text(&mut self) -> Result<(), Fault> {
        let start = self.at + 1;
        let (mut base, mut escaped, mut clean) = (start, false, 0);
        loop {
            let mut stops = stops(self.text, base);
            let mut next = base + BLOCK;
            clean = if stops == 0 { clean + 1 } else { 0 };
            while stops != 0 {
                self.at = base + stops.trailing_zeros() as usize;
                match self.byte() {
                    Some(b'"') => {
                        self.last = Text { span: start..self.at, escaped };
                        self.at += 1;
                        return Ok(());
                    }
                    Some(b'\\') => {
                        escaped = true;
                        self.escape()?;
                    }
                    _ => return self.fault(What::Control),
                }
                if self.at >= next {
                    next = self.at;
                    break;
                }
                stops &= u32::MAX << (self.at - base);
            }
            base = next;
            if clean == 4 {
                // No short string: short ones are the rule, keys, roles and ids.
                base = clean_blocks(self.text, base);
                clean = 0;
            }
        }
    }

    /// Steps over one escape. Its form is checked because a lenient reader may take four bytes
    /// after `\u` unseen, a closing quote among them.
    fn escape(&mut self) -> Result<(), Fault> {
        let rest = &self.text[self.at + 1..];
        match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') if rest.len() > 4 && rest[1..5].iter().all(u8::is_ascii_hexdigit) => {
                self.at += 6
            }
            Some(b'u') if rest.len() <= 4 => {
                self.at = self.text.len();
                return self.fault(What::Early);
            }
            None => {
                self.at = self.text.len();
                return self.fault(What::Early);
            }
            Some(_) => return self.fault(What::Escape),
        }
        Ok(())
    }

    /// Steps over the value at the cursor. A number or literal is checked in full, a string for
    /// what [`Cursor::string`] says, anything nested for brackets and strings only.
    #[inline]
    pub fn skip(&mut self) -> Result<(), Fault> {
        match self.byte() {
            Some(b'"') => self.text(),
            Some(b'{' | b'[') => self.nested(),
            _ => self.scalar(),
        }
    }

    /// The span of the value at the cursor, which then stands behind it.
    pub fn span(&mut self) -> Result<Range<usize>, Fault> {
        let start = self.at;
        self.skip()?;
        Ok(start..self.at)
    }

    fn scalar(&mut self) -> Result<(), Fault> {
        let rest = &self.text[self.at..];
        for literal in [&b"null"[..], b"true", b"false"] {
            if rest.starts_with(literal) {
                self.at += literal.len();
                return Ok(());
            }
            if !rest.is_empty() && literal.starts_with(rest) {
                self.at = self.text.len();
            }
        }
        match number(rest) {
            Some(length) => {
                self.at += length;
                Ok(())
            }
            None => self.fault(What::Value),
        }
    }

    fn nested(&mut self) -> Result<(), Fault> {
        let mut objects = [0u64; MAX_DEPTH.div_ceil(64)];
        let mut depth = 0;
        loop {
            let Some(byte) = self.byte() else { return self.fault(What::Early) };
            match CLASS[usize::from(byte)] {
                PLAIN => self.at = plain_end(self.text, self.at + 1),
                QUOTE => self.text()?,
                OPEN => {
                    if self.level + depth == MAX_DEPTH {
                        return self.fault(What::TooDeep);
                    }
                    let bit = 1 << (depth % 64);
                    match byte {
                        b'{' => objects[depth / 64] |= bit,
                        _ => objects[depth / 64] &= !bit,
                    }
                    depth += 1;
                    self.at += 1;
                }
                CLOSE => {
                    // The walk began on an opening bracket, so there is one to close.
                    depth -= 1;
                    let object = objects[depth / 64] >> (depth % 64) & 1 == 1;
                    if object != (byte == b'}') {
                        return self.fault(What::Bracket);
                    }
                    self.at += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => return self.fault(What::Foreign),
            }
        }
    }
}

/// The length of the number that `text` begins with, by RFC 8259.
fn number(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    match text.get(at)? {
        b'0' => at += 1,
        b'1'..=b'9' => at += digits(at),
        _ => return None,
    }
    if text.get(at) == Some(&b'.') {
        let count = digits(at + 1);
        if count == 0 {
            return None;
        }
        at += 1 + count;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let count = digits(at + 1 + sign);
        if count == 0 {
            return None;
        }
        at += 1 + sign + count;
    }
    Some(at)
}

/// Bytes that are looked at together.
const BLOCK: usize = 16;

/// One bit for each byte from `at` on that ends a run of text: a quote, a backslash, a control
/// character, the end of the text.
#[inline(always)]
fn stops(text: &[u8], at: usize) -> u32 {
    match text.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(block) => stops_in(block),
        None => {
            // Padded with zeros, which are control characters.
            let mut block = [0; BLOCK];
            let rest = text.get(at..).unwrap_or_default();
            block[..rest.len()].copy_from_slice(rest);
            stops_in(&block)
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn stops_in(block: &[u8; BLOCK]) -> u32 {
    // SAFETY: every x86-64 processor has SSE2, which is all that the function asks for.
    unsafe { stops_in_sse2(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn stops_in_sse2(block: &[u8; BLOCK]) -> u32 {
    use std::arch::x86_64::*;
    let word = u128::from_le_bytes(*block);
    let bytes = _mm_set_epi64x((word >> 64) as i64, word as i64);
    let is = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8));
    let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
    _mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(is(b'"'), is(b'\\')))) as u32
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn stops_in(block: &[u8; BLOCK]) -> u32 {
    block
        .iter()
        .enumerate()
        .fold(0, |stops, (at, &b)| stops | u32::from((b == b'"') | (b == b'\\') | (b < 0x20)) << at)
}

/// Steps over whole blocks of 64 bytes that hold nothing that ends a run.
#[inline(never)]
fn clean_blocks(text: &[u8], at: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if text.len() - at >= 512 && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, which is all that the function asks for.
        return unsafe { clean_blocks_avx2(text, at) };
    }
    clean_blocks_any(text, at)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn clean_blocks_avx2(text: &[u8], at: usize) -> usize {
    clean_blocks_any(text, at)
}

/// Plain code that the compiler turns into vector instructions.
#[inline(always)]
fn clean_blocks_any(text: &[u8], at: usize) -> usize {
    let mut blocks = 0;
    for block in text[at..].as_chunks::<64>().0 {
        let mut stop = 0u8;
        for &b in block {
            stop |= u8::from(b == b'"') | u8::from(b == b'\\') | u8::from(b < 0x20);
        }
        if stop != 0 {
            break;
        }
        blocks += 64;
    }
    at + blocks
}

/// The position from `at` on of the first byte that is not plain, else the end. Runs of numbers
/// (tokens as input of an embedding) go by 32 bytes at a time.
#[inline(always)]
fn plain_end(text: &[u8], mut at: usize) -> usize {
    let mut run = 0;
    while at < text.len() && CLASS[usize::from(text[at])] == PLAIN {
        at += 1;
        run += 1;
        if run == 32 {
            run = 0;
            at = numeric_blocks(text, at);
        }
    }
    at
}

#[inline(never)]
fn numeric_blocks(text: &[u8], at: usize) -> usize {
    let mut blocks = 0;
    for block in text[at..].as_chunks::<32>().0 {
        let mut other = 0u8;
        for &b in block {
            // From '+' to ':' without '/', and blanks.
            let plain = (b.wrapping_sub(b'+') < 16) & (b != b'/') | (b == b' ') | (b == b'\n');
            other |= u8::from(!plain);
        }
        if other != 0 {
            break;
        }
        blocks += 32;
    }
    at + blocks
}

/// Appends `text` as a JSON string with its quotes. Valid for any text.
pub(super) fn quote_into(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 | 0x7f => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Whether the value that `raw` begins with says something: not null, false, 0, "", {} or [].
/// `raw` may be cut; then what is there decides.
pub(super) fn truthy(raw: &[u8]) -> bool {
    let after = |rest: &[u8]| rest.iter().copied().find(|b| !b.is_ascii_whitespace());
    match raw.first() {
        Some(b'"') => raw.get(1) != Some(&b'"'),
        Some(b'{') => after(&raw[1..]) != Some(b'}'),
        Some(b'[') => after(&raw[1..]) != Some(b']'),
        Some(b't' | b'1'..=b'9' | b'-') => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &str) -> Result<usize, Fault> {
        let mut cursor = Cursor::new(text.as_bytes());
        cursor.skip().map(|()| cursor.at)
    }

    #[test]
    fn whole_values_are_stepped_over() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-0.5e+10",
            "12",
            "\"\"",
            "\"a\\\"b\\u00e9\"",
            "[]",
            "{}",
            "[[{\"a\":[1,2,\"]\"]}]]",
            "{\"}\":\"\\\\\"}",
        ] {
            assert_eq!(skip(text), Ok(text.len()), "{text}");
            let with_more = format!("{text},");
            assert_eq!(skip(&with_more), Ok(text.len()), "{with_more}");
        }
    }

    #[test]
    fn what_parsers_could_read_differently_is_refused() {
        for text in [
            "[1}",
            "{\"a\":1]",
            "['\"']",
            "[/*\"*/]",
            "[#\n]",
            "\"a\nb\"",
            "\"\\x41\"",
            "01x",
            "\"\\u12\"34\"",
            "nul",
            "tru",
            "+1",
            ".5",
            "1.",
            "1e",
            "-",
            "[\u{0}]",
            "\"\u{1f}\"",
            "[\u{e9}]",
            "",
            "[",
            "{\"a\"",
            "\"abc",
            "\"abc\\",
            "\"abc\\u00",
        ] {
            let partly = skip(text).is_ok_and(|at| at == text.len());
            assert!(!partly, "{text}");
        }
    }

    #[test]
    fn strings_end_where_they_should_at_every_length() {
        for length in 0..300 {
            let fill: String = (0..length).map(|at| char::from(b'a' + at as u8 % 26)).collect();
            for lead in 0..3 {
                let lead = " ".repeat(lead);
                let skip_from = |text: &str| {
                    let mut cursor = Cursor::new(text.as_bytes());
                    cursor.blanks();
                    cursor.skip().map(|()| cursor.at).map_err(|fault| fault.at)
                };
                let whole = format!("{lead}\"{fill}\"");
                assert_eq!(skip_from(&format!("{whole}\"\\\n\"{fill}")), Ok(whole.len()));
                let escapes = format!("{lead}\"{fill}\\\"{fill}\\u00e9\\\\\\\\{fill}é\"");
                assert_eq!(skip_from(&escapes), Ok(escapes.len()));
                let at = lead.len() + 1 + length;
                for control in ['\n', '\0', '\u{1f}'] {
                    let text = format!("{lead}\"{fill}{control}\"");
                    assert_eq!(skip_from(&text), Err(at), "{length}");
                }
                assert_eq!(skip_from(&format!("{lead}\"{fill}")), Err(at));
                assert_eq!(skip_from(&format!("{lead}\"{fill}\\")), Err(at + 1));
            }
        }
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(skip(&deep(MAX_DEPTH)), Ok(2 * MAX_DEPTH));
        assert_eq!(skip(&deep(100_000)), Err(Fault { at: MAX_DEPTH, what: What::TooDeep }));
    }

    #[test]
    fn long_runs_of_numbers_are_stepped_over_and_foreign_bytes_in_them_are_seen() {
        let mut text = format!("[{}]", vec!["12345"; 1000].join(", "));
        assert_eq!(skip(&text), Ok(text.len()));
        text.replace_range(3000..3001, "/");
        assert_eq!(skip(&text).map_err(|fault| fault.at), Err(3000));
    }

    #[test]
    fn quoting_survives_any_text() {
        let text: String = (0..0x250).filter_map(char::from_u32).collect();
        let mut out = Vec::new();
        quote_into(&mut out, &text);
        assert_eq!(serde_json::from_slice::<String>(&out).ok().as_deref(), Some(&text[..]));
    }
}
