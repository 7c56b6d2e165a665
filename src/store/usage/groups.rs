//! Sums in groups, as a question asks for them.

use std::collections::HashMap;

use crate::clock;
use crate::store::StoreError;
use crate::store::codec::{Put, Take};
use crate::store::query::{Grain, GroupBy, UsageKey, UsageRow, too_much};
use crate::store::sums::Sums;

/// An answer has no more rows than this.
const ROWS_MAX: usize = 200_000;

/// What a row of sums or a record says of the groups it belongs to.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) name: UsageKey<'a>,
    pub(super) end_user: &'a str,
    pub(super) tag: &'a str,
    pub(super) unix_ms: u64,
}

/// Sums by the values of what they are grouped by.
pub(super) struct Groups<'a> {
    by: &'a [GroupBy],
    sums: HashMap<Box<[u8]>, (Sums, Sums)>,
    scratch: Vec<u8>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(by: &'a [GroupBy]) -> Self {
        Groups { by, sums: HashMap::new(), scratch: Vec::new() }
    }

    /// Adds to the sums of the member's group.
    pub(super) fn add(&mut self, member: &Member<'_>, sums: &Sums) {
        if let Some((added, _)) = self.group(member) {
            added.add(sums);
        }
    }

    /// Takes away what another group of the same answer has.
    pub(super) fn subtract(&mut self, member: &Member<'_>, sums: &Sums) {
        if let Some((_, taken)) = self.group(member) {
            taken.add(sums);
        }
    }

    fn group(&mut self, member: &Member<'_>) -> Option<&mut (Sums, Sums)> {
        self.scratch.clear();
        for by in self.by {
            let text = match by {
                GroupBy::Key => member.name.key,
                GroupBy::Model => member.name.model,
                GroupBy::Project => member.name.project,
                GroupBy::User => member.name.user,
                GroupBy::Account => member.name.account,
                GroupBy::Target => member.name.target,
                GroupBy::EndUser => member.end_user,
                GroupBy::Tag => member.tag,
                GroupBy::Day => {
                    self.scratch.put_u64(Grain::Day.start(member.unix_ms));
                    continue;
                }
                GroupBy::Hour => {
                    self.scratch.put_u64(Grain::Hour.start(member.unix_ms));
                    continue;
                }
            };
            self.scratch.put_text(text, usize::MAX);
        }
        self.scratch.put(&member.name.currency);
        if !self.sums.contains_key(self.scratch.as_slice()) {
            // One above the bound is told from the bound at the end.
            if self.sums.len() > ROWS_MAX {
                return None;
            }
            self.sums.insert(self.scratch.as_slice().into(), Default::default());
        }
        self.sums.get_mut(self.scratch.as_slice())
    }

    /// The rows, in the order of their values.
    pub(super) fn finish(self) -> Result<Vec<UsageRow>, StoreError> {
        if self.sums.len() > ROWS_MAX {
            return Err(too_much("the answer would have more than 200,000 rows"));
        }
        let by_target = self.by.contains(&GroupBy::Target);
        let mut rows: Vec<_> = self
            .sums
            .iter()
            .filter_map(|(packed, (added, taken))| {
                let mut sums = *added;
                sums.subtract(taken);
                let cost = if by_target { sums.attempt_cost_pico } else { sums.cost_pico };
                let (values, currency) = unpack(self.by, packed)?;
                let is_empty = sums == Sums::default();
                (!is_empty).then_some(UsageRow { values, currency, sums, cost_pico: cost })
            })
            .collect();
        rows.sort_by(|a, b| (&a.values, a.currency).cmp(&(&b.values, b.currency)));
        Ok(rows)
    }
}

fn unpack(by: &[GroupBy], packed: &[u8]) -> Option<(Vec<String>, [u8; 3])> {
    let mut take = Take::new(packed);
    let mut values = Vec::with_capacity(by.len());
    for by in by {
        let value = match by {
            GroupBy::Day => time_text(take.u64()?, 10)?,
            GroupBy::Hour => time_text(take.u64()?, 19)? + "Z",
            _ => take.text()?.to_owned(),
        };
        values.push(value);
    }
    Some((values, take.array()?))
}

fn time_text(unix_ms: u64, chars: usize) -> Option<String> {
    let text = clock::rfc3339(unix_ms);
    std::str::from_utf8(&text[..chars]).ok().map(str::to_owned)
}
