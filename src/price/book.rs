//! Which entry is valid: by provider, model, price group and time.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::Entry;

/// All prices. Built anew whenever one changes, and looked up in while routes are compiled.
#[derive(Default, Debug)]
pub struct Book {
    entries: Vec<Arc<Entry>>,
    /// What upstreams charge, by provider.
    costs: HashMap<String, Shelf>,
    /// Selling prices, by price group and provider.
    sales: HashMap<String, HashMap<String, Shelf>>,
}

impl Book {
    /// A book of these entries. Of two with the same provider, model, group and `valid_from`, the
    /// later takes the place of the earlier.
    pub fn new(entries: Vec<Entry>) -> Book {
        let mut book = Book::default();
        let mut places = HashMap::new();
        for entry in entries {
            let key = (
                entry.provider.clone(),
                entry.model.clone(),
                entry.group.clone(),
                entry.valid_from_unix_ms,
            );
            let place = *places.entry(key).or_insert(book.entries.len());
            if place < book.entries.len() {
                book.entries[place] = Arc::new(entry);
            } else {
                book.entries.push(Arc::new(entry));
            }
        }
        let mut lists: HashMap<_, Vec<Arc<Entry>>> = HashMap::new();
        for entry in &book.entries {
            let key = (&entry.group, entry.provider.as_str(), entry.model.as_str());
            lists.entry(key).or_default().push(entry.clone());
        }
        // The most general first: the narrower begin with what they have before their own first.
        let mut lists: Vec<_> = lists.into_iter().collect();
        lists.sort_by_key(|((_, _, model), _)| (!model.ends_with('*'), model.len()));
        for ((group, provider, model), entries) in lists {
            let shelves = match group {
                Some(group) => book.sales.entry(group.clone()).or_default(),
                None => &mut book.costs,
            };
            shelves.entry(provider.to_owned()).or_default().add(model, entries);
        }
        book
    }

    /// The prices of a provider's model: of that name exactly, else of the longest pattern that
    /// matches. `group` picks selling prices; `None` what the upstream charges.
    pub fn find(
        &self,
        provider: &str,
        model: &str,
        group: Option<&str>,
    ) -> Option<&Arc<PriceList>> {
        let shelves = match group {
            Some(group) => self.sales.get(group)?,
            None => &self.costs,
        };
        let shelf = shelves.get(provider)?;
        shelf.exact.get(model).or_else(|| shelf.pattern(model))
    }

    /// All entries that count, in the order they were given.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }
}

/// The prices of one provider in one group.
#[derive(Default, Debug)]
struct Shelf {
    exact: HashMap<String, Arc<PriceList>>,
    /// By what stands before the `*`.
    patterns: HashMap<String, Arc<PriceList>>,
    longest: usize,
}

impl Shelf {
    fn add(&mut self, model: &str, mut entries: Vec<Arc<Entry>>) {
        entries.sort_by_key(|entry| entry.valid_from_unix_ms);
        let first = entries[0].valid_from_unix_ms;
        let stem = model.strip_suffix('*');
        if let Some(general) = self.pattern(stem.unwrap_or(model)) {
            let before = general.entries.partition_point(|entry| entry.valid_from_unix_ms < first);
            entries.splice(0..0, general.entries[..before].iter().cloned());
        }
        let list = Arc::new(PriceList { entries });
        match stem {
            Some(stem) => {
                self.longest = self.longest.max(stem.len());
                self.patterns.insert(stem.to_owned(), list);
            }
            None => {
                self.exact.insert(model.to_owned(), list);
            }
        }
    }

    fn pattern(&self, model: &str) -> Option<&Arc<PriceList>> {
        let lengths = (0..=model.len().min(self.longest)).rev();
        lengths.filter_map(|length| model.get(..length)).find_map(|stem| self.patterns.get(stem))
    }
}

