//! What one worker has for itself, and what all workers share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use crate::admit::{AccountCell, Accounts, Alert, Budget, ScopeNames, Scopes, Terms};
use crate::auth::{Grant, GrantCache, Held, Keyring};
use crate::clock::{self, Now};
use crate::error::Error;
use crate::ident::RequestId;
use crate::ident::{AccountId, Alias, KeyId};
use crate::meter::{Counters, Meter};
use crate::money::{Currency, format_pico};
use crate::price::Ceiling;
use crate::proxy::ending::Running;
use crate::proxy::snapshot::{Provider, Snapshot};
use crate::route::Target;
use crate::telemetry::{Lane, Registry};
use crate::upstream::Pools;
use crate::wire::{Headers, RequestHead};

/// Called with every request before it is served; tests use it to fail on purpose.
pub type FaultHook = Arc<dyn Fn(&RequestHead) + Send + Sync>;

/// Shared by all workers. Nothing in here is locked across an await.
pub struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub keyring: Arc<Keyring>,
    pub accounts: Arc<Accounts>,
    pub counters: Counters,
    pub registry: Arc<Registry>,
    /// Requests under way.
    pub requests: Arc<Budget>,
    /// Bytes of request bodies in memory.
    pub body_memory: Arc<Budget>,
    pub fault_hook: Option<FaultHook>,
    /// Answers what a key asks about itself.
    pub reports: Arc<dyn Reports>,
}

/// What a key may ask about itself and no worker knows.
pub trait Reports: Send + Sync {
    /// What the key has used, as JSON: by the parameters of the query.
    ///
    /// # Errors
    /// A faulty query, or a store that does not answer.
    fn usage(&self, key: &KeyId, query: &str) -> BoxFuture<Result<String, Error>>;
}

/// A future in a box, as a trait object must return it.
pub type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// How often failures of upstreams are told in the process log.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Requests that were refused before their limits were asked and are recorded, a second.
const REFUSALS_PER_SECOND: u32 = 100;

/// Pairs of key and route that a worker remembers the payer of.
const PAYERS_MAX: usize = 4096;

/// Something that all workers share, under a reference count of this worker's own: whoever clones the
/// `Rc` around it touches nothing that other workers touch.
pub(super) struct Kept<T>(Arc<T>);

impl<T> Kept<T> {
    fn new(shared: Arc<T>) -> Rc<Self> {
        Rc::new(Kept(shared))
    }

    /// What is kept.
    pub(super) fn shared(&self) -> &Arc<T> {
        &self.0
    }
}

/// By places of names.
type PlaceMap<K, V> = HashMap<K, V, BuildHasherDefault<PlaceHasher>>;

/// An account, with its name so that nothing else comes to lie in its place.
type KeptAccount = (AccountId, Rc<Kept<AccountCell>>);

/// Who pays for a key's use of a route.
pub(super) struct Payer {
    _key: KeyId,
    _alias: Alias,
    pub cell: Arc<AccountCell>,
    scopes: RefCell<Rc<Scopes>>,
    terms: RefCell<Rc<Kept<Terms>>>,
    /// The highest charge per unit, and until when that is known.
    ceiling: Cell<Option<(u64, Ceiling)>>,
}

/// How long the highest charge per unit is believed: prices can begin at any time.
const CEILING_MS: u64 = 1_000;

impl Payer {
    /// The scopes of the request within the account.
    pub(super) fn scopes(&self) -> Rc<Scopes> {
        self.scopes.borrow().clone()
    }

    /// The account's money terms.
    pub(super) fn terms(&self) -> Rc<Kept<Terms>> {
        self.terms.borrow().clone()
    }

    /// The highest charge per unit of a route for this account, found again now and then.
    pub(super) fn ceiling(&self, at_unix_ms: u64, find: impl FnOnce() -> Ceiling) -> Ceiling {
        match self.ceiling.get() {
            Some((since, ceiling)) if at_unix_ms.abs_diff(since) < CEILING_MS => ceiling,
            _ => {
                let ceiling = find();
                self.ceiling.set(Some((at_unix_ms, ceiling)));
                ceiling
            }
        }
    }

