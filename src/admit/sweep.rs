//! Slots that nobody would miss are dropped: of a million keys with limits only those take memory
//! here that were used lately or have something spent.

use super::books::{ACCOUNT, Books};
use super::cell::{AccountCell, Accounts};
use super::scope::{Scope, ScopeKind};
use super::slot::{At, Slot};
use crate::clock::Now;

/// Slots looked at before the lock is let go.
const STEP: usize = 32;

impl Accounts {
    /// Drops what is idle: slots without a running request, with empty windows, and with nothing
    /// spent in a budget's present period. To be done now and then (every minute, say), but not more
    /// often than grants may be out of date: it also forgets what was edited before the last sweep.
    pub fn sweep(&self, now: Now) {
        for (_, cell) in self.each() {
            cell.sweep(now);
        }
    }
}

impl AccountCell {
    /// [`Accounts::sweep`] for one account. The lock is let go every few slots.
    pub fn sweep(&self, now: Now) {
        self.books().begin_sweep();
        // Slots that are made meanwhile are not idle, and may wait for the next sweep.
        let steps = self.books().slots.len().div_ceil(STEP);
        for _ in 0..steps {
            self.change(Some(now), |books| books.sweep_step());
        }
    }
}

impl Books {
    fn begin_sweep(&mut self) {
        self.swept = ACCOUNT + 1;
        // Those before are older than a sweep.
        self.edits[1] = std::mem::take(&mut self.edits[0]);
    }

    fn sweep_step(&mut self) {
        let end = (self.swept + STEP).min(self.slots.len());
        let mut is_changed = false;
        for place in self.swept..end {
            is_changed |= self.sweep_slot(place);
        }
        self.swept = end;
        if is_changed {
            self.generation += 1;
        }
    }

    fn sweep_slot(&mut self, place: usize) -> bool {
        let scope = self.slots[place].scope.clone();
        // Free places bear the name of a scope that is elsewhere, or nowhere.
        if self.index.get(&scope) != Some(&(place as u32)) {
            return false;
        }
        let at = self.at;
        if scope.kind != ScopeKind::Key {
            let is_idle = self.slots[place].is_idle(at);
            if is_idle {
                self.drop_slot(&scope);
            }
            return is_idle;
        }
        // A key goes as a whole: its limits hang on the slot for all models.
        if scope.model.is_some() || !self.is_key_idle(&scope, at) {
            return false;
        }
        for scope in self.key_scopes(&scope) {
            self.drop_slot(&scope);
        }
        self.sets.remove(&scope);
        true
    }

    fn is_key_idle(&mut self, key: &Scope, at: At) -> bool {
        let places = self.key_scopes(key).into_iter().filter_map(|scope| self.index.get(&scope));
        let places: Vec<usize> = places.map(|&place| place as usize).collect();
        places.into_iter().all(|place| self.slots[place].is_idle(at))
    }

    /// The key for all models and for each that may have a slot.
    fn key_scopes(&self, key: &Scope) -> Vec<Scope> {
        let models = self.sets.get(key).into_iter().flat_map(|set| set.models.keys());
        let of_models = models.map(|model| key.of_model(&model.as_str().into()));
        of_models.chain([key.clone()]).collect()
    }

    fn drop_slot(&mut self, scope: &Scope) {
        if let Some(place) = self.index.remove(scope) {
            self.slots[place as usize] = Slot::new(scope.clone());
            self.free.push(place);
        }
    }
}
