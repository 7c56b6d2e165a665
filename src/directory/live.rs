//! Where a change takes effect once the store has it: the keyring, the accounts' limits, the book of
//! prices, the tokens of principals.

use std::sync::Arc;

use super::file::Card;
use super::kinds::{Doc, Stored};
use super::limits::new_budgets;
use super::perform::{Directory, Token};
use crate::admit::{self, Accounts, ScopeKind};
use crate::auth::{Digest, Grant, Keyring, SecretDigest};
use crate::clock::Now;
use crate::ident::AccountId;
use crate::limits::{LimitSet, Limits, Period};
use crate::store::StoreError;
use crate::store::objects::{ObjectKind, ObjectRow, SecretRow, Status};

/// What is kept up to date.
pub struct Live {
    /// Who calls, by the digest of the secret.
    pub keyring: Arc<Keyring>,
    /// The limits and what is used up of them.
    pub accounts: Arc<Accounts>,
    /// Asked before a change is made.
    pub spent: Box<dyn Spent>,
    /// Called after the change, by the thread that made it. Must not call the directory's `perform`.
    pub changed: Box<dyn Fn(Changed) + Send + Sync>,
}

/// What was used up before there was a budget for it: asked when a scope gets its first one.
pub trait Spent: Send + Sync {
    /// What a scope has spent since `from_unix_ms`, in spans of an hour or less. `name` is the id of
    /// the project, user or key; empty for the account.
    ///
    /// # Errors
    /// Of the store.
    fn history(
        &self,
        account: &str,
        kind: ScopeKind,
        name: &str,
        model: Option<&str>,
        from_unix_ms: u64,
    ) -> Result<Vec<admit::Spent>, StoreError>;
}

/// What somebody else has to make anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// [`Directory::prices`].
    Prices,
    /// [`Directory::rates`].
    Rates,
}

/// What a change does outside of the store. Prepared before the commit, so that nothing can fail
/// after it.
pub(super) enum Effect {
    /// A key, by all secrets that it has from now on.
    Key { grant: Box<Grant>, secrets: Vec<SecretDigest>, gone: Vec<Digest>, is_ending: bool },
    /// Secrets that find nothing any more.
    Gone(Vec<Digest>),
    /// The terms of an account.
    Terms { account: String, terms: Box<admit::Terms> },
    /// The limits of a scope, and what it has spent of budgets that are new.
    Limits {
        account: String,
        /// With the id of the project, user or key; empty for the account.
        scope: (ScopeKind, String),
        limits: Option<Arc<LimitSet>>,
        spent: Vec<History>,
    },
    /// A principal's tokens, instead of all that it had.
    Tokens { id: String, tokens: Vec<(Digest, Token)> },
    /// An entry of the book of prices, or none any more.
    Price { id: String, entry: Option<Box<crate::price::Entry>> },
    /// A rate, or none any more.
    Rate { id: String, rate: Option<crate::price::RateRow> },
}

/// What was spent with one model, or with all of them.
pub(super) struct History {
    model: Option<String>,
    spent: Vec<admit::Spent>,
}

impl Directory {
    /// What becomes of limits when the object `before` becomes `after`: nothing, if they are the same.
    pub(super) fn limits_effect(
        &self,
        before: Option<&Card>,
        after: &Card,
        now: Now,
    ) -> Result<Option<Effect>, StoreError> {
        let Some(kind) = scope_kind(after.row.kind) else { return Ok(None) };
        let row = &after.row;
        let name = if kind == ScopeKind::Account { String::new() } else { row.id.clone() };
        let account = account_of(row).to_owned();
        let mut spent = Vec::new();
        // A new object has spent nothing.
        for (model, from_unix_ms) in before.map_or_else(Vec::new, |old| asked(old, after, now)) {
            let history = self.live.spent.history(&account, kind, &name, model, from_unix_ms)?;
            // Only the money: what was asked in the last minute stands in the windows already.
            let money = history.into_iter().map(|it| admit::Spent { requests: 0, tokens: 0, ..it });
            spent.push(History { model: model.map(str::to_owned), spent: money.collect() });
        }
        let of = |card: &Card| card.stored.doc.limits().cloned().unwrap_or_default();
        let is_same = before.map(of).unwrap_or_default() == of(after);
        if is_same && spent.is_empty() {
            return Ok(None);
        }
        let limits = effective_limits(after);
        Ok(Some(Effect::Limits { account, scope: (kind, name), limits, spent }))
    }

