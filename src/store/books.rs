//! The sums of what was recorded, as a pure state machine: records in, rows out. No file, no clock.

use std::collections::{BTreeMap, HashMap};

use super::codec::{Put, Take};
use super::frame;
use super::record::{Open, Record, Settle, State};
use super::units::Units;
use super::{Abandoned, Batch, Covered};
use crate::ident::RequestId;

/// With so many rows the books are full: what would be a new row goes to the row [`OTHER`] of its
/// key. Callers can invent model names where an alias is a pattern; they must not fill the memory.
pub const ROWS_MAX: usize = 1 << 17;

/// Stands for the model and the target of rows that had no place of their own.
pub const OTHER: &str = "(other)";

/// What a row adds up.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct RowKey {
    /// The id of the key; empty if a `Settle` had lost its `Open`.
    pub key: String,
    /// The model that was asked for.
    pub model: String,
    /// The target that answered; empty if none did.
    pub target: String,
}

/// The sums of one row.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sums {
    /// Requests that this target answered, or that ended without a target.
    pub requests: u64,
    /// Those among them that failed.
    pub errors: u64,
    /// Those whose usage was counted by us.
    pub estimated: u64,
    /// Those whose usage is unknown.
    pub unsettled: u64,
    /// What the unsettled ones had reserved.
    pub unsettled_tokens: u64,
    /// The same in 10^-12 of the account's currency.
    pub unsettled_cost_pico: u64,
    /// What the callers are charged for.
    pub units: Units,
    /// Attempts at this target, won or lost.
    pub attempts: u64,
    /// What they used: also what the lost ones cost.
    pub attempt_units: Units,
}

impl Sums {
    /// Adds `other`; sums stop at the largest `u64`.
    pub fn add(&mut self, other: &Sums) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.estimated, other.estimated),
            (&mut self.unsettled, other.unsettled),
            (&mut self.unsettled_tokens, other.unsettled_tokens),
            (&mut self.unsettled_cost_pico, other.unsettled_cost_pico),
            (&mut self.attempts, other.attempts),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.units.add(&other.units);
        self.attempt_units.add(&other.attempt_units);
    }

    /// Adds one settled request.
    pub fn count(&mut self, settle: &Settle<'_>, reserved_tokens: u64, reserved_cost_pico: u64) {
        self.requests += 1;
        self.errors += u64::from(settle.error.is_some());
        self.units.add(&settle.units);
        match settle.state {
            State::Settled => {}
            State::Estimated => self.estimated += 1,
            State::Unsettled => {
                self.unsettled += 1;
                self.unsettled_tokens = self.unsettled_tokens.saturating_add(reserved_tokens);
                self.unsettled_cost_pico =
                    self.unsettled_cost_pico.saturating_add(reserved_cost_pico);
            }
        }
    }

    /// Adds one attempt.
    pub fn count_attempt(&mut self, units: &Units) {
        self.attempts += 1;
        self.attempt_units.add(units);
    }
}

/// All sums, the requests that are open, and how far the journal is taken in.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Books {
    rows: BTreeMap<RowKey, Sums>,
    /// The frame of each `Open` without a `Settle`: whoever looks at it later finds all of it.
    open: HashMap<RequestId, Box<[u8]>>,
    covered: Covered,
    /// Settled without an `Open`: it was in a part that had to be cut off.
    orphans: u64,
}

impl Books {
    pub(super) fn covered(&self) -> &Covered {
        &self.covered
    }

    pub(super) fn orphans(&self) -> u64 {
        self.orphans
    }

    pub(super) fn rows(&self) -> Vec<(RowKey, Sums)> {
        self.rows.iter().map(|(key, sums)| (key.clone(), *sums)).collect()
    }

    /// Takes in what is new in `batch`. A record below the position reached before is skipped, so
    /// a batch that comes twice counts once.
    pub(super) fn apply(&mut self, batch: &Batch<'_>) {
        for entry in &batch.entries {
            let reached = self.covered.positions.entry(entry.segment).or_insert(0);
            if entry.end <= *reached {
                continue;
            }
            *reached = entry.end;
            match &entry.record {
                Record::Open(open) => {
                    self.open.entry(open.id).or_insert_with(|| entry.frame.into());
                }
                Record::Settle(settle) => self.settle(settle),
            }
        }
        self.covered = batch.covered.clone();
    }

