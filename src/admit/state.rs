//! What counts against limits now, to be shown; and what counted before this process began.

use std::sync::Arc;

use super::books::Books;
use super::budget::Budget;
use super::cell::AccountCell;
use super::scope::{Scope, ScopeKind, ScopeNames};
use super::slot::{At, Slot};
use super::terms::LANES;
use super::window::Window;
use crate::clock::Now;
use crate::limits::{LimitSet, Overrun, Period};

/// A limit and what counts against it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    pub limit: u64,
    pub used: u64,
}

/// A budget in its present period. Money is in 10^-12 of the account's currency.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BudgetFigures {
    pub amount_pico: u128,
    pub period: Period,
    pub overrun: Overrun,
    pub soft: bool,
    pub spent_pico: u128,
    pub reserved_pico: u128,
    /// 0 if it is passed.
    pub remaining_pico: u128,
    /// `None`: never.
    pub resets_at_unix_ms: Option<u64>,
}

/// One scope, for all models or for one.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// Requests that run now, whether that is limited or not.
    pub running: u64,
    pub parallel: Option<Use>,
    pub rpm: Option<Use>,
    pub tpm: Option<Use>,
    pub tpd: Option<Use>,
    pub budgets: Vec<BudgetFigures>,
    /// The account's prepaid balance.
    pub balance: Option<BudgetFigures>,
}

/// One account, project, user or key.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ScopeState {
    pub all: Figures,
    /// Those that have limits of their own, by alias.
    pub models: Vec<(String, Figures)>,
}

/// What was used in some span of time, before this process began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spent {
    /// The end of the span. It counts as if all had been used then, so spans that are longer than a
    /// limit's own steps (1 s, or 15 min for a day) make the limit stricter than it was.
    pub at_unix_ms: u64,
    pub requests: u64,
    /// With those of requests whose end is not known.
    pub tokens: u64,
    /// The same.
    pub cost_pico: u128,
}

impl AccountCell {
    /// What counts against the limits of a scope. Of a key that was not used lately, and whose
    /// limits are not known here, nothing: see [`AccountCell::state_with`].
    pub fn state(&self, kind: ScopeKind, name: &str, now: Now) -> ScopeState {
        self.state_with(kind, name, None, now)
    }

    /// The same, with the limits that hold if none are known here.
    pub fn state_with(
        &self,
        kind: ScopeKind,
        name: &str,
        limits: Option<&Arc<LimitSet>>,
        now: Now,
    ) -> ScopeState {
        let mut books = self.books();
        let at = books.tick(now);
        let scope = Scope::all(kind, name);
        let known = books.sets.get(&scope).or(limits).cloned().unwrap_or_default();
        let mut state = ScopeState { all: books.figures(&scope, &known, at), models: Vec::new() };
        for model in known.models.keys() {
            let one = scope.of_model(&model.as_str().into());
            state.models.push((model.clone(), books.figures(&one, &known, at)));
        }
        state
    }

    /// Whether one of the scopes has limits for a model of this very name.
    pub fn limits_model(
        &self,
        names: &ScopeNames,
        key_limits: Option<&Arc<LimitSet>>,
        model: &str,
    ) -> bool {
        let has = |set: &Arc<LimitSet>| set.models.contains_key(model);
        if key_limits.is_some_and(has) {
            return true;
        }
        let books = self.books();
        let owners = [
            (ScopeKind::Account, ""),
            (ScopeKind::Project, names.project.as_str()),
            (ScopeKind::User, names.user.as_deref().unwrap_or("")),
            (ScopeKind::Key, names.key.as_str()),
        ];
        owners
            .into_iter()
            .any(|(kind, name)| books.sets.get(&Scope::all(kind, name)).is_some_and(has))
    }

    /// The scopes that have limits and are known here, with those limits: all but keys that were not
    /// used yet.
    pub fn limited(&self) -> Vec<(Scope, Arc<LimitSet>)> {
        let books = self.books();
        books.sets.iter().map(|(scope, set)| (scope.clone(), set.clone())).collect()
    }

