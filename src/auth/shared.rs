//! One copy of what many grants have in common.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::grant::{Aliases, Cidr};
use crate::limits::LimitSet;

/// A list of names, shared by all grants that have the same.
pub type Names = Arc<[Arc<str>]>;

/// How many values are kept before it is asked which of them are still in use.
const SWEEP_MIN: usize = 1024;

/// Finds the copy that there is. With a million keys of ten projects that all allow `*`, the names and
/// lists then take no room worth mentioning. What no grant uses any more goes, sooner or later: never
/// more than twice of what is in use is kept.
#[derive(Default, Debug)]
pub struct Shared {
    texts: Pool<Arc<str>>,
    lists: Pool<Names>,
    cidrs: Pool<Arc<[Cidr]>>,
    aliases: BTreeSet<Arc<Aliases>>,
    limits: HashSet<Arc<LimitSet>>,
    /// How often limits were looked for that nobody else has.
    limits_missed: usize,
}

impl Shared {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A text, in one copy.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        self.texts.one(text, |arc| Arc::strong_count(arc) > 1)
    }

    /// A list of names, in one copy, as are the names.
    pub fn names<S: AsRef<str>>(&mut self, names: &[S]) -> Names {
        let names: Vec<Arc<str>> = names.iter().map(|name| self.text(name.as_ref())).collect();
        self.lists.one(names.as_slice(), |arc| Arc::strong_count(arc) > 1)
    }

    /// Ranges of addresses, in one copy.
    pub fn cidrs(&mut self, cidrs: &[Cidr]) -> Arc<[Cidr]> {
        self.cidrs.one(cidrs, |arc| Arc::strong_count(arc) > 1)
    }

    /// Limits, in one copy: most keys have those of one of a few plans. Where each key has its own,
    /// only the first thousand are looked for, so that the search does not cost what it saves.
    pub fn limits(&mut self, limits: LimitSet) -> Arc<LimitSet> {
        if let Some(known) = self.limits.get(&limits) {
            return Arc::clone(known);
        }
        self.limits_missed += 1;
        if self.limits.len() >= SWEEP_MIN && self.limits_missed.is_multiple_of(SWEEP_MIN) {
            self.limits.retain(|set| Arc::strong_count(set) > 1);
        }
        let set = Arc::new(limits);
        if self.limits.len() < SWEEP_MIN {
            self.limits.insert(Arc::clone(&set));
        }
        set
    }

    /// A table of names for models, in one copy; `None` for an empty one.
    pub fn aliases(&mut self, aliases: Aliases) -> Option<Arc<Aliases>> {
        if aliases.is_empty() {
            return None;
        }
        if let Some(known) = self.aliases.get(&aliases) {
            return Some(Arc::clone(known));
        }
        if self.aliases.len() >= SWEEP_MIN {
            self.aliases.retain(|table| Arc::strong_count(table) > 1);
        }
        let table = Arc::new(aliases);
        // Above the bound a table is merely held by its key alone.
        if self.aliases.len() < SWEEP_MIN {
            self.aliases.insert(Arc::clone(&table));
        }
        Some(table)
    }
}

#[derive(Debug)]
struct Pool<T> {
    held: HashSet<T>,
    sweep_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Pool { held: HashSet::new(), sweep_at: SWEEP_MIN }
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    fn one<'a, Q>(&mut self, value: &'a Q, is_used: impl Fn(&T) -> bool) -> T
    where
        Q: ?Sized + Eq + Hash,
        T: std::borrow::Borrow<Q> + From<&'a Q>,
    {
        if let Some(known) = self.held.get(value) {
            return known.clone();
        }
        if self.held.len() >= self.sweep_at {
            self.held.retain(is_used);
            self.held.shrink_to(SWEEP_MIN);
            self.sweep_at = SWEEP_MIN.max(2 * self.held.len());
        }
        let made = T::from(value);
        self.held.insert(made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::Alias;

    #[test]
    fn equal_values_are_one() {
        let mut shared = Shared::new();
        let (one, two) = (shared.names(&["a", "b"]), shared.names(&["a", "b"]));
        assert!(Arc::ptr_eq(&one, &two));
        assert!(Arc::ptr_eq(&one[0], &shared.text("a")));
        assert!(!Arc::ptr_eq(&one, &shared.names(&["b", "a"])));
        let table: Aliases = [("gpt-4".into(), Alias::from("gpt-4o"))].into();
        let tables = [table.clone(), table].map(|table| shared.aliases(table).expect("not empty"));
        assert!(Arc::ptr_eq(&tables[0], &tables[1]));
        assert_eq!(shared.aliases(Aliases::new()), None);
    }

    #[test]
    fn what_nobody_uses_does_not_pile_up() {
        let mut shared = Shared::new();
        let kept = shared.text("kept");
        for n in 0..10 * SWEEP_MIN {
            shared.text(&n.to_string());
            let table = [("x".into(), Alias::from(n.to_string().as_str()))];
            shared.aliases(table.into());
        }
        assert!(shared.texts.held.len() <= SWEEP_MIN + 1, "{}", shared.texts.held.len());
        assert!(shared.aliases.len() <= SWEEP_MIN);
        assert!(Arc::ptr_eq(&kept, &shared.text("kept")));
    }
}
