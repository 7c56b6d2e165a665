//! One scope's limits, and what counts against them. No lock, no clock.

use jiff::tz::TimeZone;

use super::budget::Budget;
use super::permit::Chunk;
use super::refusal::LimitKind;
use super::scope::Scope;
use super::terms::{Actual, Ask, LANES, Rate, lane, tighter};
use super::window::{Day, Minute, Window};
use crate::limits::{BudgetLimit, Limits, Overrun};

/// A moment: milliseconds of a monotonic clock that begins nowhere in particular, and Unix time.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct At {
    pub(super) ms: u64,
    pub(super) unix_ms: u64,
}

/// What is asked of every scope of a request.
pub(super) struct Demand {
    /// One when it is admitted, none when it is extended.
    requests: u64,
    tokens: [u64; LANES],
    cost_pico: [u128; LANES],
    /// It could cost something, though perhaps nothing is expected: then a budget with nothing left
    /// refuses it.
    could_cost: bool,
    /// The request's number.
    number: u64,
}

impl Demand {
    pub(super) fn admission(ask: &Ask) -> Demand {
        Demand {
            requests: 1,
            tokens: ask.tokens_by_lane(),
            cost_pico: ask.cost_by_lane(),
            could_cost: ask.cost_by_lane() != [0; LANES],
            number: u64::MAX,
        }
    }

    pub(super) fn extension(extra: &Ask, number: u64) -> Demand {
        let (tokens, cost_pico) = (extra.tokens_by_lane(), extra.cost_by_lane());
        Demand { requests: 0, tokens, cost_pico, could_cost: false, number }
    }
}

/// A limit that has no room for a demand.
pub(super) struct Lack {
    pub(super) kind: LimitKind,
    pub(super) overrun: Overrun,
    pub(super) amount: u128,
    pub(super) used: u128,
    pub(super) asked: u128,
    /// Until it has. `None`: never.
    pub(super) wait_ms: Option<u64>,
}

/// How long a caller waits who found too many requests running: nobody knows when one ends.
const PARALLEL_WAIT_MS: u64 = 1000;

/// The tightest of the limits seen.
#[derive(Default)]
pub(super) struct Tightest {
    pub(super) requests: Option<Rate>,
    pub(super) tokens: Option<Rate>,
    pub(super) tokens_per_day: Option<Rate>,
}

/// What settling a request brought about in one scope.
#[derive(Default)]
pub(super) struct Settled {
    /// More was used than was reserved, and that passed a limit.
    pub(super) overran: bool,
    /// Places of soft budgets that were passed by it. Beyond the 64th they are not told.
    pub(super) passed: u64,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) scope: Scope,
    /// Requests that run now.
    pub(super) running: u64,
    /// What they have reserved.
    running_pico: [u128; LANES],
    /// The number of the last request that was admitted; 0: none yet.
    pub(super) last_admitted: u64,
    pub(super) parallel: Option<u64>,
    /// Of the token limits.
    overrun: Overrun,
    pub(super) rpm: Option<Minute<1>>,
    pub(super) tpm: Option<Minute<LANES>>,
    pub(super) tpd: Option<Day>,
    pub(super) budgets: Vec<Budget>,
}

impl Slot {
    pub(super) fn new(scope: Scope) -> Slot {
        Slot {
            scope,
            running: 0,
            running_pico: [0; LANES],
            last_admitted: 0,
            parallel: None,
            overrun: Overrun::default(),
            rpm: None,
            tpm: None,
            tpd: None,
            budgets: Vec::new(),
        }
    }

