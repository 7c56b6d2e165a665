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

use crate::admit::{AccountCell, Accounts, Budget, ScopeNames, Scopes};
use crate::auth::{Grant, GrantCache, Held, Keyring};
use crate::clock::{self, Now};
use crate::error::Error;
use crate::ident::RequestId;
use crate::ident::{Alias, KeyId};
use crate::meter::{Counters, Meter};
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
    pub keyring: Keyring,
    pub accounts: Accounts,
    pub counters: Counters,
    pub registry: Arc<Registry>,
    /// Requests under way.
    pub requests: Arc<Budget>,
    /// Bytes of request bodies in memory.
    pub body_memory: Arc<Budget>,
    pub fault_hook: Option<FaultHook>,
}

/// How often failures of upstreams are told in the process log.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Pairs of key and route that a worker remembers the payer of.
const PAYERS_MAX: usize = 4096;

/// Who pays for a key's use of a route.
struct Payer {
    _key: KeyId,
    _alias: Alias,
    cell: Arc<AccountCell>,
    scopes: Scopes,
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
    payers: RefCell<HashMap<(usize, usize), Payer, BuildHasherDefault<PlaceHasher>>>,
    generations: RefCell<Generations>,
    rng: RefCell<SmallRng>,
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
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
            generations: RefCell::new(Generations::new(&shared.snapshot)),
            rng: RefCell::new(SmallRng::from_os_rng()),
            told: Cell::default(),
            untold: Cell::default(),
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
    pub(super) fn grant(&self, presented: &[u8]) -> Option<Rc<Held>> {
        self.grants.borrow_mut().get(&self.shared.keyring, presented)
    }

    /// Calls `f` with the account that pays for a key's use of a route, and with its scopes there.
    pub(super) fn with_payer<R>(
        &self,
        grant: &Grant,
        alias: &Alias,
        f: impl FnOnce(&Arc<AccountCell>, &Scopes) -> R,
    ) -> R {
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
            let scopes = cell.scopes(ScopeNames {
                project: grant.project.clone(),
                user: grant.user.clone(),
                key: grant.key_id.clone(),
                model: Some(alias.clone()),
            });
            Payer { _key: grant.key_id.clone(), _alias: alias.clone(), cell, scopes }
        });
        if payer.scopes.is_stale(&payer.cell) {
            payer.scopes.refresh(&payer.cell);
        }
        f(&payer.cell, &payer.scopes)
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

    /// A fresh request id.
    pub(super) fn request_id(&self, now: Now) -> RequestId {
        let mut rng = self.rng.borrow_mut();
        let random = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        RequestId::new(now.unix_ms, random)
    }

    /// Lends the random source.
    pub(super) fn with_rng<R>(&self, f: impl FnOnce(&mut SmallRng) -> R) -> R {
        f(&mut self.rng.borrow_mut())
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
