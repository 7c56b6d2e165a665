//! The start of the counters: what limits have in memory is rebuilt from the store, before a caller
//! is let in.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::admit::{
    self, AccountCell, Accounts, LimitSet, Limits, Period, Scope, ScopeKind, ScopeNames, Terms,
    period_bounds,
};
use crate::auth::Keyring;
use crate::clock::Now;
use crate::directory::Spent;
use crate::ident::{AccountId, Alias, KeyId, ProjectId};
use crate::route::Table;
use crate::store::{
    DAY_MS, Filter, HOUR_MS, Spent as Span, SpentQuery, Store, StoreError, UsageKey,
};

/// A sliding minute, and a second more for the step that is running.
const MINUTE_MS: u64 = 61_000;
/// A sliding minute is rebuilt in steps of so much: the limit is that much stricter for a moment.
const STEP_MS: u64 = 5_000;

/// Who has limits, and of which kind.
#[derive(Default)]
struct Limited {
    /// Of accounts, projects and users.
    scopes: HashMap<(AccountId, Scope), Arc<LimitSet>>,
    keys: HashMap<Arc<str>, Arc<LimitSet>>,
    /// Accounts with a balance.
    prepaid: BTreeSet<AccountId>,
    edges: BTreeSet<u64>,
    has_rates: bool,
    has_days: bool,
}

impl Limited {
    fn note(&mut self, set: &LimitSet, terms: &Terms, now: Now) {
        for limits in std::iter::once(&set.all).chain(set.models.values()) {
            let Limits { rpm, tpm, tpd, budgets, .. } = limits;
            self.has_rates |= rpm.is_some() || tpm.is_some();
            self.has_days |= tpd.is_some();
            for budget in budgets {
                let (start, _) = period_bounds(budget.period, &terms.time_zone, now.unix_ms);
                self.edges.insert(start);
            }
        }
    }

    /// Where spans begin.
    fn edges(&self, now: Now) -> Vec<u64> {
        let mut edges = self.edges.clone();
        edges.insert(0);
        if self.has_rates {
            let first = now.unix_ms.saturating_sub(MINUTE_MS);
            edges.extend((first..now.unix_ms).step_by(STEP_MS as usize));
        }
        if self.has_days {
            let first = now.unix_ms.saturating_sub(DAY_MS + HOUR_MS);
            let first = first - first % HOUR_MS;
            edges.extend((first..now.unix_ms).step_by(HOUR_MS as usize));
        }
        edges.into_iter().collect()
    }

    fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.keys.is_empty() && self.prepaid.is_empty()
    }
}

/// Rebuilds all counters.
///
/// # Errors
/// Of the store: without its figures limits would begin anew with each start.
pub(super) fn counters(
    keyring: &Keyring,
    accounts: &Accounts,
    table: &Table,
    store: &dyn Store,
    now: Now,
) -> Result<(), StoreError> {
    let limited = limited(keyring, accounts, now);
    if limited.is_empty() {
        return Ok(());
    }
    type Place = (AccountId, Scope);
    let mut histories: HashMap<Place, (Vec<admit::Spent>, Option<ScopeNames>)> = HashMap::new();
    let query = SpentQuery { filter: Filter::default(), edges_unix_ms: limited.edges(now) };
    store.spent(&query, &mut |key, span| {
        let account = AccountId::from(key.account);
        let alias = table.find(key.model).map(|route| table.route(route).alias.clone());
        let spent = spent(span, now);
        for scope in scopes(key, &account, alias.as_ref(), &limited) {
            let names = (scope.kind == ScopeKind::Key).then(|| names_of(key, alias.clone()));
            let place = (account.clone(), scope);
            let (history, known) = histories.entry(place).or_default();
            history.push(spent);
            *known = names;
        }
    })?;
    for ((account, scope), (history, names)) in histories {
        let cell = accounts.cell(&account);
        if let Some(names) = names {
            // A key has its place from its first request on; its history needs one now.
            let _ = cell.scopes(names, limited.keys.get(&scope.name));
        }
        cell.restore(scope.kind, &scope.name, scope.model.as_deref(), &history, now);
    }
    Ok(())
}