    /// Counts what was used before this process began: the whole history of a scope, or of what it
    /// did with one model, in one call. What lies outside of a window is left out. A limit that has
    /// something counted already keeps the larger figure, so that nothing counts twice; that also
    /// makes this the way to let a new budget of a running process know what was spent before it.
    ///
    /// Limits have to be set before; where there are none, nothing is kept.
    pub fn restore(
        &self,
        kind: ScopeKind,
        name: &str,
        model: Option<&str>,
        history: &[Spent],
        now: Now,
    ) {
        let mut books = self.books();
        let at = books.tick(now);
        let all = Scope::all(kind, name);
        let edit = books.edits.iter().find_map(|edits| edits.get(&all.name).cloned().flatten());
        if kind == ScopeKind::Key
            && let Some(set) = edit
            && !books.sets.contains_key(&all)
            && !set.is_empty()
        {
            books.sets.insert(all.clone(), set);
            books.place(all.clone());
        }
        let scope = match model {
            None => all.clone(),
            Some(model) => all.of_model(&model.into()),
        };
        let limited = books.sets.get(&all).is_some_and(|set| match model {
            None => !set.all.is_empty(),
            Some(model) => set.models.get(model).is_some_and(|limits| !limits.is_empty()),
        });
        if limited || books.index.contains_key(&scope) {
            let place = books.place(scope) as usize;
            let Books { slots, terms, next, .. } = &mut *books;
            slots[place].advance(at, &terms.time_zone, *next);
            slots[place].restore(history, at);
        }
    }
}

impl Books {
    /// What a slot has, or would have if it was there.
    fn figures(&mut self, scope: &Scope, set: &LimitSet, at: At) -> Figures {
        let (zone, next) = (&self.terms.time_zone, self.next);
        match self.index.get(scope) {
            Some(&place) => {
                let slot = &mut self.slots[place as usize];
                slot.advance(at, zone, next);
                slot.figures()
            }
            None => {
                let mut slot = Slot::new(scope.clone());
                let limits = match &scope.model {
                    None => Some(&set.all),
                    Some(model) => set.models.get(&**model),
                };
                slot.set_limits(limits.unwrap_or(&set.all), None, next);
                slot.advance(at, zone, next);
                slot.figures()
            }
        }
    }
}

impl Slot {
    fn figures(&self) -> Figures {
        let lane = self.token_lane();
        let figures = |is_balance: bool| {
            let budgets = self.budgets.iter().filter(move |it| it.is_balance == is_balance);
            budgets.map(budget_figures)
        };
        Figures {
            running: self.running,
            parallel: self.parallel.map(|limit| Use { limit, used: self.running }),
            rpm: used(&self.rpm, 0),
            tpm: used(&self.tpm, lane),
            tpd: used(&self.tpd, lane),
            budgets: figures(false).collect(),
            balance: figures(true).next(),
        }
    }

    fn restore(&mut self, history: &[Spent], at: At) {
        restore(&mut self.rpm, history, at, |spent| [spent.requests]);
        restore(&mut self.tpm, history, at, |spent| [spent.tokens; LANES]);
        restore(&mut self.tpd, history, at, |spent| [spent.tokens; LANES]);
        for budget in &mut self.budgets {
            let within = history.iter().filter(|spent| {
                // A span that is not over yet ends now.
                budget.covers(spent.at_unix_ms.min(at.unix_ms))
            });
            let spent = within.fold(0u128, |sum, spent| sum.saturating_add(spent.cost_pico));
            budget.restore(spent);
        }
    }
}

fn restore<const BUCKETS: usize, const WIDTH_MS: u64, const LANES: usize>(
    window: &mut Option<Window<BUCKETS, WIDTH_MS, LANES>>,
    history: &[Spent],
    at: At,
    amounts: impl Fn(&Spent) -> [u64; LANES],
) {
    let Some(window) = window.as_mut().filter(|window| window.is_empty()) else { return };
    for spent in history {
        let age_ms = at.unix_ms.saturating_sub(spent.at_unix_ms);
        window.put(at.ms.saturating_sub(age_ms), amounts(spent));
    }
}

fn used<const BUCKETS: usize, const WIDTH_MS: u64, const LANES: usize>(
    window: &Option<Window<BUCKETS, WIDTH_MS, LANES>>,
    lane: usize,
) -> Option<Use> {
    window.as_ref().map(|window| Use { limit: window.limit, used: window.used(lane) })
}

fn budget_figures(budget: &Budget) -> BudgetFigures {
    let limit = &budget.limit;
    BudgetFigures {
        amount_pico: limit.amount_pico,
        period: limit.period,
        overrun: limit.overrun,
        soft: limit.soft,
        spent_pico: budget.spent_pico,
        reserved_pico: budget.reserved_pico(),
        remaining_pico: limit.amount_pico.saturating_sub(budget.used_pico()),
        resets_at_unix_ms: budget.resets_at_unix_ms(),
    }
}
