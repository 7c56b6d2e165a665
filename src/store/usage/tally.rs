//! What a batch changes, made out without a database: whole requests, sums, what is open.

use std::collections::HashMap;

use super::names::{Names, Place, Quick};
use super::schema::{END_USER, TAG, TAGGED};
use crate::ident::RequestId;
use crate::store::query::{self, Grain, UsageKey};
use crate::store::record::{Attempt, Open, Record, Settle};
use crate::store::sums::Sums;
use crate::store::{Batch, frame};

/// A block is closed once it has this much.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

/// The `Open`s without a `Settle`, as they stood in the journal.
pub(super) type OpenFrames = HashMap<RequestId, Box<[u8]>, Quick>;

/// Records of requests that ended, as they will be stored.
#[derive(Default)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    pub(super) count: u64,
}

/// Sums of a day by a label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Label<'a> {
    pub(super) day_ms: u64,
    pub(super) kind: u8,
    pub(super) label: &'a str,
    pub(super) place: Place,
}

/// All that a batch changes.
#[derive(Default)]
pub(super) struct Tally<'a> {
    pub(super) blocks: Vec<Block>,
    /// By the start of the hour.
    pub(super) sums: HashMap<(u64, Place), Sums, Quick>,
    pub(super) labels: HashMap<Label<'a>, Sums>,
    /// What was opened and did not end.
    pub(super) opened: HashMap<RequestId, &'a [u8], Quick>,
    /// What was open before and ended.
    pub(super) closed: Vec<RequestId>,
    /// What ended and was never opened, as far as anybody knows.
    pub(super) orphans: u64,
}

impl<'a> Tally<'a> {
    /// Takes in what is new in `batch`: what lies below the positions in `reached` is skipped.
    pub(super) fn of(
        batch: &Batch<'a>,
        reached: &std::collections::BTreeMap<u64, u64>,
        open: &'a OpenFrames,
        names: &mut Names,
    ) -> Self {
        let mut tally = Tally::default();
        for span in &batch.spans {
            let reached = reached.get(&span.segment).copied().unwrap_or(0);
            for entry in span.entries(reached) {
                match entry.opens() {
                    Some(id) => drop(tally.opened.insert(id, entry.frame)),
                    None => tally.settle(entry.frame, open, names),
                }
            }
        }
        tally
    }

    /// Most requests that are short end in the batch that opens them.
    fn settle(&mut self, frame: &'a [u8], open: &'a OpenFrames, names: &mut Names) {
        let mut attempts = Attempts::default();
        let Some(settle) = frame::settle_of(frame, |attempt| attempts.push(attempt)) else {
            return;
        };
        let opening = self.opened.remove(&settle.id).or_else(|| {
            let before = open.get(&settle.id)?;
            self.closed.push(settle.id);
            Some(before)
        });
        match opening.and_then(|opening| Some((opening, frame::open_of(opening)?))) {
            Some((opening, open)) => {
                self.keep(&open, opening, frame);
                self.count(&open, &settle, &attempts, names);
            }
            None => {
                self.orphans += 1;
                let time_unix_ms = query::time_of(settle.id);
                let open = Open { time_unix_ms, ..Open::new(settle.id) };
                self.keep(&open, &frame::whole(&Record::Open(open.clone())), frame);
                self.count(&open, &settle, &attempts, names);
            }
        }
    }

