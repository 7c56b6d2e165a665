//! What a request holds while it runs.

use std::sync::Arc;

use super::cell::AccountCell;
use super::refusal::Refusal;
use super::scope::{Scope, Slots};
use super::slot::Chunks;
use super::terms::{Actual, Ask, LANES, Rates};
use crate::clock::Now;
use crate::limits::BudgetLimit;

/// Extensions that are remembered apart. When there are more, the two oldest become one.
pub(super) const EXTENSIONS_MAX: usize = 64;

/// Tokens that were reserved at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    /// Counted up with every reservation of the account.
    pub(super) number: u64,
    pub(super) at_ms: u64,
    pub(super) tokens: [u64; LANES],
}

/// A reservation, without the account that it is held in.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) slots: Slots,
    pub(super) first: Chunk,
    pub(super) more: Vec<Chunk>,
    pub(super) ask: Ask,
    pub(super) rates: Rates,
    /// One of the limits reserves what is used at most, not what is expected.
    pub(super) is_strict: bool,
}

impl Held {
    pub(super) fn chunks(&self) -> Chunks<'_> {
        let Held { first, more, ask, .. } = self;
        Chunks { number: first.number, first, more, held: ask }
    }
}

/// A reservation in all scopes of a request, and its place among the parallel ones. Dropping it
/// gives back everything but the request itself, which was admitted and counts as one of its minute;
/// [`Permit::settle`] turns it into what was really used.
#[derive(Debug)]
#[must_use = "a permit that is dropped gives its reservation back"]
pub struct Permit {
    cell: Arc<AccountCell>,
    /// `None` once it is settled.
    held: Option<Held>,
}

/// Whether a stream may go on.
#[derive(Debug)]
pub enum Extended {
    /// There was room.
    Granted,
    /// There was none, and limits of mode `finish` let it go on all the same: it is booked.
    Overrun,
    /// There was none, and it has to end. Nothing was reserved.
    Cut(Refusal),
}

/// What settling a request brought to light.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Alerts {
    /// It used more than it had reserved, and that passed a limit.
    pub overran: bool,
    /// Soft budgets that are passed now; each is said once in its period.
    pub passed: Vec<Alert>,
}

/// A soft budget is passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alert {
    pub scope: Scope,
    pub budget: BudgetLimit,
    pub spent_pico: u128,
}

impl Permit {
    pub(super) fn new(cell: Arc<AccountCell>, held: Held) -> Self {
        Permit { cell, held: Some(held) }
    }

    /// What is reserved now.
    pub fn held(&self) -> Ask {
        self.held.as_ref().map_or_else(Ask::default, |held| held.ask)
    }

    /// What counts as used if nobody ever learns what was: all that is reserved.
    pub fn counted(&self) -> Actual {
        let Some(Held { ask, is_strict, .. }) = &self.held else { return Actual::default() };
        match is_strict {
            true => Actual { tokens: ask.tokens_bound, cost_pico: ask.cost_bound_pico },
            false => Actual { tokens: ask.tokens, cost_pico: ask.cost_pico },
        }
    }

    /// The tightest limits, after this request was admitted.
    pub fn rates(&self) -> Rates {
        self.held.as_ref().map_or_else(Rates::default, |held| held.rates)
    }

    /// Reserves more, in all scopes or in none. Tokens count at this time, not at the admission's.
    pub fn extend(&mut self, extra: Ask, now: Now) -> Extended {
        match &mut self.held {
            Some(held) => self.cell.extend(held, &extra, now),
            None => Extended::Granted,
        }
    }

    /// Ends the request with what it really used, in place of what was reserved. More than was
    /// reserved is booked, too.
    pub fn settle(mut self, actual: Actual, now: Now) -> Alerts {
        match self.held.take() {
            Some(held) => self.cell.settle(&held, &actual, Some(now)),
            None => Alerts::default(),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.cell.settle(&held, &Actual::default(), None);
        }
    }
}
