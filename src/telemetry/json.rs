//! JSON by hand, for the one place where a serializer would cost more than the rest of the request's log.

/// The longest text that a log line takes; the rest is cut off and marked with `…`.
pub(super) const MAX_TEXT_BYTES: usize = 256;

/// Appends `text` as a JSON string. Everything that could start a new line, move a terminal's cursor or
/// turn the direction of writing comes out as an escape, so a line stays one line and looks like what it is.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text.len() <= MAX_TEXT_BYTES && text.bytes().all(is_plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        escaped(out, text);
    }
    out.push(b'"');
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    let mut kept = text;
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|&end| text.is_char_boundary(end));
        kept = &text[..end.unwrap_or(0)];
    }
    for c in kept.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if c.is_control() || is_treacherous(c) => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    if kept.len() < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

/// Line separators that some viewers obey, and marks that reverse the order in which text is shown.
/// All of them have at most four hexadecimal digits.
fn is_treacherous(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let mut out = Vec::new();
        string(&mut out, text);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn any_text_comes_back_from_a_parser_and_stays_on_its_line() {
        let every: String = (0..0x2100).filter_map(char::from_u32).collect();
        let mut rest = every.as_str();
        while !rest.is_empty() {
            let end = rest.char_indices().nth(50).map_or(rest.len(), |(end, _)| end);
            let (text, after) = rest.split_at(end);
            let printed = json(text);
            assert_eq!(serde_json::from_str::<String>(&printed).expect("JSON"), text);
            assert!(!printed.chars().any(|c| c.is_control() || is_treacherous(c)), "{printed:?}");
            rest = after;
        }
        assert_eq!(json("a\r\n\0\x1b\u{9b}"), r#""a\u000d\u000a\u0000\u001b\u009b""#);
        assert_eq!(json("ä 🦀"), "\"ä 🦀\"");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(json(&"x".repeat(256)), format!("\"{}\"", "x".repeat(256)));
        assert_eq!(json(&"x".repeat(100_000)), format!("\"{}…\"", "x".repeat(256)));
        assert_eq!(json(&"€".repeat(100)), format!("\"{}…\"", "€".repeat(85)));
    }

    #[test]
    fn numbers_are_whole() {
        let mut out = Vec::new();
        number(&mut out, u64::MAX);
        assert_eq!(out, b"18446744073709551615");
    }
}