    /// Changes the limits. What counts against those that stay still does. `next` is the number of
    /// the next request.
    pub(super) fn set_limits(&mut self, limits: &Limits, balance_pico: Option<i128>, next: u64) {
        self.parallel = limits.parallel;
        self.overrun = limits.overrun;
        set_window(&mut self.rpm, limits.rpm, next);
        set_window(&mut self.tpm, limits.tpm, next);
        set_window(&mut self.tpd, limits.tpd, next);
        let balance = balance_pico
            .map(|pico| Budget::balance(u128::try_from(pico).unwrap_or_default(), limits.overrun));
        let wanted = balance.map(|limit| (limit, true));
        let wanted = wanted.into_iter().chain(limits.budgets.iter().map(|&limit| (limit, false)));
        let mut old = std::mem::take(&mut self.budgets);
        self.budgets = wanted.map(|(limit, kind)| edited(&mut old, limit, kind)).collect();
    }

    /// Whether a limit reserves what is used at most.
    #[inline]
    pub(super) fn is_strict(&self) -> bool {
        (self.overrun == Overrun::Strict && (self.tpm.is_some() || self.tpd.is_some()))
            || self.budgets.iter().any(Budget::is_strict)
    }

    /// Lets go what is over by now. To be done before anything else is asked.
    #[inline]
    pub(super) fn advance(&mut self, at: At, zone: &TimeZone, next: u64) {
        if let Some(window) = &mut self.rpm {
            window.advance(at.ms);
        }
        if let Some(window) = &mut self.tpm {
            window.advance(at.ms);
        }
        if let Some(window) = &mut self.tpd {
            window.advance(at.ms);
        }
        for budget in &mut self.budgets {
            budget.advance(at.unix_ms, zone, next, &self.running_pico);
        }
    }

    #[inline]
    pub(super) fn has_room(&self, demand: &Demand) -> bool {
        let lane = lane(self.overrun);
        let tokens = demand.tokens[lane];
        self.parallel.is_none_or(|most| demand.requests == 0 || self.running < most)
            && self.rpm.as_ref().is_none_or(|window| window.has_room(0, demand.requests))
            && self.tpm.as_ref().is_none_or(|window| window.has_room(lane, tokens))
            && self.tpd.as_ref().is_none_or(|window| window.has_room(lane, tokens))
            && self.budgets.iter().all(|budget| budget_has_room(budget, demand))
    }

    /// Every limit that makes [`Slot::has_room`] say no.
    pub(super) fn lacks(&self, demand: &Demand, at: At, mut each: impl FnMut(Lack)) {
        if let Some(most) =
            self.parallel.filter(|most| demand.requests > 0 && self.running >= *most)
        {
            each(Lack {
                kind: LimitKind::Parallel,
                overrun: Overrun::Strict,
                amount: most.into(),
                used: self.running.into(),
                asked: 1,
                wait_ms: (most > 0).then_some(PARALLEL_WAIT_MS),
            });
        }
        let lane = lane(self.overrun);
        let tokens = demand.tokens[lane];
        each_lack(
            &self.rpm,
            LimitKind::Requests,
            Overrun::Strict,
            0,
            demand.requests,
            at,
            &mut each,
        );
        each_lack(&self.tpm, LimitKind::Tokens, self.overrun, lane, tokens, at, &mut each);
        each_lack(&self.tpd, LimitKind::TokensPerDay, self.overrun, lane, tokens, at, &mut each);
        for budget in self.budgets.iter().filter(|budget| !budget_has_room(budget, demand)) {
            let asked = demand.cost_pico[budget.lane()];
            each(Lack {
                kind: budget_kind(budget),
                overrun: budget.limit.overrun,
                amount: budget.limit.amount_pico,
                used: budget.used_pico(),
                asked,
                wait_ms: budget.wait_ms(at.unix_ms, asked),
            });
        }
    }

    /// Admits a request with this number.
    #[inline]
    pub(super) fn take(&mut self, ask: &Ask, number: u64, at: At) {
        self.running += 1;
        self.last_admitted = number;
        if let Some(window) = &mut self.rpm {
            window.put(at.ms, [1]);
        }
        self.reserve(ask, number, at);
    }