    /// Every open request becomes unsettled: the process that served it is gone.
    pub(super) fn abandon(&mut self) -> Vec<Abandoned> {
        let mut abandoned = Vec::with_capacity(self.open.len());
        for (id, frame) in std::mem::take(&mut self.open) {
            let Some(open) = read_open(&frame) else { continue };
            self.row(open.key, open.model, "").count(
                &Settle::new(id),
                open.reserved_tokens,
                open.reserved_cost_pico,
            );
            abandoned.push(Abandoned {
                id,
                time_unix_ms: open.time_unix_ms,
                key: open.key.to_owned(),
                model: open.model.to_owned(),
                reserved_tokens: open.reserved_tokens,
            });
        }
        abandoned.sort_by_key(|abandoned| abandoned.id);
        abandoned
    }

    fn settle(&mut self, settle: &Settle<'_>) {
        let frame = self.open.remove(&settle.id);
        let open = match frame.as_deref().and_then(read_open) {
            Some(open) => open,
            None => {
                self.orphans += 1;
                Open::new(settle.id)
            }
        };
        self.row(open.key, open.model, settle.target).count(
            settle,
            open.reserved_tokens,
            open.reserved_cost_pico,
        );
        for attempt in settle.attempts.as_slice() {
            self.row(open.key, open.model, attempt.target).count_attempt(&attempt.units);
        }
    }

    fn row(&mut self, key: &str, model: &str, target: &str) -> &mut Sums {
        let mut row_key =
            RowKey { key: key.to_owned(), model: model.to_owned(), target: target.to_owned() };
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&row_key) {
            row_key.model = OTHER.to_owned();
            row_key.target = OTHER.to_owned();
        }
        self.rows.entry(row_key).or_default()
    }

    /// The books as bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64(self.covered.highest);
        out.put_u64(self.orphans);
        out.put_u32(self.covered.positions.len() as u32);
        for (&segment, &end) in &self.covered.positions {
            out.put_u64(segment);
            out.put_u64(end);
        }
        out.put_u32(self.rows.len() as u32);
        for (key, sums) in &self.rows {
            for text in [&key.key, &key.model, &key.target] {
                out.put_text(text, usize::MAX);
            }
            for number in [
                sums.requests,
                sums.errors,
                sums.estimated,
                sums.unsettled,
                sums.unsettled_tokens,
                sums.unsettled_cost_pico,
                sums.attempts,
            ] {
                out.put_varint(number);
            }
            out.put_units(&sums.units, u64::MAX);
            out.put_units(&sums.attempt_units, u64::MAX);
        }
        out.put_u32(self.open.len() as u32);
        for frame in self.open.values() {
            out.put_u32(frame.len() as u32);
            out.put(frame);
        }
    }

    /// The inverse of [`Books::write`]; `None` if these are not books.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut take = Take::new(bytes);
        let mut books = Books::default();
        books.covered.highest = take.u64()?;
        books.orphans = take.u64()?;
        for _ in 0..take.u32()? {
            books.covered.positions.insert(take.u64()?, take.u64()?);
        }
        for _ in 0..take.u32()? {
            let key = RowKey {
                key: take.text()?.to_owned(),
                model: take.text()?.to_owned(),
                target: take.text()?.to_owned(),
            };
            let mut sums = Sums {
                requests: take.varint()?,
                errors: take.varint()?,
                estimated: take.varint()?,
                unsettled: take.varint()?,
                unsettled_tokens: take.varint()?,
                unsettled_cost_pico: take.varint()?,
                attempts: take.varint()?,
                ..Sums::default()
            };
            sums.units = take.units()?;
            sums.attempt_units = take.units()?;
            books.rows.insert(key, sums);
        }
        for _ in 0..take.u32()? {
            let len = take.u32()? as usize;
            let frame = take.bytes(len)?;
            books.open.insert(read_open(frame)?.id, frame.into());
        }
        (take.left() == 0).then_some(books)
    }
}

