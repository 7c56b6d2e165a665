//! Answers to [`UsageQuery`]: totals and days where the time allows, hours at the edges, and records
//! at edges within an hour.

use std::ops::ControlFlow;

use super::groups::{Groups, Member};
use super::rows::{Reader, Time};
use super::schema::{END_USER, TAG, TAGGED};
use super::tally::{Attempts, name_of, sums_of};
use crate::store::query::{
    self, DAY_MS, Grain, GroupBy, HOUR_MS, UsageKey, UsageQuery, UsageRow, too_much,
};
use crate::store::record::{Open, Settle};
use crate::store::sums::Sums;
use crate::store::{StoreError, frame};

/// So many records are looked at for one answer.
const RECORDS_MAX: usize = 5_000_000;

/// Where the parts of a time are read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Plan {
    rows: Vec<(Grain, u64, u64)>,
    records: Vec<Time>,
}

impl Reader<'_> {
    pub(super) fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        let from = query.from_unix_ms.unwrap_or(0);
        let mut to = query.to_unix_ms.unwrap_or(u64::MAX);
        if to > self.newest()? {
            to = u64::MAX;
        }
        let mut groups = Groups::new(&query.group_by);
        let has = |by| query.group_by.contains(&by);
        let plan = match (has(GroupBy::EndUser), has(GroupBy::Tag)) {
            (false, false) => plan((from, to), finest(&query.group_by)),
            // Days have sums by either, but not by both, nor by hour or target.
            (true, true) => Plan { records: vec![(from, to)], ..Plan::default() },
            _ if has(GroupBy::Hour) || has(GroupBy::Target) => {
                Plan { records: vec![(from, to)], ..Plan::default() }
            }
            (by_end_user, _) => {
                let (rows, days) = days_and_edges((from, to));
                if let Some(days) = days {
                    self.labelled_days(days, query, by_end_user, &mut groups)?;
                }
                Plan { records: rows, ..Plan::default() }
            }
        };
        for &(grain, from, to) in &plan.rows {
            self.each_row(grain, (from, to), &query.filter, &mut |name, unix_ms, sums| {
                groups.add(&Member { name: *name, end_user: "", tag: "", unix_ms }, sums);
            })?;
        }
        self.recorded(plan.records, query, &mut groups)?;
        groups.finish()
    }

    /// Adds what the rows by label say of whole days. What has no label is the rest of the day.
    fn labelled_days(
        &self,
        days: Time,
        query: &UsageQuery,
        by_end_user: bool,
        groups: &mut Groups<'_>,
    ) -> Result<(), StoreError> {
        let filter = &query.filter;
        self.each_row(Grain::Day, days, filter, &mut |name, unix_ms, sums| {
            groups.add(&Member { name: *name, end_user: "", tag: "", unix_ms }, sums);
        })?;
        let kind = if by_end_user { END_USER } else { TAG };
        self.each_label(kind, days, filter, &mut |label, name, unix_ms, sums| {
            let rest = Member { name: *name, end_user: "", tag: "", unix_ms };
            if by_end_user {
                groups.add(&Member { end_user: label, ..rest }, sums);
                groups.subtract(&rest, sums);
            } else {
                groups.add(&Member { tag: label, ..rest }, sums);
            }
        })?;
        if by_end_user {
            return Ok(());
        }
        self.each_label(TAGGED, days, filter, &mut |_, name, unix_ms, sums| {
            groups.subtract(&Member { name: *name, end_user: "", tag: "", unix_ms }, sums);
        })
    }

    /// Adds the records of these times. Where they are no longer kept, whole hours: those that begin
    /// within.
    fn recorded(
        &self,
        times: Vec<Time>,
        query: &UsageQuery,
        groups: &mut Groups<'_>,
    ) -> Result<(), StoreError> {
        let kept_from = self.kept_from()?;
        let mut budget = RECORDS_MAX;
        for (from, to) in times {
            let mut from = from;
            if from < kept_from {
                // The hour in which the records begin is taken as a whole.
                let known = kept_from.next_multiple_of(HOUR_MS).min(to.next_multiple_of(HOUR_MS));
                let hours = (from.next_multiple_of(HOUR_MS), known);
                self.each_row(Grain::Hour, hours, &query.filter, &mut |name, unix_ms, sums| {
                    groups.add(&Member { name: *name, end_user: "", tag: "", unix_ms }, sums);
                })?;
                from = known;
            }
            self.each_pair((from, to), &mut |opening, ending| {
                if budget == 0 {
                    return ControlFlow::Break(());
                }
                budget -= 1;
                let Some(open) = frame::open_of(opening) else { return ControlFlow::Continue(()) };
                if (from..to).contains(&open.time_unix_ms) && query.filter.matches(&open) {
                    add_record(&open, ending, &query.group_by, groups);
                }
                ControlFlow::Continue(())
            })?;
            if budget == 0 {
                return Err(too_much("the answer would take more than 5,000,000 records"));
            }
        }
        Ok(())
    }
}