    /// Reserves for the request with this number.
    #[inline]
    pub(super) fn reserve(&mut self, ask: &Ask, number: u64, at: At) {
        if let Some(window) = &mut self.tpm {
            window.put(at.ms, ask.tokens_by_lane());
        }
        if let Some(window) = &mut self.tpd {
            window.put(at.ms, ask.tokens_by_lane());
        }
        for (sum, more) in self.running_pico.iter_mut().zip(ask.cost_by_lane()) {
            *sum = sum.saturating_add(more);
        }
        for budget in self.budgets.iter_mut().filter(|budget| budget.counts(number)) {
            budget.reserve(ask.cost_by_lane());
        }
    }

    /// Ends a request: what it reserved is replaced by what it used.
    pub(super) fn settle(&mut self, chunks: &Chunks<'_>, actual: &Actual, at: At) -> Settled {
        self.running = self.running.saturating_sub(1);
        let held_pico = chunks.held.cost_by_lane();
        for (sum, held) in self.running_pico.iter_mut().zip(held_pico) {
            *sum = sum.saturating_sub(held);
        }
        let lane = lane(self.overrun);
        let mut settled = Settled::default();
        if let Some(window) = &mut self.tpm {
            settled.overran |= correct(window, chunks, actual.tokens, lane, at);
        }
        if let Some(window) = &mut self.tpd {
            settled.overran |= correct(window, chunks, actual.tokens, lane, at);
        }
        for (place, budget) in self.budgets.iter_mut().enumerate() {
            if budget.counts(chunks.number) {
                if budget.settle(held_pico, actual.cost_pico) {
                    settled.passed |= 1u64.checked_shl(place as u32).unwrap_or(0);
                }
                let surplus = actual.cost_pico > held_pico[budget.lane()];
                let is_over = budget.used_pico() > budget.limit.amount_pico;
                settled.overran |= surplus && is_over && !budget.limit.soft;
            }
        }
        settled
    }

    /// Makes two reservations one of the later's time, where they count at all.
    pub(super) fn merge(&mut self, from: &Chunk, into: &Chunk) {
        if let Some(window) = &mut self.tpm {
            merge(window, from, into);
        }
        if let Some(window) = &mut self.tpd {
            merge(window, from, into);
        }
    }

    #[inline]
    pub(super) fn note_rates(&self, tightest: &mut Tightest, at: At) {
        let lane = lane(self.overrun);
        let requests = self.rpm.as_ref().map(|window| window.rate(at.ms, 0));
        tightest.requests = tighter(tightest.requests, requests);
        let tokens = self.tpm.as_ref().map(|window| window.rate(at.ms, lane));
        tightest.tokens = tighter(tightest.tokens, tokens);
        let tokens = self.tpd.as_ref().map(|window| window.rate(at.ms, lane));
        tightest.tokens_per_day = tighter(tightest.tokens_per_day, tokens);
    }

    /// The place of the figure that the token limits go by.
    pub(super) fn token_lane(&self) -> usize {
        lane(self.overrun)
    }

    /// Another request would be one too many, whatever it asks for.
    pub(super) fn is_full(&self) -> bool {
        self.parallel.is_some_and(|most| self.running >= most)
    }

    /// Nothing in it would be missed: no request runs, and no limit has anything counted.
    pub(super) fn is_idle(&mut self, at: At) -> bool {
        if self.running > 0 || !self.budgets.iter().all(|budget| budget.is_idle(at.unix_ms)) {
            return false;
        }
        is_empty(&mut self.rpm, at) && is_empty(&mut self.tpm, at) && is_empty(&mut self.tpd, at)
    }
}

/// The reservations of a request.
pub(super) struct Chunks<'a> {
    /// The request's number.
    pub(super) number: u64,
    pub(super) first: &'a Chunk,
    pub(super) more: &'a [Chunk],
    /// Their sum.
    pub(super) held: &'a Ask,
}

