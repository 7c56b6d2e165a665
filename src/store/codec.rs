//! The primitives of the journal's and the checkpoint's format: little-endian integers, varints
//! (LEB128) and short texts. Writing never fails and never allocates by itself; reading gives `None`
//! for anything that is not there.

use super::units::Units;

/// The longest text that a record keeps, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 255;

/// Somewhere to write to.
pub(super) trait Put {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    /// Seven bits a byte, at most ten bytes.
    fn put_varint(&mut self, mut value: u64) {
        let mut bytes = [0; 10];
        let mut len = 0;
        while value >= 0x80 {
            bytes[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        self.put(&bytes[..=len]);
    }

    /// Seven bits a byte, at most nineteen bytes.
    fn put_varint_u128(&mut self, mut value: u128) {
        while value > u128::from(u64::MAX) {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_varint(value as u64);
    }

    /// At most `max` bytes of `text` (cut between characters), led by their number in one byte.
    fn put_text(&mut self, text: &str, max: usize) {
        let text = cut(text, max.min(TEXT_BYTES_MAX));
        self.put_u8(text.len() as u8);
        self.put(text.as_bytes());
    }

    /// A bit for each counter that is not zero, then those counters, each at most `max`.
    fn put_units(&mut self, units: &Units, max: u64) {
        let values = units.values();
        let mut mask = 0;
        for (at, value) in values.iter().enumerate() {
            mask |= u32::from(*value != 0) << at;
        }
        self.put_u32(mask);
        while mask != 0 {
            self.put_varint(values[mask.trailing_zeros() as usize].min(max));
            mask &= mask - 1;
        }
    }
}

/// The longest prefix of `text` that has at most `max` bytes and ends between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Writes into a fixed slice. What does not fit is left out and remembered in `overflowed`: the
/// caller, who took room beforehand, treats that as a programmer's error without a panic.
pub(super) struct Cursor<'a> {
    out: &'a mut [u8],
    at: usize,
    overflowed: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Cursor { out, at: 0, overflowed: false }
    }

    /// What was written, or `None` if it did not fit.
    pub(super) fn finish(self) -> Option<&'a mut [u8]> {
        if self.overflowed { None } else { Some(&mut self.out[..self.at]) }
    }
}

impl Put for Cursor<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.at..self.at + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.overflowed = true,
        }
    }
}

/// Reads what [`Put`] wrote.
#[derive(Clone, Copy)]
pub(super) struct Take<'a> {
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Take { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn varint_u128(&mut self) -> Option<u128> {
        let mut value = 0;
        for shift in (0..128).step_by(7) {
            let byte = self.u8()?;
            let bits = u128::from(byte & 0x7f);
            if shift == 126 && bits > 3 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let len = self.u8()?;
        std::str::from_utf8(self.bytes(usize::from(len))?).ok()
    }

    pub(super) fn units(&mut self) -> Option<Units> {
        let mut mask = self.u32()?;
        if mask >> Units::COUNT != 0 {
            return None;
        }
        let mut values = [0; Units::COUNT];
        while mask != 0 {
            values[mask.trailing_zeros() as usize] = self.varint()?;
            mask &= mask - 1;
        }
        Some(Units::from_values(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken() {
        let units = Units { in_text: u64::MAX, seconds_in_milli: 1, ..Units::default() };
        let mut out = Vec::new();
        for value in [0, 127, 128, 16_384, u64::MAX] {
            out.put_varint(value);
        }
        out.put_units(&units, u64::MAX);
        out.put_text("héllo", 2);
        let amounts = [0, 127, 1 << 63, 1 << 64, (1 << 64) + 5, 1 << 70, u128::MAX];
        amounts.into_iter().for_each(|amount| out.put_varint_u128(amount));
        let mut take = Take::new(&out);
        for value in [0, 127, 128, 16_384, u64::MAX] {
            assert_eq!(take.varint(), Some(value));
        }
        assert_eq!(take.units(), Some(units));
        assert_eq!(take.text(), Some("h"), "cut between characters");
        for amount in amounts {
            assert_eq!(take.varint_u128(), Some(amount));
        }
        assert_eq!((take.left(), take.u8()), (0, None));
    }

    #[test]
    fn a_varint_that_is_too_long_is_refused() {
        assert_eq!(Take::new(&[0xff; 11]).varint(), None);
        assert_eq!(Take::new(&[0x80; 3]).varint(), None);
        assert_eq!(Take::new(&[0xff; 20]).varint_u128(), None);
        let too_large = [[0xff; 18].as_slice(), &[4]].concat();
        assert_eq!(Take::new(&too_large).varint_u128(), None);
    }

    #[test]
    fn a_full_cursor_says_so() {
        let mut room = [0; 3];
        let mut cursor = Cursor::new(&mut room);
        cursor.put_u32(1);
        assert!(cursor.finish().is_none());
    }
}