/// The prices of one model over time. Before its own first price, a model has that of the next
/// wider pattern.
#[derive(Debug)]
pub struct PriceList {
    /// By `valid_from`.
    entries: Vec<Arc<Entry>>,
}

impl PriceList {
    /// The entry that is valid at this time. `None`: the first one comes later. Does not allocate.
    pub fn at(&self, unix_ms: u64) -> Option<&Arc<Entry>> {
        let after = self.entries.partition_point(|entry| entry.valid_from_unix_ms <= unix_ms);
        self.entries[..after].last()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(model: &str, group: Option<&str>, from: u64, input: &str) -> Entry {
        let value = json!({"provider": "p", "model": model, "group": group, "input": input});
        let entry = Entry::from_json(&value).expect("a good entry");
        Entry { valid_from_unix_ms: from, ..entry }
    }

    fn input(book: &Book, model: &str, group: Option<&str>, at: u64) -> Option<String> {
        book.find("p", model, group)?.at(at)?.base.get("input")
    }

    #[test]
    fn the_exact_name_wins_then_the_longest_pattern() {
        let book = Book::new(vec![
            entry("*", None, 0, "1"),
            entry("gpt-4o-mini", None, 0, "4"),
            entry("gpt-4o*", None, 0, "3"),
            entry("gpt-4*", None, 0, "2"),
        ]);
        for (model, want) in [
            ("gpt-4o-mini", "4"),
            ("gpt-4o-mini-x", "3"),
            ("gpt-4o", "3"),
            ("gpt-4", "2"),
            ("ö", "1"),
        ] {
            assert_eq!(input(&book, model, None, 0).as_deref(), Some(want), "{model}");
        }
        assert!(book.find("other", "gpt-4o", None).is_none());
        assert!(Book::new(vec![entry("gpt-4*", None, 0, "1")]).find("p", "gpt-3", None).is_none());
    }

    #[test]
    fn groups_have_prices_of_their_own_and_never_fall_back_to_the_cost() {
        let book = Book::new(vec![entry("m", None, 0, "1"), entry("m", Some("retail"), 0, "2")]);
        assert_eq!(input(&book, "m", None, 0).as_deref(), Some("1"));
        assert_eq!(input(&book, "m", Some("retail"), 0).as_deref(), Some("2"));
        assert!(book.find("p", "m", Some("wholesale")).is_none());
    }

    #[test]
    fn a_price_is_valid_from_its_time_until_the_next() {
        let book = Book::new(vec![
            entry("m", None, 300, "3"),
            entry("m", None, 100, "1"),
            entry("m", None, 200, "2"),
        ]);
        for (at, want) in [
            (99, None),
            (100, Some("1")),
            (199, Some("1")),
            (200, Some("2")),
            (300, Some("3")),
            (u64::MAX, Some("3")),
        ] {
            assert_eq!(input(&book, "m", None, at).as_deref(), want, "{at}");
        }
    }

    #[test]
    fn before_its_own_first_price_a_model_has_that_of_the_wider_pattern() {
        let book = Book::new(vec![
            entry("gpt-4o", None, 300, "9"),
            entry("gpt*", None, 0, "1"),
            entry("gpt*", None, 400, "2"),
            entry("gpt-4*", None, 200, "5"),
        ]);
        for (at, want) in [(0, "1"), (199, "1"), (200, "5"), (299, "5"), (300, "9"), (400, "9")] {
            assert_eq!(input(&book, "gpt-4o", None, at).as_deref(), Some(want), "{at}");
        }
    }

    #[test]
    fn the_later_of_two_entries_for_the_same_takes_the_place_of_the_earlier() {
        let book = Book::new(vec![
            entry("m", None, 0, "1"),
            entry("n", None, 0, "7"),
            entry("m", None, 0, "2"),
        ]);
        assert_eq!(input(&book, "m", None, 0).as_deref(), Some("2"));
        let models: Vec<&str> = book.entries().iter().map(|entry| &entry.model[..]).collect();
        assert_eq!(models, ["m", "n"]);
    }
}