fn read_open(frame: &[u8]) -> Option<Open<'_>> {
    match frame::decode(frame) {
        Ok((Record::Open(open), _)) => Some(open),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::record::{Attempt, List};
    use super::*;
    use crate::error::Kind;

    fn id(n: u128) -> RequestId {
        RequestId::new(1, n)
    }

    fn open(n: u128) -> Record<'static> {
        let reserved_tokens = 100;
        Record::Open(Open { key: "k", model: "m", reserved_tokens, ..Open::new(id(n)) })
    }

    fn settle(n: u128, attempts: &[Attempt<'static>]) -> Record<'static> {
        Record::Settle(Settle {
            state: State::Settled,
            target: "b",
            units: Units { in_text: 10, out_text: 2, ..Units::default() },
            attempts: List::Owned(attempts.to_vec()),
            ..Settle::new(id(n))
        })
    }

    /// Applies the records as if they stood in segment 1, one byte each, from `at` on.
    fn apply(books: &mut Books, at: u64, records: &[Record<'_>]) {
        let frames: Vec<_> = records.iter().map(frame::tests::framed).collect();
        let entries = (at + 1..)
            .zip(records.iter().cloned().zip(&frames))
            .map(|(end, (record, frame))| Entry { segment: 1, end, record, frame })
            .collect();
        let positions = [(1, at + records.len() as u64)].into();
        books.apply(&Batch { entries, covered: Covered { highest: 1, positions } });
    }

    fn sums(books: &Books, target: &str) -> Sums {
        let key = RowKey { key: "k".into(), model: "m".into(), target: target.into() };
        books.rows.get(&key).copied().unwrap_or_default()
    }

    #[test]
    fn a_batch_that_comes_twice_counts_once() {
        let mut books = Books::default();
        let records = [open(1), settle(1, &[]), open(2)];
        apply(&mut books, 0, &records);
        let once = books.clone();
        apply(&mut books, 0, &records);
        assert_eq!(books, once);
        assert_eq!((sums(&books, "b").requests, sums(&books, "b").units.in_text), (1, 10));
        apply(&mut books, 2, &[open(2), settle(2, &[])]);
        assert_eq!((sums(&books, "b").requests, books.orphans), (2, 0));
    }

    #[test]
    fn a_lost_attempt_costs_its_own_target() {
        let lost = Attempt {
            target: "a",
            error: Some(Kind::Cancelled),
            units: Units { out_text: 1, ..Units::default() },
            ttft_us: None,
        };
        let mut books = Books::default();
        apply(&mut books, 0, &[open(1), settle(1, &[lost, Attempt { target: "b", ..lost }])]);
        assert_eq!((sums(&books, "a").requests, sums(&books, "a").attempts), (0, 1));
        assert_eq!(sums(&books, "a").attempt_units.out_text, 1);
        assert_eq!((sums(&books, "b").requests, sums(&books, "b").attempts), (1, 1));
        assert_eq!(sums(&books, "b").units.out_text, 2);
    }

    #[test]
    fn what_stays_open_becomes_unsettled_once() {
        let mut books = Books::default();
        apply(&mut books, 0, &[open(1), open(2), settle(1, &[])]);
        let abandoned = books.abandon();
        assert_eq!(abandoned.len(), 1);
        assert_eq!((abandoned[0].id, abandoned[0].reserved_tokens), (id(2), 100));
        assert_eq!((sums(&books, "").unsettled, sums(&books, "").unsettled_tokens), (1, 100));
        assert!(books.abandon().is_empty());
    }

    #[test]
    fn a_settle_without_its_open_is_kept_and_counted() {
        let mut books = Books::default();
        apply(&mut books, 0, &[settle(9, &[])]);
        assert_eq!(books.orphans, 1);
        assert_eq!(books.rows[&RowKey { target: "b".into(), ..RowKey::default() }].requests, 1);
    }

    #[test]
    fn books_survive_being_written_and_any_cut_is_noticed() {
        let mut books = Books::default();
        apply(&mut books, 0, &[open(1), open(2), settle(1, &[]), settle(7, &[])]);
        let mut bytes = Vec::new();
        books.write(&mut bytes);
        assert_eq!(Books::read(&bytes).as_ref(), Some(&books));
        for len in 0..bytes.len() {
            assert_eq!(Books::read(&bytes[..len]), None, "cut at {len}");
        }
    }
}
