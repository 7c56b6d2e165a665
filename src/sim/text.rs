//! The words of the simulated model, and how tokens are counted.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Bytes of text that count as one token, rounded up.
pub(super) const TOKEN_BYTES: usize = 4;

const WORDS: &[&str] = &[
    "the", "a", "of", "and", "to", "in", "is", "that", "router", "token", "stream", "latency",
    "model", "answer", "request", "first", "edge", "path", "queue", "cache", "warm", "cold",
    "buffer", "frame", "signal", "window", "budget", "ledger", "price", "chart", "quote", "market",
    "spread", "hedge", "order", "volume", "river", "harbour", "lantern", "copper", "winter",
    "garden", "paper", "window", "morning", "carries", "measures", "arrives", "holds", "counts",
    "settles", "opens", "closes", "quickly", "slowly", "exactly", "before", "after", "between",
    "without", "under", "over", "because", "while", "when", "then",
];

/// Every character class that has broken a proxy: two, three and four bytes, joined sequences,
/// quotes and backslashes that JSON must escape, a line separator that some parsers split at.
const SPECIAL: &[&str] = &[
    "naïve",
    "Zürich",
    "世界",
    "価格",
    "цена",
    "שלום",
    "🙂",
    "👩‍💻",
    "€",
    "\"quoted\"",
    "C:\\path",
    "\n\n",
    "a\tb",
    "\u{2028}",
    "data:",
    "[DONE]",
    "½",
    "é",
];

/// Tokens in `bytes` bytes of text.
pub(super) fn tokens_in(bytes: usize) -> u64 {
    bytes.div_ceil(TOKEN_BYTES) as u64
}

/// Text of exactly `tokens` tokens. The same `seed` gives the same text, and a longer text begins
/// with the shorter one.
pub(super) fn write_text(seed: u64, tokens: u64) -> String {
    let limit = tokens as usize * TOKEN_BYTES;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut out = String::with_capacity(limit + 16);
    let mut sentence_left = 0;
    while out.len() < limit {
        if sentence_left == 0 {
            if !out.is_empty() {
                out.push_str(". ");
            }
            sentence_left = rng.random_range(6..16);
            let word = pick(WORDS, &mut rng);
            out.push_str(&word[..1].to_uppercase());
            out.push_str(&word[1..]);
        } else {
            out.push(' ');
            let list = if rng.random_ratio(1, 12) { SPECIAL } else { WORDS };
            out.push_str(pick(list, &mut rng));
        }
        sentence_left -= 1;
    }
    cut(&mut out, limit);
    out
}

/// Shortens `text` to at most `limit` bytes, at a character boundary. As a character has at most
/// four bytes, a limit of N tokens leaves exactly N tokens.
pub(super) fn cut(text: &mut String, limit: usize) {
    text.truncate(floor_boundary(text, limit));
}

/// Cuts `text` into pieces of about `piece_bytes`, never inside a character. With pieces of one
/// token (4 bytes) there are exactly as many pieces as tokens.
pub(super) fn pieces(text: &str, piece_bytes: usize) -> impl Iterator<Item = &str> {
    let mut from = 0;
    let mut goal = 0;
    std::iter::from_fn(move || {
        if from >= text.len() {
            return None;
        }
        goal += piece_bytes;
        let mut to = goal.min(text.len());
        while !text.is_char_boundary(to) {
            to += 1;
        }
        let piece = &text[from..to];
        from = to;
        Some(piece)
    })
}

/// The `canary:TOKEN` in `text`, if there is one; TOKEN is of `[A-Za-z0-9_-]`, at most 128 bytes.
pub(super) fn canary(text: &str) -> Option<&str> {
    const MARK: &str = "canary:";
    let start = text.find(MARK)?;
    let rest = &text[start + MARK.len()..];
    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let len = rest.find(|c| !name(c)).unwrap_or(rest.len());
    (1..=128).contains(&len).then(|| &text[start..start + MARK.len() + len])
}

/// A hash that stays the same across runs and versions (FNV-1a, 64 bits), for seeds.
#[derive(Clone, Copy)]
pub(super) struct Hash(pub(super) u64);

impl Hash {
    /// Starts from a seed.
    pub(super) fn new(seed: u64) -> Self {
        Hash(0xcbf2_9ce4_8422_2325 ^ mix(seed))
    }

    /// Adds `data`; the end of each piece counts, so `ab` + `c` differs from `a` + `bc`.
    pub(super) fn add(&mut self, data: &[u8]) {
        for &byte in data.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Spreads a number over all 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pick<'a>(list: &[&'a str], rng: &mut SmallRng) -> &'a str {
    list.choose(rng).copied().unwrap_or("the")
}

fn floor_boundary(text: &str, limit: usize) -> usize {
    let mut at = limit.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_length_asked_for_in_tokens_and_in_pieces() {
        let mut multibyte = false;
        for seed in 0..200 {
            for tokens in [1, 2, 7, 64] {
                let text = write_text(seed, tokens);
                assert_eq!(tokens_in(text.len()), tokens, "{text:?}");
                assert_eq!(pieces(&text, TOKEN_BYTES).count() as u64, tokens, "{text:?}");
                assert_eq!(pieces(&text, TOKEN_BYTES).collect::<String>(), text);
                multibyte |= !text.is_ascii();
            }
        }
        assert!(multibyte, "no text had a multi-byte character");
    }

    #[test]
    fn text_depends_on_the_seed_alone() {
        assert_eq!(write_text(7, 50), write_text(7, 50));
        assert_ne!(write_text(7, 50), write_text(8, 50));
        assert!(write_text(7, 50).starts_with(&write_text(7, 20)[..70]));
    }

    #[test]
    fn canaries_end_where_the_word_ends() {
        assert_eq!(canary("say canary:a-B_9, please"), Some("canary:a-B_9"));
        assert_eq!(canary("canary:x"), Some("canary:x"));
        assert_eq!(canary("canary: x"), None);
        assert_eq!(canary("none"), None);
    }

    #[test]
    fn hashes_notice_where_pieces_end() {
        let of = |parts: &[&str]| {
            let mut hash = Hash::new(1);
            parts.iter().for_each(|part| hash.add(part.as_bytes()));
            hash.0
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }
}
