//! Answers to [`SpentQuery`]: what was spent between given moments, in one pass from the first of
//! them on. What came before it is the total less all that.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::fault_of;
use super::names::pack;
use super::rows::Reader;
use super::tally::{Attempts, name_of, sums_of};
use crate::store::query::{DAY_MS, Filter, Grain, HOUR_MS, Spent, SpentQuery, UsageKey};
use crate::store::sums::{OTHER, Sums};
use crate::store::{StoreError, frame};

type Each<'a> = &'a mut dyn FnMut(&UsageKey<'_>, &Spent);

/// What was spent by name, without the target.
#[derive(Default)]
struct ByName {
    spent: HashMap<Box<[u8]>, Spent>,
    scratch: Vec<u8>,
}

/// The moments, sorted; between two of them is a span, and the first span is before the first.
struct Edges(Vec<u64>);

impl Reader<'_> {
    pub(super) fn spent(&self, query: &SpentQuery, each: Each<'_>) -> Result<(), StoreError> {
        let mut edges = Edges(query.edges_unix_ms.clone());
        edges.0.sort_unstable();
        edges.0.dedup();
        edges.0.retain(|&edge| edge > 0);
        let mut later = ByName::default();
        if let Some(&first) = edges.0.first() {
            let mut walk = Walk { reader: self, filter: &query.filter, edges: &edges, each };
            walk.from(first, &mut later)?;
        }
        let until_unix_ms = edges.until(0);
        self.each_row(Grain::Total, (0, u64::MAX), &query.filter, &mut |name, _, sums| {
            let name = UsageKey { target: "", ..*name };
            let rest = later.take_from(&name, Spent { until_unix_ms, ..spent_of(sums) });
            if !rest.is_nothing() {
                each(&name, &rest);
            }
        })
    }

    /// Whether rows are told apart by this model, or whether the key had too many.
    fn is_model_known(&self, name: &UsageKey<'_>) -> Result<bool, StoreError> {
        self.connection
            .prepare(
                "SELECT EXISTS (SELECT 1 FROM usage_name WHERE key = ?1 AND account = ?2 \
                 AND project = ?3 AND user = ?4 AND model = ?5)",
            )
            .and_then(|mut statement| {
                let columns = [name.key, name.account, name.project, name.user, name.model];
                statement.query_row(columns, |row| row.get(0))
            })
            .map_err(fault_of(self.name))
    }
}

/// A pass over days without an edge, hours without an edge, and the records of the other hours.
struct Walk<'a, 'e> {
    reader: &'a Reader<'a>,
    filter: &'a Filter,
    edges: &'a Edges,
    each: Each<'e>,
}

impl Walk<'_, '_> {
    /// Visits everything from the first edge on, and adds it up in `seen`.
    fn from(&mut self, first: u64, seen: &mut ByName) -> Result<(), StoreError> {
        let mut at = Grain::Hour.start(first);
        while at < u64::MAX {
            let day = Grain::Day.start(at);
            if at > day || self.edges.within(day, DAY_MS).is_some() {
                let end = day.saturating_add(DAY_MS);
                self.hours(at, end, seen)?;
                at = end;
            } else {
                let next = self.edges.next_inside(at, DAY_MS);
                self.rows(Grain::Day, (at, next), seen)?;
                at = next;
            }
        }
        Ok(())
    }

    fn hours(&mut self, from: u64, end: u64, seen: &mut ByName) -> Result<(), StoreError> {
        let mut at = from;
        while at < end {
            if let Some(edge) = self.edges.within(at, HOUR_MS) {
                self.split_hour(at, edge, seen)?;
                at = at.saturating_add(HOUR_MS);
            } else {
                let next = self.edges.next_inside(at, HOUR_MS).min(end);
                self.rows(Grain::Hour, (at, next), seen)?;
                at = next;
            }
        }
        Ok(())
    }

    fn rows(
        &mut self,
        grain: Grain,
        times: (u64, u64),
        seen: &mut ByName,
    ) -> Result<(), StoreError> {
        let (edges, each) = (self.edges, &mut *self.each);
        self.reader.each_row(grain, times, self.filter, &mut |name, start, sums| {
            let name = UsageKey { target: "", ..*name };
            let until_unix_ms = edges.until(edges.span_of(start));
            give(&name, Spent { until_unix_ms, ..spent_of(sums) }, seen, each);
        })
    }

    /// An hour in which a span begins: records from there on, and the rest of the hour before.
    fn split_hour(&mut self, hour: u64, edge: u64, seen: &mut ByName) -> Result<(), StoreError> {
        let end = hour.saturating_add(HOUR_MS);
        let edges = self.edges;
        if self.reader.kept_from()? > edge {
            // To count too much in a limit that is running is better than too little.
            let until_unix_ms = edges.until(edges.span_of(end - 1));
            let each = &mut *self.each;
            let times = (hour, end);
            return self.reader.each_row(Grain::Hour, times, self.filter, &mut |name, _, sums| {
                let name = UsageKey { target: "", ..*name };
                give(&name, Spent { until_unix_ms, ..spent_of(sums) }, seen, each);
            });
        }
        let mut recorded = self.recorded(edge, end, seen)?;
        let span = edges.span_of(hour);
        let until_unix_ms = edges.until(span);
        let each = &mut *self.each;
        self.reader.each_row(Grain::Hour, (hour, end), self.filter, &mut |name, _, sums| {
            let name = UsageKey { target: "", ..*name };
            let rest = recorded.take_from(&name, Spent { until_unix_ms, ..spent_of(sums) });
            // The first span is what is left of the total.
            if span > 0 {
                give(&name, rest, seen, each);
            }
        })
    }