    /// Adds a request that nobody will settle any more.
    pub(super) fn abandon(&mut self, opening: &'a [u8], names: &mut Names) -> Option<Open<'a>> {
        let open = frame::open_of(opening)?;
        let settle = Settle { time_unix_ms: open.time_unix_ms, ..Settle::new(open.id) };
        self.keep(&open, opening, &frame::whole(&Record::Settle(settle.clone())));
        self.count(&open, &settle, &Attempts::default(), names);
        Some(open)
    }

    fn keep(&mut self, open: &Open<'_>, opening: &[u8], ending: &[u8]) {
        let is_full = self
            .blocks
            .last()
            .is_none_or(|block| block.bytes.len() + opening.len() + ending.len() > BLOCK_BYTES);
        if is_full {
            self.blocks.push(Block { first_ms: u64::MAX, ..Block::default() });
        }
        let block = self.blocks.last_mut().expect("one was just made");
        block.bytes.extend_from_slice(opening);
        block.bytes.extend_from_slice(ending);
        block.count += 1;
        // Lists go by id, sums by the time of opening: the two should be the same.
        let id_ms = query::time_of(open.id);
        block.first_ms = block.first_ms.min(id_ms).min(open.time_unix_ms);
        block.last_ms = block.last_ms.max(id_ms).max(open.time_unix_ms);
    }

    fn count(
        &mut self,
        open: &Open<'a>,
        settle: &Settle<'a>,
        attempts: &Attempts<'a>,
        names: &mut Names,
    ) {
        let hour_ms = Grain::Hour.start(open.time_unix_ms);
        let name = name_of(open, settle.target);
        let place = names.place(&name);
        let mut row = self.sums.entry((hour_ms, place)).or_default();
        row.count(settle, open.reserved_tokens, open.reserved_cost_pico);
        let mut target = settle.target;
        for attempt in attempts.as_slice() {
            if attempt.target != target {
                target = attempt.target;
                let place = names.place(&UsageKey { target, ..name });
                row = self.sums.entry((hour_ms, place)).or_default();
            }
            row.count_attempt(&attempt.units, attempt.cost_pico);
        }
        if !open.end_user.is_empty() || !open.tags.is_empty() {
            self.count_labels(open, settle, attempts, names);
        }
    }

    fn count_labels(
        &mut self,
        open: &Open<'a>,
        settle: &Settle<'a>,
        attempts: &Attempts<'a>,
        names: &mut Names,
    ) {
        let place = names.place(&name_of(open, ""));
        let day_ms = Grain::Day.start(open.time_unix_ms);
        let sums = sums_of(open, settle, attempts);
        let mut add = |kind, label| {
            let label = Label { day_ms, kind, label, place };
            self.labels.entry(label).or_default().add(&sums);
        };
        if !open.end_user.is_empty() {
            add(END_USER, open.end_user);
        }
        let mut is_tagged = false;
        for tag in query::tags(open.tags) {
            is_tagged = true;
            add(TAG, tag);
        }
        if is_tagged {
            add(TAGGED, "");
        }
    }
}

/// What the sums of a request are about.
pub(super) fn name_of<'a>(open: &Open<'a>, target: &'a str) -> UsageKey<'a> {
    let Open { account, project, user, key, model, currency, .. } = *open;
    UsageKey { account, project, user, key, model, target, currency }
}

/// The attempts of one request, without an allocation. A record has at most [`ATTEMPTS_KEPT`]; more
/// are a record of somebody else's, and added to the last.
#[derive(Default)]
pub(super) struct Attempts<'a> {
    list: [Attempt<'a>; ATTEMPTS_KEPT],
    len: usize,
}

const ATTEMPTS_KEPT: usize = crate::store::ATTEMPTS_MAX;

impl<'a> Attempts<'a> {
    pub(super) fn push(&mut self, attempt: Attempt<'a>) {
        match self.list.get_mut(self.len) {
            Some(slot) => {
                *slot = attempt;
                self.len += 1;
            }
            None => {
                let last = &mut self.list[ATTEMPTS_KEPT - 1];
                last.units.add(&attempt.units);
                last.cost_pico = last.cost_pico.saturating_add(attempt.cost_pico);
            }
        }
    }

    pub(super) fn as_slice(&self) -> &[Attempt<'a>] {
        &self.list[..self.len]
    }
}

/// What one request adds to a row in which targets are not told apart.
pub(super) fn sums_of(open: &Open<'_>, settle: &Settle<'_>, attempts: &Attempts<'_>) -> Sums {
    let mut sums = Sums::default();
    sums.count(settle, open.reserved_tokens, open.reserved_cost_pico);
    for attempt in attempts.as_slice() {
        sums.count_attempt(&attempt.units, attempt.cost_pico);
    }
    sums
}
