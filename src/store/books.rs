//! The sums of what was recorded, as a pure state machine: records in, rows out. No file, no clock.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct RowKey {
    /// The id of the key; empty if a `Settle` had lost its `Open`.
    pub key: String,
    /// The model that was asked for.
    pub model: String,
    /// The target that answered; empty if none did.
    pub target: String,
}

/// The names of a row, owned or borrowed: lets a map of [`RowKey`]s be asked without copying them.
pub trait RowName {
    /// Key, model, target.
    fn names(&self) -> [&str; 3];
}

impl RowName for RowKey {
    fn names(&self) -> [&str; 3] {
        [&self.key, &self.model, &self.target]
    }
}

impl RowName for [&str; 3] {
    fn names(&self) -> [&str; 3] {
        *self
    }
}

impl From<[&str; 3]> for RowKey {
    fn from([key, model, target]: [&str; 3]) -> Self {
        RowKey { key: key.to_owned(), model: model.to_owned(), target: target.to_owned() }
    }
}

impl<'a> Borrow<dyn RowName + 'a> for RowKey {
    fn borrow(&self) -> &(dyn RowName + 'a) {
        self
    }
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

impl Hash for dyn RowName + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

impl PartialEq for dyn RowName + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for dyn RowName + '_ {}

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
    rows: HashMap<RowKey, Sums>,
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
        let mut rows: Vec<_> = self.rows.iter().map(|(key, sums)| (key.clone(), *sums)).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    }

    /// Takes in what is new in `batch`. A record below the position reached before is skipped, so
    /// a batch that comes twice counts once.
    pub(super) fn apply(&mut self, batch: &Batch<'_>) {
        // Most requests end in the batch that opens them: those need no copy.
        let mut opened: HashMap<RequestId, &[u8]> = HashMap::new();
        for span in &batch.spans {
            let reached = self.covered.positions.get(&span.segment).copied().unwrap_or(0);
            for entry in span.entries(reached) {
                if let Some(id) = entry.opens() {
                    opened.insert(id, entry.frame);
                } else if let Some(Record::Settle(settle)) = entry.record() {
                    match opened.remove(&settle.id) {
                        Some(frame) => self.settle(&settle, Some(frame)),
                        None => {
                            let frame = self.open.remove(&settle.id);
                            self.settle(&settle, frame.as_deref());
                        }
                    }
                }
            }
        }
        for (id, frame) in opened {
            self.open.insert(id, frame.into());
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

    fn settle(&mut self, settle: &Settle<'_>, open: Option<&[u8]>) {
        let open = match open.and_then(read_open) {
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
        let mut names = [key, model, target];
        if !self.rows.contains_key(&names as &dyn RowName) {
            if self.rows.len() >= ROWS_MAX {
                names = [key, OTHER, OTHER];
            }
            self.rows.entry(names.into()).or_default();
        }
        self.rows.get_mut(&names as &dyn RowName).expect("it is there or was just made")
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
    use super::super::Span;
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

    /// Applies the records as if they stood in segment 1 after `skipped` others.
    fn apply(books: &mut Books, skipped: &[Record<'_>], records: &[Record<'_>]) {
        let bytes_of =
            |records: &[Record<'_>]| records.iter().flat_map(frame::tests::framed).collect();
        let (before, bytes): (Vec<u8>, Vec<u8>) = (bytes_of(skipped), bytes_of(records));
        let start = before.len() as u64;
        let span = Span { segment: 1, start, bytes: &bytes };
        let positions = [(1, start + bytes.len() as u64)].into();
        books.apply(&Batch { spans: vec![span], covered: Covered { highest: 1, positions } });
    }

    fn sums(books: &Books, target: &str) -> Sums {
        books.rows.get(&["k", "m", target] as &dyn RowName).copied().unwrap_or_default()
    }

    #[test]
    fn a_batch_that_comes_twice_counts_once() {
        let mut books = Books::default();
        let records = [open(1), settle(1, &[]), open(2)];
        apply(&mut books, &[], &records);
        let once = books.clone();
        apply(&mut books, &[], &records);
        assert_eq!(books, once);
        assert_eq!((sums(&books, "b").requests, sums(&books, "b").units.in_text), (1, 10));
        apply(&mut books, &records[..2], &[open(2), settle(2, &[])]);
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
        apply(&mut books, &[], &[open(1), settle(1, &[lost, Attempt { target: "b", ..lost }])]);
        assert_eq!((sums(&books, "a").requests, sums(&books, "a").attempts), (0, 1));
        assert_eq!(sums(&books, "a").attempt_units.out_text, 1);
        assert_eq!((sums(&books, "b").requests, sums(&books, "b").attempts), (1, 1));
        assert_eq!(sums(&books, "b").units.out_text, 2);
    }

    #[test]
    fn what_stays_open_becomes_unsettled_once() {
        let mut books = Books::default();
        apply(&mut books, &[], &[open(1), open(2), settle(1, &[])]);
        let abandoned = books.abandon();
        assert_eq!(abandoned.len(), 1);
        assert_eq!((abandoned[0].id, abandoned[0].reserved_tokens), (id(2), 100));
        assert_eq!((sums(&books, "").unsettled, sums(&books, "").unsettled_tokens), (1, 100));
        assert!(books.abandon().is_empty());
    }

    #[test]
    fn a_settle_without_its_open_is_kept_and_counted() {
        let mut books = Books::default();
        apply(&mut books, &[], &[settle(9, &[])]);
        assert_eq!(books.orphans, 1);
        assert_eq!(books.rows[&RowKey { target: "b".into(), ..RowKey::default() }].requests, 1);
    }

    #[test]
    fn books_survive_being_written_and_any_cut_is_noticed() {
        let mut books = Books::default();
        apply(&mut books, &[], &[open(1), open(2), settle(1, &[]), settle(7, &[])]);
        let mut bytes = Vec::new();
        books.write(&mut bytes);
        assert_eq!(Books::read(&bytes).as_ref(), Some(&books));
        for len in 0..bytes.len() {
            assert_eq!(Books::read(&bytes[..len]), None, "cut at {len}");
        }
    }
}