    /// Lets a change take effect. The store has it: nothing here may fail.
    pub(super) fn take_effect(&self, effects: Vec<Effect>, now: Now) {
        let (mut prices, mut rates) = (false, false);
        for effect in effects {
            match effect {
                Effect::Key { grant, secrets, gone, is_ending } => {
                    let ring = &self.live.keyring;
                    if is_ending {
                        ring.set_key_ending(&secrets, &grant);
                    } else {
                        ring.set_key(&secrets, &gone, &grant);
                    }
                }
                Effect::Gone(digests) => {
                    for digest in &digests {
                        self.live.keyring.remove(digest);
                    }
                }
                Effect::Terms { account, terms } => {
                    self.live.accounts.cell(&AccountId::from(account.as_str())).set_terms(*terms);
                }
                Effect::Limits { account, scope: (kind, name), limits, spent } => {
                    self.set_limits(&account, (kind, &name), limits, &spent, now);
                }
                Effect::Tokens { id, tokens } => {
                    let mut state = self.state_mut();
                    state.tokens.retain(|_, token| token.id != id);
                    state.tokens.extend(tokens);
                }
                Effect::Price { id, entry } => {
                    prices = true;
                    let book = &mut self.state_mut().prices;
                    match entry {
                        Some(entry) => book.insert(id, *entry),
                        None => book.remove(&id),
                    };
                }
                Effect::Rate { id, rate } => {
                    rates = true;
                    let table = &mut self.state_mut().rates;
                    match rate {
                        Some(rate) => table.insert(id, rate),
                        None => table.remove(&id),
                    };
                }
            }
        }
        if prices {
            (self.live.changed)(Changed::Prices);
        }
        if rates {
            (self.live.changed)(Changed::Rates);
        }
    }

    /// Of a key this is only the change: the rest comes with its grant.
    pub(super) fn set_limits(
        &self,
        account: &str,
        (kind, name): (ScopeKind, &str),
        limits: Option<Arc<LimitSet>>,
        spent: &[History],
        now: Now,
    ) {
        let cell = self.live.accounts.cell(&AccountId::from(account));
        cell.set_limits(kind, name, limits, now);
        for History { model, spent } in spent.iter().filter(|history| !history.spent.is_empty()) {
            cell.restore(kind, name, model.as_deref(), spent, now);
        }
    }
}

/// What was spent has to be found out for these models (`None`: for all), since then: those that have
/// a budget which they had not before. What came back from a deletion has been forgotten meanwhile.
fn asked<'a>(before: &Card, after: &'a Card, now: Now) -> Vec<(Option<&'a str>, u64)> {
    let is_back = before.row.status == Status::Deleted && after.row.status != Status::Deleted;
    let old = before.stored.doc.limits().filter(|_| !is_back);
    let budgets = after.stored.doc.limits().map_or_else(Vec::new, |new| new_budgets(old, new));
    let mut asked: Vec<_> =
        budgets.into_iter().map(|(model, limits)| (model, earliest(limits, now.unix_ms))).collect();
    if let (Doc::Account(old), Doc::Account(new)) = (&before.stored.doc, &after.stored.doc)
        && old.balance_pico.is_none()
        && new.balance_pico.is_some()
    {
        asked.retain(|(model, _)| model.is_some());
        asked.push((None, 0));
    }
    asked
}

/// An object's limits as they are enforced, with the number that tells which are newer.
pub(super) fn effective_limits(card: &Card) -> Option<Arc<LimitSet>> {
    let limits = card.stored.doc.limits().filter(|limits| !limits.says_nothing())?;
    // The file's carry a revision of their own.
    let revision = if card.is_filed { limits.revision } else { card.row.revision };
    Some(Arc::new(LimitSet { revision, ..limits.clone() }))
}

/// The scope that an object's limits hold for.
pub(super) fn scope_kind(kind: ObjectKind) -> Option<ScopeKind> {
    match kind {
        ObjectKind::Account => Some(ScopeKind::Account),
        ObjectKind::Project => Some(ScopeKind::Project),
        ObjectKind::User => Some(ScopeKind::User),
        ObjectKind::Key => Some(ScopeKind::Key),
        ObjectKind::Price | ObjectKind::Rate | ObjectKind::Principal => None,
    }
}

/// The id of the account that pays for what an object does.
pub(super) fn account_of(row: &ObjectRow) -> &str {
    if row.kind == ObjectKind::Account { &row.id } else { &row.account }
}

/// When the longest of the budgets' windows may have begun. A day more than it lasts: time zones.
fn earliest(limits: &Limits, now_unix_ms: u64) -> u64 {
    const DAY_MS: u64 = 86_400_000;
    let days = limits.budgets.iter().map(|budget| match budget.period {
        Period::Total => u64::MAX,
        Period::Daily => 1,
        Period::Weekly => 7,
        Period::Monthly => 31,
        Period::Days(days) => u64::from(days),
    });
    let days = days.max().unwrap_or(0).saturating_add(1);
    now_unix_ms.saturating_sub(days.saturating_mul(DAY_MS))
}

/// The tokens of a principal, as they are looked up.
pub(super) fn tokens(card: &Card, secrets: &[SecretRow]) -> Vec<(Digest, Token)> {
    let Stored { doc: Doc::Principal(principal), .. } = card.stored else { return Vec::new() };
    let row = &card.row;
    if row.status != Status::Active {
        return Vec::new();
    }
    let scope = |id: &str| (!id.is_empty()).then(|| id.to_owned());
    let token = |secret: &SecretRow| Token {
        id: row.id.clone(),
        name: row.name.clone(),
        role: principal.role,
        account: scope(&row.account),
        project: scope(&row.project),
        expires_at_unix_ms: principal.expires_at_unix_ms,
        valid_until_unix_ms: secret.valid_until_unix_ms,
    };
    secrets.iter().map(|secret| (secret.digest, token(secret))).collect()
}
