//! All limits of one account behind one lock, so that a reservation is one step over all scopes and
//! no lock is shared between accounts. The lock is held well under a microsecond and never across
//! an await. Who is to be woken is woken when it is free again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use dashmap::DashMap;

use super::books::{Books, Wakers};
use super::permit::{Alerts, Extended, Held, Permit};
use super::refusal::Refusal;
use super::scope::{Scope, ScopeKind, ScopeNames, Slots};
use super::shed::Share;
use super::terms::{Actual, Ask, Terms};
use crate::clock::Now;
use crate::ident::AccountId;
use crate::limits::LimitSet;

/// The cells of all accounts.
#[derive(Default, Debug)]
pub struct Accounts {
    cells: DashMap<AccountId, Arc<AccountCell>>,
}

impl Accounts {
    /// The cell of an account, made when it is first asked for. Callers keep it with the key's
    /// grant.
    pub fn cell(&self, account: &AccountId) -> Arc<AccountCell> {
        if let Some(cell) = self.cells.get(account) {
            return cell.clone();
        }
        self.cells.entry(account.clone()).or_default().clone()
    }

    /// All cells, in the order of their accounts. Slow.
    pub fn each(&self) -> Vec<(AccountId, Arc<AccountCell>)> {
        let cells = self.cells.iter().map(|cell| (cell.key().clone(), cell.value().clone()));
        let mut cells: Vec<_> = cells.collect();
        cells.sort_by(|a, b| a.0.cmp(&b.0));
        cells
    }
}

/// One paying account.
#[derive(Default, Debug)]
pub struct AccountCell {
    books: Mutex<Books>,
    /// The books' generation, to be read without the lock: then it costs time to be wrong, nothing
    /// else, for it is compared again under it.
    generation: AtomicU64,
    requests: Arc<Share>,
    body_memory: Arc<Share>,
}

/// Who asks, with the places found beforehand. To be kept per worker for each key and model. It
/// may be out of date: then it costs time, not correctness.
#[derive(Clone, Debug)]
pub struct Scopes {
    pub(super) names: Arc<ScopeNames>,
    pub(super) key_limits: Option<Arc<LimitSet>>,
    pub(super) slots: Slots,
    pub(super) generation: u64,
}

impl Scopes {
    /// Whether finding the places anew would save time from now on.
    pub fn is_stale(&self, cell: &AccountCell) -> bool {
        self.generation != cell.generation.load(Ordering::Acquire)
    }

    /// Finds the places anew, with what the key's grant says of its limits by now.
    pub fn refresh(&mut self, cell: &AccountCell, key_limits: Option<&Arc<LimitSet>>) {
        *self = cell.scopes_of(self.names.clone(), key_limits);
    }
}

/// Reserves `ask` and a place among the parallel requests in all scopes at once, or in none and says
/// why: however many requests ask at the same time, no limit is passed.
///
/// # Errors
/// The limit that takes longest to have room. [`AccountCell::wait`] may wait for it.
pub fn admit(
    cell: &Arc<AccountCell>,
    scopes: &Scopes,
    ask: Ask,
    now: Now,
) -> Result<Permit, Refusal> {
    let mut wakers = Wakers::new();
    let admitted = {
        let mut books = cell.books();
        let at = books.tick(now);
        if books.queue.is_empty() {
            let slots = books.slots_of(scopes);
            books.admit(&slots, ask, at)
        } else {
            wakers = books.serve(at);
            match books.queue.reason(&scopes.names.key) {
                // Its own key's line is before it.
                Some(refusal) => Err(refusal.clone()),
                None => {
                    let slots = books.slots_of(scopes);
                    books.admit(&slots, ask, at)
                }
            }
        }
    };
    wakers.into_iter().for_each(Waker::wake);
    admitted.map(|held| Permit::new(cell.clone(), held))
}

impl AccountCell {
    /// What the account has agreed to.
    pub fn terms(&self) -> Arc<Terms> {
        self.books().terms.clone()
    }

