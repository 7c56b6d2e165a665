//! The start of the counters: what limits have in memory is rebuilt from the store, before a caller
//! is let in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::admit::{
    self, AccountCell, Accounts, LimitSet, Limits, Period, Scope, ScopeKind, ScopeNames,
    period_bounds,
};
use crate::auth::Keyring;
use crate::clock::Now;
use crate::directory::Spent;
use crate::ident::{AccountId, Alias, KeyId, ProjectId};
use crate::route::Table;
use crate::store::{
    DAY_MS, Filter, HOUR_MS, Journal, Spent as Span, SpentQuery, Store, StoreError, UsageKey,
};

/// A sliding minute, and a second more for the step that is running.
const MINUTE_MS: u64 = 61_000;
/// A sliding minute is rebuilt in steps of so much: the limit is that much stricter for a moment.
const STEP_MS: u64 = 5_000;

/// Who has limits, and of which kind. Keys are not in here: there may be a million.
#[derive(Default)]
struct Limited {
    /// Of accounts, projects and users.
    scopes: HashMap<(AccountId, Scope), Arc<LimitSet>>,
    /// Accounts with a balance.
    prepaid: BTreeSet<AccountId>,
    edges: BTreeSet<u64>,
    /// Budgets whose edges are known: by period and account.
    noted: HashSet<(Period, AccountId)>,
    has_keys: bool,
    has_rates: bool,
    has_days: bool,
}

impl Limited {
    fn note(&mut self, set: &LimitSet, account: &AccountId, accounts: &Accounts, now: Now) {
        for limits in std::iter::once(&set.all).chain(set.models.values()) {
            let Limits { rpm, tpm, tpd, budgets, .. } = limits;
            self.has_rates |= rpm.is_some() || tpm.is_some();
            self.has_days |= tpd.is_some();
            for budget in budgets {
                if self.noted.insert((budget.period, account.clone())) {
                    let terms = accounts.cell(account).terms();
                    let (start, _) = period_bounds(budget.period, &terms.time_zone, now.unix_ms);
                    self.edges.insert(start);
                }
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
        self.scopes.is_empty() && self.prepaid.is_empty() && !self.has_keys
    }
}

/// What was used in a scope, span by span.
type Histories = HashMap<(AccountId, Scope), Vec<admit::Spent>>;

/// What a key has used: of which account, project and user, with which alias.
struct OfKey {
    account: AccountId,
    names: ScopeNames,
    /// The model that was asked for.
    asked: Box<str>,
    spent: admit::Spent,
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
    let mut histories = Histories::new();
    let mut keys: HashMap<String, Vec<OfKey>> = HashMap::new();
    let query = SpentQuery { filter: Filter::default(), edges_unix_ms: limited.edges(now) };
    store.spent(&query, &mut |key, span| {
        let account = AccountId::from(key.account);
        let alias = table.find(key.model).map(|route| table.route(route).alias.clone());
        let spent = spent(span, now);
        for scope in owners(key, &account, alias.as_ref(), &limited) {
            histories.entry((account.clone(), scope)).or_default().push(spent);
        }
        if limited.has_keys {
            let asked = key.model.into();
            let used = OfKey { account, names: names_of(key, alias), asked, spent };
            keys.entry(key.key.to_owned()).or_default().push(used);
        }
    })?;
    for ((account, scope), history) in histories {
        let cell = accounts.cell(&account);
        cell.restore(scope.kind, &scope.name, scope.model.as_deref(), &history, now);
    }
    if !keys.is_empty() {
        keyring.each(|grant| {
            let Some(set) = grant.limits.as_ref().filter(|set| !set.is_empty()) else { return };
            if let Some(used) = keys.remove(grant.key_id.as_str()) {
                restore_key(&grant.key_id, set, used, accounts, now);
            }
        });
    }
    Ok(())
}

/// A key has its place in the books from its first request on; its history needs one now.
fn restore_key(key: &KeyId, set: &Arc<LimitSet>, used: Vec<OfKey>, accounts: &Accounts, now: Now) {
    let mut histories: HashMap<(AccountId, Option<Arc<str>>), Vec<admit::Spent>> = HashMap::new();
    for OfKey { account, names, asked, spent } in used {
        let model = model_of(set, &asked, names.model.as_ref());
        let names = ScopeNames { asked: Some(asked.into()), ..names };
        let _ = accounts.cell(&account).scopes(names, Some(set));
        if model.is_some() {
            histories.entry((account.clone(), model)).or_default().push(spent);
        }
        histories.entry((account, None)).or_default().push(spent);
    }
    for ((account, model), history) in histories {
        let cell = accounts.cell(&account);
        cell.restore(ScopeKind::Key, key.as_str(), model.as_deref(), &history, now);
    }
}

fn limited(keyring: &Keyring, accounts: &Accounts, now: Now) -> Limited {
    let mut limited = Limited::default();
    for (account, cell) in accounts.each() {
        if cell.terms().balance_pico.is_some() {
            limited.prepaid.insert(account.clone());
        }
        for (scope, set) in cell.limited() {
            limited.note(&set, &account, accounts, now);
            limited.scopes.insert((account.clone(), scope), set);
        }
    }
    keyring.each(|grant| {
        if let Some(set) = grant.limits.as_ref().filter(|set| !set.is_empty()) {
            limited.has_keys = true;
            limited.note(set, &grant.account, accounts, now);
        }
    });
    limited
}

/// The scopes of a request that have limits, but for its key's.
fn owners(
    key: &UsageKey<'_>,
    account: &AccountId,
    alias: Option<&Alias>,
    limited: &Limited,
) -> Vec<Scope> {
    let mut scopes = Vec::new();
    for (kind, name) in
        [(ScopeKind::Account, ""), (ScopeKind::Project, key.project), (ScopeKind::User, key.user)]
    {
        if kind != ScopeKind::Account && name.is_empty() {
            continue;
        }
        let scope = Scope::all(kind, name);
        let is_prepaid = kind == ScopeKind::Account && limited.prepaid.contains(account);
        let set = limited.scopes.get(&(account.clone(), scope.clone()));
        let of_model = set
            .and_then(|set| model_of(set, key.model, alias))
            .map(|model| Scope { model: Some(model), ..scope.clone() });
        let is_limited = set.is_some_and(|set| !set.all.is_empty());
        scopes.extend((is_prepaid || is_limited).then_some(scope));
        scopes.extend(of_model);
    }
    scopes
}

/// The model by which a request counts: limits on the very name that was asked for go before those on
/// the alias that served it.
fn model_of(set: &LimitSet, asked: &str, alias: Option<&Alias>) -> Option<Arc<str>> {
    if set.models.contains_key(asked) {
        return Some(asked.into());
    }
    alias.filter(|alias| set.models.contains_key(alias.as_str())).map(|alias| alias.0.clone())
}

fn names_of(key: &UsageKey<'_>, model: Option<Alias>) -> ScopeNames {
    ScopeNames {
        project: ProjectId::from(key.project),
        user: (!key.user.is_empty()).then(|| key.user.into()),
        key: KeyId::from(key.key),
        model,
        asked: None,
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
    /// What is still in there counts, too.
    pub journal: Weak<Journal>,
    pub accounts: Arc<Accounts>,
}

/// How long an edit that needs the history waits for the journal.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

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
        if self.journal.upgrade().is_some_and(|journal| !journal.flushed(FLUSH_WAIT)) {
            let cause =
                "what was used last is not in the store yet, so what was spent is not known";
            let cause = std::io::Error::new(std::io::ErrorKind::TimedOut, cause);
            return Err(StoreError::Io { path: "the journal".to_owned(), cause });
        }
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
