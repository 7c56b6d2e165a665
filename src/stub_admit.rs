//! temporary
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
pub struct Budget { limit: AtomicU64, used: AtomicU64 }
pub struct Taken { budget: Arc<Budget>, amount: u64 }
impl Budget {
    pub fn new(limit: u64) -> Arc<Budget> { Arc::new(Budget { limit: limit.into(), used: 0.into() }) }
    pub fn set_limit(&self, l: u64) { self.limit.store(l, Relaxed) }
    pub fn limit(&self) -> u64 { self.limit.load(Relaxed) }
    pub fn used(&self) -> u64 { self.used.load(Relaxed) }
    fn take(&self, n: u64) -> bool { let b = self.used.fetch_add(n, Relaxed); if b + n > self.limit() { self.used.fetch_sub(n, Relaxed); false } else { true } }
    pub fn try_take(self: &Arc<Self>, n: u64) -> Option<Taken> { self.take(n).then(|| Taken { budget: self.clone(), amount: n }) }
}
impl Taken { pub fn amount(&self) -> u64 { self.amount } pub fn grow(&mut self, n: u64) -> bool { let ok = self.budget.take(n); if ok { self.amount += n } ok } }
impl Drop for Taken { fn drop(&mut self) { self.budget.used.fetch_sub(self.amount, Relaxed); } }
#[derive(Default)] pub struct Accounts;
impl Accounts { pub fn new() -> Self { Accounts } }
