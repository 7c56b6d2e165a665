//! The names that rows of sums are about, as small numbers: a map in memory before the table.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::store::codec::{Put, Take};
use crate::store::query::UsageKey;

/// So many names are remembered between two commits; then all are forgotten, and found again in
/// the table.
const NAMES_KEPT: usize = 1 << 16;

/// The place of a name in [`Names`], valid until the next [`Names::shrink`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Place(pub(super) u32);

/// The names that were met lately.
#[derive(Default)]
pub(super) struct Names {
    places: HashMap<Box<[u8]>, Place>,
    slots: Vec<Slot>,
    scratch: Vec<u8>,
}

struct Slot {
    packed: Box<[u8]>,
    /// The row in the table, once it is committed.
    row: Option<i64>,
}

impl Names {
    /// The place of a name.
    pub(super) fn place(&mut self, name: &UsageKey<'_>) -> Place {
        self.scratch.clear();
        pack(name, &mut self.scratch);
        if let Some(&place) = self.places.get(self.scratch.as_slice()) {
            return place;
        }
        let place = Place(self.slots.len() as u32);
        let packed: Box<[u8]> = self.scratch.as_slice().into();
        self.places.insert(packed.clone(), place);
        self.slots.push(Slot { packed, row: None });
        place
    }

    /// The name at a place.
    pub(super) fn name(&self, place: Place) -> UsageKey<'_> {
        unpack(&self.slots[place.0 as usize].packed).expect("packed by us")
    }

    /// The row of a name, if it is known.
    pub(super) fn row(&self, place: Place) -> Option<i64> {
        self.slots[place.0 as usize].row
    }

    /// Remembers a row that is committed.
    pub(super) fn set_row(&mut self, place: Place, row: i64) {
        self.slots[place.0 as usize].row = Some(row);
    }

    /// Forgets everything if it has become much.
    pub(super) fn shrink(&mut self) {
        if self.slots.len() > NAMES_KEPT {
            *self = Names::default();
        }
    }
}

/// Appends a name in a form that tells any two apart.
pub(super) fn pack(name: &UsageKey<'_>, out: &mut Vec<u8>) {
    let UsageKey { account, project, user, key, model, target, currency } = *name;
    for text in [account, project, user, key, model, target] {
        out.put_text(text, usize::MAX);
    }
    out.put(&currency);
}

/// The inverse of [`pack`].
pub(super) fn unpack(bytes: &[u8]) -> Option<UsageKey<'_>> {
    let mut take = Take::new(bytes);
    let account = take.text()?;
    let (project, user, key) = (take.text()?, take.text()?, take.text()?);
    let (model, target, currency) = (take.text()?, take.text()?, take.array()?);
    Some(UsageKey { account, project, user, key, model, target, currency })
}

/// For keys that nobody outside can choose: random ids, times and places.
pub(super) type Quick = BuildHasherDefault<QuickHasher>;

/// A multiplication for each number.
#[derive(Default)]
pub(super) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        // The map takes low and high bits; the fold brings all bits of the product to both.
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn names_have_their_places_and_are_told_apart() {
        let mut names = Names::default();
        let a = UsageKey { account: "a", project: "bc", currency: *b"EUR", ..UsageKey::default() };
        let b = UsageKey { account: "ab", project: "c", ..a };
        let (at, other) = (names.place(&a), names.place(&b));
        assert_ne!(at, other);
        assert_eq!((names.place(&a), names.name(at), names.name(other)), (at, a, b));
        assert_eq!(names.row(at), None);
        names.set_row(at, 7);
        assert_eq!((names.row(at), names.row(other)), (Some(7), None));
    }

    #[test]
    fn neighbours_are_spread() {
        let quick = Quick::default();
        let low: std::collections::HashSet<u64> =
            (0..1000u64).map(|n| quick.hash_one(n * 3_600_000) % 4096).collect();
        assert!(low.len() > 800, "{}", low.len());
    }
}
