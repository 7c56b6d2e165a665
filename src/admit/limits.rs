//! Limits of one scope, and the arithmetic of having room. No lock, no clock.

use std::fmt;

use super::permit::Ask;

/// What a limit can be set on. The order is the order of checking.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ScopeKind {
    Account,
    Project,
    User,
    Key,
}

impl ScopeKind {
    /// The name, as shown.
    pub fn name(self) -> &'static str {
        ["account", "project", "user", "key"][self as usize]
    }
}

/// One thing that limits can be set on: all of an account, project, user or key, or what it does
/// with one model.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Scope {
    pub kind: ScopeKind,
    /// Empty for the account.
    pub name: String,
    /// `None`: all models together.
    pub model: Option<String>,
}

/// The limits of one scope. `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Limits {
    /// Requests at the same time.
    pub parallel: Option<u64>,
    /// Tokens in total, never reset.
    pub tokens: Option<u64>,
    /// Money in total, never reset, in 10^-12 of the account's currency.
    pub cost_pico: Option<u128>,
}

/// Which of the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitKind {
    Parallel,
    Tokens,
    Cost,
}

impl LimitKind {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            LimitKind::Parallel => "parallel",
            LimitKind::Tokens => "tokens",
            LimitKind::Cost => "budget",
        }
    }
}

/// A limit had no room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub scope: Scope,
    pub limit: LimitKind,
    pub amount: u128,
    /// Spent and reserved by others when it was asked.
    pub used: u128,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { scope, limit, amount, used } = self;
        write!(f, "limit {} of the {}", limit.name(), scope.kind.name())?;
        if let Some(model) = &scope.model {
            write!(f, " for model {model}")?;
        }
        write!(f, " has no room: {used} of {amount} are taken")
    }
}

impl std::error::Error for Refusal {}

/// What one scope has taken and spent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Tally {
    pub(super) limits: Limits,
    pub(super) parallel: u64,
    pub(super) reserved_tokens: u64,
    pub(super) reserved_cost_pico: u128,
    pub(super) spent_tokens: u64,
    pub(super) spent_cost_pico: u128,
}

impl Tally {
    /// The first limit that has no room for `ask` and so many further requests, with its amount and
    /// what is used. Exactly full still admits.
    pub(super) fn refuses(&self, requests: u64, ask: &Ask) -> Option<(LimitKind, u128, u128)> {
        let tokens = u128::from(self.spent_tokens) + u128::from(self.reserved_tokens);
        let cost = self.spent_cost_pico.saturating_add(self.reserved_cost_pico);
        let Limits { parallel, tokens: token_limit, cost_pico } = self.limits;
        [
            (LimitKind::Parallel, parallel.map(u128::from), self.parallel.into(), requests.into()),
            (LimitKind::Tokens, token_limit.map(u128::from), tokens, ask.tokens.into()),
            (LimitKind::Cost, cost_pico, cost, ask.cost_pico),
        ]
        .into_iter()
        .find_map(|(kind, amount, used, more): (_, Option<u128>, u128, u128)| {
            let amount = amount?;
            // Nothing more of a kind that is over its limit is fine: an unpaid request may follow.
            (more > 0 && used.saturating_add(more) > amount).then_some((kind, amount, used))
        })
    }

    pub(super) fn take(&mut self, requests: u64, ask: &Ask) {
        self.parallel += requests;
        self.reserved_tokens = self.reserved_tokens.saturating_add(ask.tokens);
        self.reserved_cost_pico = self.reserved_cost_pico.saturating_add(ask.cost_pico);
    }

    pub(super) fn give_back(&mut self, requests: u64, held: &Ask, spent: &Ask) {
        self.parallel = self.parallel.saturating_sub(requests);
        self.reserved_tokens = self.reserved_tokens.saturating_sub(held.tokens);
        self.reserved_cost_pico = self.reserved_cost_pico.saturating_sub(held.cost_pico);
        self.spent_tokens = self.spent_tokens.saturating_add(spent.tokens);
        self.spent_cost_pico = self.spent_cost_pico.saturating_add(spent.cost_pico);
    }
}
