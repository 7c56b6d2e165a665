//! All limits of one account behind one lock, so that a reservation is one step over all scopes and
//! no lock is shared between accounts. The lock is held well under a microsecond and never across
//! an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dashmap::DashMap;

use super::limits::{self, Limits, Refusal, Scope, ScopeKind};
use super::permit::{Ask, Permit};
use crate::ident::{AccountId, Alias, KeyId, ProjectId};

/// Account, project, user and key, each for all models and for one.
const SCOPES_MAX: usize = 8;

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

    /// The figures of every scope of every account, in order. Slow.
    pub fn figures(&self) -> Vec<(AccountId, Vec<Figures>)> {
        let mut all: Vec<_> =
            self.cells.iter().map(|cell| (cell.key().clone(), cell.figures())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// One paying account.
#[derive(Default, Debug)]
pub struct AccountCell {
    books: Mutex<Books>,
    /// Raised when limits of a model are set or taken away: then it has to be found out anew which
    /// scopes a request has.
    generation: AtomicU64,
}

#[derive(Default, Debug)]
struct Books {
    index: HashMap<Scope, u32>,
    slots: Vec<Slot>,
    /// Any slot has a limit. Without one a request needs no check.
    is_limited: bool,
}

#[derive(Debug)]
struct Slot {
    scope: Scope,
    tally: limits::Tally,
    last_admitted: Option<Instant>,
}

/// Who asks, within an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScopeNames {
    pub project: ProjectId,
    pub user: Option<Arc<str>>,
    pub key: KeyId,
    /// The model that is asked for.
    pub model: Option<Alias>,
}

/// Who asks, with the places found beforehand. To be kept per worker for each key and model. It
/// may be out of date: then it costs time, not correctness.
#[derive(Clone, Debug)]
pub struct Scopes {
    names: Arc<ScopeNames>,
    slots: Slots,
    generation: u64,
}

impl Scopes {
    /// Whether finding the places anew would save time from now on.
    pub fn is_stale(&self, cell: &AccountCell) -> bool {
        self.generation != cell.generation.load(Ordering::Acquire)
    }

    /// Finds the places anew.
    pub fn refresh(&mut self, cell: &AccountCell) {
        *self = cell.scopes_of(self.names.clone());
    }
}

/// Places in a cell's list. The first is the account.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Slots {
    at: [u32; SCOPES_MAX],
    len: u8,
}

impl Slots {
    fn push(&mut self, at: u32) {
        self.at[usize::from(self.len)] = at;
        self.len += 1;
    }

    fn as_slice(&self) -> &[u32] {
        &self.at[..usize::from(self.len)]
    }
}

/// What a scope has taken and spent, to be shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figures {
    pub scope: Scope,
    pub limits: Limits,
    /// Requests that run now.
    pub parallel: u64,
    pub reserved_tokens: u64,
    pub reserved_cost_pico: u128,
    pub spent_tokens: u64,
    pub spent_cost_pico: u128,
    pub last_admitted: Option<Instant>,
}

/// Reserves `ask` and a place among the parallel requests in all scopes at once, or in none and says
/// why: however many requests ask at the same time, no limit is passed.
pub fn admit(
    cell: &Arc<AccountCell>,
    scopes: &Scopes,
    ask: Ask,
    now: Instant,
) -> Result<Permit, Refusal> {
    let slots = match scopes.is_stale(cell) {
        false => scopes.slots,
        true => cell.scopes_of(scopes.names.clone()).slots,
    };
    let mut books = cell.books();
    books.take(&slots, 1, &ask)?;
    for &at in slots.as_slice() {
        books.slots[at as usize].last_admitted = Some(now);
    }
    drop(books);
    Ok(Permit::new(cell.clone(), slots, ask))
}

impl AccountCell {
    /// The scopes of a request, to be kept for the next ones.
    pub fn scopes(&self, names: ScopeNames) -> Scopes {
        self.scopes_of(Arc::new(names))
    }