    fn refresh(&self, grant: &Grant) {
        if !self.scopes.borrow().is_stale(&self.cell) {
            return;
        }
        let mut scopes = Scopes::clone(&self.scopes.borrow());
        scopes.refresh(&self.cell, grant.limits.as_ref());
        self.scopes.replace(Rc::new(scopes));
        self.terms.replace(Kept::new(self.cell.terms()));
        self.ceiling.set(None);
    }
}

/// Spreads places in memory. They are the process's own: nobody outside can choose them.
#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_usize(usize::from(byte)));
    }

    fn write_usize(&mut self, place: usize) {
        // Fibonacci hashing; the low bits of a place are always zero.
        self.0 = (self.0.rotate_left(32) ^ place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// One generation, under a reference count of this worker's own: a request that holds it touches
/// nothing that other workers touch.
pub struct Generation(Arc<Snapshot>);

impl Generation {
    /// What the generation consists of.
    pub fn snapshot(&self) -> &Snapshot {
        &self.0
    }
}

/// Finds the present generation.
struct Generations {
    cache: arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    held: Rc<Generation>,
}

impl Generations {
    fn new(snapshot: &Arc<ArcSwap<Snapshot>>) -> Self {
        let mut cache = arc_swap::Cache::new(snapshot.clone());
        let held = Rc::new(Generation(cache.load().clone()));
        Generations { cache, held }
    }

    /// Goes over to the newest generation, if there is a newer one.
    fn advance(&mut self) -> bool {
        let newest = self.cache.load();
        if Arc::ptr_eq(newest, &self.held.0) {
            return false;
        }
        self.held = Rc::new(Generation(newest.clone()));
        true
    }
}

/// One worker's own.
pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub pools: Pools,
    pub(super) meter: Meter,
    pub(super) lane: Lane,
    pub(super) retries: RetryBudget,
    grants: RefCell<GrantCache>,
    payers: RefCell<PlaceMap<(usize, usize), Rc<Payer>>>,
    accounts: RefCell<PlaceMap<usize, KeptAccount>>,
    pub(super) running: Running,
    generations: RefCell<Generations>,
    rng: RefCell<SmallRng>,
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
    told_unpriced: Cell<Option<Instant>>,
    /// Since when, and how many refusals were recorded since.
    refusals: Cell<Option<(Instant, u32)>>,
    /// Header lists and output that are used within one poll.
    pub(super) headers: RefCell<Headers>,
    pub(super) out: RefCell<Vec<u8>>,
}

impl Worker {
    /// A worker of `workers`.
    pub fn new(
        index: usize,
        workers: usize,
        shared: Arc<Shared>,
        meter: Meter,
        lane: Lane,
    ) -> Rc<Worker> {
        Rc::new(Worker {
            index,
            pools: Pools::new(index, workers),
            meter,
            lane,
            retries: RetryBudget::default(),
            grants: RefCell::default(),
            payers: RefCell::default(),
            accounts: RefCell::default(),
            running: Running::default(),
            generations: RefCell::new(Generations::new(&shared.snapshot)),
            rng: RefCell::new(SmallRng::from_os_rng()),
            told: Cell::default(),
            untold: Cell::default(),
            told_unpriced: Cell::default(),
            refusals: Cell::default(),
            headers: RefCell::default(),
            out: RefCell::default(),
            shared,
        })
    }

    /// The present generation. Costs one load of a pointer that changes only with a reload; the
    /// shared reference count is touched once per reload and worker.
    pub fn generation(&self) -> Rc<Generation> {
        let mut generations = self.generations.borrow_mut();
        if generations.advance() {
            // Its routes have names of their own: what is remembered by the old ones is never
            // found again, and would only keep them.
            self.payers.borrow_mut().clear();
        }
        generations.held.clone()
    }

    /// The grant of a presented key.
    pub(super) fn grant(&self, presented: &[u8], now: Now) -> Option<Rc<Held>> {
        self.grants.borrow_mut().get(&self.shared.keyring, presented, now.unix_ms)
    }

    /// The account of a key.
    pub(super) fn account(&self, grant: &Grant) -> Rc<Kept<AccountCell>> {
        let mut accounts = self.accounts.borrow_mut();
        let at = Arc::as_ptr(&grant.account.0).cast::<u8>() as usize;
        if accounts.len() >= PAYERS_MAX && !accounts.contains_key(&at) {
            accounts.clear();
        }
        // The name is kept, so that nothing else can come to lie in its place.
        let (_, cell) = accounts.entry(at).or_insert_with(|| {
            (grant.account.clone(), Kept::new(self.shared.accounts.cell(&grant.account)))
        });
        cell.clone()
    }

    /// The account that pays for a request, with the scopes that the name of its model has: limits on
    /// that very name go before those on a pattern that it is served by.
    pub(super) fn payer_of(&self, grant: &Grant, alias: &Alias, asked: &str) -> Rc<Payer> {
        let payer = self.payer(grant, alias);
        if asked == alias.as_str() {
            return payer;
        }
        let names = names_of(grant, alias, Some(asked));
        let limits = grant.limits.as_ref();
        if !payer.cell.limits_model(&names, limits, asked) {
            return payer;
        }
        // Such names are the caller's: they are not remembered.
        let scopes = payer.cell.scopes(names, limits);
        Rc::new(Payer {
            _key: grant.key_id.clone(),
            _alias: alias.clone(),
            scopes: RefCell::new(Rc::new(scopes)),
            terms: RefCell::new(payer.terms()),
            ceiling: Cell::new(None),
            cell: payer.cell.clone(),
        })
    }

    /// The account that pays for a key's use of a route.
    fn payer(&self, grant: &Grant, alias: &Alias) -> Rc<Payer> {
        let mut payers = self.payers.borrow_mut();
        // Names are told apart by where they lie: an entry keeps them, so that nothing else can
        // come to lie there, and a look-up touches no shared reference count.
        let place = |text: &Arc<str>| Arc::as_ptr(text).cast::<u8>() as usize;
        let at = (place(&grant.key_id.0), place(&alias.0));
        if payers.len() >= PAYERS_MAX && !payers.contains_key(&at) {
            payers.clear();
        }
        let payer = payers.entry(at).or_insert_with(|| {
            let cell = self.shared.accounts.cell(&grant.account);
            let names = names_of(grant, alias, None);
            let scopes = cell.scopes(names, grant.limits.as_ref());
            Rc::new(Payer {
                _key: grant.key_id.clone(),
                _alias: alias.clone(),
                scopes: RefCell::new(Rc::new(scopes)),
                terms: RefCell::new(Kept::new(cell.terms())),
                ceiling: Cell::new(None),
                cell,
            })
        });
        payer.refresh(grant);
        payer.clone()
    }

    /// Says in the process log why an upstream failed: once a second, with the number of failures
    /// since, so that an outage does not drown the log.
    pub(super) fn tell_failure(&self, target: &Target, provider: &Provider, error: &Error) {
        let now = clock::instant();
        let due = self.told.get().is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
        self.untold.set(self.untold.get() + 1);
        if due {
            self.told.set(Some(now));
            let failures = self.untold.replace(0);
            let origin = &provider.origin.authority;
            let error = error.for_log();
            tracing::warn!(target_id = %target.id, %origin, %error, failures, "an upstream failed");
        }
    }

    /// Tells the operator that a soft budget is passed: once in its period.
    pub(super) fn tell_passed(&self, alert: &Alert, key: &str) {
        let Alert { scope, budget, spent_pico } = alert;
        let amount = format_pico(i128::try_from(budget.amount_pico).unwrap_or(i128::MAX));
        let spent = format_pico(i128::try_from(*spent_pico).unwrap_or(i128::MAX));
        let per = budget.period;
        tracing::warn!(%scope, %per, %amount, %spent, %key, "a soft budget is passed");
        self.shared.registry.soft_budget_passed();
    }

    /// Tells the operator of models without a price: once a second at most, because each of their
    /// requests is one.
    pub(super) fn tell_unpriced(&self, model: &str, key: &str, rate: Option<(Currency, Currency)>) {
        self.shared.registry.unpriced();
        let now = clock::instant();
        if self.told_unpriced.get().is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return;
        }
        self.told_unpriced.set(Some(now));
        match rate {
            Some((from, to)) => tracing::warn!(
                %model, %key, %from, %to,
                "the price of a model cannot be counted in the account's currency: its requests cost nothing; set a [[rate]], or `foretoken rates create`"
            ),
            None => tracing::warn!(
                %model, %key,
                "a model without a price was used: its requests cost nothing; set a [[price]], or unpriced = \"refuse\""
            ),
        }
    }

    /// A fresh request id.
    pub(super) fn request_id(&self, now: Now) -> RequestId {
        let mut rng = self.rng.borrow_mut();
        let random = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        RequestId::new(now.unix_ms, random)
    }

    /// Whether one more refusal may be recorded in this second.
    pub(super) fn may_record_refusal(&self, now: Instant) -> bool {
        let (since, count) = match self.refusals.get() {
            Some((since, count)) if now.saturating_duration_since(since) < TELL_EVERY => {
                (since, count)
            }
            _ => (now, 0),
        };
        self.refusals.set(Some((since, count.saturating_add(1))));
        count < REFUSALS_PER_SECOND
    }

    /// Wakes the requests whose key was blocked at once, so that they end.
    pub fn wake_ended(&self) {
        self.running.wake_ended();
    }

    /// Lends the random source.
    pub(super) fn with_rng<R>(&self, f: impl FnOnce(&mut SmallRng) -> R) -> R {
        f(&mut self.rng.borrow_mut())
    }
}