    /// Visits the records of a part of an hour, and gives what they add up to.
    fn recorded(&mut self, from: u64, to: u64, seen: &mut ByName) -> Result<ByName, StoreError> {
        let mut spans: HashMap<u64, ByName> = HashMap::new();
        let (edges, filter) = (self.edges, self.filter);
        self.reader.each_pair((from, to), &mut |opening, ending| {
            let mut attempts = Attempts::default();
            let settle = frame::settle_of(ending, |attempt| attempts.push(attempt));
            let (Some(open), Some(settle)) = (frame::open_of(opening), settle) else {
                return ControlFlow::Continue(());
            };
            if (from..to).contains(&open.time_unix_ms) && filter.matches(&open) {
                let until_unix_ms = edges.until(edges.span_of(open.time_unix_ms));
                let spent = spent_of(&sums_of(&open, &settle, &attempts));
                spans.entry(until_unix_ms).or_default().add(&name_of(&open, ""), &spent);
            }
            ControlFlow::Continue(())
        })?;
        let mut all = ByName::default();
        for (until_unix_ms, by_name) in spans {
            for (packed, spent) in by_name.spent {
                let Some(mut name) = super::names::unpack(&packed) else { continue };
                if !self.reader.is_model_known(&name)? {
                    name.model = OTHER;
                }
                all.add(&name, &spent);
                give(&name, Spent { until_unix_ms, ..spent }, seen, self.each);
            }
        }
        Ok(all)
    }
}

fn give(name: &UsageKey<'_>, spent: Spent, seen: &mut ByName, each: Each<'_>) {
    if !spent.is_nothing() {
        seen.add(name, &spent);
        each(name, &spent);
    }
}

fn spent_of(sums: &Sums) -> Spent {
    Spent {
        until_unix_ms: 0,
        requests: sums.requests,
        tokens: sums.tokens(),
        cost_pico: sums.spent_pico(),
    }
}

impl Spent {
    fn is_nothing(&self) -> bool {
        (self.requests, self.tokens, self.cost_pico) == (0, 0, 0)
    }
}

impl ByName {
    fn add(&mut self, name: &UsageKey<'_>, spent: &Spent) {
        self.scratch.clear();
        pack(name, &mut self.scratch);
        let sum = match self.spent.get_mut(self.scratch.as_slice()) {
            Some(sum) => sum,
            None => self.spent.entry(self.scratch.as_slice().into()).or_default(),
        };
        sum.requests = sum.requests.saturating_add(spent.requests);
        sum.tokens = sum.tokens.saturating_add(spent.tokens);
        sum.cost_pico = sum.cost_pico.saturating_add(spent.cost_pico);
    }

    /// Takes what is here of this name out of `spent`, as far as it goes: a name has several rows,
    /// one for each target, and all together have no less than what is here.
    fn take_from(&mut self, name: &UsageKey<'_>, mut spent: Spent) -> Spent {
        self.scratch.clear();
        pack(name, &mut self.scratch);
        if let Some(here) = self.spent.get_mut(self.scratch.as_slice()) {
            let requests = here.requests.min(spent.requests);
            let tokens = here.tokens.min(spent.tokens);
            let cost_pico = here.cost_pico.min(spent.cost_pico);
            (here.requests, spent.requests) = (here.requests - requests, spent.requests - requests);
            (here.tokens, spent.tokens) = (here.tokens - tokens, spent.tokens - tokens);
            (here.cost_pico, spent.cost_pico) =
                (here.cost_pico - cost_pico, spent.cost_pico - cost_pico);
        }
        spent
    }
}

impl Edges {
    /// The number of the span that a moment lies in.
    fn span_of(&self, unix_ms: u64) -> usize {
        self.0.partition_point(|&edge| edge <= unix_ms)
    }

    /// The last moment of a span.
    fn until(&self, span: usize) -> u64 {
        self.0.get(span).map_or(u64::MAX, |&edge| edge - 1)
    }

    /// The first edge inside of a span of time, not at its start.
    fn within(&self, start: u64, len_ms: u64) -> Option<u64> {
        let first = self.0.get(self.span_of(start)).copied();
        first.filter(|&edge| edge < start.saturating_add(len_ms))
    }

    /// The start of the first span of `len_ms` from `start` on that has an edge inside; the largest
    /// number if there is none.
    fn next_inside(&self, start: u64, len_ms: u64) -> u64 {
        let mut later = self.0[self.span_of(start)..].iter();
        later.find(|&&edge| edge % len_ms != 0).map_or(u64::MAX, |edge| edge - edge % len_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_found_inside_of_spans_only() {
        let edges = Edges(vec![DAY_MS, 2 * DAY_MS + HOUR_MS, 5 * DAY_MS + 1]);
        assert_eq!(edges.within(DAY_MS, DAY_MS), None);
        assert_eq!(edges.within(2 * DAY_MS, DAY_MS), Some(2 * DAY_MS + HOUR_MS));
        assert_eq!(edges.within(2 * DAY_MS + HOUR_MS, HOUR_MS), None);
        assert_eq!(edges.next_inside(DAY_MS, DAY_MS), 2 * DAY_MS);
        assert_eq!(edges.next_inside(3 * DAY_MS, HOUR_MS), 5 * DAY_MS);
        assert_eq!(edges.next_inside(6 * DAY_MS, DAY_MS), u64::MAX);
        assert_eq!((edges.span_of(DAY_MS - 1), edges.span_of(DAY_MS)), (0, 1));
        assert_eq!((edges.until(0), edges.until(3)), (DAY_MS - 1, u64::MAX));
    }
}
