//! Money that is spent and reserved in one period of a budget.

use jiff::tz::TimeZone;

use super::calendar;
use super::terms::{LANES, lane};
use crate::limits::{BudgetLimit, Overrun, Period};

/// A window that begins so much later than now was not begun by this clock's error of an hour: the
/// clock was far ahead, and is not believed for ever.
const AHEAD_MAX_MS: u64 = 25 * 3_600_000;

/// One budget of one scope.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    pub(super) limit: BudgetLimit,
    /// It is the account's balance.
    pub(super) is_balance: bool,
    /// The window, in Unix milliseconds; the end is outside. No window yet: both 0.
    start_ms: u64,
    ends_ms: u64,
    /// Requests with a lower number were admitted in an earlier window, where their charge belongs.
    since: u64,
    pub(super) spent_pico: u128,
    /// As expected, and at most: both are kept, so that the mode can change at any time.
    reserved_pico: [u128; LANES],
    /// That a soft budget is passed has been said.
    is_told: bool,
}

impl Budget {
    pub(super) fn new(limit: BudgetLimit, is_balance: bool) -> Self {
        Budget {
            limit,
            is_balance,
            start_ms: 0,
            ends_ms: 0,
            since: 0,
            spent_pico: 0,
            reserved_pico: [0; LANES],
            is_told: false,
        }
    }

    /// The account's balance: like a budget for ever.
    pub(super) fn balance(amount_pico: u128, overrun: Overrun) -> BudgetLimit {
        BudgetLimit { amount_pico, period: Period::Total, overrun, soft: false }
    }

    /// Whether it is the same budget after an edit, with another amount or mode.
    pub(super) fn is_same(&self, limit: &BudgetLimit, is_balance: bool) -> bool {
        let own = (self.limit.period, self.limit.soft, self.is_balance);
        own == (limit.period, limit.soft, is_balance)
    }

    /// Changes the amount and the mode; what is spent stays, and so does the window.
    pub(super) fn edit(&mut self, limit: BudgetLimit) {
        self.limit = limit;
        self.is_told &= self.is_passed();
    }

    /// Days begin at another time now: the window is found anew, and what is spent stays.
    pub(super) fn forget_window(&mut self) {
        if self.ends_ms != 0 {
            self.start_ms = u64::MAX;
        }
    }

    /// Goes over to the window that `unix_ms` lies in, if it is a later one. `next` is the number of
    /// the next request; `running_pico` is reserved by those that run.
    #[inline]
    pub(super) fn advance(
        &mut self,
        unix_ms: u64,
        zone: &TimeZone,
        next: u64,
        running_pico: &[u128; LANES],
    ) {
        if unix_ms >= self.ends_ms || unix_ms.saturating_add(AHEAD_MAX_MS) < self.start_ms {
            self.turn(unix_ms, zone, next, running_pico);
        }
    }

    #[cold]
    fn turn(&mut self, unix_ms: u64, zone: &TimeZone, next: u64, running_pico: &[u128; LANES]) {
        let is_new = self.ends_ms == 0;
        let is_over = unix_ms >= self.ends_ms;
        (self.start_ms, self.ends_ms) = calendar::bounds(self.limit.period, zone, unix_ms);
        if is_new {
            // What runs already will be charged while it holds.
            self.reserved_pico = *running_pico;
        } else if is_over {
            self.since = next;
            self.spent_pico = 0;
            self.reserved_pico = [0; LANES];
            self.is_told = false;
        }
    }

    /// Whether the request with this number is charged to the present window.
    #[inline]
    pub(super) fn counts(&self, number: u64) -> bool {
        number >= self.since
    }

    /// Whether it reserves what is used at most.
    pub(super) fn is_strict(&self) -> bool {
        self.limit.overrun == Overrun::Strict && !self.limit.soft
    }

    /// The figure that it goes by.
    pub(super) fn lane(&self) -> usize {
        lane(self.limit.overrun)
    }

    /// Spent, and reserved by the figure that counts.
    #[inline]
    pub(super) fn used_pico(&self) -> u128 {
        self.spent_pico.saturating_add(self.reserved_pico[self.lane()])
    }

    /// Whether `more` fits: exactly full does. Where nothing is left, nothing does.
    #[inline]
    pub(super) fn has_room(&self, more_pico: u128) -> bool {
        let (used, amount) = (self.used_pico(), self.limit.amount_pico);
        used < amount && more_pico <= amount - used
    }

    pub(super) fn reserve(&mut self, cost_pico: [u128; LANES]) {
        for (sum, more) in self.reserved_pico.iter_mut().zip(cost_pico) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Replaces a reservation by what was spent. `true` the first time that a soft budget is passed.
    pub(super) fn settle(&mut self, held_pico: [u128; LANES], spent_pico: u128) -> bool {
        for (sum, held) in self.reserved_pico.iter_mut().zip(held_pico) {
            *sum = sum.saturating_sub(held);
        }
        self.spent_pico = self.spent_pico.saturating_add(spent_pico);
        let tells = self.limit.soft && self.is_passed() && !self.is_told;
        self.is_told |= tells;
        tells
    }

    /// Takes over what was spent before this process. What is known already is not added: the larger
    /// figure counts.
    pub(super) fn restore(&mut self, spent_pico: u128) {
        self.spent_pico = self.spent_pico.max(spent_pico);
        self.is_told |= self.is_passed();
    }

    /// Whether something that ended at this time was spent in the present window.
    pub(super) fn covers(&self, ended_unix_ms: u64) -> bool {
        (self.start_ms < ended_unix_ms || self.start_ms == 0) && ended_unix_ms <= self.ends_ms
    }

    /// More is spent than it is meant for.
    pub(super) fn is_passed(&self) -> bool {
        self.spent_pico > self.limit.amount_pico
    }

    pub(super) fn reserved_pico(&self) -> u128 {
        self.reserved_pico[self.lane()]
    }

    /// When it begins anew, in Unix milliseconds. `None`: never.
    pub(super) fn resets_at_unix_ms(&self) -> Option<u64> {
        (self.ends_ms != u64::MAX).then_some(self.ends_ms)
    }

    /// How long until `more` fits. `None`: waiting does not help.
    pub(super) fn wait_ms(&self, unix_ms: u64, more_pico: u128) -> Option<u64> {
        let amount = self.limit.amount_pico;
        let never = more_pico > amount || amount == 0;
        self.resets_at_unix_ms().filter(|_| !never).map(|ends| ends.saturating_sub(unix_ms))
    }

    /// Nothing in it would be missed.
    pub(super) fn is_idle(&self, unix_ms: u64) -> bool {
        (self.spent_pico == 0 || unix_ms >= self.ends_ms) && self.reserved_pico == [0; LANES]
    }
}