fn add_record(open: &Open<'_>, ending: &[u8], by: &[GroupBy], groups: &mut Groups<'_>) {
    let mut attempts = Attempts::default();
    let Some(settle) = frame::settle_of(ending, |attempt| attempts.push(attempt)) else { return };
    if !by.contains(&GroupBy::Tag) {
        return add_parts(open, &settle, &attempts, "", by, groups);
    }
    let mut is_tagged = false;
    for tag in query::tags(open.tags) {
        is_tagged = true;
        add_parts(open, &settle, &attempts, tag, by, groups);
    }
    if !is_tagged {
        add_parts(open, &settle, &attempts, "", by, groups);
    }
}

fn add_parts(
    open: &Open<'_>,
    settle: &Settle<'_>,
    attempts: &Attempts<'_>,
    tag: &str,
    by: &[GroupBy],
    groups: &mut Groups<'_>,
) {
    let (end_user, unix_ms) = (open.end_user, open.time_unix_ms);
    let name = name_of(open, settle.target);
    let member = Member { name, end_user, tag, unix_ms };
    if !by.contains(&GroupBy::Target) {
        return groups.add(&member, &sums_of(open, settle, attempts));
    }
    groups.add(&member, &sums_of(open, settle, &Attempts::default()));
    for attempt in attempts.as_slice() {
        let mut sums = Sums::default();
        sums.count_attempt(&attempt.units, attempt.cost_pico);
        let name = UsageKey { target: attempt.target, ..name };
        groups.add(&Member { name, ..member }, &sums);
    }
}

/// The coarsest rows that can tell the groups apart.
fn finest(by: &[GroupBy]) -> Grain {
    match (by.contains(&GroupBy::Hour), by.contains(&GroupBy::Day)) {
        (true, _) => Grain::Hour,
        (false, true) => Grain::Day,
        (false, false) => Grain::Total,
    }
}

fn plan((from, to): Time, coarsest: Grain) -> Plan {
    if coarsest == Grain::Total && (from, to) == (0, u64::MAX) {
        return Plan { rows: vec![(Grain::Total, 0, u64::MAX)], ..Plan::default() };
    }
    let mut plan = Plan::default();
    let (Some(hours), edges) = whole((from, to), HOUR_MS) else {
        return Plan { records: non_empty(vec![(from, to)]), ..Plan::default() };
    };
    plan.records = edges;
    match whole(hours, DAY_MS) {
        (Some((first, last)), edges) if coarsest != Grain::Hour => {
            plan.rows = edges.into_iter().map(|(from, to)| (Grain::Hour, from, to)).collect();
            plan.rows.push((Grain::Day, first, last));
        }
        _ => plan.rows.push((Grain::Hour, hours.0, hours.1)),
    }
    plan
}

fn days_and_edges((from, to): Time) -> (Vec<Time>, Option<Time>) {
    match whole((from, to), DAY_MS) {
        (Some(days), edges) => (edges, Some(days)),
        (None, _) => (non_empty(vec![(from, to)]), None),
    }
}

/// The whole spans within a time, and what is left before and after; `None`: not even one.
fn whole((from, to): Time, span_ms: u64) -> (Option<Time>, Vec<Time>) {
    let first = from.checked_next_multiple_of(span_ms).unwrap_or(u64::MAX);
    let last = if to == u64::MAX { to } else { to - to % span_ms };
    if first >= last {
        return (None, Vec::new());
    }
    (Some((first, last)), non_empty(vec![(from, first), (last, to)]))
}

fn non_empty(mut times: Vec<Time>) -> Vec<Time> {
    times.retain(|(from, to)| from < to);
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_by_the_largest_spans_that_fit() {
        let all = plan((0, u64::MAX), Grain::Total);
        assert_eq!(all.rows, [(Grain::Total, 0, u64::MAX)]);
        let by_day = plan((0, u64::MAX), Grain::Day);
        assert_eq!(
            (by_day.rows.as_slice(), by_day.records.len()),
            (&[(Grain::Day, 0, u64::MAX)][..], 0)
        );
        let (day, hour) = (DAY_MS, HOUR_MS);
        let mixed = plan((day - hour - 5, 3 * day + hour + 7), Grain::Total);
        assert_eq!(
            mixed.records,
            [(day - hour - 5, day - hour), (3 * day + hour, 3 * day + hour + 7)]
        );
        let rows = [
            (Grain::Hour, day - hour, day),
            (Grain::Hour, 3 * day, 3 * day + hour),
            (Grain::Day, day, 3 * day),
        ];
        assert_eq!(mixed.rows, rows);
        let by_hour = plan((day, 3 * day), Grain::Hour);
        assert_eq!(by_hour.rows, [(Grain::Hour, day, 3 * day)]);
        let within = plan((5, 9), Grain::Total);
        assert_eq!((within.rows.len(), within.records.as_slice()), (0, &[(5, 9)][..]));
        assert_eq!(plan((9, 9), Grain::Total), Plan::default());
    }
}
