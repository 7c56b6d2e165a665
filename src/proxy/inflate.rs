//! Compressed bodies, taken apart within bounds.

use flate2::{Decompress, FlushDecompress, Status};

use crate::error::{Error, Kind};

/// Bytes that are inflated at a time.
const STEP_BYTES: usize = 32 * 1024;

/// The coding of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    /// The coding in a `content-encoding`; `Ok(None)` if the bytes are in clear.
    ///
    /// # Errors
    /// A coding that is not known here.
    pub(super) fn of(value: Option<&[u8]>) -> Result<Option<Coding>, ()> {
        let Some(value) = value.map(<[u8]>::trim_ascii) else { return Ok(None) };
        if value.is_empty() || value.eq_ignore_ascii_case(b"identity") {
            Ok(None)
        } else if value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip") {
            Ok(Some(Coding::Gzip))
        } else if value.eq_ignore_ascii_case(b"deflate") {
            Ok(Some(Coding::Deflate))
        } else {
            Err(())
        }
    }
}

/// Inflates a stream of bytes as they come.
pub(super) struct Inflate {
    state: Decompress,
    buffer: Box<[u8]>,
    /// Bytes that may still come out: a small body can hold a huge one.
    left: u64,
    ended: bool,
}

impl Inflate {
    /// At most `max_bytes` come out.
    pub(super) fn new(coding: Coding, max_bytes: u64) -> Self {
        let state = match coding {
            Coding::Gzip => Decompress::new_gzip(15),
            Coding::Deflate => Decompress::new(true),
        };
        Inflate {
            state,
            buffer: vec![0; STEP_BYTES].into_boxed_slice(),
            left: max_bytes,
            ended: false,
        }
    }

    /// Whether the compressed stream came to its own end.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Gives what `input` inflates to, in pieces.
    ///
    /// # Errors
    /// `BodyTooLarge`, or `InvalidRequest` for bytes that are not in the coding.
    pub(super) fn feed(
        &mut self,
        mut input: &[u8],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        let broken = || Error::downstream(Kind::InvalidRequest, "the compressed body is broken");
        if self.ended && !input.is_empty() {
            return Err(broken());
        }
        while !self.ended {
            let (in_before, out_before) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(input, &mut self.buffer, FlushDecompress::None)
                .map_err(|_| broken())?;
            let used = (self.state.total_in() - in_before) as usize;
            let made = (self.state.total_out() - out_before) as usize;
            input = &input[used..];
            self.left = self.left.checked_sub(made as u64).ok_or_else(|| {
                Error::downstream(Kind::BodyTooLarge, "the body is too large once decompressed")
            })?;
            sink(&self.buffer[..made]);
            match status {
                Status::StreamEnd if input.is_empty() => self.ended = true,
                Status::StreamEnd => return Err(broken()),
                _ if used == 0 && made == 0 => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).expect("in memory");
        encoder.finish().expect("in memory")
    }

    #[test]
    fn a_body_inflates_the_same_at_every_cut() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let packed = gzip(&data);
        for step in [1, 7, 4096, packed.len()] {
            let (mut inflate, mut out) = (Inflate::new(Coding::Gzip, 1 << 20), Vec::new());
            for piece in packed.chunks(step) {
                inflate.feed(piece, &mut |d| out.extend_from_slice(d)).expect("valid");
            }
            assert!(inflate.ended() && out == data, "{step}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_bound() {
        let bomb = gzip(&vec![0; 10 << 20]);
        let (mut inflate, mut out) = (Inflate::new(Coding::Gzip, 1 << 20), 0);
        let error = inflate.feed(&bomb, &mut |d| out += d.len()).expect_err("too large");
        assert_eq!(error.kind, Kind::BodyTooLarge);
        assert!(out <= 1 << 20);
    }

    #[test]
    fn codings_are_told_apart() {
        assert_eq!(Coding::of(None), Ok(None));
        assert_eq!(Coding::of(Some(b"GZIP")), Ok(Some(Coding::Gzip)));
        assert_eq!(Coding::of(Some(b"br")), Err(()));
        assert!(Inflate::new(Coding::Gzip, 10).feed(b"not gzip at all", &mut |_| ()).is_err());
    }
}