fn set_window<const BUCKETS: usize, const WIDTH_MS: u64, const LANES: usize>(
    window: &mut Option<Window<BUCKETS, WIDTH_MS, LANES>>,
    limit: Option<u64>,
    next: u64,
) {
    match (window.as_mut(), limit) {
        (Some(window), Some(limit)) => window.limit = limit,
        (None, Some(limit)) => *window = Some(Window::new(limit, next)),
        (_, None) => *window = None,
    }
}

/// The same budget as before, with its new amount, or a new one.
fn edited(old: &mut Vec<Budget>, limit: BudgetLimit, is_balance: bool) -> Budget {
    match old.iter().position(|budget| budget.is_same(&limit, is_balance)) {
        Some(at) => {
            let mut budget = old.remove(at);
            budget.edit(limit);
            budget
        }
        None => Budget::new(limit, is_balance),
    }
}

pub(super) fn budget_kind(budget: &Budget) -> LimitKind {
    match budget.is_balance {
        true => LimitKind::Balance,
        false => LimitKind::Budget(budget.limit.period),
    }
}

#[inline]
fn budget_has_room(budget: &Budget, demand: &Demand) -> bool {
    let asked = demand.cost_pico[budget.lane()];
    budget.limit.soft
        || !budget.counts(demand.number)
        || (asked == 0 && !demand.could_cost)
        || budget.has_room(asked)
}

fn each_lack<const BUCKETS: usize, const WIDTH_MS: u64, const LANES: usize>(
    window: &Option<Window<BUCKETS, WIDTH_MS, LANES>>,
    kind: LimitKind,
    overrun: Overrun,
    lane: usize,
    asked: u64,
    at: At,
    each: &mut impl FnMut(Lack),
) {
    let Some(window) = window.as_ref().filter(|window| !window.has_room(lane, asked)) else {
        return;
    };
    each(Lack {
        kind,
        overrun,
        amount: window.limit.into(),
        used: window.used(lane).into(),
        asked: asked.into(),
        wait_ms: window.wait_ms(at.ms, lane, asked),
    });
}

/// Replaces reserved tokens by used ones, where they were put: what was used fills the reservations
/// in their order, so that the last ones are taken back first. What is used beyond them counts now.
/// `true` if that passes the limit.
fn correct<const BUCKETS: usize, const WIDTH_MS: u64>(
    window: &mut Window<BUCKETS, WIDTH_MS, LANES>,
    chunks: &Chunks<'_>,
    tokens: u64,
    lane: usize,
    at: At,
) -> bool {
    let mut rest = [tokens; LANES];
    for chunk in std::iter::once(chunks.first).chain(chunks.more) {
        let mut surplus = [0; LANES];
        for lane in 0..LANES {
            let used = rest[lane].min(chunk.tokens[lane]);
            rest[lane] -= used;
            surplus[lane] = chunk.tokens[lane] - used;
        }
        if chunk.number >= window.since {
            window.take_back(chunk.at_ms, surplus);
        }
    }
    if rest != [0; LANES] {
        window.put(at.ms, rest);
    }
    rest[lane] > 0 && window.used(lane) > window.limit
}

fn merge<const BUCKETS: usize, const WIDTH_MS: u64>(
    window: &mut Window<BUCKETS, WIDTH_MS, LANES>,
    from: &Chunk,
    into: &Chunk,
) {
    match (from.number >= window.since, into.number >= window.since) {
        (true, true) => window.postpone(from.at_ms, into.at_ms, from.tokens),
        (false, true) => window.put(into.at_ms, from.tokens),
        (_, false) => {}
    }
}

fn is_empty<const BUCKETS: usize, const WIDTH_MS: u64, const LANES: usize>(
    window: &mut Option<Window<BUCKETS, WIDTH_MS, LANES>>,
    at: At,
) -> bool {
    window.as_mut().is_none_or(|window| {
        window.advance(at.ms);
        window.is_empty()
    })
}
