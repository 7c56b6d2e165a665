//! The chunked transfer coding (RFC 9112, section 7.1), read strictly and resumable at any byte.

use crate::error::{Error, Kind};

/// Longest accepted size line including extensions, and longest trailer section. Both are ignored
/// apart from the size, so there is no reason to take much of them.
const MAX_LINE: u32 = 1024;
const MAX_TRAILERS: u32 = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    /// Before the first digit of a size.
    SizeStart,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// The decoder of one body.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    left: u64,
    line: u32,
}

impl Default for Chunked {
    fn default() -> Self {
        Chunked { state: State::SizeStart, left: 0, line: 0 }
    }
}

impl Chunked {
    /// Whether the body is complete.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads from `input`, gives payload to `sink`, and returns how many bytes belonged to the
    /// body: all of them, unless the body ended.
    ///
    /// # Errors
    /// `BadFraming` where another parser could read something else: an overflowing or signed size,
    /// a bare LF, a missing CRLF, control bytes in an extension.
    pub fn decode(&mut self, input: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, Error> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let take = self.left.min((input.len() - at) as u64) as usize;
                sink(&input[at..at + take]);
                at += take;
                self.left -= take as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.step(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<(), Error> {
        use State::*;
        self.state = match (self.state, byte) {
            (SizeStart | Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // 15 digits fit into 60 bits; nobody has a longer chunk to send.
                self.line += 1;
                if self.line > 15 {
                    return Err(bad("a chunk size is too large"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                Size
            }
            (Size, b';') => {
                self.line = 0;
                Extension
            }
            (Size | Extension, b'\r') => SizeLf,
            (Extension, b) if b == b'\t' || (b >= 0x20 && b != 0x7f) => {
                self.count(MAX_LINE)?;
                Extension
            }
            (SizeLf, b'\n') => {
                self.line = 0;
                if self.left == 0 { TrailerStart } else { Data }
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => SizeStart,
            (TrailerStart, b'\r') => EndLf,
            (TrailerStart | Trailer, b) if b == b'\t' || (b >= 0x20 && b != 0x7f) => {
                self.count(MAX_TRAILERS)?;
                Trailer
            }
            (Trailer, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => TrailerStart,
            (EndLf, b'\n') => Done,
            _ => return Err(bad("the chunked body is malformed")),
        };
        Ok(())
    }

    fn count(&mut self, max: u32) -> Result<(), Error> {
        self.line += 1;
        if self.line > max {
            return Err(bad("a chunk extension or trailer is too long"));
        }
        Ok(())
    }
}

fn bad(what: &str) -> Error {
    Error::downstream(Kind::BadFraming, format!("{what}; send the body with content-length"))
}

/// Writes the size line of a chunk of `len` bytes; how many bytes it takes.
pub fn put_chunk_size(len: usize, out: &mut [u8; 18]) -> usize {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (usize::BITS - len.max(1).leading_zeros()).div_ceil(4) as usize;
    for (at, slot) in out[..nibbles].iter_mut().enumerate() {
        *slot = DIGITS[len >> (4 * (nibbles - 1 - at)) & 15];
    }
    out[nibbles..nibbles + 2].copy_from_slice(b"\r\n");
    nibbles + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), Error> {
        let (mut decoder, mut out, mut used) = (Chunked::default(), Vec::new(), 0);
        for piece in input.chunks(step) {
            used += decoder.decode(piece, &mut |data| out.extend_from_slice(data))?;
        }
        Ok((out, used, decoder.done()))
    }

    #[test]
    fn bodies_decode_the_same_at_every_cut() {
        let wire =
            b"5\r\nhello\r\n1A;name=\"v\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx: y\r\n\r\nNEXT";
        for step in 1..wire.len() {
            let (out, used, done) = decode(wire, step).expect("valid");
            assert_eq!(out, b"helloabcdefghijklmnopqrstuvwxyz");
            assert_eq!((used, done), (wire.len() - 4, true));
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for wire in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "ffffffffffffffffff\r\n",
            "10000000000000000\r\n",
            "\r\n",
            "5;a\nb\r\nhello\r\n",
            "0\r\nbad\ntrailer\r\n\r\n",
            "0\r\n\n",
        ] {
            assert!(decode(wire.as_bytes(), 1).is_err(), "{wire:?}");
            assert!(decode(wire.as_bytes(), 1000).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = format!("1;{}\r\nx\r\n", "e".repeat(2000));
        assert!(decode(long.as_bytes(), 7).is_err());
        let long = format!("0\r\n{}\r\n\r\n", "t".repeat(20_000));
        assert!(decode(long.as_bytes(), 7).is_err());
    }

    #[test]
    fn sizes_are_written_in_hex() {
        for (len, want) in [(0, "0\r\n"), (15, "f\r\n"), (16, "10\r\n"), (65_536, "10000\r\n")] {
            let mut out = [0; 18];
            let used = put_chunk_size(len, &mut out);
            assert_eq!(&out[..used], want.as_bytes());
        }
    }
}