    /// Changes what the account has agreed to. What is spent stays, also with another balance; with
    /// another time zone it counts in the period of that zone that is now.
    pub fn set_terms(&self, terms: Terms) {
        self.change(None, |books| {
            let is_moved = books.terms.time_zone != terms.time_zone;
            books.terms = Arc::new(terms);
            books.set_limits(super::books::ACCOUNT);
            if is_moved {
                let budgets = books.slots.iter_mut().flat_map(|slot| &mut slot.budgets);
                budgets.for_each(super::budget::Budget::forget_window);
            }
            books.generation += 1;
        });
    }

    /// The scopes of a request, to be kept for the next ones. `key_limits` are those that the key's
    /// grant carries: they hold from the key's first request on, until newer ones come.
    pub fn scopes(
        self: &Arc<Self>,
        names: ScopeNames,
        key_limits: Option<&Arc<LimitSet>>,
    ) -> Scopes {
        self.scopes_of(Arc::new(names), key_limits)
    }

    /// Sets or takes away the limits of the account (whose name is empty), of a project, user or
    /// key. What counts already, what is spent and the windows stay; a limit that is below it
    /// refuses until there is room. A limit counts from now on: see [`AccountCell::restore`].
    ///
    /// Of a key only the change has to be told, if it is in use or will be: the rest comes with its
    /// grant, and grants that are still about may be older.
    pub fn set_limits(&self, kind: ScopeKind, name: &str, limits: Option<Arc<LimitSet>>, now: Now) {
        self.change(Some(now), |books| {
            let scope = Scope::all(kind, name);
            if kind == ScopeKind::Key {
                books.edits[0].insert(scope.name.clone(), limits.clone());
                // Limits of keys that have no slot come with their grants.
                if !books.index.contains_key(&scope) {
                    books.generation += 1;
                    return;
                }
            }
            books.apply(&scope, limits.filter(|set| !set.says_nothing()));
        });
    }

    /// The account's share of the requests under way.
    pub fn requests_share(&self) -> &Arc<Share> {
        &self.requests
    }

    /// The account's share of the memory for request bodies.
    pub fn body_share(&self) -> &Arc<Share> {
        &self.body_memory
    }

    fn scopes_of(&self, names: Arc<ScopeNames>, key_limits: Option<&Arc<LimitSet>>) -> Scopes {
        let mut books = self.books();
        let before = books.generation;
        let slots = books.find(&names, key_limits);
        let generation = books.generation;
        if generation != before {
            self.generation.store(generation, Ordering::Release);
        }
        Scopes { names, key_limits: key_limits.cloned(), slots, generation }
    }

    /// Changes something, and serves those who wait if that made room.
    pub(super) fn change<T>(&self, now: Option<Now>, change: impl FnOnce(&mut Books) -> T) -> T {
        let (done, wakers) = {
            let mut books = self.books();
            let at = now.map_or(books.at, |now| books.tick(now));
            let done = change(&mut books);
            self.generation.store(books.generation, Ordering::Release);
            (done, books.serve(at))
        };
        wakers.into_iter().for_each(Waker::wake);
        done
    }

    pub(super) fn extend(&self, held: &mut Held, extra: &Ask, now: Now) -> Extended {
        let mut books = self.books();
        let at = books.tick(now);
        books.extend(held, extra, at)
    }

    /// Ends a request. Without a time, at the latest that is known.
    pub(super) fn settle(&self, held: &Held, actual: &Actual, now: Option<Now>) -> Alerts {
        let (alerts, wakers) = {
            let mut books = self.books();
            let at = now.map_or(books.at, |now| books.tick(now));
            (books.settle(held, actual, at), books.serve(at))
        };
        wakers.into_iter().for_each(Waker::wake);
        alerts
    }

    /// A poisoned lock is taken over: the numbers behind it are changed in whole steps, and an
    /// account whose requests all fail would be worse than one that is wrong by a request.
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// The places of a request, found anew if they are out of date.
    pub(super) fn slots_of(&mut self, scopes: &Scopes) -> Slots {
        match scopes.generation == self.generation {
            true => scopes.slots,
            false => self.find(&scopes.names, scopes.key_limits.as_ref()),
        }
    }
}