fn limited(keyring: &Keyring, accounts: &Accounts, now: Now) -> Limited {
    let mut limited = Limited::default();
    for (account, cell) in accounts.each() {
        let terms = cell.terms();
        if terms.balance_pico.is_some() {
            limited.prepaid.insert(account.clone());
        }
        for (scope, set) in cell.limited() {
            limited.note(&set, &terms, now);
            limited.scopes.insert((account.clone(), scope), set);
        }
    }
    let mut terms: HashMap<AccountId, Arc<Terms>> = HashMap::new();
    keyring.each(|grant| {
        let Some(set) = grant.limits.as_ref().filter(|set| !set.is_empty()) else { return };
        let terms = terms
            .entry(grant.account.clone())
            .or_insert_with(|| accounts.cell(&grant.account).terms());
        limited.note(set, terms, now);
        limited.keys.insert(grant.key_id.0.clone(), set.clone());
    });
    limited
}

/// The scopes of a request that have limits.
fn scopes(
    key: &UsageKey<'_>,
    account: &AccountId,
    alias: Option<&Alias>,
    limited: &Limited,
) -> Vec<Scope> {
    let mut scopes = Vec::new();
    let mut add = |scope: Scope, set: Option<&Arc<LimitSet>>, is_always: bool| {
        let Some(set) = set else {
            scopes.extend(is_always.then_some(scope));
            return;
        };
        let model = alias.filter(|alias| set.models.contains_key(alias.as_str()));
        let of_model = model.map(|alias| Scope { model: Some(alias.0.clone()), ..scope.clone() });
        scopes.extend((is_always || !set.all.is_empty()).then_some(scope));
        scopes.extend(of_model);
    };
    for (kind, name) in
        [(ScopeKind::Account, ""), (ScopeKind::Project, key.project), (ScopeKind::User, key.user)]
    {
        if kind != ScopeKind::Account && name.is_empty() {
            continue;
        }
        let scope = Scope::all(kind, name);
        let is_prepaid = kind == ScopeKind::Account && limited.prepaid.contains(account);
        let set = limited.scopes.get(&(account.clone(), scope.clone()));
        add(scope, set, is_prepaid);
    }
    if let Some((name, set)) = limited.keys.get_key_value(key.key) {
        add(Scope { kind: ScopeKind::Key, name: name.clone(), model: None }, Some(set), false);
    }
    scopes
}

fn names_of(key: &UsageKey<'_>, model: Option<Alias>) -> ScopeNames {
    ScopeNames {
        project: ProjectId::from(key.project),
        user: (!key.user.is_empty()).then(|| key.user.into()),
        key: KeyId::from(key.key),
        model,
    }
}

fn spent(span: &Span, now: Now) -> admit::Spent {
    admit::Spent {
        at_unix_ms: span.until_unix_ms.min(now.unix_ms),
        requests: span.requests,
        tokens: span.tokens,
        cost_pico: span.cost_pico,
    }
}

/// What a scope had spent before it got a budget.
pub(super) struct SpentBefore {
    pub store: Arc<dyn Store>,
    pub accounts: Arc<Accounts>,
}

/// Spans of an hour as far back as the longest usual period, and of whole periods before.
const HOURS_BACK_MS: u64 = 32 * DAY_MS;

impl Spent for SpentBefore {
    fn history(
        &self,
        account: &str,
        kind: ScopeKind,
        name: &str,
        model: Option<&str>,
        from_unix_ms: u64,
    ) -> Result<Vec<admit::Spent>, StoreError> {
        let now = crate::clock::now();
        let text = |wanted: ScopeKind| (kind == wanted).then(|| name.to_owned());
        let filter = Filter {
            account: Some(account.to_owned()),
            project: text(ScopeKind::Project),
            user: text(ScopeKind::User),
            key: text(ScopeKind::Key),
            model: model.map(str::to_owned),
        };
        let cell: Arc<AccountCell> = self.accounts.cell(&AccountId::from(account));
        let zone = cell.terms().time_zone.clone();
        let mut edges: BTreeSet<u64> = [Period::Daily, Period::Weekly, Period::Monthly]
            .into_iter()
            .map(|period| period_bounds(period, &zone, now.unix_ms).0)
            .collect();
        edges.insert(from_unix_ms);
        let first = from_unix_ms.max(now.unix_ms.saturating_sub(HOURS_BACK_MS));
        edges.extend((first - first % HOUR_MS..now.unix_ms).step_by(HOUR_MS as usize));
        let edges_unix_ms = edges.into_iter().filter(|edge| *edge >= from_unix_ms).collect();
        let mut history = Vec::new();
        self.store.spent(&SpentQuery { filter, edges_unix_ms }, &mut |_, span| {
            if span.until_unix_ms >= from_unix_ms {
                history.push(spent(span, now));
            }
        })?;
        Ok(history)
    }
}
