//! How an account pays and waits, what a request asks for, and what it is told of its limits.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::limits::Overrun;
use crate::money::Currency;

/// What an account has agreed to. The default: dollars, no mark-up, days in UTC, no waiting, no
/// balance.
#[derive(Clone, Debug)]
pub struct Terms {
    pub currency: Currency,
    /// Whose selling prices hold for it, if not the cost.
    pub price_group: Option<Arc<str>>,
    /// What is charged, in hundredths of a per cent of the price: 10_000 is the price itself.
    pub markup_bps: u32,
    /// Budgets begin anew at midnight there.
    pub time_zone: TimeZone,
    /// `None`: what has no room is refused at once.
    pub queue: Option<QueueSettings>,
    /// Prepaid: all that was ever paid in, less what was paid back, in 10^-12 of the currency. What
    /// is spent counts against it for ever, by the mode of the account's limits. `None`: not prepaid.
    pub balance_pico: Option<i128>,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            currency: Currency::USD,
            price_group: None,
            markup_bps: 10_000,
            time_zone: TimeZone::UTC,
            queue: None,
            balance_pico: None,
        }
    }
}

/// How long a request may wait for room, and how many of an account at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueSettings {
    pub wait: Duration,
    pub depth: usize,
}

/// How much a request asks for. Which of the two figures counts is up to each limit's [`Overrun`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ask {
    /// Input and output as expected.
    pub tokens: u64,
    /// Input and output at most. When a request is admitted, never less than `tokens`.
    pub tokens_bound: u64,
    /// In 10^-12 of the account's currency, as expected.
    pub cost_pico: u128,
    /// The same at most.
    pub cost_bound_pico: u128,
}

/// The two figures of an [`Ask`] that a limit may go by.
pub(super) const LANES: usize = 2;

/// The place of the figure that a limit of this mode goes by.
pub(super) fn lane(overrun: Overrun) -> usize {
    match overrun {
        Overrun::Finish | Overrun::Cut => 0,
        Overrun::Strict => 1,
    }
}

impl Ask {
    pub(super) fn tokens_by_lane(&self) -> [u64; LANES] {
        [self.tokens, self.tokens_bound]
    }

    pub(super) fn cost_by_lane(&self) -> [u128; LANES] {
        [self.cost_pico, self.cost_bound_pico]
    }

    /// As it is reserved at admission: no expectation is above its own bound.
    pub(super) fn with_bounds(mut self) -> Ask {
        self.tokens_bound = self.tokens_bound.max(self.tokens);
        self.cost_bound_pico = self.cost_bound_pico.max(self.cost_pico);
        self
    }

    pub(super) fn plus(self, more: &Ask) -> Ask {
        Ask {
            tokens: self.tokens.saturating_add(more.tokens),
            tokens_bound: self.tokens_bound.saturating_add(more.tokens_bound),
            cost_pico: self.cost_pico.saturating_add(more.cost_pico),
            cost_bound_pico: self.cost_bound_pico.saturating_add(more.cost_bound_pico),
        }
    }
}

/// What a request really used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Actual {
    /// Input and output.
    pub tokens: u64,
    /// What is charged, in 10^-12 of the account's currency.
    pub cost_pico: u128,
}

/// One limit as the caller sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    pub limit: u64,
    pub remaining: u64,
    /// Until all of the limit is there again, if nothing more is asked.
    pub reset_ms: u64,
}

/// The tightest limits of a request, for `x-ratelimit-*`. `None`: no scope has such a limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rates {
    pub requests: Option<Rate>,
    /// Of a minute; of a day, if there is no limit for a minute.
    pub tokens: Option<Rate>,
}

/// Of two limits the one with less left; the first, if they are equal.
pub(super) fn tighter(a: Option<Rate>, b: Option<Rate>) -> Option<Rate> {
    match (a, b) {
        (Some(a), Some(b)) if b.remaining < a.remaining => Some(b),
        (a, b) => a.or(b),
    }
}