    /// Sets the limits of a scope. What is taken and spent stays; a limit that is below it refuses
    /// until there is room. The first limit for one model counts from now on only: before, nobody
    /// told that model apart.
    pub fn set_limits(&self, scope: Scope, limits: Limits) {
        let mut books = self.books();
        let is_of_model = scope.model.is_some();
        let at = books.place(scope) as usize;
        books.slots[at].tally.limits = limits;
        books.is_limited = books.slots.iter().any(|slot| slot.tally.limits != Limits::default());
        if is_of_model {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// What every scope has taken and spent, in order. Slow.
    pub fn figures(&self) -> Vec<Figures> {
        let books = self.books();
        let mut figures: Vec<_> = books.slots.iter().map(Slot::figures).collect();
        drop(books);
        figures.sort_by(|a, b| a.scope.cmp(&b.scope));
        figures
    }

    fn scopes_of(&self, names: Arc<ScopeNames>) -> Scopes {
        let generation = self.generation.load(Ordering::Acquire);
        let mut slots = Slots::default();
        let mut books = self.books();
        for (kind, name) in names.each() {
            let all = Scope { kind, name: name.to_owned(), model: None };
            slots.push(books.place(all.clone()));
            // A model is only told apart where somebody set a limit on it: callers can invent
            // models, and each would take memory.
            if let Some(model) = &names.model {
                let one = Scope { model: Some(model.to_string()), ..all };
                if let Some(&at) = books.index.get(&one) {
                    slots.push(at);
                }
            }
        }
        drop(books);
        Scopes { names, slots, generation }
    }

    /// Takes from all places or from none.
    pub(super) fn take(&self, slots: &Slots, requests: u64, ask: &Ask) -> Result<(), Refusal> {
        self.books().take(slots, requests, ask)
    }

    /// Ends a request.
    pub(super) fn give_back(&self, slots: &Slots, held: &Ask, spent: &Ask) {
        let mut books = self.books();
        for &at in slots.as_slice() {
            books.slots[at as usize].tally.give_back(1, held, spent);
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScopeNames {
    fn each(&self) -> impl Iterator<Item = (ScopeKind, &str)> {
        [
            Some((ScopeKind::Account, "")),
            Some((ScopeKind::Project, self.project.as_str())),
            self.user.as_deref().map(|user| (ScopeKind::User, user)),
            Some((ScopeKind::Key, self.key.as_str())),
        ]
        .into_iter()
        .flatten()
    }
}

impl Books {
    fn take(&mut self, slots: &Slots, requests: u64, ask: &Ask) -> Result<(), Refusal> {
        if self.is_limited {
            for &at in slots.as_slice() {
                let slot = &self.slots[at as usize];
                if let Some((limit, amount, used)) = slot.tally.refuses(requests, ask) {
                    return Err(Refusal { scope: slot.scope.clone(), limit, amount, used });
                }
            }
        }
        for &at in slots.as_slice() {
            self.slots[at as usize].tally.take(requests, ask);
        }
        Ok(())
    }

    fn place(&mut self, scope: Scope) -> u32 {
        if let Some(&at) = self.index.get(&scope) {
            return at;
        }
        let at = self.slots.len() as u32;
        self.index.insert(scope.clone(), at);
        let tally = limits::Tally::default();
        self.slots.push(Slot { scope, tally, last_admitted: None });
        at
    }
}

impl Slot {
    fn figures(&self) -> Figures {
        Figures {
            scope: self.scope.clone(),
            limits: self.tally.limits,
            parallel: self.tally.parallel,
            reserved_tokens: self.tally.reserved_tokens,
            reserved_cost_pico: self.tally.reserved_cost_pico,
            spent_tokens: self.tally.spent_tokens,
            spent_cost_pico: self.tally.spent_cost_pico,
            last_admitted: self.last_admitted,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admit::LimitKind;
    use crate::clock;

    fn names(project: &str, key: &str) -> ScopeNames {
        let (project, key) = (project.into(), key.into());
        ScopeNames { project, user: Some("u".into()), key, model: Some("m".into()) }
    }

    fn scope(kind: ScopeKind, name: &str, model: Option<&str>) -> Scope {
        Scope { kind, name: name.to_owned(), model: model.map(str::to_owned) }
    }

    fn tokens(tokens: u64) -> Ask {
        Ask { tokens, cost_pico: 0 }
    }

    #[test]
    fn a_refusal_names_the_limit_and_takes_nothing() {
        let cell = Arc::new(AccountCell::default());
        let limits = Limits { tokens: Some(100), ..Limits::default() };
        cell.set_limits(scope(ScopeKind::Key, "k", None), limits);
        let scopes = cell.scopes(names("p", "k"));
        let now = clock::instant();
        let permit = admit(&cell, &scopes, tokens(60), now).expect("room");
        let before = cell.figures();
        let refusal = admit(&cell, &scopes, tokens(41), now).expect_err("no room");
        assert_eq!(refusal.scope, scope(ScopeKind::Key, "k", None));
        assert_eq!((refusal.limit, refusal.amount, refusal.used), (LimitKind::Tokens, 100, 60));
        assert_eq!(refusal.to_string(), "limit tokens of the key has no room: 60 of 100 are taken");
        assert_eq!(cell.figures(), before, "also the scopes before the refusing one are as before");
        let exactly_full = admit(&cell, &scopes, tokens(40), now).expect("equality admits");
        drop(exactly_full);
        permit.settle(tokens(100));
        admit(&cell, &scopes, tokens(1), now).expect_err("spent counts as well as reserved");
        let _free = admit(&cell, &scopes, tokens(0), now).expect("asks for nothing more");
    }

    #[test]
    fn a_stream_that_grows_is_held_to_the_limit_and_what_it_used_is_booked() {
        let cell = Arc::new(AccountCell::default());
        let limits = Limits { cost_pico: Some(10), ..Limits::default() };
        cell.set_limits(scope(ScopeKind::Account, "", None), limits);
        let scopes = cell.scopes(names("p", "k"));
        let cost = |cost_pico| Ask { tokens: 0, cost_pico };
        let mut permit = admit(&cell, &scopes, cost(6), clock::instant()).expect("room");
        permit.extend(cost(4)).expect("room");
        assert_eq!(permit.extend(cost(1)).expect_err("full").limit, LimitKind::Cost);
        assert_eq!(permit.held(), cost(10));
        permit.settle(cost(13));
        for figures in cell.figures() {
            let Figures { parallel, reserved_cost_pico, spent_cost_pico, .. } = figures;
            assert_eq!((parallel, reserved_cost_pico, spent_cost_pico), (0, 0, 13));
        }
    }

    #[test]
    fn limits_that_change_hold_at_once_also_for_scopes_found_before() {
        let cell = Arc::new(AccountCell::default());
        let mut scopes = cell.scopes(names("p", "k"));
        let now = clock::instant();
        let _one = admit(&cell, &scopes, Ask::default(), now).expect("no limit");
        let limits = Limits { parallel: Some(1), ..Limits::default() };
        cell.set_limits(scope(ScopeKind::Project, "p", None), limits);
        admit(&cell, &scopes, Ask::default(), now).expect_err("one runs already");
        cell.set_limits(scope(ScopeKind::Project, "p", None), Limits::default());

        cell.set_limits(scope(ScopeKind::Key, "k", Some("m")), limits);
        assert!(scopes.is_stale(&cell));
        let _two = admit(&cell, &scopes, Ask::default(), now).expect("the first of this limit");
        let refusal = admit(&cell, &scopes, Ask::default(), now).expect_err("a limit of the model");
        assert_eq!(refusal.scope.model.as_deref(), Some("m"));
        scopes.refresh(&cell);
        assert!(!scopes.is_stale(&cell));
        admit(&cell, &scopes, Ask::default(), now).expect_err("the same after a refresh");
    }

    #[test]
    fn accounts_share_nothing() {
        let accounts = Accounts::default();
        let (a, b) = (accounts.cell(&"a".into()), accounts.cell(&"b".into()));
        assert!(Arc::ptr_eq(&a, &accounts.cell(&"a".into())));
        let limits = Limits { parallel: Some(0), ..Limits::default() };
        a.set_limits(scope(ScopeKind::Account, "", None), limits);
        let (in_a, in_b) = (a.scopes(names("p", "k")), b.scopes(names("p", "k")));
        admit(&a, &in_a, Ask::default(), clock::instant()).expect_err("closed");
        let _permit = admit(&b, &in_b, Ask::default(), clock::instant()).expect("open");
        let running: Vec<_> = accounts
            .figures()
            .into_iter()
            .map(|(account, figures)| (account.to_string(), figures[0].parallel))
            .collect();
        assert_eq!(running, [("a".to_owned(), 0), ("b".to_owned(), 1)]);
    }

    #[test]
    fn ten_thousand_callers_on_the_last_dollar_let_one_through() {
        let cell = Arc::new(AccountCell::default());
        let limits = Limits { cost_pico: Some(1_000), ..Limits::default() };
        cell.set_limits(scope(ScopeKind::Account, "", None), limits);
        let admitted: usize = std::thread::scope(|threads| {
            let asking: Vec<_> = (0..8)
                .map(|thread| {
                    let cell = &cell;
                    threads.spawn(move || {
                        let scopes = cell.scopes(names("p", &format!("k{thread}")));
                        let ask = Ask { tokens: 0, cost_pico: 501 };
                        let permits: Vec<_> = (0..1250)
                            .filter_map(|_| admit(cell, &scopes, ask, clock::instant()).ok())
                            .collect();
                        let count = permits.len();
                        permits.into_iter().for_each(|permit| permit.settle(ask));
                        count
                    })
                })
                .collect();
            asking.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(admitted, 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit { who: usize, ask: Ask },
        Extend { permit: usize, ask: Ask },
        Settle { permit: usize, actual: Ask },
        Drop { permit: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ask =
            || (0u64..50, 0u128..50).prop_map(|(tokens, cost_pico)| Ask { tokens, cost_pico });
        let step = prop_oneof![
            3 => (0..4usize, ask()).prop_map(|(who, ask)| Step::Admit { who, ask }),
            1 => (any::<usize>(), ask()).prop_map(|(permit, ask)| Step::Extend { permit, ask }),
            1 => (any::<usize>(), ask())
                .prop_map(|(permit, actual)| Step::Settle { permit, actual }),
            1 => any::<usize>().prop_map(|permit| Step::Drop { permit }),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// Whatever the order of events: no limit is passed by a reservation, the figures are the
        /// sums of what is held, and nothing stays behind.
        #[test]
        fn reservations_add_up(steps in steps(), parallel in 1u64..6, most in 50u64..300) {
            let cell = Arc::new(AccountCell::default());
            let of_account = Limits { parallel: Some(parallel), ..Limits::default() };
            let of_project =
                Limits { tokens: Some(most), cost_pico: Some(most.into()), parallel: None };
            cell.set_limits(scope(ScopeKind::Account, "", None), of_account);
            cell.set_limits(scope(ScopeKind::Project, "p1", None), of_project);
            let who: Vec<_> = [("p1", "a"), ("p1", "b"), ("p2", "c"), ("p2", "d")]
                .map(|(project, key)| cell.scopes(names(project, key)))
                .into();
            let mut permits: Vec<(usize, Permit)> = Vec::new();
            let mut spent = 0;
            let now = clock::instant();
            for step in steps {
                match step {
                    Step::Admit { who: at, ask } => {
                        if let Ok(permit) = admit(&cell, &who[at], ask, now) {
                            permits.push((at, permit));
                        }
                    }
                    _ if permits.is_empty() => {}
                    Step::Extend { permit, ask } => {
                        let at = permit % permits.len();
                        let before = permits[at].1.held();
                        if permits[at].1.extend(ask).is_err() {
                            prop_assert_eq!(permits[at].1.held(), before);
                        }
                    }
                    Step::Settle { permit, actual } => {
                        let (who, permit) = permits.swap_remove(permit % permits.len());
                        // No more than was held: an overrun may pass a limit, and is booked.
                        let tokens = actual.tokens.min(permit.held().tokens);
                        spent += if who < 2 { tokens } else { 0 };
                        permit.settle(Ask { tokens, cost_pico: 0 });
                    }
                    Step::Drop { permit } => drop(permits.swap_remove(permit % permits.len())),
                }
                prop_assert!(permits.len() as u64 <= parallel);
                let held = |of: &dyn Fn(usize) -> bool| -> u64 {
                    permits.iter().filter(|(at, _)| of(*at)).map(|(_, it)| it.held().tokens).sum()
                };
                prop_assert!(spent + held(&|at| at < 2) <= most);
                for figures in cell.figures() {
                    match (figures.scope.kind, figures.scope.name.as_str()) {
                        (ScopeKind::Account, _) => {
                            prop_assert_eq!(figures.parallel, permits.len() as u64);
                            prop_assert_eq!(figures.reserved_tokens, held(&|_| true));
                        }
                        (ScopeKind::Project, "p1") => {
                            prop_assert_eq!(figures.spent_tokens, spent);
                            prop_assert_eq!(figures.reserved_tokens, held(&|at| at < 2));
                        }
                        (ScopeKind::Key, "c") => {
                            prop_assert_eq!(figures.reserved_tokens, held(&|at| at == 2));
                        }
                        _ => {}
                    }
                }
            }
            drop(permits);
            for figures in cell.figures() {
                let Figures { parallel, reserved_tokens, reserved_cost_pico, .. } = figures;
                prop_assert_eq!((parallel, reserved_tokens, reserved_cost_pico), (0, 0, 0));
            }
        }
    }
}