fn names_of(grant: &Grant, alias: &Alias, asked: Option<&str>) -> ScopeNames {
    ScopeNames {
        asked: asked.map(Into::into),
        project: grant.project.clone(),
        user: grant.user.clone(),
        key: grant.key_id.clone(),
        model: Some(alias.clone()),
    }
}

/// Retries are a fifth of requests and a few at any time, so that an outage does not multiply the
/// load. Kept per worker.
pub(super) struct RetryBudget {
    earned: Cell<f64>,
    /// The always-allowed part, refilled once a second.
    base: Cell<u32>,
    refilled: Cell<Option<Instant>>,
}

/// Earned retries do not pile up beyond this.
const EARNED_MAX: f64 = 1000.0;

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { earned: Cell::new(0.0), base: Cell::new(0), refilled: Cell::new(None) }
    }
}

impl RetryBudget {
    /// A request came.
    pub(super) fn earn(&self, ratio: f64) {
        self.earned.set((self.earned.get() + ratio).min(EARNED_MAX));
    }

    /// Whether one more retry fits.
    pub(super) fn spend(&self, now: Instant, per_second: u32) -> bool {
        let due = self
            .refilled
            .get()
            .is_none_or(|at| now.saturating_duration_since(at).as_secs_f64() >= 1.0);
        if due {
            self.refilled.set(Some(now));
            self.base.set(per_second);
        }
        if self.earned.get() >= 1.0 {
            self.earned.set(self.earned.get() - 1.0);
            true
        } else if self.base.get() > 0 {
            self.base.set(self.base.get() - 1);
            true
        } else {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_follow_the_requests_with_a_few_to_spare() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let spent = |at| (0..100).filter(|_| budget.spend(at, 10)).count();
        assert_eq!(spent(now), 10);
        (0..100).for_each(|_| budget.earn(0.2));
        assert!((19..=20).contains(&spent(now)));
        assert_eq!(spent(now), 0);
        assert_eq!(spent(now + Duration::from_secs(1)), 10);
    }
}
