//! Lists of records in the order of their ids, out of blocks whose times overlap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use super::fault_of;
use super::rows::{Reader, ms, pairs};
use crate::ident::RequestId;
use crate::store::query::{Cursor, OwnedRecord, RecordQuery, SCAN_MAX, StoredRecord, time_of};
use crate::store::{StoreError, frame};

/// A record that waits for its turn: a later block could have one that comes before it.
type Waiting = Reverse<(u128, Box<[u8]>, Box<[u8]>)>;

/// A list in one of the two orders, each turned into ranks that grow.
struct Order {
    oldest_first: bool,
    /// Ranks up to here were given before.
    after: Option<u128>,
}

impl Reader<'_> {
    pub(super) fn records(
        &self,
        query: &RecordQuery,
        scan_max: usize,
        each: &mut dyn FnMut(&StoredRecord<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Cursor>, StoreError> {
        let order = Order::of(query);
        let fault = fault_of(self.name);
        let mut statement = self.connection.prepare(order.sql()).map_err(&fault)?;
        let mut blocks = statement.query(order.times(query)).map_err(&fault)?;
        let mut next_block = || match blocks.next().map_err(&fault)? {
            Some(row) => {
                let lead: i64 = row.get(1).map_err(&fault)?;
                Ok::<_, StoreError>(Some((row.get(0).map_err(&fault)?, lead.max(0) as u64)))
            }
            None => Ok(None),
        };
        let mut waiting: BinaryHeap<Waiting> = BinaryHeap::new();
        let mut scanned = 0;
        let mut next: Option<(i64, u64)> = next_block()?;
        loop {
            // No record of the blocks to come has a lower rank than this.
            let bound = next.map(|(_, lead)| order.least_rank(lead));
            while let Some(Reverse((rank, ..))) = waiting.peek()
                && bound.is_none_or(|bound| *rank < bound)
            {
                let Some(Reverse((rank, open, settle))) = waiting.pop() else { break };
                let Some(record) = StoredRecord::read(&open, &settle) else { continue };
                if each(&record).is_break() {
                    let is_last = waiting.is_empty() && next.is_none();
                    return Ok((!is_last).then(|| order.cursor(rank)));
                }
            }
            let (Some((seq, _)), Some(bound)) = (next, bound) else { return Ok(None) };
            // Blocks that were looked at for an earlier page may have to be looked at again; the
            // list must get on all the same.
            let progress = bound - 1;
            if scanned >= scan_max && order.after.is_none_or(|after| progress > after) {
                return Ok(Some(order.cursor(progress)));
            }
            let Some(bytes) = self.block(seq)? else { continue };
            for (open, settle) in pairs(&bytes) {
                scanned += 1;
                if let Some(rank) = order.rank_if_wanted(query, open, settle) {
                    waiting.push(Reverse((rank, open.into(), settle.into())));
                }
            }
            next = next_block()?;
        }
    }

    pub(super) fn record(&self, id: RequestId) -> Result<Option<OwnedRecord>, StoreError> {
        let time = time_of(id);
        let mut found = None;
        self.each_pair((time, time + 1), &mut |open, settle| {
            if frame::opens(open) == Some(id) {
                found = OwnedRecord::new(open, settle);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }
}

impl Order {
    fn of(query: &RecordQuery) -> Self {
        let mut order = Order { oldest_first: query.oldest_first, after: None };
        order.after = query.cursor.map(|cursor| order.rank(cursor.0));
        order
    }

    /// Blocks in the order of the first record that they could have.
    fn sql(&self) -> &'static str {
        match self.oldest_first {
            true => {
                "SELECT seq, first_ms FROM usage_block \
                 WHERE last_ms >= ?1 AND first_ms <= ?2 ORDER BY first_ms"
            }
            false => {
                "SELECT seq, last_ms FROM usage_block \
                 WHERE last_ms >= ?1 AND first_ms <= ?2 ORDER BY last_ms DESC"
            }
        }
    }

    /// The first and the last moment of interest.
    fn times(&self, query: &RecordQuery) -> [i64; 2] {
        let (mut first, mut last) = (query.since_unix_ms.unwrap_or(0), u64::MAX);
        if let Some(until) = query.until_unix_ms {
            last = until.saturating_sub(1);
        }
        if let Some(Cursor(id)) = query.cursor {
            let at = time_of(RequestId::from_u128(id));
            match self.oldest_first {
                true => first = first.max(at),
                false => last = last.min(at),
            }
        }
        [ms(first), ms(last)]
    }

    fn rank(&self, id: u128) -> u128 {
        if self.oldest_first { id } else { !id }
    }

    fn cursor(&self, rank: u128) -> Cursor {
        Cursor(self.rank(rank))
    }

    /// The lowest rank of ids whose time is `lead_ms` or comes after it in this order. Never zero:
    /// newest first, times have 48 bits; oldest first, the year is not 1970.
    fn least_rank(&self, lead_ms: u64) -> u128 {
        let least = match self.oldest_first {
            true => RequestId::new(lead_ms, 0).to_u128(),
            false => !RequestId::new(lead_ms, u128::MAX).to_u128(),
        };
        least.max(1)
    }

    fn rank_if_wanted(&self, query: &RecordQuery, open: &[u8], settle: &[u8]) -> Option<u128> {
        let rank = self.rank(frame::opens(open)?.to_u128());
        if self.after.is_some_and(|after| rank <= after) {
            return None;
        }
        let open = frame::open_of(open)?;
        let time = open.time_unix_ms;
        let in_time = query.since_unix_ms.is_none_or(|since| time >= since)
            && query.until_unix_ms.is_none_or(|until| time < until);
        if !in_time || !query.filter.matches(&open) {
            return None;
        }
        let has_status = match query.status {
            None => true,
            Some(wanted) => wanted.matches(frame::settle_of(settle, |_| ())?.status),
        };
        has_status.then_some(rank)
    }
}

/// How many records one call looks at.
pub(super) const PAGE_SCAN_MAX: usize = SCAN_MAX;
